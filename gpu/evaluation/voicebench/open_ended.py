"""Open questions (commoneval, wildvoice, alpacaeval): a language model rates each answer 1 to 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gpu.evaluation.contract import Deadline
from gpu.evaluation.judge import Judge, Rating
from gpu.evaluation.voicebench.dataset import Sample
from gpu.evaluation.voicebench.evaluator import Answered, SetVerdict

_AT_ONCE: Final = 4
_MOST_POINTS: Final = 5


class OpenEnded:
    """The mean rating by five, as the subnet scales it: 0.2 to 1."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def check(self) -> None:
        """Whether a judge is set. Whether it answers is asked when a model is to be evaluated: asking costs money."""
        self._judge.check()

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Ask the judge for one rating (see ``Judge.prepare``)."""
        self._judge.prepare()

    def evaluate(self, answers: Sequence[Answered], deadline: Deadline) -> SetVerdict:
        """Rate each answer, a few at once. The verdict is ``{"rating": 4, "judge": model}``, with ``refusal`` where the
        judge refused this answer.

        Raises:
            EvaluationImpossible: no judge answered.
        """
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="judge")
        try:
            pending = [
                pool.submit(self._judge.rating, answer.sample.prompt, answer.text, deadline) for answer in answers
            ]
            ratings: list[Rating] = [one.result() for one in pending]
        finally:
            pool.shutdown(cancel_futures=True)
        mean = sum(rating.points for rating in ratings) / len(ratings)
        return SetVerdict(
            score=mean / _MOST_POINTS,
            verdicts=tuple(_verdict(rating) for rating in ratings),
            details={
                "mean_rating": mean,
                "judges": dict(Counter(rating.judge for rating in ratings)),
                "refused": sum(rating.refusal is not None for rating in ratings),
            },
        )


def _verdict(rating: Rating) -> dict[str, object]:
    found: dict[str, object] = {"rating": rating.points, "judge": rating.judge}
    return found if rating.refusal is None else found | {"refusal": rating.refusal}
