"""Voice to voice: VoiceBench's questions answered in speech, 0.7 of what is said and 0.3 of how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu.evaluation.blame import judged
from gpu.evaluation.contract import Deadline, Score
from gpu.evaluation.interview import Reply, interview
from gpu.evaluation.model_client import MAX_TEXT, BadAnswer, BadAnswerCode, ModelClient
from gpu.evaluation.speech_quality import HARMLESS_SPEECH, MOST_MOS, Transcriber, VoiceRater, opinion
from gpu.evaluation.voicebench.benchmark import MODEL_SHARE, VoiceBench
from gpu.evaluation.voicebench.dataset import Sample

VOICE_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Spoken:
    """A spoken answer, written down, and its voice's mean opinion score (1 to 5)."""

    text: str
    mos: float


class VoiceToVoice:
    """``(1 − voice_share) · VoiceBench of the transcripts + voice_share · mean MOS / 5``.

    A sample without a usable answer has MOS 0. ``answer_limit`` in seconds for one spoken answer.
    """

    def __init__(
        self,
        voicebench: VoiceBench,
        transcriber: Transcriber,
        rater: VoiceRater,
        answer_limit: float,
        voice_share: float = VOICE_SHARE,
    ) -> None:
        self._voicebench = voicebench
        self._transcriber = transcriber
        self._rater = rater
        self._answer_limit = answer_limit
        self._voice_share = voice_share

    def check(self) -> None:
        """See ``Prepared.check``."""
        self._transcriber.check()
        self._rater.check()
        self._voicebench.check()

    def prepare(self) -> None:
        """See ``Prepared.prepare``: the speech models first, for they are the optional ones."""
        self._transcriber.prepare()
        self._rater.prepare()
        self._voicebench.prepare()

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        """See ``Benchmark.evaluate``."""
        with ModelClient(base_url, self._answer_limit, Deadline(deadline.remaining() * MODEL_SHARE)) as client:
            replies = interview(client, self._voicebench.samples(), self._spoken)
        words = self._voicebench.scored([_in_words(reply) for reply in replies], deadline)
        mos = sum(reply.answer.mos for reply in replies if reply.answer is not None) / len(replies)
        score = (1 - self._voice_share) * words.score + self._voice_share * mos / MOST_MOS
        metrics = {**words.metric_scores, "mos": mos, "voice": mos / MOST_MOS, "v2v": score}
        of_sample = {reply.sample.id: reply.answer for reply in replies}
        rows = tuple(_with_mos(row, of_sample[row["id"]]) for row in words.samples)
        return Score(score=score, metric_scores=metrics, samples=rows)

    def _spoken(self, client: ModelClient, sample: Sample) -> Spoken:
        speech = client.speech(self._voicebench.dataset.wave(sample))
        written = judged(
            lambda: self._transcriber.text(speech),
            lambda: self._transcriber.text(HARMLESS_SPEECH),
            "the transcriber (ASR_MODEL)",
        )
        text = written[:MAX_TEXT].strip()
        if not text:
            raise BadAnswer(BadAnswerCode.EMPTY, "no words can be heard in the answer")
        return Spoken(text, opinion(self._rater, speech))


def _in_words(reply: Reply[Sample, Spoken]) -> Reply[Sample, str]:
    return Reply(reply.sample, reply.answer.text if reply.answer else None, reply.error, reply.latency)


def _with_mos(row: Mapping[str, Any], spoken: Spoken | None) -> Mapping[str, Any]:
    return {**row, "mos": round(spoken.mos, 4) if spoken else None}
