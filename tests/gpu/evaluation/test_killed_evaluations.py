"""An evaluation killed at any moment: after a sweep nothing of it is left, and nothing else has gone."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu.evaluation import leftovers
from gpu.evaluation.docker_engine import engine
from gpu.evaluation.leftovers import DEADLINE, EVALUATION, NODE, EvaluationsFolder, remove_folder, safe_name, sweep
from gpu.evaluation.repository import ModelHub
from gpu.evaluation.sandbox import DockerSandbox
from tests.gpu.evaluation.evaluation_killer import Killer
from tests.gpu.evaluation.fake_engine import HEALTHY_SERVER, FakeEngine, FakeEngineProcess
from tests.gpu.evaluation.model_hub import ModelRepositories

NAME = "someone/model"
BASE = "docker.io/library/python:3.11"
DOCKERFILE = b'FROM python:3.11\nCOPY . /\nRUN true\nRUN true\nVOLUME /keep\nCMD ["python", "server.py"]\n'
POINTS = 20
PHASES = ("snapshot", "build", "running", "removal")
TRIES = 10
OURS = ("containers", "images", "networks", "volumes")


@pytest.fixture
def short_path() -> Iterator[Path]:
    # a socket's path may have 107 bytes; pytest's folders are longer
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    yield folder
    shutil.rmtree(folder)


def phase(requests: list[list[str]]) -> str:
    """How far an evaluation had come, by what it had asked the Engine."""
    asked = [f"{method} {path}" for method, path in requests]
    for beginning, name in (
        ("DELETE /", "removal"),
        ("POST /containers/cv", "running"),
        ("POST /containers/create", "create"),
        ("POST /networks/create", "network"),
        ("POST /build", "build"),
        ("POST /images/create", "pull"),
    ):
        if any(request.startswith(beginning) for request in asked):
            return name
    return "snapshot"


def test_killed_at_any_moment_nothing_stays(short_path: Path, tmp_path: Path) -> None:
    draw = random.Random(20)
    with (
        ModelRepositories(latency=0.02) as hub,
        FakeEngineProcess(short_path / "docker.sock", step_seconds=0.03, registry={BASE: {}}) as fake,
    ):
        hub.repositories[NAME] = {"Dockerfile": DOCKERFILE, "server.py": HEALTHY_SERVER.encode()}
        hub.repositories[NAME] |= {f"weights/{number}.safetensors": b"x" * 10_000 for number in range(4)}
        bystanders = fake.add("container", "other", {NODE: "f" * 32, EVALUATION: "e0"})
        fake.add("image", "other:latest")
        fake.add("network", "cv-eval-e0", {EVALUATION: "e0"})
        before = {kind: fake.state()[kind] for kind in OURS}
        killer = Killer(fake.address, hub.url, tmp_path)
        try:

            def asked() -> int:
                return len(hub.requests) + len(fake.state()["requests"])

            start = asked()
            assert killer.run("whole") == "done 0"
            whole = asked() - start
            assert {kind: fake.state()[kind] for kind in OURS} == before
            reached: dict[str, int] = {}
            seen = len(fake.state()["requests"])

            def strike(evaluation: str, here: Callable[[], bool]) -> bool:
                """Kill it there, sweep, and look; whether it was killed before its end."""
                nonlocal seen
                ended = killer.run(evaluation, here)
                assert ended in {"killed", "done 0"}
                state = fake.state()
                name = phase(state["requests"][seen:])
                reached[name] = reached.get(name, 0) + 1
                with engine(fake.address) as client:
                    assert not sweep(EvaluationsFolder(tmp_path / "evaluations"), client).left
                after = fake.state()
                assert {kind: after[kind] for kind in OURS} == before, f"killed in {name}"
                assert {path.name for path in (tmp_path / "evaluations").iterdir()} <= {".node-id", ".pulled"}, name
                assert not list((tmp_path / "evaluations/.pulled").glob("*.pulled"))
                seen = len(after["requests"])
                return ended == "killed"

            killed = 0
            for number in range(POINTS):
                # one in each twentieth of the whole way, and somewhere between two requests
                target = asked() + int(whole * (number + draw.random()) / POINTS)
                pause = draw.random() * 0.03

                def here(target: int = target, pause: float = pause) -> bool:
                    if asked() < target:
                        return False
                    time.sleep(pause)
                    return True

                killed += strike(f"e{number}", here)
            # on a busy machine a point falls into the next phase: those that none fell into are aimed at
            for wanted in PHASES:
                for attempt in range(TRIES):
                    if wanted in reached:
                        break
                    strike(f"{wanted}{attempt}", lambda wanted=wanted: phase(fake.state()["requests"][seen:]) == wanted)
        finally:
            killer.close()
        assert bystanders in {container["Id"] for container in fake.state()["containers"]}
        # the points were spread over the whole of it
        assert set(PHASES) <= set(reached), reached
        assert killed >= POINTS - 2


@pytest.fixture
def fake(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    monkeypatch.setattr(leftovers, "_PAUSE_SECONDS", 0.01)
    with FakeEngine(short_path / "docker.sock") as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> EvaluationsFolder:
    return EvaluationsFolder(tmp_path / "evaluations")


def swept(fake: FakeEngine, folder: EvaluationsFolder, **options: Any) -> leftovers.Removal:
    with engine(fake.address) as client:
        return sweep(folder, client, **options)


def everything_of(fake: FakeEngine, folder: EvaluationsFolder, name: str, **more: str) -> dict[str, str]:
    labels = {NODE: folder.node(), EVALUATION: name, **more}
    fake.add_container(f"cv-eval-{name}", labels)
    fake.add_network(f"cv-eval-{name}", labels)
    parent = fake.add_image(labels=labels)
    fake.add_image(f"cv-eval-{name}:latest", labels=labels, parent=parent)
    (folder.folder(name) / "repository").mkdir(parents=True)
    return labels


def kept(fake: FakeEngine) -> list[int]:
    return [len(fake.state()[kind]) for kind in ("containers", "networks", "images")]


def test_what_nobody_holds_goes(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    everything_of(fake, folder, "dead")
    folder.lock_file("dead").touch()
    removal = swept(fake, folder)
    assert len(removal.removed) == 4
    assert kept(fake) == [0, 0, 0]
    assert not folder.folder("dead").exists()
    assert not folder.lock_file("dead").exists()


def test_an_untagged_image_that_ours_was_built_on_stays(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    parent = fake.add_image()
    fake.add_image(labels={NODE: folder.node(), EVALUATION: "dead"}, parent=parent)
    swept(fake, folder)
    assert set(fake.images) == {parent}


def test_what_somebody_holds_stays(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    everything_of(fake, folder, "alive", **{DEADLINE: str(int(time.time()) + 60)})
    with folder.held("alive", time.time() + 60) as ours:
        assert ours
        assert not swept(fake, folder).removed
        assert folder.folder("alive").exists()
    assert kept(fake) == [1, 1, 2]
    assert swept(fake, folder).removed
    assert kept(fake) == [0, 0, 0]


def test_what_is_long_overdue_goes_though_it_is_held(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    deadline = int(time.time())
    everything_of(fake, folder, "stuck", **{DEADLINE: str(deadline)})
    with folder.held("stuck", deadline):
        assert not swept(fake, folder, now=lambda: deadline + 3500.0).removed
        assert swept(fake, folder, now=lambda: deadline + 3700.0).removed
        assert kept(fake) == [0, 0, 0]
        assert folder.lock_file("stuck").exists()


def test_another_nodes_and_nobodys_stay(fake: FakeEngine, folder: EvaluationsFolder, tmp_path: Path) -> None:
    other = EvaluationsFolder(tmp_path / "other")
    everything_of(fake, other, "dead")
    fake.add_container("cv-eval-dead2", {EVALUATION: "dead"})
    fake.add_image("cv-eval-dead:old", labels={NODE + "s": folder.node()})
    fake.add_network("cv-eval-x", {NODE: folder.node()})
    folder.root.mkdir(exist_ok=True)
    for name in ("dead", "notes", "dead.old"):
        (folder.root / name).mkdir()
    before = kept(fake)
    swept(fake, folder)
    assert kept(fake) == before
    assert (other.root / "dead").is_dir()
    assert {path.name for path in folder.root.iterdir()} >= {"dead", "notes", "dead.old"}
    assert swept(fake, other).removed


def test_a_label_cannot_name_a_path(fake: FakeEngine, folder: EvaluationsFolder, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    fake.add_container("odd", {NODE: folder.node(), EVALUATION: "../precious"})
    swept(fake, folder)
    assert (tmp_path / "precious").is_dir()


def test_what_cannot_go_now_goes_later(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    everything_of(fake, folder, "dead")
    fake.faults["DELETE /images"] = {"status": 500, "message": "busy"}
    removal = swept(fake, folder)
    assert any("busy" in left for left in removal.left)
    assert kept(fake) == [0, 0, 2]
    fake.faults.clear()
    assert not swept(fake, folder).left
    assert kept(fake) == [0, 0, 0]


def test_a_pulled_image_stays_while_a_build_needs_it(fake: FakeEngine, folder: EvaluationsFolder) -> None:
    fake.registry[BASE] = {}
    with folder.using_bases():
        fake.pull(BASE)
        (image,) = fake.images.values()
        image.tags.clear()
        folder.pulling(image.digests[0])
        swept(fake, folder)
        assert fake.images
    child = fake.add_image(parent=image.id)
    # an image that somebody has built on it keeps it
    swept(fake, folder)
    assert set(fake.images) == {image.id, child}
    fake.remove_image(child, force=True, noprune=True)
    swept(fake, folder)
    assert not fake.images


def test_the_node_keeps_its_id(folder: EvaluationsFolder, tmp_path: Path) -> None:
    first = folder.node()
    assert EvaluationsFolder(folder.root).node() == first
    assert EvaluationsFolder(tmp_path / "other").node() != first
    (folder.root / ".node-id").write_text("damaged")
    assert folder.node() not in {first, "damaged"}
    assert folder.node() == folder.node()


def test_a_lock_whose_file_was_removed_is_taken_again(folder: EvaluationsFolder) -> None:
    with folder.held("e1", 1.0) as ours:
        assert ours
        assert json.loads(folder.lock_file("e1").read_text()) == {"deadline": 1.0}
        folder.forget("e1")
        with folder.held("e1") as again:
            assert again
            descriptor = os.open(folder.lock_file("e1"), os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(descriptor)


@pytest.mark.parametrize(
    ("given", "plain"),
    [("a", True), ("0c9e4f5a-1111-2222-3333-444455556666", True), ("a" * 48, True), ("a" * 49, False), ("A", False),
     ("a.b", False), ("a-", False), (".lock", False), ("", False), ("a/b", False), ("a\n", False)],
)  # fmt: skip
def test_names_are_safe_and_stay_apart(given: str, plain: bool) -> None:
    assert (safe_name(given) == given) is plain
    assert len(safe_name(given)) <= 48
    assert safe_name(given).replace("-", "").isalnum()
    assert safe_name(given) != safe_name(given + "x")


def test_a_folder_goes_however_it_is_protected_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    inside = tmp_path / "model/deep"
    inside.mkdir(parents=True)
    (inside / "file").write_text("x")
    (inside / "link").symlink_to(outside)
    inside.chmod(0o500)
    assert remove_folder(tmp_path / "model") is None
    assert not (tmp_path / "model").exists()
    assert (outside / "precious").exists()
    assert remove_folder(tmp_path / "model") is None


def test_the_sandbox_sweeps_its_own_node(fake: FakeEngine, folder: EvaluationsFolder, tmp_path: Path) -> None:
    everything_of(fake, folder, "dead")
    DockerSandbox(folder.root, tmp_path / "logs", ModelHub("http://127.0.0.1:9"), address=fake.address).sweep()
    assert kept(fake) == [0, 0, 0]
