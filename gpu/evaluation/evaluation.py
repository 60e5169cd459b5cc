"""Evaluating one model: is it its miner's, does it run, what is it worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.untrusted import quoted
from gpu.evaluation.contract import (
    Benchmark,
    Deadline,
    ModelFault,
    ModelFaultCode,
    ModelSource,
    Sandbox,
    Score,
)
from gpu.evaluation.repository import ModelHub

# The file in which a repository names the hotkey that it belongs to.
PROOF_FILE: Final = "hotkey.txt"

# What is read of it: the longest SS58 address and any blanks around it are a small part of that.
PROOF_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """When a model was committed, and when its repository was made (None: the hub shows no such repository)."""

    committed_at: datetime
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model's score. ``remark`` says why it is the penalty, where it is."""

    score: Score
    remark: str | None = None


ProofReader = Callable[[ModelSource, Deadline], bytes | None]
"""Reads the first bytes of ``hotkey.txt`` at the model's revision; None where there is no such file."""


def proof_reader(hub: ModelHub) -> ProofReader:
    """Reads the proof from the hub, before anything else of the repository is fetched."""
    return lambda model, deadline: hub.beginning(model.repository, model.revision, PROOF_FILE, PROOF_BYTES, deadline)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What a node evaluates models of one competition with. ``penalty`` is the score of a model that is not genuine."""

    read_proof: ProofReader
    sandbox: Sandbox
    benchmark: Benchmark
    penalty: float

    def evaluate(self, model: ModelSource, origin: Origin, deadline: Deadline) -> Evaluated:
        """Proof of origin, then the model in its sandbox before the benchmark. Nothing is left of it afterwards.

        Raises:
            ModelFault: the model failed to build, start or answer.
            EvaluationImpossible: this node cannot evaluate now.
        """
        objection = self._objection(model, origin, deadline)
        if objection is not None:
            return Evaluated(Score(self.penalty, {}), objection)
        self.benchmark.prepare()
        with self.sandbox.running(model, deadline) as base_url:
            return Evaluated(self.benchmark.evaluate(base_url, deadline))

    def _objection(self, model: ModelSource, origin: Origin, deadline: Deadline) -> str | None:
        if origin.created_at is None:
            raise ModelFault(
                ModelFaultCode.REPOSITORY_MISSING,
                f"Hugging Face shows no repository {model.repository}; is it public, and spelled as committed?",
            )
        if origin.created_at > origin.committed_at:
            return (
                f"the repository {model.repository} was created at {_instant(origin.created_at)}, after it was "
                f"committed at {_instant(origin.committed_at)}: penalty score {self.penalty}"
            )
        proof = self.read_proof(model, deadline)
        where = f"{PROOF_FILE} of {model.repository} at revision {model.revision or 'main'}"
        if proof is None:
            return f"there is no {where}; it must hold the hotkey {model.hotkey}: penalty score {self.penalty}"
        found = proof.decode("utf-8-sig", "replace").strip()
        if found != model.hotkey:
            return f"{where} holds {quoted(found)}, not the hotkey {model.hotkey}: penalty score {self.penalty}"
        return None


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
