"""All that an evaluation meets, each as a real server on this machine: hub, Docker Engine, data set, judge, models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from app.clock import now
from app.domain import ModelCommitment, ModelId
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue
from tests.app.competitions.competition_fixtures import NETUID, miner, neurons
from tests.chain.internet import Reply

EVALUATION_TESTS = Path(__file__).parents[1] / "gpu" / "evaluation"
# they import one another by their bare names
sys.path[:0] = [str(EVALUATION_TESTS)]

from fake_engine import FakeEngine  # noqa: E402
from judge_server import JudgeServer  # noqa: E402
from model_hub import ModelRepositories  # noqa: E402
from tiny_voicebench import write_voicebench  # noqa: E402

DOCKERFILE = b'FROM python:3.11\nCOPY . /app\nCMD ["python", "server.py"]\n'

# {setup} comes before the server starts, {misbehaviour} is what it does instead of answering {answer}
SERVER = """\
import os
{setup}
from model_server import ModelServer


class Here(ModelServer):
    def server_bind(self):
        self.server_address = (os.environ["FAKE_HOST"], int(os.environ["FAKE_PORT"]))
        super().server_bind()


Here({misbehaviour!r}, answer=lambda wave, rate: {answer!r}).serve_forever()
"""


class Hub(ModelRepositories):
    """The hub, which also says when a repository was made."""

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, datetime] = {}

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        status, sent, body = super().answer(path, query, headers)
        name = path.removeprefix("/api/models/").partition("/revision/")[0]
        if status == 200 and name in self.created:
            document = json.loads(body) | {"createdAt": f"{self.created[name]:%Y-%m-%dT%H:%M:%S.000Z}"}
            body = json.dumps(document).encode()
        return status, sent, body


@dataclass
class Scene:
    """The servers, and the models that miners have on the hub."""

    hub: Hub
    engine: FakeEngine
    judge: JudgeServer
    environment: dict[str, str]

    def publish(
        self,
        uid: int,
        *,
        misbehaviour: str | None = None,
        answer: str = "I can't help with that.",
        setup: str = "",
        proof: bytes | None = None,
        dockerfile: bytes = DOCKERFILE,
        made: timedelta = timedelta(days=30),
    ) -> ModelCommitment:
        """Put a miner's repository on the hub, made so long ago; what the miner then commits."""
        name = f"maker/model{uid}"
        files = {
            "Dockerfile": dockerfile,
            "server.py": SERVER.format(setup=setup, misbehaviour=misbehaviour, answer=answer).encode(),
            "model_server.py": (EVALUATION_TESTS / "model_server.py").read_bytes(),
            "hotkey.txt": f"{miner(uid)}\n".encode() if proof is None else proof,
        }
        self.hub.repositories[name] = {path: content for path, content in files.items() if content}
        self.hub.created[name] = now() - made
        identity = ModelId("maker", f"model{uid}", "1", self.hub.commit(name), f"hash{uid}", "voicebench")
        return ModelCommitment(miner(uid), 100 + uid, identity)

    def left(self) -> list[str]:
        """What evaluations have on the Engine at this moment."""
        state = self.engine.state()
        things = [*state["containers"], *state["images"], *state["networks"]]
        return [thing["Id"] for thing in things if "celery-validator.evaluation" in (thing["Labels"] or {})]

    def folders(self, data: Path) -> list[str]:
        """Folders and locks of evaluations in a node's data folder."""
        return [path.name for path in (data / "evaluations").glob("*") if not path.name.startswith(".")]


@contextmanager
def evaluation_scene(folder: Path, dataset: Path | None = None) -> Iterator[Scene]:
    """Everything running; nothing is left of it. ``dataset`` is a VoiceBench that is there already."""
    with ExitStack() as stack:
        hub = stack.enter_context(Hub())
        judge = stack.enter_context(JudgeServer())
        registry: dict[str, dict[str, Any]] = {"docker.io/library/python:3.11": {}}
        # a unix socket's path may have a hundred bytes
        engine = stack.enter_context(FakeEngine(folder / "engine.sock", registry=registry))
        if dataset is None:
            dataset = write_voicebench(folder / "voicebench", ("commoneval", "advbench"), count=2)
        environment = {
            "NETUID": str(NETUID),
            "OFFLINE": "true",
            "HF_ENDPOINT": hub.url,
            "DOCKER_HOST": engine.address,
            "VOICEBENCH_DATASET": str(dataset),
            "VOICEBENCH_SETS": "commoneval:2,advbench:2",
            "JUDGE_URL": judge.url,
            "JUDGE_MODEL": "judge",
            "DISK_RESERVE": "0",
            "DEVICE": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        yield Scene(hub, engine, judge, environment)


def committed(store: Store, *commitments: ModelCommitment, days_ago: float = 1.0) -> None:
    """The store as ``update_models`` leaves it: these miners and no others, the competition, their models queued."""
    uids = {int(found.model.name.removeprefix("model")): found for found in commitments}
    with store.writing() as session:
        everybody = neurons(max(uids, default=2))
        Metagraph(session, NETUID).sync(1000, [found for found in everybody if found.uid < 2 or found.uid in uids])
        if not Competitions(session).all():
            Competitions(session).add("voicebench", 1.0, "test")
        for uid, found in uids.items():
            ModelQueue(session, NETUID).register(uid, found, now() - timedelta(days=days_ago))
