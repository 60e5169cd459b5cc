"""facts, deliveries, and what a weight submission on the chain needs to be sent once

Revision ID: 0003
Revises: 0002
"""

from alembic import op
import sqlalchemy as sa


revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "kind", "key"),
    )
    with op.batch_alter_table("facts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_facts_fetched_at"), ["fetched_at"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("epoch_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("epoch_id", "destination"),
    )
    with op.batch_alter_table("weight_submissions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("claimed_by", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("sent_at_block", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("last_update_before", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("extrinsic", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("block_hash", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("failures", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("weight_submissions", schema=None) as batch_op:
        for column in (
            "failures",
            "block_hash",
            "extrinsic",
            "last_update_before",
            "sent_at_block",
            "claimed_at",
            "claimed_by",
        ):
            batch_op.drop_column(column)
    op.drop_table("deliveries")
    op.drop_table("facts")
