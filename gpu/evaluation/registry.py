"""Which benchmark a competition is judged by (specs/models.md, 'Evaluating one model')."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from app.settings import Settings
from gpu.evaluation.captions import caption_benchmark
from gpu.evaluation.contract import Benchmark, EvaluationImpossible
from gpu.evaluation.datasets_hub import DataSource
from gpu.evaluation.judge import judge_of
from gpu.evaluation.speech_quality import Whisper, voice_rater_of
from gpu.evaluation.v2v import VoiceToVoice
from gpu.evaluation.voicebench.benchmark import VoiceBench, evaluators
from gpu.evaluation.voicebench.dataset import VoiceDataset, planned_sets
from gpu.evaluation.voicebench.ifeval import InstructionFollowing


def _voicebench(settings: Settings) -> VoiceBench:
    source = DataSource.of(settings, "VOICEBENCH_DATASET")
    dataset = VoiceDataset(source, planned_sets(settings.voicebench_sets), settings.sample_seed)
    judges = evaluators(judge_of(settings), InstructionFollowing(settings.nltk_data))
    return VoiceBench(dataset, judges, settings.answer_limit.total_seconds())


def _v2v(settings: Settings) -> VoiceToVoice:
    return VoiceToVoice(
        _voicebench(settings),
        Whisper(settings.asr_model, settings.device),
        voice_rater_of(settings),
        settings.speech_answer_limit.total_seconds(),
    )


BENCHMARKS: Final[Mapping[str, Callable[[Settings], Benchmark]]] = {
    "voicebench": _voicebench,
    "v2v": _v2v,
    "o1": caption_benchmark,
}


def benchmark_for(competition_id: str, settings: Settings) -> Benchmark:
    """The competition's benchmark, nothing loaded yet.

    Raises:
        EvaluationImpossible: no benchmark has this name, or a setting of it is wrong.
    """
    make = BENCHMARKS.get(competition_id)
    if make is None:
        known = ", ".join(sorted(BENCHMARKS))
        raise EvaluationImpossible(f"competition {competition_id!r} has no benchmark here; there are {known}")
    return make(settings)
