"""Scores by (model digest, protein digest, SMILES): a retry, a replay or next epoch's same molecule costs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import PairScore, Protein
from app.store.database import insert_ignoring
from app.store.tables.epochs import DigestRow, ScoreRow


class Scores:
    """Reads and writes scores inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known(
        self, model_digest: str, proteins: Sequence[Protein], smiles: Sequence[str]
    ) -> dict[tuple[str, str], PairScore]:
        """What the store has of these pairs, by (protein code, SMILES)."""
        numbers = self._numbers([model_digest, *(protein.digest for protein in proteins)])
        if model_digest not in numbers:
            return {}
        by_number: dict[int, list[Protein]] = {}
        for protein in proteins:
            if protein.digest in numbers:
                by_number.setdefault(numbers[protein.digest], []).append(protein)
        rows = self._session.execute(
            select(ScoreRow.protein_id, ScoreRow.smiles, ScoreRow.metrics, ScoreRow.error).where(
                ScoreRow.model_id == numbers[model_digest],
                ScoreRow.protein_id.in_(by_number),
                ScoreRow.smiles.in_(smiles),
            )
        )
        # one string per SMILES, not one per row: an epoch has nine rows of each
        own = {text: text for text in smiles}
        return {
            (protein.code, own[text]): PairScore(protein.code, own[text], json.loads(metrics) if metrics else {}, error)
            for number, text, metrics, error in rows
            for protein in by_number[number]
        }

    def keep(self, model_digest: str, proteins: Iterable[Protein], scores: Iterable[PairScore]) -> None:
        """Keep scores; a pair that is known stays as it is."""
        digest_of: Mapping[str, str] = {protein.code: protein.digest for protein in proteins}
        values = [model_digest, *sorted(set(digest_of.values()))]
        insert_ignoring(self._session, DigestRow, [{"value": value} for value in values])
        numbers = self._numbers(values)
        at = now()
        insert_ignoring(
            self._session,
            ScoreRow,
            [
                {
                    "model_id": numbers[model_digest],
                    "protein_id": numbers[digest_of[score.protein]],
                    "smiles": score.smiles,
                    "metrics": json.dumps(dict(score.metrics), allow_nan=False) if score.metrics else None,
                    "error": score.error,
                    "scored_at": at,
                }
                for score in scores
            ],
        )

    def delete_before(self, instant: datetime) -> int:
        """Forget scores kept before ``instant``; how many went."""
        result = self._session.execute(delete(ScoreRow).where(ScoreRow.scored_at < instant))
        return cast(CursorResult[Any], result).rowcount

    def _numbers(self, values: Sequence[str]) -> dict[str, int]:
        rows = self._session.execute(select(DigestRow.value, DigestRow.id).where(DigestRow.value.in_(values)))
        return dict(rows.all())
