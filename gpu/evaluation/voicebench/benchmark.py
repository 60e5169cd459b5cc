"""VoiceBench: spoken questions, text answers, a score for each set, their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gpu.evaluation.contract import Deadline, EvaluationImpossible, Score
from gpu.evaluation.interview import Reply, interview, sample_row
from gpu.evaluation.judge import Judge
from gpu.evaluation.model_client import ModelClient
from gpu.evaluation.voicebench.bbh import TwoWay
from gpu.evaluation.voicebench.dataset import EVALUATOR_OF, Sample, SetPlan, VoiceDataset
from gpu.evaluation.voicebench.evaluator import Answered, Evaluator
from gpu.evaluation.voicebench.harm import Harm
from gpu.evaluation.voicebench.ifeval import InstructionFollowing
from gpu.evaluation.voicebench.mcq import MultipleChoice
from gpu.evaluation.voicebench.open_ended import OpenEnded

# of the time, this part is the model's; the rest is kept for the judge, so that a slow model cannot make the judge late
MODEL_SHARE: Final = 0.9

TextReply = Reply[Sample, str]


def evaluators(judge: Judge, instruction_following: InstructionFollowing) -> Mapping[str, Evaluator]:
    """The evaluators by the names that ``EVALUATOR_OF`` uses."""
    return {
        "open": OpenEnded(judge),
        "harm": Harm(),
        "ifeval": instruction_following,
        "mcq": MultipleChoice(),
        "bbh": TwoWay(),
    }


class VoiceBench:
    """A set's score is its evaluator's score over the usable answers, times the part of samples that got one; the
    model's score is the mean over the sets, weighted by ``weights`` (a set's label → weight, 1 where it has none).
    ``answer_limit`` in seconds."""

    def __init__(
        self,
        dataset: VoiceDataset,
        evaluators: Mapping[str, Evaluator],
        answer_limit: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.dataset = dataset
        self._evaluators = evaluators
        self._answer_limit = answer_limit
        self._weights = {plan.label: (weights or {}).get(plan.label, 1.0) for plan in dataset.plans}
        if not sum(self._weights.values()):
            raise EvaluationImpossible("set_weights: every set has the weight 0; give one of them more")
        self._samples: tuple[Sample, ...] | None = None

    def check(self) -> None:
        """See ``Prepared.check``."""
        self.dataset.source.check()
        for name in dict.fromkeys(EVALUATOR_OF[plan.name] for plan in self.dataset.plans):
            self._evaluators[name].check()

    def prepare(self) -> None:
        """Load the samples and what the evaluators of their sets need.

        Raises:
            EvaluationImpossible: data, judge or punkt_tab is not available.
        """
        samples = self.samples()
        for name in dict.fromkeys(EVALUATOR_OF[plan.name] for plan in self.dataset.plans):
            self._evaluators[name].prepare([one for one in samples if EVALUATOR_OF[one.plan.name] == name])

    def samples(self) -> tuple[Sample, ...]:
        """What a model is asked, set by set."""
        if self._samples is None:
            self._samples = self.dataset.samples()
        return self._samples

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        """See ``Benchmark.evaluate``."""
        with ModelClient(base_url, self._answer_limit, Deadline(deadline.remaining() * MODEL_SHARE)) as client:
            replies = interview(client, self.samples(), lambda client, one: client.text(self.dataset.wave(one)))
        return self.scored(replies, deadline)

    def scored(self, replies: Sequence[TextReply], deadline: Deadline) -> Score:
        """The score of these answers, one reply for each of ``samples()``.

        Raises:
            EvaluationImpossible: the judge is unavailable, or the time ended while it was judging.
        """
        sets: dict[str, Mapping[str, Any]] = {}
        rows: list[Mapping[str, Any]] = []
        for plan in self.dataset.plans:
            of_set = [reply for reply in replies if reply.sample.plan == plan]
            metrics, verdicts = self._set_score(plan, of_set, deadline)
            sets[plan.label] = metrics
            rows += [
                sample_row(reply, reply.sample.id, plan.label, reply.sample.prompt, reply.answer, verdict)
                for reply, verdict in zip(of_set, verdicts, strict=True)
            ]
        weighted = sum(self._weights[label] * metrics["score"] for label, metrics in sets.items())
        score = weighted / sum(self._weights.values())
        return Score(score=score, metric_scores={"voicebench": score, "sets": sets}, samples=tuple(rows))

    def _set_score(
        self, plan: SetPlan, replies: Sequence[TextReply], deadline: Deadline
    ) -> tuple[Mapping[str, Any], list[Any]]:
        answers = [Answered(reply.sample, reply.answer) for reply in replies if reply.answer is not None]
        name = EVALUATOR_OF[plan.name]
        metrics: dict[str, Any] = {"score": 0.0, "samples": len(replies), "usable": len(answers), "evaluator": name}
        metrics["success_rate"] = len(answers) / len(replies)
        if not answers:
            return metrics, [None] * len(replies)
        verdict = self._evaluators[name].evaluate(answers, deadline)
        if not 0 <= verdict.score <= 1:
            raise EvaluationImpossible(f"{plan.label}: the evaluator's score {verdict.score} is not in [0, 1]")
        metrics |= {"score": verdict.score * metrics["success_rate"], "unscaled_score": verdict.score}
        metrics |= verdict.details
        spoken = iter(verdict.verdicts)
        return metrics, [None if reply.answer is None else next(spoken) for reply in replies]
