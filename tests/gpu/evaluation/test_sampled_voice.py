"""voicebench+mos: text answers of weighted sets, and the voice of a few spoken ones; and plans of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge_server import JudgeServer
from loudness import Loudness, written
from model_server import ModelServer, tone
from tiny_voicebench import heard

from app.competitions.profile import OMEGA_V4
from app.settings import Settings
from gpu.evaluation.contract import Deadline, EvaluationImpossible
from gpu.evaluation.plan import BENCHMARKS, BenchmarkPlan, UnknownBenchmark
from gpu.evaluation.registry import benchmark_for
from gpu.evaluation.sampled_voice import SampledVoice

SETS = "commoneval:3,wildvoice:4,advbench:4,ifeval:3"


@pytest.fixture
def make(tiny_voicebench: Path, punkt: Path, tmp_path: Path) -> Callable[[JudgeServer], Settings]:
    weights = written(Loudness(), tmp_path / "loudness.jit")

    def settings(judge: JudgeServer) -> Settings:
        return Settings(
            voicebench_dataset=str(tiny_voicebench),
            nltk_data=punkt,
            data_dir=tmp_path / "data",
            mos_weights=weights,
            judge_url=judge.url,
            judge_model="judge-1",
            device="cpu",
        )

    return settings


def v4(**changes: Any) -> BenchmarkPlan:
    """The profile's plan for ``v4``, over sets as small as the test's data."""
    return BenchmarkPlan("voicebench+mos", {**OMEGA_V4.benchmarks["v4"].given, "sets": SETS, **changes})


def text_answer(wave: np.ndarray, rate: int) -> str:
    name, row = heard(wave)
    if name == "advbench":
        return "I'm sorry, I can't." if row % 2 else "Sure, here is how."
    return "By the river" if name == "ifeval" else f"an answer to {name} {row}"


def judged(messages: list[dict[str, str]]) -> str:
    return "5" if "commoneval" in messages[1]["content"] else "3"


def test_v4_weighs_the_sets_and_adds_the_voice_of_two_samples_each(make: Callable[[JudgeServer], Settings]) -> None:
    spoken: list[str] = []

    def speech(wave: np.ndarray, rate: int) -> np.ndarray:
        name, row = heard(wave)
        spoken.append(f"{name}/{row}")
        # 1 + 4 · 0.3, but a set of silent films fails
        return (tone(pitch=400.0) if name != "wildvoice" else np.zeros(0, np.float32))[np.newaxis]

    with ModelServer(answer=text_answer, speech=speech) as model, JudgeServer(rate=judged) as judge:
        benchmark = benchmark_for(v4(), make(judge))
        benchmark.check()
        benchmark.prepare()
        score = benchmark.evaluate(model.url, Deadline(60))
    sets = {name: found["score"] for name, found in score.metric_scores["sets"].items()}
    assert (sets["commoneval"], sets["wildvoice"]) == (1.0, pytest.approx(0.6))
    words = (2 * sets["commoneval"] + 2 * sets["wildvoice"] + 1.5 * sets["ifeval"] + sets["advbench"]) / 6.5
    assert score.metric_scores["voicebench"] == pytest.approx(words)
    assert len(spoken) == 8
    assert {name: sum(one.startswith(name) for one in spoken) for name in sets} == dict.fromkeys(sets, 2)
    # the two failures are left out of the mean
    assert score.metric_scores["mos"] == pytest.approx(2.2, abs=1e-3)
    assert (score.metric_scores["spoken_samples"], score.metric_scores["spoken_usable"]) == (8, 6)
    assert score.score == pytest.approx(0.7 * words + 0.3 * 2.2 / 5, abs=1e-3)
    rows = {row["id"]: row for row in score.samples}
    assert {one for one, row in rows.items() if row.get("mos") is not None} == {
        one for one in spoken if not one.startswith("wildvoice")
    }
    assert all(row["voice_error"] for one, row in rows.items() if "mos" in row and one.startswith("wildvoice"))


def test_a_model_that_cannot_speak_keeps_the_score_of_its_words(make: Callable[[JudgeServer], Settings]) -> None:
    mute = ModelServer(answer=text_answer, speech=lambda wave, rate: np.zeros((1, 0), np.float32))
    with mute as model, JudgeServer(rate=judged) as judge:
        score = benchmark_for(v4(), make(judge)).evaluate(model.url, Deadline(60))
    assert score.metric_scores["mos"] == 0.0
    assert score.score == pytest.approx(0.7 * score.metric_scores["voicebench"])


def test_the_same_samples_speak_at_every_validator(make: Callable[[JudgeServer], Settings], tmp_path: Path) -> None:
    with JudgeServer() as judge:
        here, there = (
            benchmark_for(v4(), make(judge).model_copy(update={"data_dir": tmp_path / name})) for name in ("a", "b")
        )
    assert isinstance(here, SampledVoice)
    assert isinstance(there, SampledVoice)
    asked = [sample.id for sample in here.asked_to_speak()]
    assert len(asked) == 8
    assert asked == [sample.id for sample in there.asked_to_speak()]


def test_v4_has_the_limits_of_the_profile(make: Callable[[JudgeServer], Settings]) -> None:
    with JudgeServer() as judge:
        benchmark = benchmark_for(v4(), make(judge))
    assert isinstance(benchmark, SampledVoice)
    assert benchmark.answer_limit == 200
    assert benchmark.voicebench._answer_limit == 80


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (BenchmarkPlan("poetry"), "there is no benchmark 'poetry'; there are o1"),
        (BenchmarkPlan("o1", {"sets": "bbh:1"}), "parameter 'sets'"),
        (BenchmarkPlan("voicebench", {"answer_limit": 0}), "parameter 'answer_limit'"),
        (BenchmarkPlan("voicebench", {"set_weights": {"commoneval": -1}}), "parameter 'set_weights.commoneval'"),
        (BenchmarkPlan("voicebench", {"set_weights": {"poems": 1}}), "set_weights names poems, which is not asked"),
        (
            BenchmarkPlan("voicebench", {"sets": "bbh:1", "set_weights": {"bbh": 0}}),
            "every set has the weight 0",
        ),
        (BenchmarkPlan("v2v", {"voice_share": float("nan")}), "parameter 'voice_share'"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_says_why(plan: BenchmarkPlan, words: str) -> None:
    with pytest.raises(EvaluationImpossible, match=words):
        benchmark_for(plan, Settings())


def test_weights_as_typed() -> None:
    typed = BenchmarkPlan("voicebench", {"set_weights": "commoneval:2, ifeval:1.5"}).parameters()
    assert typed.model_dump()["set_weights"] == {"commoneval": 2.0, "ifeval": 1.5}
    with pytest.raises(UnknownBenchmark, match="set_weights"):
        BenchmarkPlan("voicebench", {"set_weights": "commoneval"}).parameters()


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_what_is_missing_is_seen_without_loading_anything(name: str, tmp_path: Path) -> None:
    bare = Settings(data_dir=tmp_path, asr_model=str(tmp_path / "no-whisper"), mos_weights=tmp_path / "no.jit")
    with pytest.raises(EvaluationImpossible, match=r"JUDGE_URL|IMAGEBIND_WEIGHTS|ASR_MODEL|MOS_WEIGHTS"):
        benchmark_for(BenchmarkPlan(name), bare).check()
