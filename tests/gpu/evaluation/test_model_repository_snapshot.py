"""Snapshots through the real hub client: listed first, bounded, inside their folder, at one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain import huggingface
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode
from gpu.evaluation.repository import ModelHub
from tests.chain import internet
from tests.gpu.evaluation.model_hub import ModelRepositories

NAME = "someone/model"
WEIGHTS = os.urandom(3_000_000)
FILES = {"Dockerfile": b"FROM scratch\n", "a/b/weights.safetensors": WEIGHTS, "hotkey.txt": b"5Hotkey\n", "empty": b""}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRepositories]:
    monkeypatch.setattr(huggingface, "_PAUSE_SECONDS", 0.01)
    with ModelRepositories() as server:
        server.repositories[NAME] = dict(FILES)
        yield server


@pytest.fixture
def hub(server: ModelRepositories) -> ModelHub:
    return ModelHub(server.url)


def snapshot(
    hub: ModelHub,
    folder: Path,
    *,
    revision: str | None = None,
    size: int = 10**9,
    reserve: int = 0,
    seconds: float = 60,
) -> str:
    folder.mkdir(exist_ok=True)
    deadline = Deadline(seconds)
    listing = hub.listing(NAME, revision, deadline)
    hub.snapshot(listing, folder, size_limit=size, disk_reserve=reserve, deadline=deadline)
    return listing.commit


def downloads(server: ModelRepositories) -> int:
    return server.count("/resolve/")


def test_every_file_is_copied_at_the_commit(server: ModelRepositories, hub: ModelHub, tmp_path: Path) -> None:
    commit = snapshot(hub, tmp_path / "model", revision=server.commit(NAME)[:8])
    assert commit == server.commit(NAME)
    found = {str(p.relative_to(tmp_path / "model")): p for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert not any(path.is_symlink() for path in found.values())
    assert all(f"/resolve/{commit}/" in request for request in server.requests if "/resolve/" in request)


@pytest.mark.parametrize(
    ("limit", "reserve", "free", "error"),
    [
        (sum(map(len, FILES.values())) - 1, 0, 10**9, ModelFault),
        (10**9, 10**6, sum(map(len, FILES.values())) + 10**6 - 1, EvaluationImpossible),
    ],
)
def test_sizes_are_checked_before_the_first_byte(
    server: ModelRepositories, tmp_path: Path, limit: int, reserve: int, free: int, error: type[Exception]
) -> None:
    hub = ModelHub(server.url, free=lambda _: free)
    with pytest.raises(error) as raised:
        snapshot(hub, tmp_path / "model", size=limit, reserve=reserve)
    if isinstance(raised.value, ModelFault):
        assert raised.value.code is ModelFaultCode.REPOSITORY_TOO_LARGE
    else:
        assert "DISK_RESERVE" in str(raised.value)
    assert downloads(server) == 0
    assert not list((tmp_path / "model").iterdir())


def test_just_enough_disk_is_enough(server: ModelRepositories, tmp_path: Path) -> None:
    size = sum(map(len, FILES.values()))
    snapshot(ModelHub(server.url, free=lambda _: size + 10**6), tmp_path / "model", size=size, reserve=10**6)


def test_a_hub_that_serves_more_than_it_lists_is_cut_off(
    server: ModelRepositories, hub: ModelHub, tmp_path: Path
) -> None:
    server.faults[f"/{NAME}/resolve"] = internet.endless(1 << 34)
    with pytest.raises(EvaluationImpossible, match="serves more"):
        snapshot(hub, tmp_path / "model")
    assert sum(path.stat().st_size for path in (tmp_path / "model").rglob("*")) < 2**21
    assert downloads(server) == 1


def test_what_broke_off_is_resumed(server: ModelRepositories, hub: ModelHub, tmp_path: Path) -> None:
    path = f"/{NAME}/resolve/{server.commit(NAME)}/a/b/weights"
    server.faults[path] = internet.first(2, internet.break_off(WEIGHTS, 2_000_000))
    snapshot(hub, tmp_path / "model")
    assert (tmp_path / "model/a/b/weights.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["a/b/weights.safetensors", "Dockerfile"])
def test_a_damaged_file_is_refused(server: ModelRepositories, hub: ModelHub, tmp_path: Path, name: str) -> None:
    server.served[name] = bytes(len(FILES[name]))
    with pytest.raises(EvaluationImpossible, match="damaged"):
        snapshot(hub, tmp_path / "model")


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/etc/passwd",
        "a/../../escaped",
        "a//b",
        ".",
        "a/.",
        "a\\..\\b",
        "a\nb",
        "x" * 300,
        "Dockerfile/x",
        "a/\ud800b",
    ],
)
def test_a_path_cannot_leave_the_folder(server: ModelRepositories, hub: ModelHub, tmp_path: Path, name: str) -> None:
    server.repositories[NAME][name] = b"x"
    with pytest.raises(ModelFault) as raised:
        snapshot(hub, tmp_path / "model")
    assert raised.value.code is ModelFaultCode.REPOSITORY_MISSING
    assert downloads(server) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_link_in_the_way_is_not_followed(server: ModelRepositories, hub: ModelHub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/hotkey.txt").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="exists"):
        snapshot(hub, tmp_path / "model")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("fault", ["absent", "hidden", "gated", "revision", "odd revision", "odd name"])
def test_what_the_public_cannot_see_is_missing(
    server: ModelRepositories, hub: ModelHub, tmp_path: Path, fault: str
) -> None:
    revision = {"revision": "0" * 40, "odd revision": "../../x"}.get(fault)
    if fault == "hidden":
        server.hidden.add(NAME)
    elif fault == "gated":
        server.gated.add(NAME)
    elif fault == "absent":
        del server.repositories[NAME]
    with pytest.raises(ModelFault) as raised:
        if fault == "odd name":
            hub.listing("a/b/c", None, Deadline(5))
        snapshot(hub, tmp_path / "model", revision=revision)
    assert raised.value.code is ModelFaultCode.REPOSITORY_MISSING


@pytest.mark.parametrize("path", [f"/api/models/{NAME}", f"/{NAME}/resolve"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_away_is_nobodys_score(
    server: ModelRepositories, hub: ModelHub, tmp_path: Path, path: str, status: int
) -> None:
    server.faults[path] = internet.status(status)
    with pytest.raises(EvaluationImpossible, match="did not give"):
        snapshot(hub, tmp_path / "model")


@pytest.mark.parametrize(
    "body", ["[]", "7", '"text"', "null", "{}", '{"id": 1, "siblings": 5}', '{"id": "a", "siblings": [3]}']
)
def test_an_answer_in_another_form_is_nobodys_score(
    server: ModelRepositories, hub: ModelHub, tmp_path: Path, body: str
) -> None:
    server.faults[f"/api/models/{NAME}"] = internet.document(body)
    with pytest.raises(EvaluationImpossible):
        snapshot(hub, tmp_path / "model")
    with pytest.raises(huggingface.HubUnavailable, match="the creation date"):
        huggingface.HubClient(server.url).created_at(NAME)


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ModelRepositories) -> None:
    with pytest.raises(EvaluationImpossible, match="did not give"):
        snapshot(ModelHub("http://127.0.0.1:9"), tmp_path / "model")


def test_a_fault_that_passes_is_asked_again(server: ModelRepositories, hub: ModelHub, tmp_path: Path) -> None:
    server.faults["/"] = internet.first(2, internet.status(503))
    snapshot(hub, tmp_path / "model")


def test_a_drip_ends_at_the_deadline(server: ModelRepositories, hub: ModelHub, tmp_path: Path) -> None:
    server.repositories[NAME] = {"a": b"x" * 1000}
    server.faults[f"/{NAME}/resolve"] = internet.drip(0.05)
    with pytest.raises(ModelFault) as raised:
        snapshot(hub, tmp_path / "model", seconds=0.5)
    assert raised.value.code is ModelFaultCode.TIME_LIMIT


def test_the_beginning_of_one_small_file(server: ModelRepositories, hub: ModelHub) -> None:
    assert hub.beginning(NAME, None, "hotkey.txt", 1024, Deadline(5)) == b"5Hotkey\n"
    assert hub.beginning(NAME, server.commit(NAME), "absent.txt", 1024, Deadline(5)) is None
    assert hub.beginning(NAME, None, "a/b/weights.safetensors", 100, Deadline(5)) == WEIGHTS[:100]
    with pytest.raises(ModelFault):
        hub.beginning(NAME, "0" * 40, "hotkey.txt", 1024, Deadline(5))


def test_no_account_is_used_unless_one_is_given(server: ModelRepositories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_operators")
    seen: list[str | None] = []

    def note(handler: object) -> bool:
        seen.append(handler.headers.get("Authorization"))  # type: ignore[attr-defined]
        return False

    server.faults["/"] = note
    ModelHub(server.url).beginning(NAME, None, "hotkey.txt", 10, Deadline(5))
    assert set(seen) == {None}
    ModelHub(server.url, "hf_given").beginning(NAME, None, "hotkey.txt", 10, Deadline(5))
    assert set(seen[2:]) == {"Bearer hf_given"}
