"""The scorers of one worker process: PSICHIC and Boltz-2 from the settings, sharing a device through one residency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from app.domain import BindingPocket, PairScore, Protein, Scorer, ScoringModel
from app.settings import Settings
from gpu.residency import Residency

# What a model takes of the device at work: weights, activations, captured graphs (docs/notes/boltz.md, 'Both models').
_BOLTZGEN_BYTES: Final = 24 * 2**30
_NEEDED_BYTES: Final = {ScoringModel.PSICHIC: 4 * 2**30, ScoringModel.BOLTZ: 10 * 2**30}


class _Model(Scorer, Protocol):
    """A scorer that can give its device memory back."""

    def close(self) -> None: ...

    def resident_bytes(self) -> int: ...


class ResidentScorer:
    """A model that asks the residency for room before each use (:class:`app.domain.Scorer`)."""

    def __init__(self, model: _Model, needed_bytes: int, residency: Residency) -> None:
        self._model = model
        self._needed = needed_bytes
        self._residency = residency

    @property
    def digest(self) -> str:
        """The model's own."""
        return self._model.digest

    @property
    def untrained(self) -> bool:
        """Whether the weights are the demo's, whose scores mean nothing."""
        return bool(getattr(self._model, "untrained", False))

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """See :class:`app.domain.Scorer`."""
        self._residency.admit(self._model, self._needed)
        if on_score is None:
            return self._model.pair_scores(proteins, smiles)
        return self._model.pair_scores(proteins, smiles, on_score)


def build_scorer(
    model: ScoringModel, settings: Settings, pocket: BindingPocket | None = None, profile: str | None = None
) -> Scorer:
    """The scorer of a model, from the settings; its weights load on first use.

    ``pocket`` and ``profile`` (the settings' own by default) concern Boltz-2 alone.

    Raises:
        ValidatorError: the weights are missing or half there; names the command that brings them.
    """
    if model is ScoringModel.BOLTZGEN:
        return _nanobody_scorer(settings)
    device = _device(settings)
    made = _psichic(settings, device) if model is ScoringModel.PSICHIC else _boltz(settings, device, pocket, profile)
    return ResidentScorer(made, _NEEDED_BYTES[model], _residency(device))


def _nanobody_scorer(settings: Settings) -> Scorer:
    """BoltzGen, whose items are sequences. It runs as a process of its own, for which the other models make room."""
    from gpu.boltzgen.scorer import BoltzGenScorer

    cache = settings.boltzgen_cache.expanduser() if settings.boltzgen_cache else None
    made = BoltzGenScorer(settings.boltzgen_command, cache)
    # asks the program for its version: one that is not installed is known before anything is scored
    _ = made.digest
    return ResidentScorer(made, _BOLTZGEN_BYTES, _residency(_device(settings)))


def release_devices() -> None:
    """Close every model of this process and hand its memory back to the driver; the next use loads again."""
    for residency in _residencies.values():
        residency.close()
    if any(device.startswith("cuda") for device in _residencies):
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()


# One for each device of this process.
_residencies: Final[dict[str, Residency]] = {}


def _residency(device: str) -> Residency:
    if device not in _residencies:
        # a CPU worker has the machine's memory, which both models fit into
        _residencies[device] = Residency.of_device(device, budget_bytes=2**40)
    return _residencies[device]


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _psichic(settings: Settings, device: str) -> _Model:
    from gpu.psichic.demo import ensure_demo
    from gpu.psichic.scorer import PsichicScorer

    data = settings.data_dir.expanduser()
    weights, esm = settings.psichic_weights, settings.esm_checkpoint
    if weights is None:
        demo = ensure_demo(data / "checkpoints" / "psichic-demo")
        weights, esm = demo.weights, demo.esm
    return PsichicScorer.from_directory(
        Path(weights).expanduser(), Path(esm).expanduser() if esm else None, device, feature_cache=data / "proteins"
    )


def _boltz(settings: Settings, device: str, pocket: BindingPocket | None, profile: str | None) -> _Model:
    from gpu.boltz.files import scorer_from_cache
    from gpu.boltz.profile import PROFILES, PocketConstraint

    constraint = None
    if pocket is not None:
        distance = {} if pocket.max_distance is None else {"max_distance": pocket.max_distance}
        constraint = PocketConstraint(pocket.residues, force=pocket.force, **distance)
    return scorer_from_cache(settings.boltz_cache, PROFILES[profile or settings.boltz_profile], device, constraint)
