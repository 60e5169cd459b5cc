"""Recorded scores behind the models' own interface: ``scores/psichic.csv`` and ``scores/boltz.csv``."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from app.domain import PSICHIC_METRIC, PairScore, Protein, ScoringModel
from chain.sources import SourceError

_FILES: Final = {ScoringModel.PSICHIC: "psichic.csv", ScoringModel.BOLTZ: "boltz.csv"}
NOT_RECORDED: Final = "not_recorded: the recording holds no score for this molecule"


class RecordedScorer:
    """Scores looked up in a recording (an :class:`app.domain.Scorer`). A SMILES missing there has no score."""

    def __init__(self, folder: Path, model: ScoringModel) -> None:
        self.path = folder / _FILES[model]
        self.model = model

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table, or of its absence."""
        content = self.path.read_bytes() if self.path.exists() else b"absent"
        return hashlib.sha256(f"recorded {self.model}\n".encode() + content).hexdigest()

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """See :class:`app.domain.Scorer`."""
        return [self._pair(protein.code, text) for protein in proteins for text in smiles]

    def check(self) -> None:
        """Read the whole table. Raises SourceError naming file, line and fault."""
        _ = self._table

    def _pair(self, protein: str, smiles: str) -> PairScore:
        key = protein if self.model is ScoringModel.PSICHIC else ""
        metrics = self._table.get(key, {}).get(smiles)
        if not metrics or not all(math.isfinite(value) for value in metrics.values()):
            return PairScore(protein, smiles, error=NOT_RECORDED)
        return PairScore(protein, smiles, metrics)

    @cached_property
    def _table(self) -> dict[str, dict[str, dict[str, float]]]:
        """Metrics by protein (the empty string for Boltz) and SMILES."""
        table: dict[str, dict[str, dict[str, float]]] = {}
        if not self.path.exists():
            return table
        for line, row in self._rows():
            protein = row.pop("protein") if self.model is ScoringModel.PSICHIC else ""
            smiles = row.pop("smiles")
            names = [PSICHIC_METRIC] if self.model is ScoringModel.PSICHIC else list(row)
            try:
                metrics = {name: float(row[name]) for name in names if row[name]}
            except (TypeError, ValueError):
                raise SourceError(f"{self.path}: line {line} holds a score that is not a number") from None
            table.setdefault(protein, {})[smiles] = metrics
        return table

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        wanted = {"smiles"} | ({"protein", PSICHIC_METRIC} if self.model is ScoringModel.PSICHIC else set())
        try:
            with self.path.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                if missing := wanted - set(reader.fieldnames or ()):
                    raise SourceError(f"{self.path} lacks column(s) {', '.join(sorted(missing))}")
                for row in reader:
                    if None in row or None in row.values():
                        raise SourceError(f"{self.path}: line {reader.line_num} has another number of columns")
                    yield reader.line_num, row
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.path} cannot be read: {error}") from None
