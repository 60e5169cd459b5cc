"""The steps of a pair layer in Triton, each in one pass over the pair representation (see ``pair_kernels``).

Block sizes are fixed, never tuned at run time: a tuned block could change the order of a sum from one process to
the next. A product of float32 is three of TF32 (Triton's ``tf32x3``), whose error is float32's. N is a multiple of 16,
so that blocks of up to 256 rows fit.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu.boltz.pair_kernels import Norm

_EPSILON: Final = 1e-5
_SMALLEST_TILE: Final = 16

# what was fastest on an H100 at N = 464, D = 128
_HALF: Final[dict[str, dict[str, int]]] = {
    "project": {"BLOCK": 64, "CHUNK": 64, "num_warps": 4, "num_stages": 3},
    "operands": {"BLOCK": 64, "CHUNK": 32, "num_warps": 4, "num_stages": 3},
    "close": {"BLOCK": 64, "num_warps": 4},
    "attend": {"QUERIES": 64, "KEYS": 32, "num_warps": 4, "num_stages": 3},
    "add": {"BLOCK": 64, "num_warps": 4, "num_stages": 2},
    "transit": {"BLOCK": 64, "CHUNK": 64, "num_warps": 4, "num_stages": 2},
}
_FULL: Final[dict[str, dict[str, int]]] = {
    "project": {"BLOCK": 32, "CHUNK": 64, "num_warps": 4, "num_stages": 3},
    "operands": {"BLOCK": 128, "CHUNK": 32, "num_warps": 8, "num_stages": 2},
    "close": {"BLOCK": 32, "num_warps": 4},
    "attend": {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2},
    "add": {"BLOCK": 32, "num_warps": 4, "num_stages": 2},
    "transit": {"BLOCK": 128, "CHUNK": 32, "num_warps": 8, "num_stages": 2},
}


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit  # type: ignore[untyped-decorator]
def _rows(z, row, weight, bias, n, eps, SWAP: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """The layer norm of these rows of ``z``, and where they lie."""
    place = row
    if SWAP:
        place = (row % n) * n + row // n
    column = tl.arange(0, D)
    address = z + place.to(tl.int64)[:, None] * D + column[None, :]
    x = tl.load(address)
    x = x - (tl.sum(x, axis=1) / D)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
    return x * scale[:, None] * tl.load(weight + column)[None, :] + tl.load(bias + column)[None, :], address


@triton.jit  # type: ignore[untyped-decorator]
def _project(  # type: ignore[no-untyped-def]
    z, norm_weight, norm_bias, wide, few, out, channels, rows, n, eps,
    SWAP: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, FEW: tl.constexpr, ROOM: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, _ = _rows(z, row, norm_weight, norm_bias, n, eps, SWAP, D)
    x = x.to(few.dtype.element_ty)
    depth = tl.arange(0, D)
    part = tl.arange(0, CHUNK)
    for start in range(0, WIDE, CHUNK):
        w = tl.load(wide + depth[:, None] * WIDE + start + part[None, :])
        y = tl.dot(x, w, input_precision=PRECISION)
        tl.store(out + row.to(tl.int64)[:, None] * WIDE + start + part[None, :], y.to(out.dtype.element_ty))
    column = tl.arange(0, ROOM)
    w = tl.load(few + depth[:, None] * FEW + column[None, :], mask=column[None, :] < FEW, other=0.0)
    y = tl.dot(x, w, input_precision=PRECISION)
    place = channels + column.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(place, y.to(channels.dtype.element_ty), mask=column[None, :] < FEW)


@triton.jit  # type: ignore[untyped-decorator]
def _operands(  # type: ignore[no-untyped-def]
    z, norm_weight, norm_bias, values, gates, present, out, rows, n, eps,
    D: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, _ = _rows(z, row, norm_weight, norm_bias, n, eps, False, D)
    x = x.to(values.dtype.element_ty)
    both = tl.load(present + row // n) * tl.load(present + row % n)
    depth = tl.arange(0, D)
    part = tl.arange(0, CHUNK)
    for start in range(0, WIDE, CHUNK):
        place = depth[:, None] * WIDE + start + part[None, :]
        value = tl.dot(x, tl.load(values + place), input_precision=PRECISION)
        gate = tl.dot(x, tl.load(gates + place), input_precision=PRECISION)
        y = value * _sigmoid(gate) * both[:, None]
        channel = (start + part).to(tl.int64)
        tl.store(out + channel[None, :] * rows + row[:, None], y.to(out.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _close(  # type: ignore[no-untyped-def]
    z, product, norm_weight, norm_bias, product_weight, product_bias, update, gates, rows, n, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    depth = tl.arange(0, D)
    square = depth[:, None] * D + depth[None, :]
    x, place = _rows(z, row, norm_weight, norm_bias, n, eps, False, D)
    gate = tl.dot(x.to(gates.dtype.element_ty), tl.load(gates + square), input_precision=PRECISION)
    y = tl.load(product + depth.to(tl.int64)[:, None] * rows + row[None, :]).to(tl.float32)
    y = y - (tl.sum(y, axis=0) / D)[None, :]
    scale = 1.0 / tl.sqrt(tl.sum(y * y, axis=0) / D + eps)
    y = y * scale[None, :] * tl.load(product_weight + depth)[:, None] + tl.load(product_bias + depth)[:, None]
    y = tl.trans(y).to(update.dtype.element_ty)
    change = tl.dot(y, tl.load(update + square), input_precision=PRECISION) * _sigmoid(gate)
    tl.store(place, tl.load(place) + change)


@triton.jit  # type: ignore[untyped-decorator]
def _absorb(  # type: ignore[no-untyped-def]
    q, keys, values, bias, o, most, total, start, n, width,
    STRIDE: tl.constexpr, KEYS: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys into the running softmax; ``WHOLE``: none of them lies beyond the end."""
    key = start + tl.arange(0, KEYS)
    if WHOLE:
        k = tl.load(keys + key[None, :] * STRIDE + width[:, None])
        s = tl.load(bias + key[None, :]).to(tl.float32)
        v = tl.load(values + key[:, None] * STRIDE + width[None, :])
    else:
        there = key < n
        k = tl.load(keys + key[None, :] * STRIDE + width[:, None], mask=there[None, :], other=0.0)
        s = tl.load(bias + key[None, :], mask=there[None, :], other=float("-inf")).to(tl.float32)
        v = tl.load(values + key[:, None] * STRIDE + width[None, :], mask=there[:, None], other=0.0)
    s = tl.dot(q, k, s, input_precision=PRECISION)
    larger = tl.maximum(most, tl.max(s, axis=1))
    p = tl.exp2(s - larger[:, None])
    shrink = tl.exp2(most - larger)
    total = total * shrink + tl.sum(p, axis=1)
    o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision=PRECISION)
    return o, larger, total


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    qkvg, bias, out, n,
    HEADS: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # a query beyond the end repeats the last one and writes the same
    query = tl.minimum(tl.program_id(0) * QUERIES + tl.arange(0, QUERIES), n - 1)
    first = tl.program_id(1).to(tl.int64) * n
    head = tl.program_id(2)
    STRIDE: tl.constexpr = 4 * HEADS * W
    width = tl.arange(0, W)
    row = qkvg + first * STRIDE + head * W
    own = row + query[:, None] * STRIDE + width[None, :]
    q = tl.load(own)
    most = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    o = tl.zeros([QUERIES, W], dtype=tl.float32)
    keys = row + HEADS * W
    values = row + 2 * HEADS * W
    b = bias + (head * n + query).to(tl.int64)[:, None] * n
    whole = n // KEYS * KEYS
    for start in range(0, whole, KEYS):
        o, most, total = _absorb(q, keys, values, b, o, most, total, start, n, width, STRIDE, KEYS, True, PRECISION)
    if whole < n:
        o, most, total = _absorb(q, keys, values, b, o, most, total, whole, n, width, STRIDE, KEYS, False, PRECISION)
    o = o / total[:, None] * _sigmoid(tl.load(own + 3 * HEADS * W).to(tl.float32))
    place = out + (first + query)[:, None] * (HEADS * W) + head * W + width[None, :]
    tl.store(place, o.to(out.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def _add(  # type: ignore[no-untyped-def]
    z, rows, update, n,
    SWAP: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = row
    if SWAP:
        place = (row % n) * n + row // n
    inner = tl.arange(0, INNER)
    depth = tl.arange(0, D)
    x = tl.load(rows + row.to(tl.int64)[:, None] * INNER + inner[None, :])
    change = tl.dot(x, tl.load(update + inner[:, None] * D + depth[None, :]), input_precision=PRECISION)
    address = z + place.to(tl.int64)[:, None] * D + depth[None, :]
    tl.store(address, tl.load(address) + change)


@triton.jit  # type: ignore[untyped-decorator]
def _transit(  # type: ignore[no-untyped-def]
    z, norm_weight, norm_bias, gates, values, narrow, n, eps,
    D: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, place = _rows(z, row, norm_weight, norm_bias, n, eps, False, D)
    x = x.to(narrow.dtype.element_ty)
    depth = tl.arange(0, D)
    part = tl.arange(0, CHUNK)
    change = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(0, HIDDEN, CHUNK):
        across = depth[:, None] * HIDDEN + start + part[None, :]
        gate = tl.dot(x, tl.load(gates + across), input_precision=PRECISION)
        value = tl.dot(x, tl.load(values + across), input_precision=PRECISION)
        hidden = (gate * _sigmoid(gate) * value).to(x.dtype)
        w = tl.load(narrow + (start + part)[:, None] * D + depth[None, :])
        change += tl.dot(hidden, w, input_precision=PRECISION)
    tl.store(place, tl.load(place) + change)


def projected(z: Tensor, norm: Norm, wide: Tensor | None, few: Tensor, swap: bool = False) -> tuple[Tensor, Tensor]:
    """Products of the normalised rows: with ``wide`` N² × columns, with ``few`` columns × N² (rows last)."""
    n, rows, depth = z.shape[0], z.shape[0] ** 2, z.shape[-1]
    columns, count = 0 if wide is None else wide.shape[1], few.shape[1]
    out, channels = few.new_empty((rows, columns)), few.new_empty((count, rows))
    settings = _settings("project", few.dtype)
    _project[(rows // settings["BLOCK"],)](
        z, *norm, few if wide is None else wide, few, out, channels, rows, n, _EPSILON,
        SWAP=swap, D=depth, WIDE=columns, FEW=count, ROOM=max(_SMALLEST_TILE, triton.next_power_of_2(count)),
        **settings,
    )  # fmt: skip
    return out, channels


def operands(z: Tensor, norm: Norm, values: Tensor, gates: Tensor, present: Tensor) -> Tensor:
    """The triangle product's gated factors, channels × N²; zero where a token of the pair is padding."""
    n, rows, (depth, columns) = z.shape[0], z.shape[0] ** 2, values.shape
    out = values.new_empty((columns, rows))
    settings = _settings("operands", values.dtype)
    _operands[(rows // settings["BLOCK"],)](
        z, *norm, values, gates, present, out, rows, n, _EPSILON, D=depth, WIDE=columns, **settings
    )
    return out


def close_triangle_(z: Tensor, product: Tensor, norm: Norm, product_norm: Norm, update: Tensor, gates: Tensor) -> None:
    """Add the normalised ``product`` (channels × N²) through ``update``, gated by the normalised rows."""
    n, rows = z.shape[0], z.shape[0] ** 2
    settings = _settings("close", update.dtype)
    _close[(rows // settings["BLOCK"],)](
        z, product, *norm, *product_norm, update, gates, rows, n, _EPSILON, D=z.shape[-1], **settings
    )


def attended(qkvg: Tensor, bias: Tensor) -> Tensor:
    """Triangle attention along the rows: ``qkvg`` N² × 4·inner, ``bias`` heads × N × N; gated, N² × inner."""
    heads, n = bias.shape[:2]
    inner = qkvg.shape[1] // 4
    out = qkvg.new_empty((n * n, inner))
    settings = _settings("attend", qkvg.dtype)
    grid = (triton.cdiv(n, settings["QUERIES"]), n, heads)
    _attend[grid](qkvg, bias, out, n, HEADS=heads, W=inner // heads, **settings)
    return out


def add_(z: Tensor, rows: Tensor, update: Tensor, swap: bool = False) -> None:
    """Add ``rows`` through ``update``."""
    n, (inner, depth) = z.shape[0], update.shape
    settings = _settings("add", update.dtype)
    _add[(n * n // settings["BLOCK"],)](z, rows, update, n, SWAP=swap, D=depth, INNER=inner, **settings)


def transition_(z: Tensor, norm: Norm, gates: Tensor, values: Tensor, narrow: Tensor) -> None:
    """Add ``(silu(x·gates) · (x·values))·narrow`` of the normalised rows x."""
    n, (hidden, depth) = z.shape[0], narrow.shape
    settings = _settings("transit", narrow.dtype)
    _transit[(n * n // settings["BLOCK"],)](
        z, *norm, gates, values, narrow, n, _EPSILON, D=depth, HIDDEN=hidden, **settings
    )


def _settings(kernel: str, dtype: torch.dtype) -> dict[str, Any]:
    if dtype == torch.bfloat16:
        return {**_HALF[kernel], "PRECISION": "tf32"}
    return {**_FULL[kernel], "PRECISION": "tf32x3"}
