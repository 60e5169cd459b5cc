"""VoiceBench over text answers, and the voice of a few spoken ones: ``voicebench+mos``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu.evaluation.contract import Deadline, Score
from gpu.evaluation.datasets_hub import chosen_rows
from gpu.evaluation.interview import Reply, interview
from gpu.evaluation.model_client import ModelClient
from gpu.evaluation.speech_quality import MOST_MOS, VoiceRater, opinion
from gpu.evaluation.voicebench.benchmark import MODEL_SHARE, VoiceBench
from gpu.evaluation.voicebench.dataset import Sample


@dataclass(frozen=True, slots=True)
class SampledVoice:
    """``(1 − voice_share) · VoiceBench + voice_share · mean MOS / 5``.

    The MOS is that of ``samples_per_set`` questions of each set, drawn by ``seed`` and answered in speech; failures are
    left out of its mean, and a model without one spoken answer has none of the voice's share. ``answer_limit`` in
    seconds for one spoken answer.
    """

    voicebench: VoiceBench
    rater: VoiceRater
    answer_limit: float
    samples_per_set: int
    voice_share: float
    seed: str

    def check(self) -> None:
        """See ``Prepared.check``."""
        self.rater.check()
        self.voicebench.check()

    def prepare(self) -> None:
        """See ``Prepared.prepare``: the voice rater first, for it is the optional one."""
        self.rater.prepare()
        self.voicebench.prepare()

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        """See ``Benchmark.evaluate``."""
        words = self.voicebench.evaluate(base_url, deadline)
        spoken = self._spoken(base_url, deadline)
        rated = [reply.answer for reply in spoken if reply.answer is not None]
        mos = sum(rated) / len(rated) if rated else 0.0
        score = (1 - self.voice_share) * words.score + self.voice_share * mos / MOST_MOS
        metrics = {
            **words.metric_scores,
            "mos": mos,
            "voice": mos / MOST_MOS,
            "spoken_samples": len(spoken),
            "spoken_usable": len(rated),
            "voicebench+mos": score,
        }
        voices: dict[str, dict[str, Any]] = {
            reply.sample.id: {"mos": _rounded(reply.answer), "voice_error": reply.error} for reply in spoken
        }
        rows = tuple({**row, **voices.get(row["id"], {})} for row in words.samples)
        return Score(score=score, metric_scores=metrics, samples=rows)

    def _spoken(self, base_url: str, deadline: Deadline) -> Sequence[Reply[Sample, float]]:
        with ModelClient(base_url, self.answer_limit, Deadline(deadline.remaining() * MODEL_SHARE)) as client:
            return interview(client, self.asked_to_speak(), self._mos, some_must_succeed=False)

    def asked_to_speak(self) -> tuple[Sample, ...]:
        """The questions that are asked once more, in speech: the same at every validator."""
        chosen: list[Sample] = []
        for plan in self.voicebench.dataset.plans:
            of_set = [sample for sample in self.voicebench.samples() if sample.plan == plan]
            rows = chosen_rows(f"{self.seed}:voice", plan.label, len(of_set), self.samples_per_set)
            chosen += [of_set[row] for row in rows]
        return tuple(chosen)

    def _mos(self, client: ModelClient, sample: Sample) -> float:
        return opinion(self.rater, client.speech(self.voicebench.dataset.wave(sample)))


def _rounded(mos: float | None) -> float | None:
    return None if mos is None else round(mos, 4)
