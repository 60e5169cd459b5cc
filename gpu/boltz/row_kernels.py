"""The row-wise steps of the pair representation, in plain torch: what runs on a CPU and what the Triton ones equal.

``z`` is the pair representation (N × N × D, float32, contiguous). *Rows* are its N² pairs, (i, j) in reading order,
or (j, i) where ``swap`` says so; updates and normalised rows are N² × D in the working precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-5


def normed(z: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, swap: bool = False) -> Tensor:
    """Layer norm of every row: N² × D."""
    rows = z.transpose(0, 1) if swap else z
    return functional.layer_norm(rows, rows.shape[-1:], weight, bias, _EPSILON).to(dtype).reshape(-1, z.shape[-1])


def normed_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the channels of ``x`` (D × N²), rows first: N² × D."""
    rows = x.t().float()
    return functional.layer_norm(rows, rows.shape[-1:], weight, bias, _EPSILON).to(x.dtype)


def gated(values: Tensor, gates: Tensor, silu: bool = False) -> Tensor:
    """``values · σ(gates)``, or ``values · silu(gates)``; rows may be strided, the result is contiguous."""
    return values * (functional.silu(gates) if silu else torch.sigmoid(gates))


def add_(z: Tensor, update: Tensor, gates: Tensor | None = None, swap: bool = False) -> None:
    """Add the rows of ``update``, times ``σ(gates)`` where given, to ``z`` in place."""
    change = update.float() if gates is None else update.float() * torch.sigmoid(gates.float())
    square = change.view(z.shape)
    z += square.transpose(0, 1) if swap else square
