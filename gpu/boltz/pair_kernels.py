"""The steps of a pair layer in plain torch: what runs on a CPU and what the Triton ones equal.

``z`` is the pair representation (N × N × D, float32, contiguous), updated in place. *Rows* are its N² pairs, (i, j) in
reading order, or (j, i) where ``swap`` says so. Weights are inputs × outputs; their type is the working precision, in
which operands of products are and results are kept. ``present`` (N) is 1 for a token and 0 for padding.

Attention is in powers of two: query weights and biases come multiplied by log2(e).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_EPSILON: Final = 1e-5
_LN_2: Final = math.log(2)
_ATTENTION: Final = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Norm(NamedTuple):
    """A layer norm's weight and bias (D, float32)."""

    weight: Tensor
    bias: Tensor


def projected(z: Tensor, norm: Norm, wide: Tensor | None, few: Tensor, swap: bool = False) -> tuple[Tensor, Tensor]:
    """Products of the normalised rows: with ``wide`` N² × columns, with ``few`` columns × N² (rows last)."""
    x = _normed(z.transpose(0, 1) if swap else z, norm, few.dtype)
    return x @ (few if wide is None else wide), (x @ few).t().contiguous()


def operands(z: Tensor, norm: Norm, values: Tensor, gates: Tensor, present: Tensor) -> Tensor:
    """The triangle product's gated factors, channels × N²; zero where a token of the pair is padding."""
    x = _normed(z, norm, values.dtype)
    pairs = (present[:, None] * present[None, :]).view(-1, 1)
    y = (x @ values).float() * torch.sigmoid((x @ gates).float()) * pairs
    return y.to(values.dtype).t().contiguous()


def close_triangle_(z: Tensor, product: Tensor, norm: Norm, product_norm: Norm, update: Tensor, gates: Tensor) -> None:
    """Add the normalised ``product`` (channels × N²) through ``update``, gated by the normalised rows."""
    gate = _normed(z, norm, gates.dtype) @ gates
    y = functional.layer_norm(product.t().float(), product.shape[:1], *product_norm, _EPSILON).to(update.dtype)
    z += ((y @ update).float() * torch.sigmoid(gate.float())).view(z.shape)


def attended(qkvg: Tensor, bias: Tensor) -> Tensor:
    """Triangle attention along the rows: ``qkvg`` N² × 4·inner, ``bias`` heads × N × N; gated, N² × inner."""
    heads, n = bias.shape[:2]
    q, k, v, g = qkvg.view(n, n, 4, heads, -1).permute(2, 0, 3, 1, 4)
    with sdpa_kernel(_ATTENTION):
        o = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=(bias * _LN_2).expand(n, -1, -1, -1), scale=_LN_2
        )
    return (o * torch.sigmoid(g)).transpose(1, 2).reshape(n * n, -1)


def add_(z: Tensor, rows: Tensor, update: Tensor, swap: bool = False) -> None:
    """Add ``rows`` through ``update``."""
    square = (rows @ update).float().view(z.shape)
    z += square.transpose(0, 1) if swap else square


def transition_(z: Tensor, norm: Norm, gates: Tensor, values: Tensor, narrow: Tensor) -> None:
    """Add ``(silu(x·gates) · (x·values))·narrow`` of the normalised rows x."""
    x = _normed(z, norm, narrow.dtype)
    z += ((functional.silu(x @ gates) * (x @ values)) @ narrow).float().view(z.shape)


def _normed(rows: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    width = rows.shape[-1]
    return functional.layer_norm(rows, (width,), *norm, _EPSILON).to(dtype).reshape(-1, width)
