"""The hub through the real client: once, resumed, proven."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelInfo

from chain import huggingface
from chain.huggingface import FileAbsent, Hub, HubClient, HubUnavailable, checked
from chain.sources import SourceUnavailable
from tests.chain import internet

DATASET = "Metanova/Mol-Rxn-DB"
BODY = os.urandom(300_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[internet.Hub]:
    monkeypatch.setattr(huggingface, "_PAUSE_SECONDS", 0.01)
    with internet.Hub() as server:
        server.datasets[DATASET] = {"molecules.sqlite": BODY, "README.md": b"# data"}
        yield server


@pytest.fixture
def hub(server: internet.Hub, tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub", server.url)


def test_a_file_is_fetched_once(server: internet.Hub, hub: Hub) -> None:
    revision = hub.revision(DATASET)
    assert revision == server.revision(DATASET)
    path = hub.file(DATASET, revision, "molecules.sqlite")
    assert path.read_bytes() == BODY
    before = len(server.requests)
    assert hub.file(DATASET, revision, "molecules.sqlite") == path
    assert len(server.requests) == before
    assert hub.file(DATASET, revision, "README.md").read_bytes() == b"# data"


def test_a_new_revision_is_another_file(server: internet.Hub, hub: Hub) -> None:
    old = hub.revision(DATASET)
    hub.file(DATASET, old, "molecules.sqlite")
    server.datasets[DATASET]["molecules.sqlite"] = b"newer"
    new = hub.revision(DATASET)
    assert new != old
    assert hub.file(DATASET, new, "molecules.sqlite").read_bytes() == b"newer"
    assert hub.file(DATASET, old, "molecules.sqlite").read_bytes() == BODY
    assert hub.known_revision(DATASET) in {old, new}


def test_what_broke_off_is_resumed(server: internet.Hub, hub: Hub) -> None:
    server.faults["/datasets"] = internet.first(2, internet.break_off(BODY, 100_000))
    assert hub.file(DATASET, hub.revision(DATASET), "molecules.sqlite").read_bytes() == BODY


@pytest.mark.parametrize(
    "entry",
    [
        {"rfilename": "a", "size": float("inf")},
        {"rfilename": "a", "size": -1},
        {"rfilename": "a", "size": True},
        {"rfilename": "a", "size": "3"},
        {"rfilename": 3, "size": 3},
        {"rfilename": "a", "size": 3, "blobId": 7},
        {"rfilename": "a", "size": 3, "lfs": {"size": 3.5, "sha256": "b", "pointerSize": 1}},
        {"rfilename": "a", "size": 3, "lfs": {"size": 3, "sha256": 8, "pointerSize": 1}},
    ],
)
def test_a_listing_in_other_types_than_the_librarys_is_a_fault_of_the_hub(entry: dict[str, Any]) -> None:
    client = HubClient("http://hub")
    with pytest.raises(HubUnavailable):
        client.ask("the files", lambda: checked(ModelInfo(id="o/m", siblings=[entry])), attempts=1)


def test_a_damaged_file_is_refused(server: internet.Hub, hub: Hub) -> None:
    server.wrong["molecules.sqlite"] = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(SourceUnavailable, match=r"damaged molecules.sqlite.*sha256"):
        hub.file(DATASET, hub.revision(DATASET), "molecules.sqlite")
    server.wrong.clear()
    assert hub.file(DATASET, hub.revision(DATASET), "molecules.sqlite").read_bytes() == BODY


def test_absent_is_not_unavailable(server: internet.Hub, hub: Hub) -> None:
    revision = hub.revision(DATASET)
    with pytest.raises(FileAbsent):
        hub.file(DATASET, revision, "nothing.csv")
    server.faults["/api"] = internet.status(500)
    with pytest.raises(SourceUnavailable, match="did not give the files"):
        hub.file(DATASET, "0" * 40, "molecules.sqlite")
    with pytest.raises(SourceUnavailable, match="did not give the revision"):
        hub.revision(DATASET)


@pytest.mark.parametrize("body", ["[]", "7", "null", "{}", '{"id": "a", "siblings": [3]}'])
def test_an_answer_in_another_form_is_an_outage(server: internet.Hub, hub: Hub, body: str) -> None:
    server.faults["/api"] = internet.document(body)
    with pytest.raises(SourceUnavailable):
        hub.file(DATASET, "0" * 40, "molecules.sqlite")


def test_a_hub_that_is_away_is_our_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.huggingface._PAUSE_SECONDS", 0)
    unavailable = Hub(tmp_path, endpoint="http://127.0.0.1:1")
    with pytest.raises(SourceUnavailable, match="did not give"):
        unavailable.revision("Metanova/Proteins")
