"""facts belong to epochs; files and sequences have tables of their own; an epoch has no source

Revision ID: 0009
Revises: 0008
"""

import json

from alembic import op
import sqlalchemy as sa


revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KINDS = ("content", "push_time", "signature", "revision", "warning")
_DATABASE, _ARCHIVE = "Metanova/Mol-Rxn-DB", "Metanova/Submission-Archive"


def upgrade() -> None:
    with op.batch_alter_table("facts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_facts_fetched_at"))
    op.rename_table("facts", "facts_by_source")
    op.create_table(
        "facts",
        sa.Column("epoch_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name="facts_epoch_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("epoch_id", "kind", "key", name="facts_of_epochs_pkey"),
    )
    with op.batch_alter_table("facts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_facts_captured_at"), ["captured_at"], unique=False)
    op.create_table(
        "blobs",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", "part"),
    )
    op.create_table(
        "sequences",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Text(), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("code"),
    )
    _carry_over(op.get_bind())
    op.drop_table("facts_by_source")
    # not through a batch: that would make the table again, and take what refers to it along
    op.execute("ALTER TABLE epochs DROP COLUMN source")


def _carry_over(connection: sa.Connection) -> None:
    kinds = ", ".join(f"'{kind}'" for kind in _KINDS)
    joined = "FROM facts_by_source f JOIN epochs e ON e.source = f.source"
    connection.execute(
        sa.text(
            "INSERT INTO facts (epoch_id, kind, key, state, value, detail, captured_at) "
            f"SELECT e.id, f.kind, f.key, f.state, f.value, f.detail, f.fetched_at {joined} WHERE f.kind IN ({kinds})"
        )
    )
    connection.execute(
        sa.text(
            "INSERT INTO facts (epoch_id, kind, key, state, captured_at) "
            f"SELECT e.id, 'captured', 'submissions', 'held', f.fetched_at {joined} "
            "WHERE f.kind = 'gathering' AND f.state = 'gathered'"
        )
    )
    _note_files(connection, joined)
    for code, value, at in connection.execute(
        sa.text("SELECT key, value, fetched_at FROM facts_by_source WHERE kind = 'sequence' AND value IS NOT NULL")
    ).all():
        connection.execute(
            sa.text("INSERT INTO sequences (code, sequence, kept_at) VALUES (:code, :sequence, :at)"),
            {"code": code, "sequence": bytes(value).decode(), "at": at},
        )
    # its recording was never imported
    replays = "SELECT id FROM epochs WHERE source LIKE 'recording:%'"
    connection.execute(sa.text(f"DELETE FROM work WHERE epoch_id IN ({replays})"))
    connection.execute(
        sa.text(
            "UPDATE epochs SET stage = 'failed', error = 'an older version began this replay; replay it again' "
            "WHERE source LIKE 'recording:%' AND stage NOT IN ('done', 'failed', 'missed')"
        )
    )


def _note_files(connection: sa.Connection, joined: str) -> None:
    """Where the database and the archive of each live epoch lie on the hub."""
    revisions: dict[tuple[int, str], str] = {}
    rows = connection.execute(sa.text(f"SELECT e.id, f.key, f.value, f.fetched_at {joined} WHERE f.kind = 'revision'"))
    for epoch_id, dataset, value, at in rows.all():
        revisions[epoch_id, dataset] = bytes(value).decode()
        if dataset == _DATABASE:
            database = {"dataset": dataset, "revision": revisions[epoch_id, dataset], "name": "molecules.sqlite"}
            _insert(connection, epoch_id, "molecules.sqlite", "held", database, None, at)
    rows = connection.execute(
        sa.text(f"SELECT e.id, f.key, f.state, f.detail, f.fetched_at {joined} WHERE f.kind = 'archive'")
    )
    for epoch_id, protein, state, detail, at in rows.all():
        name = f"{protein}_molecules.csv"
        place: dict[str, str] | None = None
        if state == "held":
            if (epoch_id, _ARCHIVE) not in revisions:
                continue
            place = {"dataset": _ARCHIVE, "revision": revisions[epoch_id, _ARCHIVE], "name": name}
        _insert(connection, epoch_id, f"archive/{name}", state, place, detail, at)


def _insert(
    connection: sa.Connection, epoch_id: int, name: str, state: str, place: object, detail: str | None, at: object
) -> None:
    connection.execute(
        sa.text(
            "INSERT INTO facts (epoch_id, kind, key, state, value, detail, captured_at) "
            "VALUES (:epoch_id, 'file', :name, :state, :value, :detail, :at)"
        ),
        {
            "epoch_id": epoch_id,
            "name": name,
            "state": state,
            "value": None if place is None else json.dumps(place).encode(),
            "detail": detail,
            "at": at,
        },
    )


def downgrade() -> None:
    op.add_column("epochs", sa.Column("source", sa.Text(), server_default="recording:unknown", nullable=False))
    connection = op.get_bind()
    for epoch_id, header in connection.execute(sa.text("SELECT id, header FROM epochs WHERE publishes")).all():
        found = json.loads(header)
        source = f"live:{found['netuid']}:{found['end_block']}:{found['epoch_length']}"
        connection.execute(sa.text("UPDATE epochs SET source = :s WHERE id = :id"), {"s": source, "id": epoch_id})
    op.drop_table("sequences")
    op.drop_table("blobs")
    op.drop_table("facts")
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
