"""The benchmarks of this node, made from a plan and the settings."""

from __future__ import annotations

from datetime import timedelta

from app.settings import Settings
from gpu.evaluation.captions import caption_benchmark
from gpu.evaluation.contract import Benchmark, EvaluationImpossible
from gpu.evaluation.datasets_hub import DataSource
from gpu.evaluation.judge import judge_of
from gpu.evaluation.plan import (
    BenchmarkPlan,
    CaptionParameters,
    SampledVoiceParameters,
    SpokenParameters,
    UnknownBenchmark,
    VoiceBenchParameters,
)
from gpu.evaluation.sampled_voice import SampledVoice
from gpu.evaluation.speech_quality import Whisper, voice_rater_of
from gpu.evaluation.v2v import VoiceToVoice
from gpu.evaluation.voicebench.benchmark import VoiceBench, evaluators
from gpu.evaluation.voicebench.dataset import VoiceDataset, planned_sets
from gpu.evaluation.voicebench.ifeval import InstructionFollowing


def benchmark_for(plan: BenchmarkPlan, settings: Settings) -> Benchmark:
    """The plan's benchmark, nothing loaded yet.

    Raises:
        EvaluationImpossible: no benchmark has this name, or a parameter or setting of it is wrong.
    """
    try:
        parameters = plan.parameters()
    except UnknownBenchmark as error:
        raise EvaluationImpossible(str(error)) from None
    if isinstance(parameters, CaptionParameters):
        return caption_benchmark(settings, parameters)
    voicebench = _voicebench(settings, parameters)
    if not isinstance(parameters, SpokenParameters):
        return voicebench
    limit = _seconds(parameters.speech_answer_limit, settings.speech_answer_limit)
    if isinstance(parameters, SampledVoiceParameters):
        return SampledVoice(
            voicebench,
            voice_rater_of(settings),
            limit,
            samples_per_set=parameters.spoken_samples,
            voice_share=parameters.voice_share,
            seed=settings.sample_seed,
        )
    ears = Whisper(settings.asr_model, settings.device)
    return VoiceToVoice(voicebench, ears, voice_rater_of(settings), limit, parameters.voice_share)


def _voicebench(settings: Settings, parameters: VoiceBenchParameters) -> VoiceBench:
    source = DataSource.of(settings, "VOICEBENCH_DATASET")
    plans = planned_sets(parameters.sets or settings.voicebench_sets)
    unknown = set(parameters.set_weights) - {plan.label for plan in plans}
    if unknown:
        raise EvaluationImpossible(
            f"set_weights names {', '.join(sorted(unknown))}, which is not asked; the sets are "
            + ", ".join(plan.label for plan in plans)
        )
    return VoiceBench(
        VoiceDataset(source, plans, settings.sample_seed),
        evaluators(judge_of(settings), InstructionFollowing(settings.nltk_data)),
        _seconds(parameters.answer_limit, settings.answer_limit),
        parameters.set_weights,
    )


def _seconds(given: float | None, setting: timedelta) -> float:
    return setting.total_seconds() if given is None else given
