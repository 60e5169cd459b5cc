"""The engine's irregular operations in plain torch: the CPU's way, and a device's where Triton is absent.

Every function is also in :mod:`gpu.psichic.triton_kernels` with the same meaning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gpu.psichic.engine_weights import Convolution, GraphNormWeights, Norm, ResidueTopology
from gpu.psichic.network import VARIANCE_FLOOR
from gpu.psichic.packing import LigandBatch

_STD_CUT = math.sqrt(VARIANCE_FLOOR)


def layer_norm(x: Tensor, norm: Norm) -> Tensor:
    """LN over the last dimension."""
    return functional.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias)


def norm_relu_add(o: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """``x + relu(LN(o))``."""
    return layer_norm(o, norm).relu_().add_(x)


def residue_convolution(x: Tensor, conv: Convolution, edge_term: Tensor, graph: ResidueTopology) -> Tensor:
    """PNA over residue edges, steps 1 to 5: B × L × H → B × L × H.

    Residues are ordered by in-degree d, so that the n targets of one degree and their n·d edges are contiguous and
    each aggregate is a reduction over one axis. One degree's messages fit in a core's cache.
    """
    b, _, h = x.shape
    t, f = conv.towers, h // conv.towers
    by_target, by_source = conv.node_terms(x)
    post = torch.empty_like(x)
    for group in graph.groups:
        r, e, n, d = group.residues, group.edges, group.count, group.degree
        z = x.new_zeros(b, n, t, 5, f)
        z[:, :, :, 0] = x[:, r].view(b, n, t, f)
        if d:
            m = by_source.index_select(1, graph.source[e]).view(b, n, d, h)
            m += edge_term[e].view(1, n, d, h)
            m += by_target[:, r].unsqueeze(2)
            m.relu_()
            message = torch.empty_like(m)
            rows, out = m.view(-1, h), message.view(-1, h)
            for tower in range(t):
                s = slice(tower * f, (tower + 1) * f)
                torch.addmm(conv.second_bias[tower], rows[:, s], conv.second[tower], out=out[:, s])
            mean = message.sum(2).div_(d)
            low, high = message.aminmax(dim=2) if d == 1 else (message.amin(2), message.amax(2))
            square = message.mul_(message).sum(2).div_(d)
            std = square.sub_(mean * mean).clamp_(min=VARIANCE_FLOOR).sqrt_()
            std.masked_fill_(std <= _STD_CUT, 0)
            for k, aggregate in enumerate((mean, low, high, std), start=1):
                z[:, :, :, k] = aggregate.view(b, n, t, f)
        weight = conv.post_for(d)
        stacked = z.view(b * n, t, 5 * f)
        for tower in range(t):
            s = slice(tower * f, (tower + 1) * f)
            piece = torch.mm(stacked[:, tower], weight[tower])
            post[:, r, s] = piece.view(b, n, f)
    o = functional.linear(post.add_(conv.post_bias), conv.out, conv.out_bias)
    return norm_relu_add(o, x, conv.norm)


def neighbour_average(y: Tensor, graph: ResidueTopology) -> Tensor:
    """``Â y``: B × L × C → B × L × C."""
    if y.shape[0] == 1 and not y.is_cuda:
        summed: Tensor = functional.embedding_bag(
            graph.average_index,
            y[0].contiguous(),
            graph.average_ptr,
            mode="sum",
            per_sample_weights=graph.average_weight,
            include_last_offset=True,
        )
        return summed[None]
    return torch.matmul(graph.dense_average(), y)


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``relu(W x + β)``."""
    return functional.linear(x, weight, bias).relu_()


def cluster_sum(s: Tensor, p: Tensor) -> Tensor:
    """``Sᵀ p``: assignment B × L × K, residues B × L × H → B × K × H."""
    return torch.matmul(s.transpose(1, 2), p)


def attend(
    query: Tensor,
    drug_value: Tensor,
    key: Tensor,
    value: Tensor,
    attention: Tensor,
    drug_out: Norm,
    residue_out: Norm,
) -> tuple[Tensor, Tensor, Tensor]:
    """The attention of the layer: drug terms B × H, cluster terms B × K × H (or 1 × K × H).

    Returns Σ_t α_t·attention_t (B × K), u (B × H) and v (B × K × H), both after their norms.
    """
    (b, h), t, n = query.shape, attention.shape[0], key.shape[1]
    heads = (-1, n, t, h // t)
    alpha = torch.softmax((query.view(b, 1, t, -1) * key.reshape(heads)).sum(-1) / math.sqrt(h // t), dim=1)
    u = (alpha[..., None] * value.reshape(heads)).sum(1).view(b, h)
    v = (alpha[..., None] * drug_value.view(b, 1, t, -1)).view(b, n, h)
    return alpha @ attention, layer_norm(u, drug_out), layer_norm(v, residue_out)


def add_relu_of_clusters(p: Tensor, s: Tensor, c: Tensor, weighted: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """``p + relu(S c)`` and ``logit + S weighted``.

    Residues B × L × H, assignment B × L × K, clusters B × K × H, weighted B × K, logit B × L; p and S may have B = 1.
    """
    return torch.matmul(s, c).relu_().add_(p), logit + torch.matmul(s, weighted[..., None]).squeeze(-1)


def residue_graph_norm(x: Tensor, y: Tensor, norm: GraphNormWeights) -> Tensor:
    """GraphNorm of ``x + y`` over the L residues of each pair: B × L × H."""
    x = y.add_(x)
    y = x - norm.mean_scale * x.mean(dim=1, keepdim=True)
    scale = norm.weight / (y.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return y.mul_(scale).add_(norm.bias)


def _segment(values: Tensor, ptr: Tensor, how: str) -> Tensor:
    """Reduce rows between consecutive offsets, in row order; an empty segment gives 0."""
    out = torch.segment_reduce(values, how, offsets=ptr, axis=0, unsafe=True, initial=0 if how == "sum" else None)
    if how == "sum":
        return out
    return out.masked_fill_((ptr[1:] == ptr[:-1])[:, None], 0)


def _counts(ptr: Tensor, dtype: torch.dtype) -> Tensor:
    return (ptr[1:] - ptr[:-1]).clamp(min=1).to(dtype)[:, None]


def _long(index: Tensor) -> Tensor:
    return index.long()


def gather_mean(values: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
    """For each segment the mean of ``values[index]`` over its entries, 0 where it has none."""
    offsets = _long(ptr)
    used = values.index_select(0, index)
    return _segment(used, offsets, "sum").div_(_counts(offsets, values.dtype))


def bond_convolution(x: Tensor, conv: Convolution, bonds: Tensor, batch: LigandBatch) -> Tensor:
    """PNA over the bonds of all packed ligands: atoms A × H; ``bonds`` is the 5 × H table of edge terms."""
    n, h = x.shape
    t, f = conv.towers, h // conv.towers
    by_target, by_source = conv.node_terms(x[None])
    m = by_source[0].index_select(0, batch.bond_source)
    m += by_target[0].index_select(0, batch.bond_target)
    m += bonds.index_select(0, batch.bond_type)
    m.relu_()
    message = torch.empty_like(m)
    for tower in range(t):
        s = slice(tower * f, (tower + 1) * f)
        torch.addmm(conv.second_bias[tower], m[:, s], conv.second[tower], out=message[:, s])
    ptr = _long(batch.bond_ptr)
    count = _counts(ptr, x.dtype)
    mean = _segment(message, ptr, "sum") / count
    low, high = _segment(message, ptr, "min"), _segment(message, ptr, "max")
    square = _segment(message * message, ptr, "sum") / count
    std = square.sub_(mean * mean).clamp_(min=VARIANCE_FLOOR).sqrt_()
    std.masked_fill_((std <= _STD_CUT) | (ptr[1:] == ptr[:-1])[:, None], 0)
    z = torch.stack([a.view(n, t, f) for a in (mean, low, high, std)], dim=2).view(n, t, 4 * f)
    amplified, linear = (count + 1).log() / conv.log_average, count / conv.linear_average
    post = torch.empty_like(x)
    for tower in range(t):
        s = slice(tower * f, (tower + 1) * f)
        three = torch.mm(z[:, tower], conv.post_scaled[tower])
        own = torch.mm(x[:, s], conv.post_own[tower])
        post[:, s] = own + three[:, :f] + amplified * three[:, f : 2 * f] + linear * three[:, 2 * f :]
    o = functional.linear(post.add_(conv.post_bias), conv.out, conv.out_bias)
    return norm_relu_add(o, x, conv.norm)


def slot_attention(logit: Tensor, values: Tensor, ptr: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of logits (N × T) over the rows of each slot, and Σ share·values (slots × H), heads by slices."""
    offsets = _long(ptr)
    n, t = logit.shape
    high = _segment(logit, offsets, "max").index_select(0, slot)
    exponent = (logit - high).exp_()
    total = _segment(exponent, offsets, "sum").index_select(0, slot)
    share = exponent / total.clamp(min=1e-30)
    weighted = (share[:, :, None] * values.view(n, t, -1)).view(n, -1)
    return share, _segment(weighted, offsets, "sum")


def slot_graph_norm(x: Tensor, norm: GraphNormWeights, ptr: Tensor, slot: Tensor) -> Tensor:
    """GraphNorm over the atoms of each slot: A × H."""
    offsets = _long(ptr)
    count = _counts(offsets, x.dtype)
    y = x - norm.mean_scale * (_segment(x, offsets, "sum") / count).index_select(0, slot)
    square = _segment(y * y, offsets, "sum") / count
    return norm.weight * y / (square + 1e-5).sqrt().index_select(0, slot) + norm.bias
