"""VoiceBench from data set to score: a real HTTP model, a real judge server, data in the hub's layout."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from judge_server import JudgeServer
from model_server import ModelServer
from pydantic import SecretStr
from tiny_voicebench import heard, rows_of, sound, write_table_set

from app.settings import Settings
from gpu.evaluation import interview
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode, Score
from gpu.evaluation.datasets_hub import DataSource, chosen_rows
from gpu.evaluation.plan import BenchmarkPlan
from gpu.evaluation.registry import benchmark_for
from gpu.evaluation.sound import decoded
from gpu.evaluation.voicebench.benchmark import VoiceBench
from gpu.evaluation.voicebench.dataset import SetPlan, VoiceDataset, planned_sets

SETS = "commoneval:3,wildvoice:4,advbench:4,ifeval:3"


@pytest.fixture
def make(tiny_voicebench: Path, punkt: Path, tmp_path: Path) -> Callable[..., Settings]:
    def settings(judge: JudgeServer | None = None, **changes: Any) -> Settings:
        given = {
            "voicebench_dataset": str(tiny_voicebench),
            "voicebench_sets": SETS,
            "nltk_data": punkt,
            "data_dir": tmp_path / "data",
            "answer_limit": 20,
            "judge_url": judge.url if judge else None,
            "judge_model": "judge-1" if judge else None,
            "judge_key": SecretStr("sk-1"),
        }
        return Settings(**(given | changes))

    return settings


def evaluated(settings: Settings, model: ModelServer, seconds: float = 60) -> Score:
    benchmark = benchmark_for(BenchmarkPlan("voicebench"), settings)
    benchmark.prepare()
    return benchmark.evaluate(model.url, Deadline(seconds))


def good_answer(wave: np.ndarray, rate: int) -> str:
    name, row = heard(wave)
    match name:
        case "advbench":
            return "I'm sorry, I can't." if row % 2 else "Sure, here is how."
        case "ifeval":
            return "By the river"
    return f"an answer to {name} {row}"


def judged(messages: list[dict[str, str]]) -> str:
    return "5" if "commoneval" in messages[1]["content"] else "3"


def test_each_set_is_scored_by_its_rule_and_the_mean_is_the_models(make: Callable[..., Settings]) -> None:
    with ModelServer(answer=good_answer) as model, JudgeServer(rate=judged) as judge:
        score = evaluated(make(judge), model)
        assert model.asked == 14
        assert len(judge.questions) == 1 + 7
    sets = score.metric_scores["sets"]
    assert sets["commoneval"]["score"] == 1.0
    assert sets["wildvoice"]["score"] == pytest.approx(0.6)
    assert sets["wildvoice"]["judges"] == {"judge-1": 4}
    rows = [int(row["id"].split("/")[1]) for row in score.samples if row["set"] == "advbench"]
    assert sets["advbench"]["score"] == pytest.approx(sum(row % 2 for row in rows) / 4)
    assert sets["ifeval"]["score"] == pytest.approx(1.0)
    assert {one["success_rate"] for one in sets.values()} == {1.0}
    assert score.score == pytest.approx(sum(one["score"] for one in sets.values()) / 4)
    assert score.metric_scores["voicebench"] == score.score
    assert len(score.samples) == 14
    assert json.loads(json.dumps([score.metric_scores, list(score.samples)]))


def test_a_set_counts_by_the_part_of_its_samples_that_got_an_answer(make: Callable[..., Settings]) -> None:
    # commoneval: good, bad, good; wildvoice: all four bad
    script = [None, "garbage", None, "empty", "status_500", "garbage", "wrong_type", None, None, None]
    with ModelServer(script, answer=lambda wave, rate: "Sorry.") as model, JudgeServer("5") as judge:
        score = evaluated(make(judge, voicebench_sets="commoneval:3,wildvoice:4,advbench:3"), model)
        assert len(judge.questions) == 1 + 2
    sets = score.metric_scores["sets"]
    assert sets["commoneval"]["unscaled_score"] == 1.0
    assert sets["commoneval"]["score"] == pytest.approx(2 / 3)
    assert (sets["commoneval"]["usable"], sets["commoneval"]["samples"]) == (2, 3)
    assert (sets["wildvoice"]["score"], sets["wildvoice"]["success_rate"]) == (0.0, 0.0)
    assert score.score == pytest.approx((2 / 3 + 0 + 1) / 3)
    failed = score.samples[1]
    assert failed["error"] == "the answer is not JSON"
    assert (failed["answer"], failed["verdict"]) == (None, None)
    assert failed["latency"] >= 0


def test_a_samples_row(make: Callable[..., Settings], tmp_path: Path) -> None:
    rows = rows_of("commoneval", 1)
    rows[0]["prompt"] = "why " * 200
    write_table_set(tmp_path / "long", {"commoneval": rows})
    settings = {"voicebench_dataset": str(tmp_path / "long"), "voicebench_sets": "commoneval:5"}
    with ModelServer(answer=lambda wave, rate: "word " * 400) as model, JudgeServer("2") as judge:
        score = evaluated(make(judge, **settings), model)
    (row,) = score.samples
    assert row["id"] == "commoneval/0"
    assert row["set"] == "commoneval"
    assert row["verdict"] == {"rating": 2, "judge": "judge-1"}
    assert (len(row["prompt"]), len(row["answer"]), row["error"]) == (200, 500, None)
    # what is cut is the report, not what the judge reads
    assert judge.questions[-1]["messages"][1]["content"].count("word ") >= 399


def test_mcq_and_bbh_sets(make: Callable[..., Settings]) -> None:
    def answer(wave: np.ndarray, rate: int) -> str:
        return "The answer is A." if heard(wave)[0] == "openbookqa" else "Yes"

    with ModelServer(answer=answer) as model:
        score = evaluated(make(voicebench_sets="openbookqa:6,bbh:6"), model)
    sets = score.metric_scores["sets"]
    assert sets["openbookqa"]["score"] == pytest.approx(2 / 6)
    assert sets["bbh"]["score"] == 0.5


@pytest.mark.parametrize(
    "misbehaviour",
    ["hang", "drip", "garbage", "binary", "status_500", "gigabytes", "gzip_bomb", "redirect", "close_early", "reset",
     "wrong_type", "empty"],
)  # fmt: skip
def test_a_model_that_answers_nothing_usable_is_at_fault_and_soon_left(
    misbehaviour: str, make: Callable[..., Settings]
) -> None:
    with ModelServer(misbehaviour) as model, JudgeServer("5") as judge:
        begun = time.monotonic()
        with pytest.raises(ModelFault) as caught:
            evaluated(make(judge, answer_limit=0.3 if misbehaviour in {"hang", "drip"} else 20), model)
        assert time.monotonic() - begun < 40
        assert model.asked == interview.HOPELESS
        assert len(judge.questions) == 1
    assert caught.value.code is ModelFaultCode.ANSWER_INVALID
    assert "none of 10 questions got a usable answer" in str(caught.value)
    assert "(10 times)" in str(caught.value)


def test_a_model_that_never_listened(make: Callable[..., Settings]) -> None:
    with ModelServer() as model:
        pass
    with JudgeServer("5") as judge, pytest.raises(ModelFault, match="does not accept connections"):
        evaluated(make(judge), model)


def test_a_model_that_dies_on_the_way_keeps_what_it_answered(
    make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interview, "HOPELESS", 3)
    script = [None] * 3 + ["hang"] * 20
    with ModelServer(script, answer=lambda wave, rate: "Sorry.") as model:
        score = evaluated(make(voicebench_sets="advbench:6,bbh:6,openbookqa:6", answer_limit=1.5), model)
        assert model.asked == 3 + 3
    sets = score.metric_scores["sets"]
    assert sets["advbench"]["score"] == pytest.approx(0.5)
    assert sets["openbookqa"]["score"] == 0
    assert score.samples[-1]["error"] == "not asked: the model had stopped answering"
    assert score.samples[-1]["latency"] is None


def test_the_time_limit_is_the_models_fault(make: Callable[..., Settings]) -> None:
    with ModelServer("drip") as model, JudgeServer("5") as judge, pytest.raises(ModelFault) as caught:
        evaluated(make(judge, answer_limit=30), model, seconds=0.5)
    assert caught.value.code is ModelFaultCode.TIME_LIMIT


def test_the_judges_time_is_kept_from_the_model(make: Callable[..., Settings]) -> None:
    """A model that is slow enough to leave nothing for the judge is late itself; the judge is not blamed."""

    def slow(wave: np.ndarray, rate: int) -> str:
        time.sleep(0.4)
        return "An answer."

    with ModelServer(answer=slow) as model, JudgeServer("5") as judge, pytest.raises(ModelFault) as caught:
        evaluated(make(judge, voicebench_sets="commoneval:6", answer_limit=5), model, seconds=2.5)
    assert caught.value.code is ModelFaultCode.TIME_LIMIT


def test_a_judge_that_goes_away_is_never_the_models_zero(make: Callable[..., Settings]) -> None:
    with (
        ModelServer() as model,
        JudgeServer("5", statuses=[200], always=401) as judge,
        pytest.raises(EvaluationImpossible, match="no judge gave a rating"),
    ):
        evaluated(make(judge), model)
    with pytest.raises(EvaluationImpossible, match="set JUDGE_URL"):
        benchmark_for(BenchmarkPlan("voicebench"), make()).prepare()


def test_no_judge_is_needed_without_open_questions(make: Callable[..., Settings]) -> None:
    benchmark_for(BenchmarkPlan("voicebench"), make(voicebench_sets="advbench:2,ifeval:2")).prepare()


def test_the_same_questions_at_every_validator(make: Callable[..., Settings], tmp_path: Path) -> None:
    def asked(**changes: Any) -> list[str]:
        benchmark = benchmark_for(BenchmarkPlan("voicebench"), make(**changes))
        assert isinstance(benchmark, VoiceBench)
        return [sample.id for sample in benchmark.samples()]

    assert asked() == asked(data_dir=tmp_path / "another node")
    assert asked() != asked(sample_seed="another subnet")


def test_the_choice_of_rows_does_not_drift() -> None:
    """Frozen: another choice would make the validators disagree."""
    rows = chosen_rows("subnet-21", "commoneval", 200, 50)
    assert rows[:8] == (0, 1, 3, 8, 11, 15, 17, 20)
    digest = hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()
    assert digest == "d29de6c4c07705fba648b6e5cec43d152c74eda8d03df759b3af3a49dcd9a420"
    assert len(set(rows)) == 50
    assert list(rows) == sorted(rows)
    assert chosen_rows("s", "x", 3, 50) == (0, 1, 2)
    # a larger sample holds the smaller one
    assert set(chosen_rows("subnet-21", "commoneval", 200, 20)) < set(rows)


def test_the_competitions_sets_are_the_specs() -> None:
    assert planned_sets(Settings().voicebench_sets) == (
        SetPlan("commoneval", 50),
        SetPlan("wildvoice", 100),
        SetPlan("advbench", 100),
        SetPlan("ifeval", 50),
    )
    assert planned_sets("mmsu/physics:20, bbh:5") == (SetPlan("mmsu", 20, "physics"), SetPlan("bbh", 5))


@pytest.mark.parametrize("text", ["", "bbh", "bbh:0", "bbh:-1", "poetry:5", "bbh:1,bbh:2", "bbh:x"])
def test_sets_that_cannot_be_planned(text: str) -> None:
    with pytest.raises(EvaluationImpossible, match="VOICEBENCH_SETS"):
        planned_sets(text)


def test_an_unknown_competition_names_the_known_ones() -> None:
    with pytest.raises(EvaluationImpossible, match=r"there is no benchmark 'poetry'; there are .*voicebench"):
        benchmark_for(BenchmarkPlan("poetry"), Settings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voicebench_dataset": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
        ({"voicebench_dataset": "hlt-lab/voicebench"}, "set VOICEBENCH_DATASET=FOLDER"),
        ({"voicebench_dataset": "hlt-lab/voicebench@0123abc"}, "hf download --repo-type dataset hlt-lab/voicebench "),
        ({"voicebench_sets": "mmsu/physics:5"}, "mmsu/physics, cannot be loaded"),
        ({"voicebench_sets": "bbh/train:5"}, "bbh/train, cannot be loaded"),
    ],
)
def test_data_that_are_not_there(change: dict[str, str], message: str, make: Callable[..., Settings]) -> None:
    with pytest.raises(EvaluationImpossible, match=message):
        benchmark_for(BenchmarkPlan("voicebench"), make(**change)).prepare()


def test_a_set_that_was_cut_short(make: Callable[..., Settings], tiny_voicebench: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_voicebench, folder)
    file = folder / "advbench" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(EvaluationImpossible, match="advbench/test, cannot be loaded"):
        benchmark_for(BenchmarkPlan("voicebench"), make(voicebench_dataset=str(folder))).prepare()


@pytest.mark.parametrize("lost", ["audio", "prompt", "kwargs"])
def test_a_set_without_a_column(
    lost: str, make: Callable[..., Settings], tiny_voicebench: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "poor"
    shutil.copytree(tiny_voicebench, folder)
    file = folder / "ifeval" / "test-00000-of-00001.parquet"
    table = pq.read_table(file).drop_columns([lost])
    pq.write_table(table.replace_schema_metadata({}), file)
    with pytest.raises(EvaluationImpossible, match=f"no column '{lost}'"):
        benchmark_for(
            BenchmarkPlan("voicebench"), make(voicebench_dataset=str(folder), voicebench_sets="ifeval:3")
        ).prepare()


def test_a_question_without_sound_is_our_fault(make: Callable[..., Settings], tmp_path: Path) -> None:
    write_table_set(tmp_path / "mute", {"advbench": rows_of("advbench", 2)})
    file = tmp_path / "mute" / "advbench" / "test-00000-of-00001.parquet"
    table = pq.read_table(file)
    broken = [{"bytes": b"no sound", "path": "0.wav"}, {"bytes": None, "path": "1.wav"}]
    pq.write_table(table.set_column(0, table.schema.field("audio"), [broken]), file)
    source = DataSource(str(tmp_path / "mute"), "VOICEBENCH_DATASET", tmp_path / "cache")
    dataset = VoiceDataset(source, planned_sets("advbench:2"), "s")
    for sample, message in zip(dataset.samples(), ("cannot be decoded", "there is no audio"), strict=True):
        with pytest.raises(EvaluationImpossible, match=message):
            dataset.wave(sample)


@pytest.mark.parametrize(("kind", "rate"), [("WAV", 16_000), ("FLAC", 44_100), ("MP3", 24_000), ("OGG", 48_000)])
def test_every_usual_sound_becomes_16_khz(kind: str, rate: int) -> None:
    wave = decoded(sound(rate, rate, kind), "one second")
    assert wave.dtype == np.float32
    assert len(wave) == pytest.approx(16_000, abs=1200)
    assert np.abs(wave).max() == pytest.approx(0.2, abs=0.02)


def test_channels_are_averaged() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.stack([np.full(1600, 0.5), np.zeros(1600)], axis=1), 16_000, format="WAV")
    np.testing.assert_allclose(decoded(file.getvalue(), "stereo"), 0.25, atol=1e-3)
