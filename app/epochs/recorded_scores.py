"""Recorded scores: ``scores/psichic.csv``, ``boltz.csv``, ``boltzgen.csv`` and ``failures.csv``."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from app.domain import PSICHIC_METRIC, PairScore, Protein, ScoringModel
from app.epochs.facts import EpochFacts
from app.store.facts import Fact, FactState
from app.store.records import OpenEpoch
from app.store.scores import Scores
from chain.sources import SourceError

# An epoch whose scores come from a table and not from the models.
RECORDED: Final = "recorded"

FAILURES_FILE: Final = "failures.csv"
FAILURES_COLUMNS: Final = ("model", "protein", "smiles", "error")

SCORE_FILES: Final = {
    ScoringModel.PSICHIC: "psichic.csv",
    ScoringModel.BOLTZ: "boltz.csv",
    ScoringModel.BOLTZGEN: "boltzgen.csv",
}

NOT_RECORDED: Final = "not_recorded: the recording holds no score for this molecule"

# Boltz-2's table names no protein: its scores are kept under this in place of a sequence, whatever is asked for.
_ANY_SEQUENCE: Final = "any protein"
_NO_PROTEIN: Final = ""

# Molecules written to the store at once.
_WRITTEN_TOGETHER: Final = 1_000


def names_protein(model: ScoringModel) -> bool:
    """Whether each row of a model's table names its protein."""
    return model is not ScoringModel.BOLTZ


def item_column(model: ScoringModel) -> str:
    """The column of a model's table that holds what was scored."""
    return "sequence" if model is ScoringModel.BOLTZGEN else "smiles"


def recorded_proteins(model: ScoringModel, proteins: Sequence[Protein]) -> tuple[Protein, ...]:
    """The proteins as recorded scores are kept under: by entry where a model knows sequences."""
    sequence = _ANY_SEQUENCE if model is ScoringModel.BOLTZ else None
    return tuple(Protein(protein.code, sequence) for protein in proteins)


def recorded_digests(epoch: OpenEpoch, models: Iterable[ScoringModel]) -> dict[ScoringModel, str]:
    """The digest under which each model's recorded scores are kept; none where the models are to be run.

    Raises:
        SourceError: the recording has no scores.
    """
    digests: dict[ScoringModel, str] = {}
    for model in models if epoch.scores == RECORDED else ():
        digest = EpochFacts(epoch.id).recorded_scores(model)
        if digest is None:
            raise SourceError("the recording holds no scores/; replay it with --scores model")
        digests[model] = digest
    return digests


def with_what_was_not_recorded(
    known: Mapping[tuple[str, str], PairScore], proteins: Sequence[Protein], smiles: Sequence[str]
) -> dict[tuple[str, str], PairScore]:
    """Every pair: the recorded score, or that there is none."""
    return {
        (protein.code, text): known.get((protein.code, text)) or PairScore(protein.code, text, error=NOT_RECORDED)
        for protein in proteins
        for text in smiles
    }


def keep_scores(session: Session, tables: Iterable[ScoreTable]) -> dict[str, Fact]:
    """Keep recorded scores in the store, under digests of their own; the digest by model.

    Raises:
        SourceError: a table is malformed; names its line.
    """
    found, scores = {}, Scores(session)
    for table in tables:
        proteins = recorded_proteins(table.model, [Protein(code, None) for code in table.proteins])
        molecules = table.molecules()
        while some := list(islice(molecules, _WRITTEN_TOGETHER)):
            scores.keep(table.digest, proteins, chain.from_iterable(some))
        scores.renew(table.digest)
        found[table.model.value] = Fact(FactState.HELD, table.digest.encode())
    return found


def score_tables(folder: Path) -> tuple[ScoreTable, ...]:
    """The tables of a folder of recorded scores; one that is missing is an empty one."""
    return tuple(ScoreTable(folder, model) for model in SCORE_FILES)


class ScoreTable:
    """A model's recorded scores.

    A SMILES missing there has no score, for the reason that ``failures.csv`` gives where it does.
    """

    def __init__(self, folder: Path, model: ScoringModel) -> None:
        self.path = folder / SCORE_FILES[model]
        self._failures_path = folder / FAILURES_FILE
        self.model = model

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table, or of its absence, and of the failures."""
        digest = hashlib.sha256(f"recorded {self.model}\n".encode())
        for path, otherwise in ((self.path, b"absent"), (self._failures_path, b"")):
            digest.update(path.read_bytes() if path.exists() else otherwise)
        return digest.hexdigest()

    def check(self) -> None:
        """Read the whole table. Raises SourceError naming file, line and fault."""
        _ = self._table, self._failures

    @property
    def proteins(self) -> list[str]:
        """The entries that the table and the failures name, in order."""
        return list(dict.fromkeys([*self._table, *(protein for protein, _ in self._failures)]))

    def molecules(self) -> Iterator[list[PairScore]]:
        """For each SMILES what is recorded of it: a score per protein, or a reason for having none."""
        proteins = self.proteins
        named = (smiles for rows in self._table.values() for smiles in rows)
        for smiles in dict.fromkeys(chain(named, (smiles for _, smiles in self._failures))):
            yield [pair for protein in proteins if (pair := self._pair(protein, smiles))]

    def _pair(self, protein: str, smiles: str) -> PairScore | None:
        if metrics := self._finite(self._table.get(protein, {}).get(smiles, ())):
            return PairScore(protein, smiles, metrics)
        error = self._failures.get((protein, smiles))
        return None if error is None else PairScore(protein, smiles, error=error)

    def _finite(self, values: Sequence[float]) -> dict[str, float]:
        return {name: value for name, value in zip(self._metrics, values, strict=False) if math.isfinite(value)}

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
                by_protein = names_protein(self.model)
                failures = {}
                for row in reader:
                    # csv fills up what is missing with None, and puts what is too much under None
                    if None in row or None in row.values():
                        raise SourceError(
                            f"{self._failures_path}: line {reader.line_num} has another number of columns"
                        )
                    if row["model"] == self.model:
                        protein = row["protein"] if by_protein else _NO_PROTEIN
                        failures[protein, row["smiles"]] = row["error"] or NOT_RECORDED
                return failures
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self._failures_path} cannot be read: {error}") from None

    @cached_property
    def _metrics(self) -> tuple[str, ...]:
        """The metrics' names, in the order of the table's values."""
        if self.model is ScoringModel.PSICHIC or not self.path.exists():
            return (PSICHIC_METRIC,)
        with self.path.open(encoding="utf-8", newline="") as stream:
            keys = {"protein", item_column(self.model)} if names_protein(self.model) else {item_column(self.model)}
            return tuple(name for name in next(csv.reader(stream), []) if name not in keys)

    @cached_property
    def _table(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """Metric values by protein (the empty string for Boltz-2) and SMILES; an empty cell is NaN."""
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
        """Line number, protein (the empty string for Boltz-2), SMILES and the metrics' cells of each row."""
        by_protein, item = names_protein(self.model), item_column(self.model)
        wanted = {item} | ({"protein"} if by_protein else set())
        wanted |= {PSICHIC_METRIC} if self.model is ScoringModel.PSICHIC else set()
        try:
            with self.path.open(encoding="utf-8", newline="") as stream:
                reader = csv.reader(stream)
                header = next(reader, [])
                if missing := wanted - set(header):
                    raise SourceError(f"{self.path} lacks column(s) {', '.join(sorted(missing))}")
                smiles = header.index(item)
                protein = header.index("protein") if by_protein else None
                cells = [header.index(name) for name in self._metrics]
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(header):
                        raise SourceError(f"{self.path}: line {reader.line_num} has another number of columns")
                    found = _NO_PROTEIN if protein is None else row[protein]
                    yield reader.line_num, found, row[smiles], [row[cell] for cell in cells]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.path} cannot be read: {error}") from None
