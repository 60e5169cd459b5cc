"""What the evaluators of the sets have in common: answers in, a score in [0, 1] and a verdict each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gpu.evaluation.contract import Deadline
from gpu.evaluation.voicebench.dataset import Sample


@dataclass(frozen=True, slots=True)
class Answered:
    """A sample and the usable (never empty) text that the model answered."""

    sample: Sample
    text: str


@dataclass(frozen=True, slots=True)
class SetVerdict:
    """``score`` in [0, 1] over the answers given; each one's plain-JSON verdict, in order; ``details`` of the set."""

    score: float
    verdicts: tuple[Any, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


class Evaluator(Protocol):
    """Judges the answers to one set."""

    def check(self) -> None:
        """Look, quickly and without loading, whether what it needs is here and set.

        Raises:
            EvaluationImpossible: something is not; the message says what to install or set.
        """
        ...

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Load what it needs for these samples.

        Raises:
            EvaluationImpossible: something is missing here; the message says what to install or set.
        """
        ...

    def evaluate(self, answers: Sequence[Answered], deadline: Deadline) -> SetVerdict:
        """Judge one set's answers; at least one.

        Raises:
            EvaluationImpossible: a part of ours (the judge) is unavailable.
        """
        ...


def accuracy(correct: Sequence[bool]) -> float:
    """The part that is right."""
    return sum(correct) / len(correct)
