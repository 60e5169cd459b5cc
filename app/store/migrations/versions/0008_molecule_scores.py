"""one row of scores for a molecule and a panel of proteins; lists of molecules are compressed

Revision ID: 0008
Revises: 0007
"""

import hashlib
import json
import math
from array import array

from alembic import op
import sqlalchemy as sa


revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_AT_ONCE = 5_000

panels = sa.table(
    "panels",
    sa.column("id", sa.Integer),
    sa.column("digest", sa.Text),
    sa.column("model_digest", sa.Text),
    sa.column("proteins", sa.Text),
    sa.column("used_at", sa.DateTime(timezone=True)),
)
molecule_scores = sa.table(
    "molecule_scores",
    sa.column("panel_id", sa.Integer),
    sa.column("molecule", sa.LargeBinary),
    sa.column("numbers", sa.LargeBinary),
    sa.column("metrics", sa.Text),
    sa.column("errors", sa.Text),
)


def upgrade() -> None:
    op.create_table(
        "panels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("proteins", sa.Text(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_panels_model_digest", "panels", ["model_digest"])
    op.create_table(
        "molecule_scores",
        sa.Column("panel_id", sa.Integer(), nullable=False),
        sa.Column("molecule", sa.LargeBinary(), nullable=False),
        sa.Column("numbers", sa.LargeBinary(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("errors", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["panel_id"], ["panels.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("panel_id", "molecule"),
        sqlite_with_rowid=False,
    )
    _carry_over(op.get_bind())
    op.drop_table("scores")
    op.drop_table("digests")
    for table, columns in (("submissions", ("molecules", "scored")), ("batches", ("smiles",))):
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.alter_column(
                    column,
                    existing_type=sa.Text(),
                    type_=sa.LargeBinary(),
                    postgresql_using=f"convert_to({column}, 'UTF8')",
                )


def _carry_over(connection: sa.Connection) -> None:
    """Old scores are kept pair by pair, each pair's protein a panel of its own."""
    pairs = connection.execute(
        sa.text(
            "SELECT model_id, protein_id, m.value, p.value, max(scored_at) FROM scores "
            "JOIN digests m ON m.id = model_id JOIN digests p ON p.id = protein_id "
            "GROUP BY model_id, protein_id, m.value, p.value"
        ).columns(
            sa.column("model_id", sa.Integer),
            sa.column("protein_id", sa.Integer),
            sa.column("model", sa.Text),
            sa.column("protein", sa.Text),
            sa.column("used_at", sa.DateTime(timezone=True)),
        )
    ).all()
    for number, (model_id, protein_id, model, protein, used_at) in enumerate(pairs, start=1):
        digest = hashlib.sha256(json.dumps([model, [protein]]).encode()).hexdigest()
        panel = {"digest": digest, "model_digest": model, "proteins": json.dumps([protein]), "used_at": used_at}
        connection.execute(sa.insert(panels).values(id=number, **panel))
        found = connection.execute(
            sa.text("SELECT smiles, metrics, error FROM scores WHERE model_id = :model AND protein_id = :protein"),
            {"model": model_id, "protein": protein_id},
        )
        while rows := found.fetchmany(_AT_ONCE):
            connection.execute(sa.insert(molecule_scores), [_row(number, *row) for row in rows])
    if connection.dialect.name == "postgresql" and pairs:
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('panels', 'id'), (SELECT max(id) FROM panels))"))


def _row(panel_id: int, smiles: str, metrics: str | None, error: str | None) -> dict[str, object]:
    values = dict(sorted(json.loads(metrics).items())) if metrics else {}
    return {
        "panel_id": panel_id,
        "molecule": hashlib.blake2b(smiles.encode("utf-8", "surrogatepass"), digest_size=16).digest(),
        "numbers": array("d", [math.nan if value is None else value for value in values.values()]).tobytes(),
        "metrics": ",".join(values),
        "errors": json.dumps({"0": error}) if error else None,
    }


def downgrade() -> None:
    raise NotImplementedError("there is no way back; restore the backup that was made before the upgrade")
