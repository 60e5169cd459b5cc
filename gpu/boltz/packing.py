"""A loaded Boltz-2 network with its pair layers, MSA module and score network packed."""

from __future__ import annotations

import importlib.util
from typing import Any, Final

import torch

from gpu.boltz import pair_kernels, sequence_kernels
from gpu.boltz.denoiser import PackedDenoiser
from gpu.boltz.pair_stack import Kernels, PackedMsa, PackedPairStack

PLAIN: Final = Kernels(pair_kernels, sequence_kernels)
_SMALLEST_TILE: Final = 16


def kernels_for(device: torch.device, pair_width: int) -> Kernels:
    """Triton's kernels on CUDA where Triton is installed and the network fits its tiles, else plain torch's."""
    fits = pair_width >= _SMALLEST_TILE and pair_width & (pair_width - 1) == 0
    if device.type == "cuda" and fits and importlib.util.find_spec("triton") is not None:
        from gpu.boltz import pair_kernels_triton, sequence_kernels_triton

        return Kernels(pair_kernels_triton, sequence_kernels_triton)
    return PLAIN


def pack(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Put packed parts in place of boltz's in ``model`` and drop the weights that they were made of.

    Left as they are: the affinity heads, whose pair masks have holes, and what runs once per record.
    """
    kernels = kernels_for(device, model.z_norm.weight.shape[0])
    model.pairformer_module = PackedPairStack(model.pairformer_module.layers, dtype, kernels)
    confidence = model.confidence_module
    confidence.pairformer_stack = PackedPairStack(confidence.pairformer_stack.layers, dtype, kernels)
    model.msa_module = PackedMsa(model.msa_module, dtype, kernels)
    model.structure_module.score_model = PackedDenoiser(model.structure_module.score_model, dtype, kernels.sequence)
