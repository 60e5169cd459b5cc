"""The protein pool from its dataset, whatever form the dataset's files have."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import Table, parquet

from chain import huggingface
from chain.datasets import PROTEINS, protein_pool
from chain.huggingface import Hub
from chain.sources import SourceError
from tests.chain import internet

ROWS = [("P12345", "MKV"), ("Q00001", "ACDE"), ("P99999", "GGG")]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[internet.Hub]:
    monkeypatch.setattr(huggingface, "_PAUSE_SECONDS", 0.01)
    with internet.Hub() as hub:
        yield hub


def files(*, as_csv: list[tuple[str, str]]) -> dict[str, bytes]:
    lines = "\n".join(f"{code},{sequence}" for code, sequence in as_csv)
    return {"README.md": b"", "proteins.csv": f"Entry,Sequence\n{lines}\n".encode()}


def as_parquet(rows: list[tuple[str, str]]) -> bytes:
    stream = io.BytesIO()
    columns = {"Entry": [code for code, _ in rows], "Length": [1] * len(rows), "Sequence": [s for _, s in rows]}
    parquet.write_table(Table.from_pydict(columns), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "dataset",
    [
        {"data/train-00000-of-00001.parquet": as_parquet(ROWS)},
        {
            "data/train-00001-of-00002.parquet": as_parquet(ROWS[1:]),
            "data/train-00000-of-00002.parquet": as_parquet(ROWS[:1]),
            "data/test-00000-of-00001.parquet": as_parquet([("X", "X")]),
        },
        {"train.jsonl": "\n".join(json.dumps({"Entry": c, "Sequence": s}) for c, s in ROWS).encode()},
        {"train.json": json.dumps([{"Entry": c, "Sequence": s} for c, s in ROWS]).encode()},
        files(as_csv=ROWS),
    ],
    ids=["parquet", "shards", "json lines", "json", "csv"],
)
def test_the_pool_keeps_the_datasets_row_order(served: internet.Hub, tmp_path: Path, dataset: dict[str, bytes]) -> None:
    served.datasets[PROTEINS] = dataset
    assert protein_pool(Hub(tmp_path, served.url), served.revision(PROTEINS)) == ROWS


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"train.csv": b"Name,Residues\nx,y\n"}, r"train\.csv has no readable columns Entry and Sequence"),
        ({"train.json": b"[" + b"9" * 5_000 + b"]"}, r"train\.json has no readable columns .*digits"),
        ({"train.jsonl": b"[1]\n"}, r"train\.jsonl has no readable columns"),
        ({"train.csv": b"Entry,Sequence\n"}, "has no rows"),
        ({"README.md": b""}, "has no rows"),
    ],
)
def test_a_dataset_that_cannot_be_read_is_named(
    served: internet.Hub, tmp_path: Path, dataset: dict[str, bytes], message: str
) -> None:
    served.datasets[PROTEINS] = dataset
    with pytest.raises(SourceError, match=message):
        protein_pool(Hub(tmp_path, served.url), served.revision(PROTEINS))
