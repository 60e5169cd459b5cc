"""Whose fault is it that a part of this node cannot judge an answer? The node's, or this answer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from gpu.evaluation.contract import EvaluationImpossible
from gpu.evaluation.datasets_hub import first_line
from gpu.evaluation.model_client import BadAnswer, BadAnswerCode

T = TypeVar("T")

# What a library raises over an input that it cannot take; a missing store or a time limit is none of these.
_STUMBLES: Final = (
    EvaluationImpossible,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def judged(answer: Callable[[], T], harmless: Callable[[], object], part: str) -> T:
    """What ``answer()`` gives. Where it fails, ``harmless()``, the same part with an input it must manage, decides.

    Raises:
        BadAnswer: the part manages the harmless input: it is this answer that cannot be judged.
        EvaluationImpossible: it fails there too: the part is broken, whatever the model answers.
    """
    try:
        return answer()
    except BadAnswer:
        raise
    except _STUMBLES as stumble:
        try:
            harmless()
        except _STUMBLES as broken:
            if isinstance(broken, EvaluationImpossible):
                raise
            raise EvaluationImpossible(
                f"{part} does not work: {type(broken).__name__}: {first_line(broken)}"
            ) from broken
        raise BadAnswer(
            BadAnswerCode.UNJUDGEABLE, f"{part} cannot judge this answer: {first_line(stumble)}"
        ) from stumble
