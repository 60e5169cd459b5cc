"""a batch's molecule that was begun alone has a name that says so

Revision ID: 0016
Revises: 0015
"""

from alembic import op


revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # as a statement: Alembic's own renaming replaces the table on SQLite
    op.execute("ALTER TABLE batches RENAME COLUMN suspect TO begun_alone")


def downgrade() -> None:
    raise NotImplementedError("there is no way back; restore the backup that was made before the upgrade")
