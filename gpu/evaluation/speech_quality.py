"""What a spoken answer says, and how good its voice is: Whisper and a UTMOS-style predictor, both optional extras."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from app.settings import Settings
from gpu.evaluation.blame import judged
from gpu.evaluation.contract import EvaluationImpossible, Prepared
from gpu.evaluation.model_client import SAMPLE_RATE, Speech
from gpu.evaluation.sound import resampled

MOST_MOS: Final = 5.0

_WINDOW: Final = 30 * SAMPLE_RATE

# One second of a quiet tone: whatever hears or rates speech must manage it.
HARMLESS_SPEECH: Final = Speech(
    (0.1 * np.sin(2 * np.pi * 220 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32), SAMPLE_RATE
)


class Transcriber(Prepared, Protocol):
    """Writes down what is said."""

    def text(self, speech: Speech) -> str:
        """The words; empty where there are none."""
        ...


class VoiceRater(Prepared, Protocol):
    """Predicts how listeners would rate a voice."""

    def mos(self, speech: Speech) -> float:
        """The mean opinion score, 1 (bad) to 5 (excellent)."""
        ...


def resolved_device(device: str) -> str:
    """``cuda`` or ``cpu`` for a ``DEVICE`` setting, which may be ``auto``."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


_TRANSFORMERS: Final = "spoken answers are written down by Whisper: 'pip install -c constraints.txt transformers'"
_UTMOS: Final = (
    "the voice of spoken answers is rated by a MOS predictor: 'pip install "
    "git+https://github.com/sarulab-speech/UTMOSv2.git', or set MOS_WEIGHTS to a TorchScript UTMOS file"
)


def _require_package(name: str, advice: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise EvaluationImpossible(advice) from error


class Whisper:
    """Whisper through ``transformers``, greedy, English, in windows of 30 s. ``model`` is a hub id or a folder,
    ``device`` a ``DEVICE`` setting, looked at when the model is loaded."""

    def __init__(self, model: str, device: str) -> None:
        self._name = model
        self._device = device
        self._model: Any = None
        self._processor: Any = None

    def check(self) -> None:
        """See ``Prepared.check``: a folder with a configuration, or a model that the hub's library finds."""
        if self._model is not None:
            return
        _require_package("transformers", _TRANSFORMERS)
        from transformers import WhisperConfig

        try:
            WhisperConfig.from_pretrained(self._name)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error

    def prepare(self) -> None:
        """See ``Prepared.prepare``. Only safetensors are read: a pickle could run code."""
        if self._model is not None:
            return
        _require_package("transformers", _TRANSFORMERS)
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        try:
            processor = WhisperProcessor.from_pretrained(self._name)
            model: Any = WhisperForConditionalGeneration.from_pretrained(self._name, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise self._not_loaded(error) from error
        self._device = resolved_device(self._device)
        self._processor, self._model = processor, model.eval().to(self._device)

    def _not_loaded(self, error: Exception) -> EvaluationImpossible:
        return EvaluationImpossible(
            f"ASR_MODEL: {self._name} cannot be loaded ({type(error).__name__}). Give this node access to the hub, "
            "or copy it ('hf download openai/whisper-large-v2 --local-dir FOLDER') and set ASR_MODEL=FOLDER"
        )

    def text(self, speech: Speech) -> str:
        """See ``Transcriber.text``."""
        import torch

        self.prepare()
        wave = resampled(speech)
        # an English-only Whisper must not be told the language
        multilingual = getattr(self._model.generation_config, "is_multilingual", True)
        spoken = {"language": "en", "task": "transcribe"} if multilingual else {}
        parts = []
        for start in range(0, len(wave), _WINDOW):
            features = self._processor(
                wave[start : start + _WINDOW],
                sampling_rate=SAMPLE_RATE,
                return_tensors="pt",
                return_attention_mask=True,
            ).to(self._device)
            with torch.inference_mode():
                tokens = self._model.generate(
                    features.input_features,
                    attention_mask=features.attention_mask,
                    do_sample=False,
                    num_beams=1,
                    **spoken,
                )
            parts.append(self._processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
        return " ".join(filter(None, parts))


class TorchScriptMos:
    """A predictor saved as TorchScript: ``forward(wave)`` or ``forward(wave, sample_rate)``, wave float32 ``(1, T)`` in
    [-1, 1] at 16 kHz, its output's mean the score. (UTMOS is published so; a file of another kind is refused.)"""

    def __init__(self, weights: Path, device: str) -> None:
        self._weights = weights
        self._device = device
        self._model: Any = None
        self._takes_rate = False

    def check(self) -> None:
        """See ``Prepared.check``."""
        path = self._weights.expanduser()
        if not path.is_file():
            raise EvaluationImpossible(f"MOS_WEIGHTS: there is no file {path}; it names a TorchScript UTMOS predictor")

    def prepare(self) -> None:
        """See ``Prepared.prepare``."""
        if self._model is not None:
            return
        import torch

        self.check()
        path = self._weights.expanduser()
        self._device = resolved_device(self._device)
        load: Any = torch.jit.load
        try:
            # deprecated in favour of torch.export, but what UTMOS's weights are published as
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r".torch\.jit", category=DeprecationWarning)
                model = load(str(path), map_location=self._device)
        except (RuntimeError, ValueError) as error:
            raise EvaluationImpossible(f"MOS_WEIGHTS: {path} is not a TorchScript file") from error
        arguments = len(model.forward.schema.arguments) - 1
        if arguments not in {1, 2}:
            raise EvaluationImpossible(f"MOS_WEIGHTS: {path} takes {arguments} arguments, not wave[, sample_rate]")
        self._takes_rate = arguments == 2
        self._model = model.eval()

    def mos(self, speech: Speech) -> float:
        """See ``VoiceRater.mos``.

        Raises:
            EvaluationImpossible: the predictor fails or gives no finite number.
        """
        import torch

        self.prepare()
        wave = torch.from_numpy(resampled(speech)).to(self._device).unsqueeze(0)
        try:
            with torch.inference_mode():
                rated = self._model(wave, SAMPLE_RATE) if self._takes_rate else self._model(wave)
            return _opinion(torch.as_tensor(rated, dtype=torch.float32).mean().item(), "MOS_WEIGHTS")
        except (RuntimeError, torch.jit.Error) as error:
            # TorchScript's message is a page with the predictor's code in it; what it raised stands in the last line
            said = (str(error).strip().splitlines() or [""])[-1][:200]
            raise EvaluationImpossible(f"MOS_WEIGHTS: {self._weights} cannot rate a wave of 16 kHz: {said}") from error


class Utmosv2:
    """The ``utmosv2`` package, which the subnet uses; it downloads its own weights once."""

    def __init__(self) -> None:
        self._model: Any = None

    def check(self) -> None:
        """See ``Prepared.check``."""
        _require_package("utmosv2", _UTMOS)

    def prepare(self) -> None:
        """See ``Prepared.prepare``."""
        if self._model is not None:
            return
        self.check()
        import utmosv2

        try:
            self._model = utmosv2.create_model(pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise EvaluationImpossible(
                f"utmosv2 cannot load its weights ({type(error).__name__}: {error}); run utmosv2.create_model() once "
                "with network, or set MOS_WEIGHTS to a TorchScript UTMOS file"
            ) from error

    def mos(self, speech: Speech) -> float:
        """See ``VoiceRater.mos``.

        Raises:
            EvaluationImpossible: the predictor gives no finite number.
        """
        import soundfile

        self.prepare()
        with tempfile.TemporaryDirectory(prefix="voice-") as folder:
            soundfile.write(Path(folder) / "answer.wav", resampled(speech), SAMPLE_RATE)
            rated = self._model.predict(input_dir=folder)
        return _opinion(float(rated[0]["predicted_mos"]), "utmosv2")


def _opinion(mos: float, source: str) -> float:
    if not np.isfinite(mos):
        raise EvaluationImpossible(f"{source}: the predicted opinion is {mos}, not a number")
    return min(max(mos, 1.0), MOST_MOS)


def voice_rater_of(settings: Settings) -> VoiceRater:
    """The predictor that ``MOS_WEIGHTS`` names, or the ``utmosv2`` package."""
    if settings.mos_weights is not None:
        return TorchScriptMos(settings.mos_weights, settings.device)
    return Utmosv2()


def opinion(rater: VoiceRater, speech: Speech) -> float:
    """The voice's mean opinion score, 1 to 5.

    Raises:
        BadAnswer: this voice cannot be rated, where others can.
        EvaluationImpossible: no voice can be rated.
    """
    return judged(lambda: rater.mos(speech), lambda: rater.mos(HARMLESS_SPEECH), "the voice rater (MOS_WEIGHTS)")
