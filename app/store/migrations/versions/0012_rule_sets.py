"""which rule set judged an epoch, and several tracks in a submission

Revision ID: 0012
Revises: 0011
"""

from alembic import op
import sqlalchemy as sa


revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_EPOCHS = ("era", "parameters", "winners", "unjudged")
_SUBMISSIONS = ("tracks", "standings")


def upgrade() -> None:
    for table, names in (("epochs", _EPOCHS), ("submissions", _SUBMISSIONS)):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name in names:
                batch_op.add_column(sa.Column(name, sa.Text(), nullable=True))


def downgrade() -> None:
    # not through a batch: that would make the table again, and take what refers to it along
    for table, names in (("epochs", _EPOCHS), ("submissions", _SUBMISSIONS)):
        for name in names:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
