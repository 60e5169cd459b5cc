"""What programs find out of nanobodies: run on this machine, read from a recording, and noted for one.

A recording keeps three tables by ``sequence_hash``: ``numbering.csv``, ``igblast.csv`` and ``tnp.csv``. An empty row
says that the program found nothing; no row, that it was not asked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from app.domain import ValidatorError
from chem.nanobodies.developability import Profile
from chem.nanobodies.igblast import IgBlast
from chem.nanobodies.nativeness import GermlineHit, GermlineHits
from chem.nanobodies.numbering import Numbering, check_numbering, number
from chem.nanobodies.sequence import sequence_hash
from chem.nanobodies.similarity import local_identity
from chem.nanobodies.steps import StepUnavailable
from chem.nanobodies.tnp import Tnp
from chem.nanobodies.validation import NanobodyTools

NUMBERING: Final = "numbering.csv"
IGBLAST: Final = "igblast.csv"
TNP: Final = "tnp.csv"
FILES: Final = (NUMBERING, IGBLAST, TNP)

_HASH: Final = "sequence_hash"
_Found = TypeVar("_Found", Numbering, GermlineHit, Profile)
_numbered = lru_cache(maxsize=4096)(number)


class RecordedFiguresMalformed(ValidatorError):
    """A table of recorded figures cannot be read."""


@dataclass(frozen=True, slots=True)
class LocalTools:
    """The programs of this machine."""

    igblast: IgBlast = field(default_factory=lambda: IgBlast(None))
    tnp: Tnp = field(default_factory=Tnp)

    def missing(self) -> list[StepUnavailable]:
        """The steps that this machine cannot run, each with its reason."""
        found = []
        for check in (check_numbering, self.igblast.check, self.tnp.check):
            try:
                check()
            except StepUnavailable as error:
                found.append(error)
        return found

    def numbering(self, sequence: str) -> Numbering | None:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return _numbered(sequence)

    def identity(self, first: str, second: str, *, whole: bool = False) -> float:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return local_identity(first, second, whole=whole)

    def germline(self, sequence: str) -> GermlineHits:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return self.igblast.hits(sequence)

    def profile(self, sequence: str) -> Profile | None:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return self.tnp.profile(sequence)


def local_tools(igblast_home: Path | None, tnp_command: str) -> LocalTools:
    """The tools as the settings name them."""
    return LocalTools(IgBlast(igblast_home.expanduser() if igblast_home else None), Tnp(tnp_command))


@dataclass(slots=True)
class Figures:
    """What was found, by the hash of the sequence."""

    numbering: dict[str, Numbering | None] = field(default_factory=dict)
    germline: dict[str, GermlineHits] = field(default_factory=dict)
    profile: dict[str, Profile | None] = field(default_factory=dict)

    def tables(self) -> dict[str, str]:
        """The recording's files, by name; one without rows is left out."""
        rows = {
            NUMBERING: [(key, _row(found)) for key, found in self.numbering.items()],
            IGBLAST: [
                (key, _row(hits.camelid, "camelid_") | _row(hits.human, "human_"))
                for key, hits in self.germline.items()
            ],
            TNP: [(key, _row(found)) for key, found in self.profile.items()],
        }
        return {name: _csv(_COLUMNS[name], found) for name, found in rows.items() if found}

    @staticmethod
    def of_tables(tables: Mapping[str, str]) -> Figures:
        """What :meth:`tables` wrote.

        Raises:
            RecordedFiguresMalformed: names the file and the row.
        """
        return Figures(
            _read(NUMBERING, tables, lambda row: _of_row(Numbering, row)),
            _read(
                IGBLAST,
                tables,
                lambda row: GermlineHits(_of_row(GermlineHit, row, "camelid_"), _of_row(GermlineHit, row, "human_")),
            ),
            _read(TNP, tables, lambda row: _of_row(Profile, row)),
        )

    @staticmethod
    def of_files(paths: Iterable[Path | None]) -> Figures:
        """As :meth:`of_tables`, from files; None stands for one that is not there."""
        try:
            return Figures.of_tables({path.name: path.read_text(encoding="utf-8") for path in paths if path})
        except (OSError, UnicodeDecodeError) as error:
            raise RecordedFiguresMalformed(f"recorded figures cannot be read: {error}") from None

    def update(self, other: Figures) -> None:
        """Take up what another table knows."""
        self.numbering |= other.numbering
        self.germline |= other.germline
        self.profile |= other.profile


@dataclass(frozen=True, slots=True)
class RememberingTools:
    """Answers from ``known`` where it can, else asks ``otherwise`` and keeps the answer in ``known``.

    With a recording's figures this is a replay; with empty ones, and stored at the end, the recording itself.
    """

    known: Figures
    otherwise: NanobodyTools

    def numbering(self, sequence: str) -> Numbering | None:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return _remembered(self.known.numbering, sequence, self.otherwise.numbering)

    def identity(self, first: str, second: str, *, whole: bool = False) -> float:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return self.otherwise.identity(first, second, whole=whole)

    def germline(self, sequence: str) -> GermlineHits:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return _remembered(self.known.germline, sequence, self.otherwise.germline)

    def profile(self, sequence: str) -> Profile | None:
        """See :class:`chem.nanobodies.validation.NanobodyTools`."""
        return _remembered(self.known.profile, sequence, self.otherwise.profile)


_Answer = TypeVar("_Answer")


def _remembered(known: dict[str, _Answer], sequence: str, ask: Callable[[str], _Answer]) -> _Answer:
    key = sequence_hash(sequence)
    if key not in known:
        known[key] = ask(sequence)
    return known[key]


def _names(kind: type[Any], prefix: str = "") -> tuple[str, ...]:
    return tuple(prefix + column.name for column in fields(kind))


_COLUMNS: Final = {
    NUMBERING: _names(Numbering),
    IGBLAST: (*_names(GermlineHit, "camelid_"), *_names(GermlineHit, "human_")),
    TNP: _names(Profile),
}


def _row(found: Numbering | GermlineHit | Profile | None, prefix: str = "") -> dict[str, Any]:
    return {} if found is None else {prefix + name: value for name, value in asdict(found).items()}


def _csv(columns: tuple[str, ...], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, (_HASH, *columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({_HASH: key, **row} for key, row in sorted(rows, key=lambda item: item[0]))
    return text.getvalue()


def _read(name: str, tables: Mapping[str, str], parse: Callable[[Mapping[str, str]], _Answer]) -> dict[str, _Answer]:
    if name not in tables:
        return {}
    found: dict[str, _Answer] = {}
    try:
        reader = csv.DictReader(io.StringIO(tables[name]))
        absent = {_HASH, *_COLUMNS[name]} - set(reader.fieldnames or ())
        if absent:
            raise RecordedFiguresMalformed(f"{name} has no column {', '.join(sorted(absent))}")
        for row in reader:
            found[row[_HASH]] = parse(row)
    except (csv.Error, ValueError, TypeError) as error:
        raise RecordedFiguresMalformed(f"{name}, row {len(found) + 2}: {error}") from None
    return found


def _of_row(kind: type[_Found], row: Mapping[str, str], prefix: str = "") -> _Found | None:
    """None for an empty row."""
    texts = {column.name: row[prefix + column.name] or "" for column in fields(kind)}
    if not any(texts.values()):
        return None
    # annotations are text in these modules
    types: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    return kind(**{column.name: types[str(column.type)](texts[column.name]) for column in fields(kind)})
