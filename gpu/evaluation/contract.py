"""What the parts of a model's evaluation say to each other: time left, whose fault, score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from app.domain import ValidatorError


class ModelFaultCode(StrEnum):
    """Why a model gets 0: the first thing that went wrong, and it was the model's."""

    REPOSITORY_MISSING = "repository_missing"
    REPOSITORY_TOO_LARGE = "repository_too_large"
    BUILD_FAILED = "build_failed"
    START_FAILED = "start_failed"
    UNHEALTHY = "unhealthy"
    ANSWER_INVALID = "answer_invalid"
    TIME_LIMIT = "time_limit"


class ModelFault(ValidatorError):
    """The model failed to build, start or answer: it scores 0, and its miner reads this message."""

    def __init__(self, code: ModelFaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class EvaluationImpossible(ValidatorError):
    """This node cannot evaluate now (no Docker, full disk, no judge, weights missing): nobody's score, try again."""


class Deadline:
    """The instant (monotonic clock) at which an evaluation must be over."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - self._clock())

    def check(self, doing: str) -> float:
        """Seconds left.

        Raises:
            ModelFault: none are; the message names what was being done.
        """
        left = self.remaining()
        if left <= 0:
            raise ModelFault(ModelFaultCode.TIME_LIMIT, f"the time limit was over while {doing}")
        return left


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A miner's model as it is to be evaluated. ``revision`` is the committed one; None means ``main``.

    ``evaluation_id`` names this one evaluation: everything that it makes bears it.
    """

    evaluation_id: str
    repository: str
    revision: str | None
    hotkey: str
    competition_id: str


@dataclass(frozen=True, slots=True)
class Score:
    """What a benchmark found. ``score`` in [0, 1]; ``metric_scores`` and each of ``samples`` are plain JSON."""

    score: float
    metric_scores: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...] = field(default=())


class Prepared(Protocol):
    """What must be here before an evaluation: a benchmark with its data, a judge, or a model of its own."""

    def check(self) -> None:
        """Look, quickly and without loading anything large, whether what is needed is here and set.

        Raises:
            EvaluationImpossible: something is not; the message says what to install or set.
        """
        ...

    def prepare(self) -> None:
        """Load it, before an untrusted model takes the device.

        Raises:
            EvaluationImpossible: data, a judge or weights are not available; the message says what to install or set.
        """
        ...


class Benchmark(Prepared, Protocol):
    """A competition's evaluation of a model that answers over HTTP."""

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        """Ask the model at ``base_url`` and score its answers.

        Raises:
            ModelFault: the model does not answer as the contract says, or too late.
            EvaluationImpossible: the judge (or another part that is ours) is unavailable.
        """
        ...


class Sandbox(Protocol):
    """Where an untrusted model runs."""

    def running(self, model: ModelSource, deadline: Deadline) -> AbstractContextManager[str]:
        """The model, fetched, built, locked in and healthy: its base URL. All that was made for it goes on leaving.

        Raises:
            ModelFault: its repository, its build or its start failed.
            EvaluationImpossible: the disk, the hub or the Docker Engine did.
        """
        ...
