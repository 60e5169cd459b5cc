"""The subnet's datasets on Hugging Face: proteins, combinatorial database, archive of submitted molecules."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from app.untrusted import read_json, shown
from chain.huggingface import Hub
from chain.sources import SourceError

PROTEINS: Final = "Metanova/Proteins"
DATABASE: Final = "Metanova/Mol-Rxn-DB"
ARCHIVE: Final = "Metanova/Submission-Archive"

# Where a dataset names no split, its one data file is the split.
_SPLIT: Final = "train"
_READABLE: Final = (".parquet", ".csv", ".jsonl", ".json")


def protein_pool(hub: Hub, revision: str) -> list[tuple[str, str]]:
    """Entry and sequence of every protein at a revision, in the dataset's row order.

    Raises:
        SourceError: the dataset has no rows, or no columns Entry and Sequence.
        SourceUnavailable: the hub does not answer.
    """
    files = [name for name in hub.files(PROTEINS, revision) if name.endswith(_READABLE)]
    split = sorted(name for name in files if _SPLIT in name) or sorted(files)[:1]
    pool = [row for name in split for row in _rows(hub.file(PROTEINS, revision, name), name)]
    if not pool:
        raise SourceError(f"{PROTEINS} at {revision[:12]} has no rows")
    return pool


def _rows(path: Path, name: str) -> list[tuple[str, str]]:
    try:
        return [(str(row["Entry"]), str(row["Sequence"] or "")) for row in _table(path)]
    except (KeyError, TypeError, ValueError, RecursionError, OSError, csv.Error) as error:
        fault = shown(str(error), 160)
        raise SourceError(f"{PROTEINS}: {name} has no readable columns Entry and Sequence ({fault})") from None


def _table(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of a Parquet, CSV, JSON or JSON-lines file."""
    match path.suffix:
        case ".parquet":
            from pyarrow import parquet

            yield from parquet.read_table(path, columns=["Entry", "Sequence"]).to_pylist()
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                yield from csv.DictReader(stream)
        case ".json":
            yield from read_json(path.read_text(encoding="utf-8"))
        case _:
            with path.open(encoding="utf-8") as stream:
                yield from (read_json(line) for line in stream if line.strip())
