"""whether an epoch's outcome is published

Revision ID: 0006
Revises: 0005
"""

from alembic import op
import sqlalchemy as sa


revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("publishes", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("UPDATE epochs SET publishes = true WHERE source LIKE 'live:%'")


def downgrade() -> None:
    # not through a batch: that would make the table again, and take what refers to it along
    op.execute("ALTER TABLE epochs DROP COLUMN publishes")
