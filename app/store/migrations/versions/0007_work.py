"""one table of unfinished work instead of a claim on every part

Revision ID: 0007
Revises: 0006
"""

import json
from datetime import UTC, datetime

from alembic import op
import sqlalchemy as sa


revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "work",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("epoch_id", sa.Integer(), nullable=True),
        sa.Column("part_of", sa.Text(), nullable=True),
        sa.Column("waits_for", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task", "args"),
    )
    op.create_index("ix_work_epoch_id", "work", ["epoch_id"])
    op.create_index("ix_work_part_of", "work", ["part_of"])
    op.create_index("ix_work_waits_for", "work", ["waits_for"])
    _enrol(op.get_bind())
    for table in ("submissions", "batches"):
        with op.batch_alter_table(table) as batch:
            batch.alter_column("claimed_by", new_column_name="worker")
            batch.alter_column("claimed_at", new_column_name="began_at")
            batch.drop_column("claimed_task")
            batch.drop_column("attempts")
    with op.batch_alter_table("weight_submissions") as batch:
        batch.drop_column("claimed_by")
        batch.drop_column("claimed_at")


def _enrol(connection: sa.Connection) -> None:
    """What epochs under way still need becomes work, so that the reconciler goes on with them."""
    epochs = connection.execute(
        sa.text("SELECT id, cluster, stage, source FROM epochs WHERE stage NOT IN ('done', 'failed', 'missed')")
    ).all()
    for epoch_id, cluster, stage, source in epochs:
        if stage == "announced":
            _add(connection, cluster, "workers.epochs.open_epoch", epoch_id)
        elif stage == "examining" and source.startswith("live:"):
            # what was fetched is in the store, so this ends soon
            _add(connection, cluster, "workers.fetching.fetch_submissions", epoch_id)
        elif stage == "examining":
            uids = sa.text("SELECT uid FROM submissions WHERE epoch_id = :epoch AND state = 'pending' ORDER BY uid")
            group = f"workers.epochs.plan_scoring({epoch_id})"
            _add(connection, cluster, "workers.epochs.plan_scoring", epoch_id, waits_for=group)
            for (uid,) in connection.execute(uids, {"epoch": epoch_id}).all():
                _add(connection, cluster, "workers.submissions.examine_submission", epoch_id, uid, part_of=group)
        elif stage == "scoring":
            batches = sa.text(
                "SELECT id, model FROM batches WHERE epoch_id = :epoch AND state = 'pending' ORDER BY id"
            )
            group = f"workers.epochs.close_epoch({epoch_id})"
            _add(connection, cluster, "workers.epochs.close_epoch", epoch_id, waits_for=group)
            for batch_id, model in connection.execute(batches, {"epoch": epoch_id}).all():
                _add(connection, cluster, f"workers.scoring.score_{model}", epoch_id, batch_id, part_of=group)
        else:
            _add(connection, cluster, "workers.weights.submit_weights", epoch_id)
    reports = connection.execute(
        sa.text(
            "SELECT epochs.cluster, epoch_id, destination FROM deliveries JOIN epochs ON epochs.id = epoch_id "
            "WHERE state = 'pending'"
        )
    ).all()
    for cluster, epoch_id, destination in reports:
        _add(connection, cluster, "workers.reports.deliver_report", epoch_id, destination)


def _add(connection: sa.Connection, cluster: str, task: str, epoch_id: int, *args: object, **place: str) -> None:
    row = {
        "cluster": cluster,
        "task": task,
        "args": json.dumps([epoch_id, *args], separators=(",", ":")),
        "epoch_id": epoch_id,
        "part_of": place.get("part_of"),
        "waits_for": place.get("waits_for"),
        "now": datetime.now(UTC).isoformat(sep=" ")[:26],
    }
    connection.execute(
        sa.text(
            "INSERT INTO work (cluster, task, args, epoch_id, part_of, waits_for, due_at, moved_at, attempts) "
            "VALUES (:cluster, :task, :args, :epoch_id, :part_of, :waits_for, :now, :now, 0)"
        ),
        row,
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back; restore the backup that was made before the upgrade")
