"""Sound files as models take them: mono, float32, 16 kHz."""

from __future__ import annotations

import io
from math import gcd

import numpy as np

from gpu.evaluation.contract import EvaluationImpossible
from gpu.evaluation.model_client import SAMPLE_RATE, Speech, Waveform


def resampled(speech: Speech, rate: int = SAMPLE_RATE) -> Waveform:
    """The sound at another rate: float32, shape ``(T',)`` (polyphase filtering)."""
    if speech.rate == rate:
        return speech.wave
    from scipy.signal import resample_poly

    common = gcd(speech.rate, rate)
    wave: Waveform = resample_poly(speech.wave, rate // common, speech.rate // common).astype(np.float32)
    return wave


def decoded(file: bytes, name: str) -> Waveform:
    """A WAV, FLAC, OGG or MP3 file as shape ``(T,)`` at 16 kHz; channels are averaged. ``name`` is for the error.

    Raises:
        EvaluationImpossible: libsndfile cannot read it.
    """
    import soundfile

    try:
        wave, rate = soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise EvaluationImpossible(f"{name}: its audio cannot be decoded ({error}); download the data again") from error
    if not len(wave):
        raise EvaluationImpossible(f"{name}: its audio is empty; download the data again")
    return resampled(Speech(wave.mean(axis=1, dtype=np.float32), rate))
