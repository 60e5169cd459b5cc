"""What the live source makes of datasets and of UniProt."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import NoReturn

import pytest
from pyarrow import Table, parquet

from app.settings import Settings, get_settings
from chain import huggingface
from chain.sources import SourceError, SourceUnavailable
from chain.sources.live import LiveEpoch, LiveSource
from chain.web import WebSession
from tests.chain import internet

EPOCH = LiveEpoch(68, 6_000_181, 361)
ROWS = [("P12345", "MKV"), ("Q00001", "ACDE"), ("P99999", "GGG")]


def no_chain() -> NoReturn:
    raise AssertionError("nothing here is the chain's to say")


class Scene:
    """A hub and UniProt, and a source that reads them."""

    def __init__(self, hub: internet.Hub, uniprot: internet.UniProt) -> None:
        self.hub, self.uniprot = hub, uniprot
        self.warnings: list[str] = []

    def source(self, settings: Settings | None = None) -> LiveSource:
        session = WebSession(1, 1, 2)
        return LiveSource(EPOCH, settings or get_settings(), no_chain, None, self.warnings.append, session)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(huggingface, "_PAUSE_SECONDS", 0.01)
    with internet.Hub() as hub, internet.UniProt({"P12345": "MKVLLL"}) as uniprot:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("UNIPROT_URL", uniprot.url)
        get_settings.cache_clear()
        hub.datasets = {"Metanova/Proteins": files(as_csv=ROWS)}
        yield Scene(hub, uniprot)


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
def test_the_pool_keeps_the_datasets_row_order(scene: Scene, dataset: dict[str, bytes]) -> None:
    scene.hub.datasets["Metanova/Proteins"] = dataset
    assert scene.source().protein_pool() == ("P12345", "Q00001", "P99999")


def test_the_pool_is_read_once_per_revision(scene: Scene) -> None:
    scene.source().protein_pool()
    before = scene.hub.count("/resolve/")
    scene.source().protein_pool()
    assert scene.hub.count("/resolve/") == before


def test_a_dataset_without_the_columns_is_named(scene: Scene) -> None:
    scene.hub.datasets["Metanova/Proteins"] = {"train.csv": b"Name,Residues\nx,y\n"}
    with pytest.raises(SourceError, match=r"train\.csv has no readable columns Entry and Sequence"):
        scene.source().protein_pool()


def test_uniprot_first_then_the_pool(scene: Scene) -> None:
    source = scene.source()
    assert source.sequence("P12345") == "MKVLLL"
    assert source.sequence("Q00001") == "ACDE"
    assert source.sequence("A0A000") is None
    assert source.sequence("../etc/passwd") is None
    assert scene.warnings == []
    assert scene.uniprot.count("passwd") == 0


def test_uniprot_away(scene: Scene) -> None:
    scene.uniprot.faults["/"] = internet.status(503)
    source = scene.source()
    assert source.sequence("P12345") == "MKV"
    assert "taken from the pool" in scene.warnings[0]
    with pytest.raises(SourceUnavailable, match="no sequence of A0A000"):
        source.sequence("A0A000")


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b">sp|P12345|X\n<b>MKV</b>\n", b">sp|P12345|X\n"])
def test_a_page_instead_of_fasta_is_an_outage(scene: Scene, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.uniprot, "answer", lambda *_: (200, {}, body))
    assert scene.source().sequence("P12345") == "MKV"
    assert "not FASTA" in scene.warnings[0]


def test_the_hub_away_means_the_last_revision_known(scene: Scene) -> None:
    known = scene.hub.revision("Metanova/Proteins")
    scene.source().protein_pool()
    scene.hub.faults["/"] = internet.status(500)
    assert scene.source().protein_pool() == ("P12345", "Q00001", "P99999")
    assert known[:12] in scene.warnings[0]


def test_an_archive_that_does_not_exist_is_empty(scene: Scene) -> None:
    scene.hub.datasets["Metanova/Submission-Archive"] = {"P1_molecules.csv": b"InChI_Key\nAAA\n"}
    assert scene.source().archive("P1").read_bytes() == b"InChI_Key\nAAA\n"
    assert not scene.source().archive("P2").exists()


def test_references_are_checked() -> None:
    assert LiveEpoch.parse(str(EPOCH)) == EPOCH
    assert EPOCH.number == 6_000_181 // 361 - 1
    with pytest.raises(SourceError):
        LiveEpoch.parse("live:68:x:361")
