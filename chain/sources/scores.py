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

FAILURES_FILE: Final = "failures.csv"
FAILURES_COLUMNS: Final = ("model", "protein", "smiles", "error")

_FILES: Final = {ScoringModel.PSICHIC: "psichic.csv", ScoringModel.BOLTZ: "boltz.csv"}
NOT_RECORDED: Final = "not_recorded: the recording holds no score for this molecule"


class RecordedScorer:
    """Scores looked up in a recording (an :class:`app.domain.Scorer`).

    A SMILES missing there has no score, for the reason that ``scores/failures.csv`` gives where it does.
    """

    def __init__(self, folder: Path, model: ScoringModel) -> None:
        self.path = folder / _FILES[model]
        self._failures_path = folder / FAILURES_FILE
        self.model = model

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table, or of its absence, and of the failures."""
        content = self.path.read_bytes() if self.path.exists() else b"absent"
        failures = self._failures_path.read_bytes() if self._failures_path.exists() else b""
        return hashlib.sha256(f"recorded {self.model}\n".encode() + content + failures).hexdigest()

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
        _ = self._table, self._failures

    def _pair(self, protein: str, smiles: str) -> PairScore:
        key = protein if self.model is ScoringModel.PSICHIC else ""
        values = self._table.get(key, {}).get(smiles, ())
        finite = {name: value for name, value in zip(self._metrics, values, strict=False) if math.isfinite(value)}
        if finite:
            return PairScore(protein, smiles, finite)
        return PairScore(protein, smiles, error=self._failures.get((protein, smiles), NOT_RECORDED))

    @cached_property
    def _failures(self) -> dict[tuple[str, str], str]:
        """Why the recorded validator had no score, by protein and SMILES; an addition to the format."""
        if not self._failures_path.exists():
            return {}
        try:
            with self._failures_path.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                if missing := set(FAILURES_COLUMNS) - set(reader.fieldnames or ()):
                    raise SourceError(f"{self._failures_path} lacks column(s) {', '.join(sorted(missing))}")
                return {
                    (row["protein"], row["smiles"]): row["error"] or NOT_RECORDED
                    for row in reader
                    if row["model"] == self.model
                }
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self._failures_path} cannot be read: {error}") from None

    @cached_property
    def _metrics(self) -> tuple[str, ...]:
        """The metrics' names, in the order of the table's values."""
        if self.model is ScoringModel.PSICHIC or not self.path.exists():
            return (PSICHIC_METRIC,)
        with self.path.open(encoding="utf-8", newline="") as stream:
            return tuple(name for name in next(csv.reader(stream), []) if name != "smiles")

    @cached_property
    def _table(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Metric values by protein (the empty string for Boltz) and SMILES; an empty cell is NaN."""
        table: dict[str, dict[str, tuple[float, ...]]] = {}
        if not self.path.exists():
            return table
        # a SMILES stands in the file once per protein and in memory once
        own: dict[str, str] = {}
        for line, protein, smiles, cells in self._rows():
            try:
                values = tuple([float(cell) if cell else math.nan for cell in cells])
            except ValueError:
                raise SourceError(f"{self.path}: line {line} holds a score that is not a number") from None
            table.setdefault(protein, {})[own.setdefault(smiles, smiles)] = values
        return table

    def _rows(self) -> Iterator[tuple[int, str, str, list[str]]]:
        """Line number, protein (the empty string for Boltz), SMILES and the metrics' cells of each row."""
        by_protein = self.model is ScoringModel.PSICHIC
        wanted = {"smiles"} | ({"protein", PSICHIC_METRIC} if by_protein else set())
        try:
            with self.path.open(encoding="utf-8", newline="") as stream:
                reader = csv.reader(stream)
                header = next(reader, [])
                if missing := wanted - set(header):
                    raise SourceError(f"{self.path} lacks column(s) {', '.join(sorted(missing))}")
                smiles = header.index("smiles")
                protein = header.index("protein") if by_protein else None
                cells = [header.index(name) for name in self._metrics]
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(header):
                        raise SourceError(f"{self.path}: line {reader.line_num} has another number of columns")
                    found = "" if protein is None else row[protein]
                    yield reader.line_num, found, row[smiles], [row[cell] for cell in cells]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.path} cannot be read: {error}") from None
