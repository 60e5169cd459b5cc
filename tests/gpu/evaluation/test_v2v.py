"""Voice to voice: a tiny Whisper and a tiny TorchScript predictor, both real code, and a real HTTP model."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from loudness import Loudness, written
from model_server import ModelServer, tone
from tiny_voicebench import heard

from app.settings import Settings
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault
from gpu.evaluation.datasets_hub import DataSource
from gpu.evaluation.judge import Judge
from gpu.evaluation.model_client import Speech
from gpu.evaluation.plan import BenchmarkPlan
from gpu.evaluation.registry import benchmark_for
from gpu.evaluation.speech_quality import TorchScriptMos, Utmosv2, Whisper, voice_rater_of
from gpu.evaluation.v2v import VoiceToVoice
from gpu.evaluation.voicebench.benchmark import VoiceBench, evaluators
from gpu.evaluation.voicebench.dataset import VoiceDataset, planned_sets
from gpu.evaluation.voicebench.ifeval import InstructionFollowing


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


class Ears:
    """Stands in for trained ears: the pitch of a tone is the word that it says."""

    def __init__(self, words: dict[int, str]) -> None:
        self._words = words
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def text(self, speech: Speech) -> str:
        spectrum = np.abs(np.fft.rfft(speech.wave))
        pitch = int(round(float(spectrum.argmax()) * speech.rate / len(speech.wave), -1))
        return self._words.get(pitch, "")


class LoudnessAtRate(torch.nn.Module):
    def forward(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        return wave.abs().amax(dim=1) * float(sample_rate) / 8000.0


class Three(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return a + b + c


class Undefined(torch.nn.Module):
    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.sum() * float("nan")


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[torch.nn.Module], Path]:
    return lambda module: written(module, tmp_path / f"{type(module).__name__}.jit")


def v2v(folder: Path, sets: str, ears: Ears, rater: TorchScriptMos, cache: Path) -> VoiceToVoice:
    source = DataSource(str(folder), "VOICEBENCH_DATASET", cache)
    dataset = VoiceDataset(source, planned_sets(sets), "s")
    voicebench = VoiceBench(dataset, evaluators(Judge(()), InstructionFollowing()), 20)
    return VoiceToVoice(voicebench, ears, rater, 20)


def test_words_count_seven_tenths_and_the_voice_three(
    tiny_voicebench: Path, tmp_path: Path, scripted: Callable[[torch.nn.Module], Path]
) -> None:
    def speech(wave: np.ndarray, rate: int) -> np.ndarray:
        _, row = heard(wave)
        if row == 5:
            return np.zeros((1, 8000), np.float32)
        return (tone(pitch=400.0) if row % 2 else tone(pitch=800.0))[np.newaxis]

    ears = Ears({400: "I'm sorry, no.", 800: "Sure, here is how."})
    rater = TorchScriptMos(scripted(Loudness()), "cpu")
    benchmark = v2v(tiny_voicebench, "advbench:6", ears, rater, tmp_path)
    with ModelServer(speech=speech) as model:
        benchmark.prepare()
        score = benchmark.evaluate(model.url, Deadline(60))
    assert ears.prepared == 1
    # five of six are heard; two of those five refuse; each voice has 1 + 4 · 0.3
    words, mos = (2 / 5) * (5 / 6), 2.2 * 5 / 6
    assert score.metric_scores["voicebench"] == pytest.approx(words)
    assert score.metric_scores["mos"] == pytest.approx(mos, abs=1e-3)
    assert score.score == pytest.approx(0.7 * words + 0.3 * mos / 5, abs=1e-3)
    silent = score.samples[5]
    assert silent["error"] == "no words can be heard in the answer"
    assert silent["mos"] is None
    assert score.samples[1]["answer"] == "I'm sorry, no."
    assert score.samples[1]["mos"] == pytest.approx(2.2, abs=1e-3)
    assert {path for _, path in model.requests} == {"/api/v1/v2v"}


class Picky(torch.nn.Module):
    """A predictor that stumbles over whispered voices, and has no number for shrill ones."""

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        if float(wave.abs().amax()) < 0.05:
            raise RuntimeError("too quiet")
        return wave.abs().amax(dim=1) * (float("nan") if float(wave.abs().amax()) > 0.9 else 4.0)


def test_a_voice_that_alone_cannot_be_judged_is_a_sample_without_an_answer(
    tiny_voicebench: Path, tmp_path: Path, scripted: Callable[[torch.nn.Module], Path]
) -> None:
    class PickyEars(Ears):
        def text(self, speech: Speech) -> str:
            if len(speech.wave) < 100:
                raise IndexError("too short for a window")
            return super().text(speech)

    def speech(wave: np.ndarray, rate: int) -> np.ndarray:
        _, row = heard(wave)
        loudness = {1: 0.1, 2: 3.3}.get(row, 1.0)
        return (tone(pitch=400.0) * loudness)[np.newaxis, : 50 if row == 3 else None]

    benchmark = v2v(
        tiny_voicebench,
        "advbench:6",
        PickyEars({400: "I'm sorry, no."}),
        TorchScriptMos(scripted(Picky()), "cpu"),
        tmp_path,
    )
    with ModelServer(speech=speech) as model:
        score = benchmark.evaluate(model.url, Deadline(60))
    assert score.metric_scores["sets"]["advbench"]["success_rate"] == 0.5
    errors = {row["id"]: row["error"] for row in score.samples if row["error"]}
    assert set(errors) == {"advbench/1", "advbench/2", "advbench/3"}
    assert errors["advbench/3"] == "the transcriber (ASR_MODEL) cannot judge this answer: too short for a window"
    assert "cannot judge this answer" in errors["advbench/1"]


def test_a_predictor_that_rates_nothing_is_no_models_fault(
    tiny_voicebench: Path, tmp_path: Path, scripted: Callable[[torch.nn.Module], Path]
) -> None:
    rater = TorchScriptMos(scripted(Undefined()), "cpu")
    benchmark = v2v(tiny_voicebench, "advbench:3", Ears({400: "no"}), rater, tmp_path)
    model = ModelServer(speech=lambda wave, rate: tone(pitch=400.0)[np.newaxis])
    with model, pytest.raises(EvaluationImpossible, match="not a number"):
        benchmark.evaluate(model.url, Deadline(60))


def test_a_model_without_a_voice(
    tiny_voicebench: Path, tmp_path: Path, scripted: Callable[[torch.nn.Module], Path]
) -> None:
    rater = TorchScriptMos(scripted(Loudness()), "cpu")
    benchmark = v2v(tiny_voicebench, "advbench:6,bbh:6", Ears({}), rater, tmp_path)
    with ModelServer("huge_shape") as model, pytest.raises(ModelFault, match="not the base64"):
        benchmark.evaluate(model.url, Deadline(60))
    assert model.asked == 10


def test_a_predictor_gets_16_khz_and_its_opinion_stays_between_one_and_five(
    scripted: Callable[[torch.nn.Module], Path],
) -> None:
    rater = TorchScriptMos(scripted(Loudness()), "cpu")
    assert rater.mos(Speech(tone(rate=48_000), 48_000)) == pytest.approx(2.2, abs=0.01)
    assert rater.mos(Speech(tone() * 100, 16_000)) == 5.0
    at_rate = TorchScriptMos(scripted(LoudnessAtRate()), "cpu")
    assert at_rate.mos(Speech(np.ones(8000, np.float32), 8_000)) == pytest.approx(2.0, abs=0.3)


def test_a_predictor_that_cannot_be_used(scripted: Callable[[torch.nn.Module], Path], tmp_path: Path) -> None:
    with pytest.raises(EvaluationImpossible, match="MOS_WEIGHTS: there is no file"):
        TorchScriptMos(tmp_path / "none.jit", "cpu").prepare()
    pickled = tmp_path / "pickled.pt"
    torch.save(Loudness(), pickled)
    with pytest.raises(EvaluationImpossible, match="not a TorchScript file"):
        TorchScriptMos(pickled, "cpu").prepare()
    with pytest.raises(EvaluationImpossible, match="takes 3 arguments"):
        TorchScriptMos(scripted(Three()), "cpu").prepare()
    with pytest.raises(EvaluationImpossible, match="not a number"):
        TorchScriptMos(scripted(Undefined()), "cpu").mos(Speech(tone(), 16_000))


def test_utmosv2_in_the_packages_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __init__(self, *, pretrained: bool) -> None:
            assert pretrained

        def predict(self, *, input_dir: str) -> list[dict[str, object]]:
            (file,) = sorted(Path(input_dir).iterdir())
            wave, rate = soundfile.read(file)
            return [{"file_path": str(file), "predicted_mos": 3.0 + (rate == 16_000) * (len(wave) == 8000)}]

    package = types.ModuleType("utmosv2")
    package.create_model = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utmosv2", package)
    rater = voice_rater_of(Settings())
    assert isinstance(rater, Utmosv2)
    assert rater.mos(Speech(tone(rate=48_000), 48_000)) == 4.0


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "utmosv2", None)
    with pytest.raises(EvaluationImpossible, match=r"pip install git.*MOS_WEIGHTS"):
        Utmosv2().prepare()
    with pytest.raises(EvaluationImpossible, match=r"ASR_MODEL: .* cannot be loaded.*set ASR_MODEL=FOLDER"):
        Whisper(str(tmp_path / "nothing"), "cpu").prepare()
    with pytest.raises(EvaluationImpossible, match="set ASR_MODEL=FOLDER"):
        benchmark_for(BenchmarkPlan("v2v"), Settings(device="cpu")).prepare()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EvaluationImpossible, match=r"pip install .*transformers"):
        Whisper("openai/whisper-large-v2", "cpu").prepare()


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper's own classes with random weights and a vocabulary of letters."""
    return write_tiny_whisper(tmp_path_factory.mktemp("whisper"))


def write_tiny_whisper(folder: Path) -> Path:
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary = {token: number for number, token in enumerate(letters)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in specials}
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_target_positions=32,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|endoftext|>"],
            pad_token_id=ids["<|endoftext|>"],
            decoder_start_token_id=ids["<|startoftranscript|>"],
            suppress_tokens=[],
            begin_suppress_tokens=[],
        )
    )
    model.save_pretrained(folder)
    generation = {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": ids["<|en|>"]},
        "task_to_id": {"transcribe": ids["<|transcribe|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "max_length": 20,
        "suppress_tokens": [number for token, number in ids.items() if token != "<|endoftext|>"],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_whisper_writes_down_the_same_every_time(tiny_whisper: Path) -> None:
    ears = Whisper(str(tiny_whisper), "cpu")
    ears.prepare()
    once = ears.text(Speech(tone(1.0), 16_000))
    assert once
    assert (
        once
        == ears.text(Speech(tone(1.0), 16_000))
        == Whisper(str(tiny_whisper), "cpu").text(Speech(tone(1.0), 16_000))
    )
    # 31 s are two windows
    assert len(ears.text(Speech(tone(31.0), 16_000)).split(" ")) >= 2


def test_whisper_reads_no_pickles(tiny_whisper: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_whisper, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(EvaluationImpossible, match="ASR_MODEL"):
        Whisper(str(folder), "cpu").prepare()


def test_from_settings_to_score(
    tiny_voicebench: Path, tiny_whisper: Path, tmp_path: Path, scripted: Callable[[torch.nn.Module], Path]
) -> None:
    settings = Settings(
        voicebench_dataset=str(tiny_voicebench),
        voicebench_sets="advbench:2",
        asr_model=str(tiny_whisper),
        mos_weights=scripted(Loudness()),
        device="cpu",
        data_dir=tmp_path / "data",
    )
    benchmark = benchmark_for(BenchmarkPlan("v2v"), settings)
    with ModelServer() as model:
        benchmark.prepare()
        score = benchmark.evaluate(model.url, Deadline(100))
    # what an untrained Whisper hears is no refusal; the voice is 2.2
    assert score.metric_scores["sets"]["advbench"]["success_rate"] == 1.0
    assert score.score == pytest.approx(0.7 * score.metric_scores["voicebench"] + 0.3 * 2.2 / 5, abs=1e-3)
    assert json.loads(json.dumps([score.metric_scores, list(score.samples)]))
