"""The engine's irregular operations as Triton kernels, float32, for CUDA devices.

Same meaning as :mod:`gpu.psichic.plain_kernels`. Dense products stay with cuBLAS (exact float32, no TF32). Every
reduction runs over one segment in one program in a fixed order: no atomics, so bits depend on the segment alone.

Messages are kept tower by tower (T × rows × F), which is what the batched products over towers read and write.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-any-return,type-arg"
# Triton reads the kernels' source, not their types, and is absent where mypy runs.

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from gpu.psichic.engine_weights import Convolution, GraphNormWeights, Norm, ResidueTopology
from gpu.psichic.network import VARIANCE_FLOOR
from gpu.psichic.packing import LigandBatch

_EPS: Final = 1e-5
_FLOOR: Final[Any] = tl.constexpr(VARIANCE_FLOOR)
_CUT: Final[Any] = tl.constexpr(VARIANCE_FLOOR**0.5)
_ROW_BLOCK: Final = 8

_FUSED_CHANNELS: Final = 40
_FUSED_ROWS: Final = 16
_FUSED_WARPS: Final = 2


def _width(n: int) -> int:
    return max(16, triton.next_power_of_2(n))


@triton.jit
def _norm_relu_add_kernel(
    o_ptr, x_ptr, w_ptr, b_ptr, out_ptr, rows, eps, x_rows, H: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.arange(0, BC)
    live = (row < rows)[:, None] & (c < H)[None, :]
    at = row[:, None] * H + c[None, :]
    o = tl.load(o_ptr + at, mask=live, other=0.0)
    mean = tl.sum(o, 1) / H
    centred = tl.where((c < H)[None, :], o - mean[:, None], 0.0)
    var = tl.sum(centred * centred, 1) / H
    scaled = centred * (1.0 / tl.sqrt_rn(var + eps))[:, None]
    w = tl.load(w_ptr + c, mask=c < H, other=0.0)
    b = tl.load(b_ptr + c, mask=c < H, other=0.0)
    y = scaled * w[None, :] + b[None, :]
    if RESIDUAL:
        x = tl.load(x_ptr + (row % x_rows)[:, None] * H + c[None, :], mask=live, other=0.0)
        y = x + tl.maximum(y, 0.0)
    tl.store(out_ptr + at, y, mask=live)


def norm_relu_add(o: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """``x + relu(LN(o))``."""
    out = torch.empty_like(o)
    h = o.shape[-1]
    rows, br = o.numel() // h, 4
    _norm_relu_add_kernel[(triton.cdiv(rows, br),)](
        o, x, norm.weight, norm.bias, out, rows, _EPS, x.numel() // h, H=h, BC=_width(h), BR=br, RESIDUAL=True
    )
    return out


def layer_norm(x: Tensor, norm: Norm) -> Tensor:
    """LN over the last dimension."""
    x = x.contiguous()
    out = torch.empty_like(x)
    h = x.shape[-1]
    rows, br = x.numel() // h, 4
    _norm_relu_add_kernel[(triton.cdiv(rows, br),)](
        x, x, norm.weight, norm.bias, out, rows, _EPS, rows, H=h, BC=_width(h), BR=br, RESIDUAL=False
    )
    return out


@triton.jit
def _edge_hidden_kernel(
    node_ptr, term_ptr, source_ptr, target_ptr, kind_ptr, out_ptr, nodes, edges, all_nodes, all_edges,
    H: tl.constexpr, F: tl.constexpr, BC: tl.constexpr, BE: tl.constexpr, TABLE: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    slot = tl.program_id(1)
    c = tl.arange(0, BC)
    live = (e < edges)[:, None] & (c < H)[None, :]
    source = slot * nodes + tl.load(source_ptr + e, mask=e < edges, other=0).to(tl.int32)
    target = slot * nodes + tl.load(target_ptr + e, mask=e < edges, other=0).to(tl.int32)
    tower, f = c // F, c % F
    base = (tower * all_nodes * (3 * F) + f)[None, :]
    a = tl.load(node_ptr + base + (target * (3 * F))[:, None], mask=live, other=0.0)
    b = tl.load(node_ptr + base + (source * (3 * F) + F)[:, None], mask=live, other=0.0)
    term_row = tl.load(kind_ptr + e, mask=e < edges, other=0).to(tl.int32) if TABLE else e
    term = tl.load(term_ptr + term_row[:, None] * H + c[None, :], mask=live, other=0.0)
    at = (tower * all_edges * F + f)[None, :] + ((slot * edges + e) * F)[:, None]
    tl.store(out_ptr + at, tl.maximum(a + b + term, 0.0), mask=live)


@triton.jit
def _aggregate(live, m, total, square, low, high):
    total += tl.where(live, m, 0.0)
    square += tl.where(live, m * m, 0.0)
    low = tl.where(live, tl.minimum(low, m), low)
    high = tl.where(live, tl.maximum(high, m), high)
    return total, square, low, high


@triton.jit
def _store_aggregates(out, mask, some, count, total, square, low, high, F: tl.constexpr):
    mean = total / count
    std = tl.sqrt_rn(tl.maximum(square / count - mean * mean, _FLOOR))
    tl.store(out, mean, mask=mask)
    tl.store(out + F, tl.where(some, low, 0.0), mask=mask)
    tl.store(out + 2 * F, tl.where(some, high, 0.0), mask=mask)
    tl.store(out + 3 * F, tl.where(some & (std > _CUT), std, 0.0), mask=mask)


@triton.jit
def _four_aggregates_kernel(
    message_ptr, bias_ptr, ptr_ptr, out_ptr, nodes, edges, all_nodes, all_edges,
    H: tl.constexpr, F: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    slot = tl.program_id(1)
    c = tl.arange(0, BC)
    start = tl.load(ptr_ptr + r, mask=r < nodes, other=0).to(tl.int32)
    stop = tl.load(ptr_ptr + r + 1, mask=r < nodes, other=0).to(tl.int32)
    degree = stop - start
    tower, f = c // F, c % F
    channel = (tower * all_edges * F + f)[None, :]
    bias = tl.load(bias_ptr + c, mask=c < H, other=0.0)[None, :]
    total = tl.zeros((BR, BC), tl.float32)
    square = tl.zeros((BR, BC), tl.float32)
    low = tl.full((BR, BC), float("inf"), tl.float32)
    high = tl.full((BR, BC), float("-inf"), tl.float32)
    for k in range(0, tl.max(degree, 0)):
        live = (k < degree)[:, None] & (c < H)[None, :]
        at = channel + ((slot * edges + start + k) * F)[:, None]
        m = tl.load(message_ptr + at, mask=live, other=0.0) + bias
        total, square, low, high = _aggregate(live, m, total, square, low, high)
    some = (degree > 0)[:, None]
    count = tl.maximum(degree, 1).to(tl.float32)[:, None]
    inside = (r < nodes)[:, None] & (c < H)[None, :]
    at = (tower * all_nodes * (4 * F) + f)[None, :] + ((slot * nodes + r) * (4 * F))[:, None]
    _store_aggregates(out_ptr + at, inside, some, count, total, square, low, high, F)


@triton.jit
def _edge_aggregates_kernel(
    node_ptr, term_ptr, source_ptr, w_ptr, bias_ptr, ptr_ptr, out_ptr, nodes, all_nodes,
    H: tl.constexpr, F: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    # F = 40 as 32 + 8 channels; the 8 are padded to 16 where they are summed over.
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    slot = tl.program_id(1)
    tower = tl.program_id(2)
    start = tl.load(ptr_ptr + r, mask=r < nodes, other=0).to(tl.int32)
    stop = tl.load(ptr_ptr + r + 1, mask=r < nodes, other=0).to(tl.int32)
    degree = stop - start
    a = tl.arange(0, 32)
    b = 32 + tl.arange(0, 16)
    d = 32 + tl.arange(0, 8)
    w = w_ptr + tower * F * F
    waa = tl.load(w + a[:, None] * F + a[None, :])
    wba = tl.load(w + b[:, None] * F + a[None, :], mask=(b < F)[:, None], other=0.0)
    wad = tl.load(w + a[:, None] * F + d[None, :])
    wbd = tl.load(w + b[:, None] * F + d[None, :], mask=(b < F)[:, None], other=0.0)
    bias_a = tl.load(bias_ptr + tower * F + a)[None, :]
    bias_d = tl.load(bias_ptr + tower * F + d)[None, :]
    node = node_ptr + (tower * all_nodes + slot * nodes) * (3 * F)
    inside = (r < nodes)[:, None]
    own_a = tl.load(node + r[:, None] * (3 * F) + a[None, :], mask=inside, other=0.0)
    own_b = tl.load(node + r[:, None] * (3 * F) + b[None, :], mask=inside & (b < F)[None, :], other=0.0)
    total_a = tl.zeros((BR, 32), tl.float32)
    square_a = tl.zeros((BR, 32), tl.float32)
    low_a = tl.full((BR, 32), float("inf"), tl.float32)
    high_a = tl.full((BR, 32), float("-inf"), tl.float32)
    total_d = tl.zeros((BR, 8), tl.float32)
    square_d = tl.zeros((BR, 8), tl.float32)
    low_d = tl.full((BR, 8), float("inf"), tl.float32)
    high_d = tl.full((BR, 8), float("-inf"), tl.float32)
    for k in range(0, tl.max(degree, 0)):
        here = k < degree
        e = start + k
        source = tl.load(source_ptr + e, mask=here, other=0).to(tl.int32)
        live = here[:, None]
        from_source = node + F + source[:, None] * (3 * F)
        term = term_ptr + e[:, None] * H + tower * F
        h_a = tl.load(from_source + a[None, :], mask=live, other=0.0) + tl.load(term + a[None, :], mask=live, other=0.0)
        live_b = live & (b < F)[None, :]
        h_b = tl.load(from_source + b[None, :], mask=live_b, other=0.0)
        h_b += tl.load(term + b[None, :], mask=live_b, other=0.0)
        h_a = tl.maximum(h_a + own_a, 0.0)
        h_b = tl.maximum(h_b + own_b, 0.0)
        m_a = tl.dot(h_a, waa, input_precision="ieee") + tl.dot(h_b, wba, input_precision="ieee") + bias_a
        m_d = tl.dot(h_a, wad, input_precision="ieee") + tl.dot(h_b, wbd, input_precision="ieee") + bias_d
        total_a, square_a, low_a, high_a = _aggregate(live, m_a, total_a, square_a, low_a, high_a)
        total_d, square_d, low_d, high_d = _aggregate(live, m_d, total_d, square_d, low_d, high_d)
    some = (degree > 0)[:, None]
    count = tl.maximum(degree, 1).to(tl.float32)[:, None]
    out = out_ptr + ((tower * all_nodes + slot * nodes + r) * (4 * F))[:, None]
    _store_aggregates(out + a[None, :], inside, some, count, total_a, square_a, low_a, high_a, F)
    _store_aggregates(out + d[None, :], inside, some, count, total_d, square_d, low_d, high_d, F)


@triton.jit
def _scale_and_add_kernel(
    node_ptr, scaled_ptr, bias_ptr, ptr_ptr, amplify_ptr, linear_ptr, out_ptr, rows, nodes,
    H: tl.constexpr, F: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.arange(0, BC)
    live = (row < rows)[:, None] & (c < H)[None, :]
    r = row % nodes
    degree = (tl.load(ptr_ptr + r + 1) - tl.load(ptr_ptr + r)).to(tl.int32)
    amplify, linear = tl.load(amplify_ptr + degree)[:, None], tl.load(linear_ptr + degree)[:, None]
    at = ((c // F) * rows * (3 * F) + c % F)[None, :] + (row * (3 * F))[:, None]
    own = tl.load(node_ptr + at + 2 * F, mask=live, other=0.0)
    one = tl.load(scaled_ptr + at, mask=live, other=0.0)
    two = tl.load(scaled_ptr + at + F, mask=live, other=0.0)
    three = tl.load(scaled_ptr + at + 2 * F, mask=live, other=0.0)
    bias = tl.load(bias_ptr + c, mask=c < H, other=0.0)[None, :]
    tl.store(out_ptr + row[:, None] * H + c[None, :], own + one + amplify * two + linear * three + bias, mask=live)


def _convolution(
    x: Tensor, conv: Convolution, term: Tensor, source: Tensor, target: Tensor, kind: Tensor | None, ptr: Tensor
) -> Tensor:
    """PNA steps 1 to 5 over B copies of one edge list: x is B × N × H.

    At the published width the messages stay in registers; at other widths, and for bonds, they pass through memory.
    """
    b, n, h = x.shape
    t, f, edges = conv.towers, x.shape[2] // conv.towers, int(source.shape[0])
    rows, bc = b * n, _width(h)
    nodes = torch.bmm(x.view(rows, t, f).transpose(0, 1), conv.node_and_own)
    aggregates = x.new_empty(t, rows, 4 * f)
    if kind is None and f == _FUSED_CHANNELS:
        _edge_aggregates_kernel[(triton.cdiv(n, _FUSED_ROWS), b, t)](
            nodes, term, source, conv.second, conv.second_bias, ptr, aggregates, n, rows,
            H=h, F=f, BR=_FUSED_ROWS, num_warps=_FUSED_WARPS,
        )  # fmt: skip
    else:
        hidden = x.new_empty(t, b * edges, f)
        if edges:
            _edge_hidden_kernel[(triton.cdiv(edges, _ROW_BLOCK), b)](
                nodes, term, source, target, source if kind is None else kind, hidden, n, edges, rows, b * edges,
                H=h, F=f, BC=bc, BE=_ROW_BLOCK, TABLE=kind is not None,
            )  # fmt: skip
        _four_aggregates_kernel[(triton.cdiv(n, _ROW_BLOCK), b)](
            torch.bmm(hidden, conv.second), conv.second_bias, ptr, aggregates, n, edges, rows, b * edges,
            H=h, F=f, BC=bc, BR=_ROW_BLOCK,
        )  # fmt: skip
    scaled = torch.bmm(aggregates, conv.post_scaled)
    amplify, linear = conv.scale_tables(n)
    post = torch.empty_like(x)
    _scale_and_add_kernel[(triton.cdiv(rows, _ROW_BLOCK),)](
        nodes, scaled, conv.post_bias, ptr, amplify, linear, post, rows, n, H=h, F=f, BC=bc, BR=_ROW_BLOCK
    )
    o = functional.linear(post.view(rows, h), conv.out, conv.out_bias)
    return norm_relu_add(o, x, conv.norm).view(b, n, h)


def residue_convolution(x: Tensor, conv: Convolution, edge_term: Tensor, graph: ResidueTopology) -> Tensor:
    """PNA over residue edges, steps 1 to 5: B × L × H → B × L × H."""
    return _convolution(x, conv, edge_term, graph.source, graph.target, None, graph.ptr)


def bond_convolution(x: Tensor, conv: Convolution, bonds: Tensor, batch: LigandBatch) -> Tensor:
    """PNA over the bonds of all packed ligands: atoms A × H; ``bonds`` is the 5 × H table of edge terms."""
    out = _convolution(x[None], conv, bonds, batch.bond_source, batch.bond_target, batch.bond_type, batch.bond_ptr)
    return out[0]


@triton.jit
def _segment_sum_kernel(
    y_ptr, ptr_ptr, index_ptr, weight_ptr, out_ptr, segments, rows,
    C: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    slot = tl.program_id(1)
    c = tl.arange(0, BC)
    start = tl.load(ptr_ptr + r, mask=r < segments, other=0).to(tl.int32)
    count = tl.load(ptr_ptr + r + 1, mask=r < segments, other=0).to(tl.int32) - start
    total = tl.zeros((BR, BC), tl.float32)
    for k in range(0, tl.max(count, 0)):
        here = k < count
        live = here[:, None] & (c < C)[None, :]
        row = slot * rows + tl.load(index_ptr + start + k, mask=here, other=0).to(tl.int32)
        y = tl.load(y_ptr + row[:, None] * C + c[None, :], mask=live, other=0.0)
        if MEAN:
            total += y
        else:
            total += y * tl.load(weight_ptr + start + k, mask=here, other=0.0)[:, None]
    if MEAN:
        total = total / tl.maximum(count, 1).to(tl.float32)[:, None]
    inside = (r < segments)[:, None] & (c < C)[None, :]
    tl.store(out_ptr + (slot * segments + r)[:, None] * C + c[None, :], total, mask=inside)


def _row_block(width: int) -> int:
    return max(4, min(64, 2048 // width))


def neighbour_average(y: Tensor, graph: ResidueTopology) -> Tensor:
    """``Â y``: B × L × C → B × L × C."""
    b, length, channels = y.shape
    out = torch.empty_like(y)
    bc = _width(channels)
    br = _row_block(bc)
    _segment_sum_kernel[(triton.cdiv(length, br), b)](
        y, graph.average_ptr, graph.average_index, graph.average_weight, out, length, length,
        C=channels, BC=bc, BR=br, MEAN=False,
    )  # fmt: skip
    return out


def gather_mean(values: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
    """For each segment the mean of ``values[index]`` over its entries, 0 where it has none."""
    segments, channels = int(ptr.shape[0]) - 1, values.shape[1]
    out = values.new_empty(segments, channels)
    bc = _width(channels)
    br = 4
    _segment_sum_kernel[(triton.cdiv(segments, br), 1)](
        values, ptr, index, values, out, segments, values.shape[0], C=channels, BC=bc, BR=br, MEAN=True
    )
    return out


@triton.jit
def _add_relu_of_clusters_kernel(
    p_ptr, s_ptr, c_ptr, weighted_ptr, logit_ptr, out_ptr, logit_out_ptr, rows, p_step, s_step, c_step,
    H: tl.constexpr, K: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    slot = tl.program_id(1)
    c = tl.arange(0, BC)
    live = (r < rows)[:, None] & (c < H)[None, :]
    total = tl.zeros((BR, BC), tl.float32)
    logit = tl.load(logit_ptr + slot * rows + r, mask=r < rows, other=0.0)
    for k in tl.static_range(K):
        s = tl.load(s_ptr + slot * s_step + r * K + k, mask=r < rows, other=0.0)
        row = tl.load(c_ptr + slot * c_step + k * H + c, mask=c < H, other=0.0)
        total += s[:, None] * row[None, :]
        logit += s * tl.load(weighted_ptr + slot * K + k)
    tl.store(logit_out_ptr + slot * rows + r, logit, mask=r < rows)
    at = r[:, None] * H + c[None, :]
    p = tl.load(p_ptr + slot * p_step + at, mask=live, other=0.0)
    tl.store(out_ptr + slot * rows * H + at, p + tl.maximum(total, 0.0), mask=live)


def add_relu_of_clusters(p: Tensor, s: Tensor, c: Tensor, weighted: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """``p + relu(S c)`` and ``logit + S weighted``; p and S may have B = 1."""
    b, k, h = c.shape
    rows = p.shape[1]
    out, logit_out = c.new_empty(b, rows, h), torch.empty_like(logit)

    def step(tensor: Tensor) -> int:
        return 0 if tensor.shape[0] == 1 else tensor.shape[1] * tensor.shape[2]

    _add_relu_of_clusters_kernel[(triton.cdiv(rows, _ROW_BLOCK), b)](
        p, s, c, weighted, logit, out, logit_out, rows, step(p), step(s), step(c),
        H=h, K=k, BC=_width(h), BR=_ROW_BLOCK,
    )  # fmt: skip
    return out, logit_out


@triton.jit
def _graph_norm_kernel(
    x_ptr, y_ptr, w_ptr, b_ptr, g_ptr, ptr_ptr, out_ptr, length, eps,
    H: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, RAGGED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = c < H
    if RAGGED:
        start = tl.load(ptr_ptr + slot).to(tl.int32)
        n = tl.load(ptr_ptr + slot + 1).to(tl.int32) - start
    else:
        start = slot * length
        n = length
    rows = tl.arange(0, BR)
    count = tl.maximum(n, 1).to(tl.float32)
    total = tl.zeros((BR, BC), tl.float32)
    for first in range(0, n, BR):
        live = (first + rows < n)[:, None] & inside[None, :]
        at = (start + first + rows)[:, None] * H + c[None, :]
        x = tl.load(x_ptr + at, mask=live, other=0.0)
        if ADD:
            x += tl.load(y_ptr + at, mask=live, other=0.0)
            tl.store(out_ptr + at, x, mask=live)
        total += x
    if ADD:
        # the sum is read back below, possibly by other threads of this program
        tl.debug_barrier()
        x_ptr = out_ptr
    shift = tl.load(g_ptr + c, mask=inside, other=0.0) * (tl.sum(total, 0) / count)
    square = tl.zeros((BR, BC), tl.float32)
    for first in range(0, n, BR):
        live = (first + rows < n)[:, None] & inside[None, :]
        y = tl.load(x_ptr + (start + first + rows)[:, None] * H + c[None, :], mask=live, other=0.0) - shift[None, :]
        square += tl.where(live, y * y, 0.0)
    root = tl.sqrt_rn(tl.sum(square, 0) / count + eps)
    w = tl.load(w_ptr + c, mask=inside, other=0.0)
    b = tl.load(b_ptr + c, mask=inside, other=0.0)
    for first in range(0, n, BR):
        live = (first + rows < n)[:, None] & inside[None, :]
        at = (start + first + rows)[:, None] * H + c[None, :]
        y = tl.load(x_ptr + at, mask=live, other=0.0) - shift[None, :]
        tl.store(out_ptr + at, w[None, :] * y / root[None, :] + b[None, :], mask=live)


def residue_graph_norm(x: Tensor, y: Tensor, norm: GraphNormWeights) -> Tensor:
    """GraphNorm of ``x + y`` over the L residues of each pair: B × L × H."""
    b, length, h = x.shape
    out = torch.empty_like(x)
    _graph_norm_kernel[(b, triton.cdiv(h, 32))](
        x, y, norm.weight, norm.bias, norm.mean_scale, x, out, length, _EPS,
        H=h, BC=32, BR=64, RAGGED=False, ADD=True,
    )  # fmt: skip
    return out


def slot_graph_norm(x: Tensor, norm: GraphNormWeights, ptr: Tensor, slot: Tensor) -> Tensor:
    """GraphNorm over the atoms of each slot: A × H; rows of no slot come out 0."""
    out = torch.zeros_like(x)
    h = x.shape[1]
    _graph_norm_kernel[(int(ptr.shape[0]) - 1, triton.cdiv(h, 32))](
        x, x, norm.weight, norm.bias, norm.mean_scale, ptr, out, 0, _EPS,
        H=h, BC=32, BR=16, RAGGED=True, ADD=False,
    )  # fmt: skip
    return out


@triton.jit
def _slot_attention_kernel(
    logit_ptr, value_ptr, ptr_ptr, share_ptr, out_ptr,
    H: tl.constexpr, T: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    c = tl.arange(0, BC)
    inside = c < H
    F: tl.constexpr = H // T
    head = tl.minimum(c // F, T - 1)
    start = tl.load(ptr_ptr + slot).to(tl.int32)
    n = tl.load(ptr_ptr + slot + 1).to(tl.int32) - start
    rows = tl.arange(0, BR)
    high = tl.full((BR, BC), float("-inf"), tl.float32)
    for first in range(0, n, BR):
        here = (first + rows < n)[:, None]
        at = (start + first + rows)[:, None] * T + head[None, :]
        high = tl.maximum(high, tl.load(logit_ptr + at, mask=here, other=float("-inf")))
    peak = tl.max(high, 0)
    exponents = tl.zeros((BR, BC), tl.float32)
    for first in range(0, n, BR):
        here = (first + rows < n)[:, None]
        at = (start + first + rows)[:, None] * T + head[None, :]
        logit = tl.load(logit_ptr + at, mask=here, other=float("-inf"))
        exponents += tl.where(here, tl.exp(logit - peak[None, :]), 0.0)
    total = tl.sum(exponents, 0)
    pooled = tl.zeros((BR, BC), tl.float32)
    for first in range(0, n, BR):
        here = (first + rows < n)[:, None]
        row = (start + first + rows)[:, None]
        logit = tl.load(logit_ptr + row * T + head[None, :], mask=here, other=float("-inf"))
        share = tl.where(here, tl.exp(logit - peak[None, :]) / total[None, :], 0.0)
        value = tl.load(value_ptr + row * H + c[None, :], mask=here & inside[None, :], other=0.0)
        pooled += share * value
        tl.store(share_ptr + row * T + head[None, :], share, mask=here & (inside & (c % F == 0))[None, :])
    tl.store(out_ptr + slot * H + c, tl.sum(pooled, 0), mask=inside)


def slot_attention(logit: Tensor, values: Tensor, ptr: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of logits (N × T) over the rows of each slot, and Σ share·values (slots × H), heads by slices."""
    slots, h = int(ptr.shape[0]) - 1, values.shape[1]
    share = torch.zeros_like(logit)
    out = values.new_empty(slots, h)
    _slot_attention_kernel[(slots,)](logit, values, ptr, share, out, H=h, T=logit.shape[1], BC=_width(h), BR=8)
    return share, out


_zeros: dict[tuple[int, torch.device], Tensor] = {}


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``relu(W x + β)`` with the ReLU in the product's epilogue."""
    if not x.is_cuda:  # Triton's interpreter, which has no such product
        return functional.linear(x, weight, bias).relu_()
    width = int(weight.shape[0])
    if bias is None:
        key = width, x.device
        bias = _zeros.get(key)
        if bias is None:
            bias = _zeros[key] = weight.new_zeros(width)
    out: Tensor = torch._addmm_activation(bias, x.reshape(-1, x.shape[-1]), weight.T)
    return out.view(*x.shape[:-1], width)


@triton.jit
def _cluster_sum_kernel(
    s_ptr, p_ptr, out_ptr, rows, K: tl.constexpr, H: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr
):
    slot = tl.program_id(0)
    first = tl.program_id(1) * 5
    c = tl.arange(0, BC)
    step = tl.arange(0, BR)
    a0 = tl.zeros((BR, BC), tl.float32)
    a1 = tl.zeros((BR, BC), tl.float32)
    a2 = tl.zeros((BR, BC), tl.float32)
    a3 = tl.zeros((BR, BC), tl.float32)
    a4 = tl.zeros((BR, BC), tl.float32)
    for start in range(0, rows, BR):
        r = start + step
        here = r < rows
        p = tl.load(
            p_ptr + (slot * rows + r)[:, None] * H + c[None, :], mask=here[:, None] & (c < H)[None, :], other=0.0
        )
        s = s_ptr + (slot * rows + r) * K + first
        a0 += p * tl.load(s, mask=here & (first < K), other=0.0)[:, None]
        a1 += p * tl.load(s + 1, mask=here & (first + 1 < K), other=0.0)[:, None]
        a2 += p * tl.load(s + 2, mask=here & (first + 2 < K), other=0.0)[:, None]
        a3 += p * tl.load(s + 3, mask=here & (first + 3 < K), other=0.0)[:, None]
        a4 += p * tl.load(s + 4, mask=here & (first + 4 < K), other=0.0)[:, None]
    out = out_ptr + (slot * K + first) * H + c
    tl.store(out, tl.sum(a0, 0), mask=(c < H) & (first < K))
    tl.store(out + H, tl.sum(a1, 0), mask=(c < H) & (first + 1 < K))
    tl.store(out + 2 * H, tl.sum(a2, 0), mask=(c < H) & (first + 2 < K))
    tl.store(out + 3 * H, tl.sum(a3, 0), mask=(c < H) & (first + 3 < K))
    tl.store(out + 4 * H, tl.sum(a4, 0), mask=(c < H) & (first + 4 < K))


def cluster_sum(s: Tensor, p: Tensor) -> Tensor:
    """``Sᵀ p``: assignment B × L × K, residues B × L × H → B × K × H."""
    b, rows, k = s.shape
    h = p.shape[2]
    out = p.new_empty(b, k, h)
    _cluster_sum_kernel[(b, triton.cdiv(k, 5))](s, p, out, rows, K=k, H=h, BC=_width(h), BR=16, num_warps=8)
    return out


@triton.jit
def _attend_kernel(
    query_ptr, drug_ptr, key_ptr, value_ptr, attention_ptr, uw_ptr, ub_ptr, vw_ptr, vb_ptr,
    weighted_ptr, u_ptr, v_ptr, slot_step, row_step, scale, eps,
    K: tl.constexpr, H: tl.constexpr, T: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    k = tl.arange(0, BK)
    c = tl.arange(0, BC)
    inside = c < H
    live = (k < K)[:, None] & inside[None, :]
    head = c // (H // T)
    at = slot * slot_step + k[:, None] * row_step + c[None, :]
    query = tl.load(query_ptr + slot * H + c, mask=inside, other=0.0)
    product = tl.load(key_ptr + at, mask=live, other=0.0) * query[None, :]
    alpha = tl.zeros((BK, BC), tl.float32)
    weighted = tl.zeros((BK,), tl.float32)
    for t in tl.static_range(T):
        mine = ((head == t) & inside)[None, :]
        logit = tl.sum(tl.where(mine, product, 0.0), 1) * scale
        logit = tl.where(k < K, logit, float("-inf"))
        exponent = tl.exp(logit - tl.max(logit, 0))
        share = exponent / tl.sum(exponent, 0)
        alpha = tl.where(mine, share[:, None], alpha)
        weighted += share * tl.load(attention_ptr + t)
    tl.store(weighted_ptr + slot * K + k, weighted, mask=k < K)
    u = tl.sum(alpha * tl.load(value_ptr + at, mask=live, other=0.0), 0)
    centred = tl.where(inside, u - tl.sum(u, 0) / H, 0.0)
    u = centred / tl.sqrt_rn(tl.sum(centred * centred, 0) / H + eps)
    uw, ub = tl.load(uw_ptr + c, mask=inside, other=0.0), tl.load(ub_ptr + c, mask=inside, other=0.0)
    tl.store(u_ptr + slot * H + c, u * uw + ub, mask=inside)
    v = alpha * tl.load(drug_ptr + slot * H + c, mask=inside, other=0.0)[None, :]
    centred = tl.where(inside[None, :], v - (tl.sum(v, 1) / H)[:, None], 0.0)
    v = centred / tl.sqrt_rn(tl.sum(centred * centred, 1) / H + eps)[:, None]
    vw, vb = tl.load(vw_ptr + c, mask=inside, other=0.0), tl.load(vb_ptr + c, mask=inside, other=0.0)
    tl.store(v_ptr + (slot * K + k)[:, None] * H + c[None, :], v * vw[None, :] + vb[None, :], mask=live)


def attend(
    query: Tensor,
    drug_value: Tensor,
    key: Tensor,
    value: Tensor,
    attention: Tensor,
    drug_out: Norm,
    residue_out: Norm,
) -> tuple[Tensor, Tensor, Tensor]:
    """The attention of the layer, both norms included: see the plain version."""
    (b, h), n, t = query.shape, key.shape[1], int(attention.shape[0])
    weighted, u, v = query.new_empty(b, n), torch.empty_like(query), query.new_empty(b, n, h)
    _attend_kernel[(b,)](
        query, drug_value, key, value, attention, drug_out.weight, drug_out.bias, residue_out.weight, residue_out.bias,
        weighted, u, v, 0 if key.shape[0] == 1 else key.stride(0), key.stride(1), (h // t) ** -0.5, _EPS,
        K=n, H=h, T=t, BK=max(8, triton.next_power_of_2(n)), BC=_width(h), num_warps=8,
    )  # fmt: skip
    return weighted, u, v
