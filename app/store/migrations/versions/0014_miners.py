"""a miner's submissions over all epochs, and the structure of a refused molecule

Revision ID: 0014
Revises: 0013
"""

from alembic import op
import sqlalchemy as sa


revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("submissions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("molecule_smiles", sa.Text(), nullable=True))
        batch_op.create_index("ix_submissions_hotkey", ["hotkey", "epoch_id"])


def downgrade() -> None:
    with op.batch_alter_table("submissions", schema=None) as batch_op:
        batch_op.drop_index("ix_submissions_hotkey")
        batch_op.drop_column("molecule_smiles")
