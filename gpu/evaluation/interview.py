"""A model is asked one sample after the other, until all are done or there is no hope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from gpu.evaluation.contract import ModelFault, ModelFaultCode
from gpu.evaluation.model_client import BadAnswer, BadAnswerCode, ModelClient

# so many failures in a row, and the model is not asked any more
HOPELESS: Final = 10

_GONE: Final = frozenset({BadAnswerCode.NO_CONNECTION, BadAnswerCode.TIME})
_PROMPT: Final = 200
_ANSWER: Final = 500

S = TypeVar("S")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Reply(Generic[S, A]):
    """What the model said to one sample: ``answer``, or ``error`` where it is None. ``latency`` in seconds."""

    sample: S
    answer: A | None
    error: str | None
    latency: float | None


def interview(
    client: ModelClient,
    samples: Iterable[S],
    ask: Callable[[ModelClient, S], A],
    *,
    some_must_succeed: bool = True,
) -> tuple[Reply[S, A], ...]:
    """Ask ``ask(client, sample)`` of each sample; one reply each, in order.

    Not asked any more (the rest are failed samples): after ten failures before any usable answer, and after ten
    time-outs or refused connections in a row.

    Raises:
        ModelFault: no sample got a usable answer (``ANSWER_INVALID``) though ``some_must_succeed``, or the deadline is
            over (``TIME_LIMIT``).
    """
    replies: list[Reply[S, A]] = []
    reasons: Counter[str] = Counter()
    usable = gone = 0
    for sample in samples:
        if gone >= HOPELESS or (not usable and len(replies) >= HOPELESS):
            replies.append(Reply(sample, None, "not asked: the model had stopped answering", None))
            continue
        try:
            answer = ask(client, sample)
        except BadAnswer as bad:
            reasons[str(bad)] += 1
            gone = gone + 1 if bad.code in _GONE else 0
            replies.append(Reply(sample, None, str(bad), round(client.latency, 3)))
        else:
            usable, gone = usable + 1, 0
            replies.append(Reply(sample, answer, None, round(client.latency, 3)))
    if not usable and some_must_succeed:
        asked = sum(reasons.values())
        said = "; ".join(f"{reason} ({count} times)" for reason, count in reasons.most_common(3))
        raise ModelFault(ModelFaultCode.ANSWER_INVALID, f"none of {asked} questions got a usable answer: {said}")
    return tuple(replies)


def sample_row(
    reply: Reply[Any, Any], id: str, set_name: str, prompt: str, answer: str | None, verdict: Any
) -> Mapping[str, Any]:
    """One reply as plain JSON for ``Score.samples``, long texts cut."""
    return {
        "id": id,
        "set": set_name,
        "prompt": prompt[:_PROMPT],
        "answer": None if answer is None else answer[:_ANSWER],
        "verdict": verdict,
        "error": reply.error,
        "latency": reply.latency,
    }
