"""Logging to Weights & Biases is an extra that may be missing or fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from app.clock import now
from app.competitions.experiment_log import log_evaluation
from app.store.evaluations import EvaluationInputs, EvaluationPhase, EvaluationRecord

# the few calls of wandb that are made, written to a file
CLIENT = """
import json, os
class Settings:
    def __init__(self, **values):
        self.values = values
class Run:
    def __init__(self, given):
        self.given = given
        self.summary = {}
    def log(self, values):
        if self.given["project"] == "broken":
            raise RuntimeError("no network")
        self.given["logged"] = values
    def finish(self):
        self.given["summary"] = self.summary
        self.given["settings"] = self.given["settings"].values
        with open(os.environ["WANDB_FILE"], "w") as file:
            file.write(json.dumps(self.given))
def init(**given):
    return Run(given)
"""


@pytest.fixture
def record() -> EvaluationRecord:
    at = now()
    return EvaluationRecord(
        id="one",
        inputs=EvaluationInputs("maker/model2", "voicebench", "5Miner", 102),
        revision="c0ffee",
        slot=None,
        phase=EvaluationPhase.COMPLETED,
        score=0.5,
        metric_scores={"sets": {"ifeval": {"score": 0.25, "judge": "x"}}, "good": True, "mean": 1},
        error=None,
        tries=1,
        device=None,
        accepted_at=at,
        begun_at=at,
        started_at=at,
        finished_at=at,
    )


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wandb.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_FILE", str(tmp_path / "run.json"))
    return tmp_path / "run.json"


def test_an_evaluation_is_one_run(client: Path, record: EvaluationRecord) -> None:
    assert log_evaluation("subnet-21", record)
    run = json.loads(client.read_text())
    assert (run["project"], run["id"], run["name"]) == ("subnet-21", "one", "voicebench maker/model2")
    assert run["config"]["revision"] == "c0ffee"
    assert run["logged"] == {"sets/ifeval/score": 0.25, "mean": 1.0, "score": 0.5}
    assert run["summary"] == {"state": "completed", "error": None}


def test_a_failure_is_a_warning(client: Path, record: EvaluationRecord, caplog: pytest.LogCaptureFixture) -> None:
    assert not log_evaluation("broken", record)
    assert "no network" in caplog.text


def test_a_missing_client_is_a_warning(
    record: EvaluationRecord, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert not log_evaluation("subnet-21", record)
    assert "pip install wandb" in caplog.text
