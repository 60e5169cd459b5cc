"""one table of weight submissions for both subnets, and what outside services last said

Revision ID: 0013
Revises: 0012
"""

from alembic import op
import sqlalchemy as sa


revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_KEPT = "vector, tries, detail, sent_at_block, last_update_before, extrinsic, block_hash, failures"


def upgrade() -> None:
    op.create_table(
        "service_states",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "answers",
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("url"),
    )
    op.create_index("ix_answers_kept_at", "answers", ["kept_at"])
    op.rename_table("weight_submissions", "epoch_weight_submissions")
    if op.get_bind().dialect.name == "postgresql":
        # the new table's key takes the name
        op.execute("ALTER INDEX IF EXISTS weight_submissions_pkey RENAME TO epoch_weight_submissions_pkey")
    op.create_table(
        "weight_submissions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("netuid", sa.Integer(), nullable=False),
        sa.Column("epoch_id", sa.Integer(), nullable=True),
        sa.Column("mark", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("vector", sa.Text(), nullable=True),
        sa.Column("sent", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at_block", sa.Integer(), nullable=True),
        sa.Column("last_update_before", sa.Integer(), nullable=True),
        sa.Column("reveal_round", sa.Integer(), nullable=True),
        sa.Column("extrinsic", sa.Text(), nullable=True),
        sa.Column("block_hash", sa.Text(), nullable=True),
        sa.Column("failures", sa.Text(), nullable=True),
        sa.Column("refused_with", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("epoch_id"),
        sa.UniqueConstraint("mark"),
    )
    op.create_index("ix_weight_submissions_state", "weight_submissions", ["state"])
    op.execute(
        f"INSERT INTO weight_submissions (netuid, epoch_id, state, created_at, updated_at, {_KEPT}) "
        "SELECT epochs.netuid, epoch_id, CASE state WHEN 'pending' THEN 'computed' ELSE state END, "
        f"updated_at, updated_at, {_KEPT} FROM epoch_weight_submissions JOIN epochs ON epochs.id = epoch_id "
        "ORDER BY epoch_id"
    )
    op.drop_table("epoch_weight_submissions")
    # the rounds of subnet 21: one that was interrupted is not sent any more, its time is over
    op.execute(
        "INSERT INTO weight_submissions (netuid, mark, state, vector, tries, detail, created_at, updated_at) "
        "SELECT 21, mark, CASE state WHEN 'submitted' THEN 'set' WHEN 'computed' THEN 'late' ELSE state END, weights, "
        "CASE state WHEN 'submitted' THEN 1 WHEN 'failed' THEN 1 ELSE 0 END, detail, computed_at, "
        "COALESCE(finished_at, computed_at) FROM model_weight_rounds ORDER BY id"
    )
    with op.batch_alter_table("model_weight_rounds") as batch:
        batch.drop_column("state")
        batch.drop_column("detail")
        batch.drop_column("finished_at")


def downgrade() -> None:
    raise NotImplementedError("there is no way back; restore the backup that was made before the upgrade")
