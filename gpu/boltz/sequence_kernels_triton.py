"""The steps of a layer over tokens or atoms in Triton (see ``sequence_kernels``), block sizes fixed.

Products are TF32 where torch allows it to float32 products, else three of TF32, whose error is float32's.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu.boltz.sequence_kernels import Windows

_EPSILON: Final = 1e-5
_QUERIES: Final = 32
_KEYS: Final = 32
_ELEMENTS: Final = 1024


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    qkvg, bias, out, rows, count, margin,
    HEADS: tl.constexpr, W: tl.constexpr, ROOM: tl.constexpr, LOCAL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``count`` keys from ``margin`` before the block of queries on (``LOCAL``), or from the first row on."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    STRIDE: tl.constexpr = 4 * HEADS * W
    query = block * QUERIES + tl.arange(0, QUERIES)
    asked = query < rows
    width = tl.arange(0, ROOM)
    wide = width < W
    sample = qkvg + tl.program_id(2).to(tl.int64) * rows * STRIDE + head * W
    own = sample + query[:, None] * STRIDE + width[None, :]
    whole = asked[:, None] & wide[None, :]
    q = tl.load(own, mask=whole, other=0.0)
    most = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    o = tl.zeros([QUERIES, ROOM], dtype=tl.float32)
    if LOCAL:
        begin = block * QUERIES - margin
        b = bias + ((block * HEADS + head) * QUERIES + tl.arange(0, QUERIES)) * count
    else:
        begin = 0
        b = bias + (head * rows + query) * rows
    for start in range(0, count, KEYS):
        part = start + tl.arange(0, KEYS)
        key = begin + part
        there = (key >= 0) & (key < rows) & (part < count)
        k = tl.load(sample + HEADS * W + key[None, :] * STRIDE + width[:, None],
                    mask=there[None, :] & wide[:, None], other=0.0)  # fmt: skip
        s = tl.load(b[:, None] + part[None, :], mask=asked[:, None] & there[None, :], other=float("-inf"))
        s = tl.dot(q, k, s, input_precision=PRECISION)
        larger = tl.maximum(tl.maximum(most, tl.max(s, axis=1)), -1e30)
        p = tl.exp2(s - larger[:, None])
        shrink = tl.exp2(most - larger)
        total = total * shrink + tl.sum(p, axis=1)
        v = tl.load(sample + 2 * HEADS * W + key[:, None] * STRIDE + width[None, :],
                    mask=there[:, None] & wide[None, :], other=0.0)  # fmt: skip
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision=PRECISION)
        most = larger
    gate = tl.load(own + 3 * HEADS * W, mask=whole, other=0.0).to(tl.float32)
    place = out + (tl.program_id(2).to(tl.int64) * rows + query)[:, None] * (HEADS * W) + head * W + width[None, :]
    tl.store(place, (o / total[:, None] * _sigmoid(gate)).to(out.dtype.element_ty), mask=whole)


@triton.jit  # type: ignore[untyped-decorator]
def _step(  # type: ignore[no-untyped-def]
    a, change, gate, scale, shift, out, rows, gate_stride, scale_stride, shift_stride, eps,
    ADD: tl.constexpr, MODULATE: tl.constexpr, D: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    condition = (row % rows).to(tl.int64)
    column = tl.arange(0, ROOM)
    inside = column < D
    place = row.to(tl.int64) * D + column
    x = tl.load(a + place, mask=inside, other=0.0)
    if ADD:
        opened = _sigmoid(tl.load(gate + condition * gate_stride + column, mask=inside, other=0.0).to(tl.float32))
        x += tl.load(change + place, mask=inside, other=0.0).to(tl.float32) * opened
        tl.store(a + place, x, mask=inside)
    if MODULATE:
        x = tl.where(inside, x - tl.sum(x) / D, 0.0)
        x = x / tl.sqrt(tl.sum(x * x) / D + eps)
        factor = _sigmoid(tl.load(scale + condition * scale_stride + column, mask=inside, other=0.0).to(tl.float32))
        x = x * factor + tl.load(shift + condition * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + place, x.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _swish(hidden, out, size, D: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    source = hidden + place // D * (3 * D) + place % D
    gate = tl.load(source + D, mask=inside, other=0.0).to(tl.float32)
    product = gate * _sigmoid(gate) * tl.load(source, mask=inside, other=0.0).to(tl.float32)
    product = product * tl.load(source + 2 * D, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, product.to(out.dtype.element_ty), mask=inside)


def attended(qkvg: Tensor, bias: Tensor, windows: Windows | None = None) -> Tensor:
    """``qkvg`` samples × rows × 4·heads·width; gated, samples × rows × heads·width.

    ``bias`` is heads × rows × rows, with windows: windows × heads × queries × keys, hidden what lies beyond the ends.
    """
    samples, rows, columns = qkvg.shape
    heads, inner = bias.shape[-3], columns // 4
    out = qkvg.new_empty((samples, rows, inner))
    queries = _QUERIES if windows is None else windows.queries
    _attend[(triton.cdiv(rows, queries), heads, samples)](
        qkvg, bias, out, rows, rows if windows is None else windows.keys, 0 if windows is None else windows.margin,
        HEADS=heads, W=inner // heads, ROOM=max(16, triton.next_power_of_2(inner // heads)),
        LOCAL=windows is not None, QUERIES=queries, KEYS=_KEYS, PRECISION=_precision(), num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def added_(a: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """``a`` plus ``change`` times σ(gate), in place. Gates (1 × rows × D) serve all samples."""
    _stepped(a, change, gate, None, None, a.dtype)
    return a


def modulated(a: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """The layer norm of ``a`` times σ(scale) plus shift (1 × rows × D, for all samples)."""
    return _stepped(a, None, None, scale, shift, dtype)


def added_and_modulated(
    a: Tensor, change: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype
) -> Tensor:
    """:func:`added_`, then :func:`modulated`."""
    return _stepped(a, change, gate, scale, shift, dtype)


def swish_gated(hidden: Tensor) -> Tensor:
    """Of ``hidden``'s thirds: first · silu(second) · third."""
    width = hidden.shape[-1] // 3
    out = hidden.new_empty((*hidden.shape[:-1], width))
    _swish[(triton.cdiv(out.numel(), _ELEMENTS),)](hidden, out, out.numel(), D=width, BLOCK=_ELEMENTS, num_warps=4)
    return out


def _stepped(
    a: Tensor,
    change: Tensor | None,
    gate: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    samples, rows, width = a.shape
    out = a if scale is None else torch.empty_like(a, dtype=dtype)
    _step[(samples * rows,)](
        a, a if change is None else change, a if gate is None else gate, a if scale is None else scale,
        a if shift is None else shift, out, rows,
        *(0 if part is None else part.stride(1) for part in (gate, scale, shift)), _EPSILON,
        ADD=change is not None, MODULATE=scale is not None, D=width, ROOM=triton.next_power_of_2(width),
        num_warps=4 if width > 256 else 1,
    )  # fmt: skip
    return out


def _precision() -> str:
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
