"""The archive of nanobodies already scored for a target: ``<target>_nanobodies.csv``."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from chem.archive import ArchiveUnreadable

MAX_LIABILITY_VIOLATIONS: Final = 50
TOP_SEQUENCES: Final = 50

# a metric's better end, and its weight: a rank counts for the less, the larger the weight
_WEIGHTS: Final[Mapping[str, tuple[Literal["max", "min"], float]]] = {
    "design_iiptm": ("max", 1.0),
    "design_ptm": ("max", 2.0),
    "min_design_to_target_pae": ("min", 1.0),
    "plip_hbonds_refolded": ("max", 2.0),
    "plip_saltbridge_refolded": ("max", 2.0),
    "delta_sasa_refolded": ("max", 2.0),
}
_VIOLATIONS: Final = "liability_num_violations"


@dataclass(frozen=True, slots=True)
class NanobodyArchive:
    """What is known of one target: hashes of all sequences, and the best ones, which no new one may resemble.

    ``warnings`` tells which checks an incomplete file leaves out.
    """

    hashes: frozenset[str] = frozenset()
    top: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_nanobody_archive(path: Path) -> NanobodyArchive:
    """Read an archive file; a file that does not exist is an empty archive.

    Raises:
        ArchiveUnreadable: not a CSV file in UTF-8.
    """
    if not path.exists():
        return NanobodyArchive()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveUnreadable(f"archive {path} cannot be read: {error}") from None
    warnings = []
    if "sequence_hash" not in columns:
        warnings.append(f"{path.name} has no column 'sequence_hash': no sequence counts as already used")
    absent = [name for name in ("sequence", *_WEIGHTS) if name not in columns]
    if absent:
        warnings.append(f"{path.name} has no column {', '.join(absent)}: no sequence counts as too similar")
    return NanobodyArchive(
        frozenset(row["sequence_hash"] for row in rows if row.get("sequence_hash")),
        () if absent else top_sequences(rows),
        tuple(warnings),
    )


def top_sequences(rows: Sequence[Mapping[str, str | float | None]], keep: int = TOP_SEQUENCES) -> tuple[str, ...]:
    """The ``keep`` best sequences: those whose worst weighted rank over the six metrics is smallest.

    Rows with more than 50 liabilities, or an unknown number, are left out where the column exists. Ranks are averages
    over ties. Equal scores keep the order of the file (the subnet's own order of ties is not defined).
    """
    kept = [
        row
        for row in rows
        if row.get("sequence") and (_VIOLATIONS not in row or _number(row[_VIOLATIONS]) <= MAX_LIABILITY_VIOLATIONS)
    ]
    worst = [-math.inf] * len(kept)
    for metric, (better, weight) in _WEIGHTS.items():
        values = [_number(row.get(metric)) * (-1 if better == "max" else 1) for row in kept]
        for place, rank in enumerate(_average_ranks(values)):
            if rank is not None:
                worst[place] = max(worst[place], rank / weight)
    # rows without any metric come last
    order = sorted(range(len(kept)), key=lambda place: worst[place] if worst[place] > -math.inf else math.inf)
    return tuple(str(kept[place]["sequence"]) for place in order[:keep])


def _average_ranks(values: Sequence[float]) -> list[float | None]:
    """Rank 1 is the smallest; equal values share the mean of their ranks; NaN has none."""
    ranks: dict[float, list[int]] = {}
    for rank, value in enumerate(sorted(value for value in values if not math.isnan(value)), start=1):
        ranks.setdefault(value, []).append(rank)
    means = {value: sum(shared) / len(shared) for value, shared in ranks.items()}
    return [means.get(value) for value in values]


def _number(value: str | float | None) -> float:
    try:
        return float(value) if value not in {None, ""} else math.nan
    except ValueError:
        return math.nan
