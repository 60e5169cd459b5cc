"""The row-wise steps of the pair representation in Triton: one pass over memory each (see ``row_kernels``).

Block sizes are fixed, never tuned at run time: a tuned block could change the order of a sum from one process to
the next.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_EPSILON: Final = 1e-5
_ELEMENTS: Final = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _normed(z, weight, bias, out, rows, n, eps, SWAP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = row
    if SWAP:
        source = (row % n) * n + row // n
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    x = tl.load(z + source[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    x = x - (tl.sum(x, axis=1) / D)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    y = x * scale[:, None] * tl.load(weight + column)[None, :] + tl.load(bias + column)[None, :]
    tl.store(out + row[:, None] * D + column[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _normed_channels(x, weight, bias, out, rows, eps, D: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, D)
    inside = row < rows
    tile = tl.load(x + column[:, None] * rows + row[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
    tile = tl.trans(tile)
    tile = tile - (tl.sum(tile, axis=1) / D)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(tile * tile, axis=1) / D + eps)
    y = tile * scale[:, None] * tl.load(weight + column)[None, :] + tl.load(bias + column)[None, :]
    tl.store(out + row[:, None] * D + column[None, :], y.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _gated(  # type: ignore[no-untyped-def]
    values, gates, out, rows, values_stride, gates_stride, SILU: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    value = tl.load(values + row[:, None] * values_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gates + row[:, None] * gates_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    product = value * (1.0 / (1.0 + tl.exp(-gate)))
    if SILU:
        product = product * gate
    tl.store(out + row[:, None] * D + column[None, :], product.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add(z, update, gates, rows, n, GATED: tl.constexpr, SWAP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    target = row
    if SWAP:
        target = (row % n) * n + row // n
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    change = tl.load(update + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if GATED:
        gate = tl.load(gates + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
        change = change * (1.0 / (1.0 + tl.exp(-gate)))
    place = z + target[:, None] * D + column[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + change, mask=inside)


def normed(z: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, swap: bool = False) -> Tensor:
    """Layer norm of every row: N² × D."""
    n, width = z.shape[0], z.shape[-1]
    out = torch.empty((n * n, width), dtype=dtype, device=z.device)
    block, grid = _grid(n * n, width)
    _normed[grid](z, weight, bias, out, n * n, n, _EPSILON, SWAP=swap, D=width, BLOCK=block)
    return out


def normed_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the channels of ``x`` (D × N²), rows first: N² × D."""
    width, rows = x.shape
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    block, grid = _grid(rows, width)
    _normed_channels[grid](x, weight, bias, out, rows, _EPSILON, D=width, BLOCK=block)
    return out


def gated(values: Tensor, gates: Tensor, silu: bool = False) -> Tensor:
    """``values · σ(gates)``, or ``values · silu(gates)``; rows may be strided, the result is contiguous."""
    rows, width = values.shape
    out = torch.empty((rows, width), dtype=values.dtype, device=values.device)
    block, grid = _grid(rows, width)
    _gated[grid](values, gates, out, rows, values.stride(0), gates.stride(0), SILU=silu, D=width, BLOCK=block)
    return out


def add_(z: Tensor, update: Tensor, gates: Tensor | None = None, swap: bool = False) -> None:
    """Add the rows of ``update``, times ``σ(gates)`` where given, to ``z`` in place."""
    n, width = z.shape[0], z.shape[-1]
    block, grid = _grid(n * n, width)
    other = update if gates is None else gates
    _add[grid](z, update, other, n * n, n, GATED=gates is not None, SWAP=swap, D=width, BLOCK=block)


def _grid(rows: int, width: int) -> tuple[int, tuple[Any, ...]]:
    block = max(1, _ELEMENTS // width)
    return block, (triton.cdiv(rows, block),)
