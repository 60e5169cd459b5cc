"""Scores: a retry, a replay or the next epoch's same molecule costs nothing.

One row holds what one model computed for one molecule against all proteins that it was asked about together.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import PairScore, Protein
from app.store.database import delete_slice, insert_ignoring
from app.store.tables.epochs import PanelRow, ScoreRow

# Databases bound the number of values in one statement; SQLite's bound is the lowest.
_AT_ONCE: Final = 500


class Scores:
    """Reads and writes scores inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known(
        self, model_digest: str, proteins: Sequence[Protein], smiles: Sequence[str]
    ) -> dict[tuple[str, str], PairScore]:
        """What the store has of these pairs, by (protein code, SMILES)."""
        found: dict[tuple[str, str], PairScore] = {}
        text_of = {_key(text): text for text in smiles}
        for panel_id, of_panel in self._panels(model_digest):
            places = [(index, protein) for protein in proteins for index in _all(of_panel, protein.digest)]
            if not places:
                continue
            for row in self._rows(panel_id, list(text_of)):
                text, names = text_of[bytes(row.molecule)], row.metrics.split(",") if row.metrics else []
                numbers = array("d", bytes(row.numbers))
                errors = row.errors or {}
                for index, protein in places:
                    values = numbers[index * len(names) : (index + 1) * len(names)]
                    metrics = {name: value for name, value in zip(names, values, strict=True) if not math.isnan(value)}
                    error = errors.get(str(index))
                    if metrics or error:
                        found.setdefault((protein.code, text), PairScore(protein.code, text, metrics, error))
        return found

    def keep(self, model_digest: str, proteins: Iterable[Protein], scores: Iterable[PairScore]) -> None:
        """Keep scores; a molecule that is known stays as it is.

        ``proteins`` are all that the model was asked about, in order. Rows are written in the order of their keys, so
        that two processes that write the same molecules wait for each other instead of deadlocking.
        """
        panel = list(dict.fromkeys(protein.digest for protein in proteins))
        digest_of = {protein.code: protein.digest for protein in proteins}
        by_molecule: dict[str, dict[int, PairScore]] = {}
        for score in scores:
            by_molecule.setdefault(score.smiles, {})[panel.index(digest_of[score.protein])] = score
        if not by_molecule:
            return
        panel_id = self._panel(model_digest, panel)
        rows = sorted((_row(panel_id, len(panel), *entry) for entry in by_molecule.items()), key=_molecule_of)
        for start in range(0, len(rows), _AT_ONCE):
            insert_ignoring(self._session, ScoreRow, rows[start : start + _AT_ONCE])

    def renew(self, model_digest: str) -> None:
        """Note that a model's scores are used, so that they are not forgotten yet."""
        self._session.execute(update(PanelRow).where(PanelRow.model_digest == model_digest).values(used_at=now()))

    def forget(self, instant: datetime, at_most: int) -> int:
        """Forget up to ``at_most`` molecules of panels not used since ``instant``; how many went. 0: there are none."""
        old = select(PanelRow.id).where(PanelRow.used_at < instant)
        gone = delete_slice(self._session, [ScoreRow.panel_id, ScoreRow.molecule], ScoreRow.panel_id.in_(old), at_most)
        if gone == 0:
            self._session.execute(delete(PanelRow).where(PanelRow.used_at < instant))
        return gone

    def _panels(self, model_digest: str) -> list[tuple[int, list[str]]]:
        rows = self._session.execute(
            select(PanelRow.id, PanelRow.proteins).where(PanelRow.model_digest == model_digest).order_by(PanelRow.id)
        )
        return [(row.id, row.proteins) for row in rows]

    def _panel(self, model_digest: str, proteins: list[str]) -> int:
        digest = hashlib.sha256(json.dumps([model_digest, proteins]).encode()).hexdigest()
        query = select(PanelRow.id).where(PanelRow.digest == digest)
        known = self._session.execute(
            update(PanelRow).where(PanelRow.digest == digest).values(used_at=now()).returning(PanelRow.id)
        ).scalar_one_or_none()
        if known is None:
            row = {"digest": digest, "model_digest": model_digest, "proteins": proteins, "used_at": now()}
            insert_ignoring(self._session, PanelRow, [row])
            known = self._session.execute(query).scalar_one()
        return known

    def _rows(self, panel_id: int, keys: list[bytes]) -> Iterator[Any]:
        columns = (ScoreRow.molecule, ScoreRow.numbers, ScoreRow.metrics, ScoreRow.errors)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            yield from self._session.execute(
                select(*columns).where(ScoreRow.panel_id == panel_id, ScoreRow.molecule.in_(some))
            )


def _key(smiles: str) -> bytes:
    return hashlib.blake2b(smiles.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _molecule_of(row: Mapping[str, Any]) -> bytes:
    return cast(bytes, row["molecule"])


def _all(panel: Sequence[str], digest: str) -> list[int]:
    return [index for index, of_panel in enumerate(panel) if of_panel == digest]


def _row(panel_id: int, proteins: int, smiles: str, pairs: Mapping[int, PairScore]) -> dict[str, Any]:
    # in the order of the model, for the result is written in it
    names = list(dict.fromkeys(name for pair in pairs.values() for name in pair.metrics))
    metrics = [pairs[index].metrics if index in pairs else {} for index in range(proteins)]
    numbers = array("d", [of_pair.get(name, math.nan) for of_pair in metrics for name in names])
    errors = {str(index): pair.error for index, pair in pairs.items() if pair.error}
    return {
        "panel_id": panel_id,
        "molecule": _key(smiles),
        "numbers": numbers.tobytes(),
        "metrics": ",".join(names),
        "errors": errors or None,
    }
