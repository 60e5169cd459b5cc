"""competitions' benchmarks, and what a node can score

Revision ID: 0010
Revises: 0009
"""

from alembic import op
import sqlalchemy as sa


revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("competitions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("benchmark", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("parameters", sa.Text(), nullable=True))
    op.create_table(
        "capabilities",
        sa.Column("competition_id", sa.Text(), nullable=False),
        sa.Column("benchmark", sa.Text(), nullable=True),
        sa.Column("objection", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("competition_id"),
    )


def downgrade() -> None:
    op.drop_table("capabilities")
    with op.batch_alter_table("competitions", schema=None) as batch_op:
        batch_op.drop_column("parameters")
        batch_op.drop_column("benchmark")
