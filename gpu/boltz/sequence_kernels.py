"""The steps of a layer over tokens or atoms in plain torch: what runs on a CPU and what the Triton ones equal.

Rows are samples × tokens (or atoms) × channels; residuals are float32, operands of products in the working precision,
results in either. Attention is in powers of two: query weights and biases come
multiplied by log2(e).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_LN_2: Final = math.log(2)
_ATTENTION: Final = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Windows(NamedTuple):
    """boltz's local attention: each window of queries sees the keys around it, zeros beyond the ends."""

    queries: int
    keys: int

    @property
    def margin(self) -> int:
        return (self.keys - self.queries) // 2

    def around(self, rows: Tensor) -> Tensor:
        """(samples × atoms × D) → (samples × windows × keys × D)."""
        padded = functional.pad(rows, (0, 0, self.margin, self.margin))
        return padded.unfold(1, self.keys, self.queries).transpose(-1, -2)


def attended(qkvg: Tensor, bias: Tensor, windows: Windows | None = None) -> Tensor:
    """``qkvg`` samples × rows × 4·heads·width; gated, samples × rows × heads·width.

    ``bias`` is heads × rows × rows, with windows: windows × heads × queries × keys, hidden what lies beyond the ends.
    """
    samples, rows, columns = qkvg.shape
    heads, inner = bias.shape[-3], columns // 4
    q, kv, g = qkvg[..., :inner], qkvg[..., inner : 3 * inner], qkvg[..., 3 * inner :]
    if windows is None:
        q, kv = q.view(samples, rows, heads, -1), kv.view(samples, rows, 2, heads, -1)
        bias = bias.expand(samples, -1, -1, -1)
    else:
        q = q.reshape(-1, windows.queries, heads, inner // heads)
        kv = windows.around(kv).reshape(-1, windows.keys, 2, heads, inner // heads)
        bias = bias.repeat(samples, 1, 1, 1)
    k, v = kv.unbind(-3)
    with sdpa_kernel(_ATTENTION):
        o = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=(bias * _LN_2).to(q.dtype), scale=_LN_2
        )
    return o.transpose(1, 2).reshape(samples, rows, inner) * torch.sigmoid(g)


def added_(a: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """``a`` plus ``change`` times σ(gate), in place. Gates (1 × rows × D) serve all samples."""
    return a.add_(change.float() * torch.sigmoid(gate.float()))


def modulated(a: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """The layer norm of ``a`` times σ(scale) plus shift (1 × rows × D, for all samples)."""
    normed = functional.layer_norm(a, a.shape[-1:])
    return torch.addcmul(shift.float(), torch.sigmoid(scale.float()), normed).to(dtype)


def added_and_modulated(
    a: Tensor, change: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    """:func:`added_`, then :func:`modulated`."""
    return modulated(added_(a, change, gate), scale, shift, dtype)


def swish_gated(hidden: Tensor) -> Tensor:
    """Of ``hidden``'s thirds: first · silu(second) · third."""
    value, gate, factor = hidden.chunk(3, dim=-1)
    return functional.silu(gate).mul_(value).mul_(factor)
