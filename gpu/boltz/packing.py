"""A loaded Boltz-2 network with its pair layers and its score network packed (the ``fast`` profile)."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import torch

from gpu.boltz import row_kernels
from gpu.boltz.denoiser import PackedDenoiser
from gpu.boltz.pair_stack import PackedPairOnly, PackedPairStack


def row_kernels_for(device: torch.device) -> ModuleType:
    """Triton's row kernels on CUDA where Triton is installed, else plain torch's."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from gpu.boltz import row_kernels_triton

        return row_kernels_triton
    return row_kernels


def pack(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Put packed parts in place of boltz's in ``model`` and drop the weights that they were made of.

    Left as they are: the affinity heads, whose pair masks have holes, and what runs once per record.
    """
    rows = row_kernels_for(device)
    model.pairformer_module = PackedPairStack(model.pairformer_module.layers, dtype, rows)
    confidence = model.confidence_module
    confidence.pairformer_stack = PackedPairStack(confidence.pairformer_stack.layers, dtype, rows)
    for layer in model.msa_module.layers:
        layer.pairformer_layer = PackedPairOnly(layer.pairformer_layer, dtype, rows)
    model.structure_module.score_model = PackedDenoiser(model.structure_module.score_model)
