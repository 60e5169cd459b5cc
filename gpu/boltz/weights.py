"""The two Boltz-2 networks, from their checkpoints to a device."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from boltz.main import Boltz2DiffusionParams, BoltzSteeringParams, MSAModuleArgs, PairformerArgsV2
from boltz.model.layers import initialize
from boltz.model.models.boltz2 import Boltz2

from gpu.boltz.failure import BoltzInstallationError
from gpu.boltz.profile import Profile
from gpu.checkpoints import known_sha256

_STEP_SCALE: Final = 1.5
_FETCH: Final = "run `python -m app checkpoints fetch boltz2`"


def structure_model(checkpoint: Path, profile: Profile, device: torch.device, *, guided: bool) -> Boltz2:
    """The network that poses the ligand. ``guided``: with the potential that a forced pocket needs."""
    return _model(
        checkpoint,
        profile,
        device,
        steering_args=asdict(BoltzSteeringParams(contact_guidance_update=guided)),
        predict_args={
            "recycling_steps": profile.recycling_steps,
            "sampling_steps": profile.sampling_steps,
            "diffusion_samples": profile.diffusion_samples,
            "max_parallel_samples": 1,
        },
    )


def affinity_model(checkpoint: Path, profile: Profile, device: torch.device) -> Boltz2:
    """The network that reads the affinity off the pose."""
    return _model(
        checkpoint,
        profile,
        device,
        steering_args=asdict(BoltzSteeringParams(contact_guidance_update=False)),
        affinity_mw_correction=profile.molecular_weight_correction,
        predict_args={
            "recycling_steps": profile.affinity_recycling_steps,
            "sampling_steps": profile.affinity_sampling_steps,
            "diffusion_samples": profile.affinity_diffusion_samples,
            "max_parallel_samples": 1,
        },
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a checkpoint file: the recorded one where the file is as it was recorded, else computed.

    Raises:
        BoltzInstallationError: when it is not there.
    """
    try:
        return known_sha256(path)
    except OSError as error:
        raise BoltzInstallationError(f"Boltz-2 checkpoint {path} cannot be read ({error}): {_FETCH}.") from error


def _model(checkpoint: Path, profile: Profile, device: torch.device, **overrides: Any) -> Boltz2:
    if not checkpoint.is_file():
        raise BoltzInstallationError(f"Boltz-2 checkpoint {checkpoint} is not there: {_FETCH}.")
    diffusion = Boltz2DiffusionParams(
        step_scale=_STEP_SCALE, alignment_reverse_diff=profile.alignment_reverse_diffusion
    )
    try:
        # building a network draws from the global generators; nothing it draws survives the checkpoint
        with torch.random.fork_rng(devices=[]), _uninitialised():
            model = Boltz2.load_from_checkpoint(
                checkpoint,
                strict=True,
                map_location="cpu",
                weights_only=False,
                ema=False,
                use_kernels=False,
                diffusion_process_args=asdict(diffusion),
                pairformer_args=asdict(
                    PairformerArgsV2(num_blocks=profile.pairformer_blocks, num_heads=profile.pairformer_heads)
                ),
                msa_args=asdict(
                    MSAModuleArgs(
                        msa_blocks=profile.msa_blocks,
                        subsample_msa=True,
                        num_subsampled_msa=profile.max_msa_rows,
                        use_paired_feature=True,
                    )
                ),
                **overrides,
            )
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise BoltzInstallationError(
            f"Boltz-2 checkpoint {checkpoint} is damaged or of another architecture ({str(error)[:300]}): "
            f"delete it and {_FETCH}."
        ) from error
    return model.eval().requires_grad_(False).to(device)


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Skip random initialisation: the strict load overwrites all of it, and drawing 500 M normals takes a minute."""

    def keep(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    kept = [
        (module, name, getattr(module, name))
        for module in (torch.nn.init, initialize)
        for name in dir(module)
        if name.endswith("_") and not name.startswith("_") and callable(getattr(module, name))
    ]
    for module, name, _ in kept:
        setattr(module, name, keep)
    try:
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)
