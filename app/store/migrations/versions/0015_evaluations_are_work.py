"""evaluations are pieces of work; a claim says until when it holds

Revision ID: 0015
Revises: 0014
"""

from datetime import UTC, datetime

from alembic import op
import sqlalchemy as sa

from app.settings import get_settings


revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("work", sa.Column("held_until", sa.DateTime(timezone=True), nullable=True))
    # an upgrade restarts every process: what they held is taken up again at once
    op.execute("UPDATE work SET held_until = claimed_at")
    # no batch: it would replace the table, and the samples would go with it
    for column in ("holder", "due_at", "sent_at", "sends"):
        op.drop_column("evaluations", column)
    op.execute("UPDATE evaluations SET state = 'waiting' WHERE finished_at IS NULL")
    op.execute(
        sa.text(
            "INSERT INTO work (cluster, task, args, due_at, moved_at, attempts) "
            "SELECT :cluster, 'workers.evaluations.evaluate_model', '[\"' || id || '\"]', :now, :now, tries "
            "FROM evaluations WHERE finished_at IS NULL"
        ).bindparams(
            sa.bindparam("cluster", get_settings().cluster_name, sa.Text()),
            sa.bindparam("now", datetime.now(UTC), sa.DateTime(timezone=True)),
        )
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back; restore the backup that was made before the upgrade")
