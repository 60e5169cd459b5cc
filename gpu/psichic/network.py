"""The affinity network as it was published, one pair at a time, in plain torch.

The module names its parameters as the published checkpoint does, so that it loads strictly. Its forward pass
follows the page line by line and is what the fast engine (:mod:`gpu.psichic.engine`) is held against.

Koh, H. Y. et al., Nature Machine Intelligence 6, 673-687 (2024), doi 10.1038/s42256-024-00847-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from gpu.psichic.ligand import ATOM_FEATURES, LigandGraph
from gpu.psichic.residue import RESIDUE_FEATURES, radial_basis

LAYERS: Final = 3
CLUSTERS: Final = (5, 10, 20)
VARIANCE_FLOOR: Final = 1e-5

Trace = Callable[[str, Tensor], None]
"""Receives each named intermediate."""


def _ignore(name: str, value: Tensor) -> None:
    """The trace of a run that nobody watches."""


@dataclass(frozen=True, slots=True)
class DegreeAverages:
    """Mean in-degree and mean log(in-degree + 1) over the training graphs."""

    linear: float
    logarithm: float


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What fixes the network's parameters: widths, heads, clusters, and the degree statistics."""

    hidden: int
    evolutionary: int
    heads: int
    clusters: tuple[int, ...]
    ligand_degrees: DegreeAverages
    protein_degrees: DegreeAverages

    @property
    def per_head(self) -> int:
        """F: channels of one head or tower."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class ProteinInput:
    """A protein as the network takes it: L residues, E directed edges, self loops last."""

    residue_feature: Tensor
    """L × 33, float32"""
    token: Tensor
    """L × D, float32 values that are exact in float16"""
    edge_index: Tensor
    """2 × E: source, target"""
    edge_weight: Tensor
    """E, float32"""

    @property
    def length(self) -> int:
        """L."""
        return int(self.residue_feature.shape[0])


class FeedForward(nn.Module):
    """``MLP(a, m, z)``, with a closing layer norm where the page says +LN."""

    def __init__(self, a: int, m: int, z: int, *, norm: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.FC_layers = nn.ModuleList([nn.Linear(a, m, bias=bias), nn.Linear(m, z, bias=bias)])
        self.out_ln = nn.LayerNorm(z) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """… × a → … × z."""
        y = self.FC_layers[1](torch.relu(self.FC_layers[0](x)))
        out: Tensor = y if self.out_ln is None else self.out_ln(y)
        return out


class PrincipalAggregation(nn.Module):
    """The PNA convolution, steps 1 to 4."""

    def __init__(self, hidden: int, heads: int, averages: DegreeAverages) -> None:
        super().__init__()
        f = hidden // heads
        self.heads, self.averages = heads, averages
        self.edge_encoder = nn.Linear(hidden, f)
        self.pre_nns = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * f, f), nn.ReLU(), nn.Linear(f, f)) for _ in range(heads)
        )
        self.post_nns = nn.ModuleList(nn.Sequential(nn.Linear(13 * f, f)) for _ in range(heads))
        self.lin = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, source: Tensor, target: Tensor, feature: Tensor, trace: Trace) -> Tensor:
        """Nodes N × H and edge features E × H → o, N × H."""
        n, f = x.shape[0], x.shape[1] // self.heads
        edge = self.edge_encoder(feature)
        trace("edge", edge)
        towers = x.view(n, self.heads, f)
        message = torch.stack(
            [
                pre(torch.cat((towers[target, t], towers[source, t], edge), dim=-1))
                for t, pre in enumerate(self.pre_nns)
            ],
            dim=1,
        )
        trace("msg", message)
        aggregated, degree = _four_aggregates(message, target, n)
        trace("aggr", aggregated)
        d = degree.clamp(min=1).to(x.dtype)[:, None, None]
        scaled = torch.cat(
            (
                aggregated,
                aggregated * (torch.log(d + 1) / self.averages.logarithm),
                aggregated * (d / self.averages.linear),
            ),
            dim=-1,
        )
        trace("scaled", scaled)
        post = torch.cat(
            [p(torch.cat((towers[:, t], scaled[:, t]), dim=-1)) for t, p in enumerate(self.post_nns)], dim=-1
        )
        trace("post", post)
        out: Tensor = self.lin(post)
        trace("pna", out)
        return out


def _four_aggregates(message: Tensor, target: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean, min, max and std of E × T × F messages per target: N × T × 4F, and the in-degrees."""
    shape = (n, *message.shape[1:])
    degree = torch.zeros(n, dtype=torch.long, device=target.device).index_add_(0, target, torch.ones_like(target))
    some = (degree > 0)[:, None, None]
    count = degree.clamp(min=1).to(message.dtype)[:, None, None]
    index = target[:, None, None].expand_as(message)
    mean = message.new_zeros(shape).index_add_(0, target, message) / count
    square = message.new_zeros(shape).index_add_(0, target, message * message) / count
    low = message.new_zeros(shape).scatter_reduce_(0, index, message, "amin", include_self=False)
    high = message.new_zeros(shape).scatter_reduce_(0, index, message, "amax", include_self=False)
    std = (square - mean * mean).clamp(min=VARIANCE_FLOOR).sqrt()
    std = std.masked_fill(std <= math.sqrt(VARIANCE_FLOOR), 0)
    return torch.cat([torch.where(some, a, 0) for a in (mean, low, high, std)], dim=-1), degree


class BondConvolution(nn.Module):
    """PNA over the ligand's bonds, with norm, ReLU and residual."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.bond_encoder = nn.Embedding(5, shape.hidden)
        self.atom_conv = PrincipalAggregation(shape.hidden, shape.heads, shape.ligand_degrees)
        self.atom_norm = nn.LayerNorm(shape.hidden)

    def forward(self, x: Tensor, bond_index: Tensor, bond_type: Tensor, trace: Trace) -> Tensor:
        """Atoms n × H → n × H."""
        feature = self.bond_encoder(bond_type)
        o = self.atom_conv(x, bond_index[0], bond_index[1], feature, trace)
        return x + torch.relu(self.atom_norm(o))


class ResidueConvolution(nn.Module):
    """PNA over the residue edges, with norm, ReLU and residual."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.conv = PrincipalAggregation(shape.hidden, shape.heads, shape.protein_degrees)
        self.norm = nn.LayerNorm(shape.hidden)

    def forward(self, p: Tensor, edge_index: Tensor, basis: Tensor, trace: Trace) -> Tensor:
        """Residues L × H → L × H."""
        o = self.conv(p, edge_index[0], edge_index[1], basis, trace)
        return p + torch.relu(self.norm(o))


class ClusterWeights(nn.Module):
    """Weights of one graph convolution whose bias is its own parameter."""

    def __init__(self, a: int, z: int) -> None:
        super().__init__()
        self.lin = nn.Linear(a, z, bias=False)
        self.bias = nn.Parameter(torch.zeros(z))


class ClusterAssignment(nn.Module):
    """Soft assignment of residues to K clusters."""

    def __init__(self, hidden: int, k: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(hidden)
        self.Conv_layers = nn.ModuleList([ClusterWeights(hidden, 2 * hidden), ClusterWeights(2 * hidden, k)])

    def forward(self, p: Tensor, averaging: Tensor) -> Tensor:
        """Residues L × H and Â (L × L) → logits s, L × K."""
        first: Any
        second: Any
        first, second = self.Conv_layers
        z = torch.relu(averaging @ first.lin(self.in_ln(p)) + first.bias)
        s: Tensor = averaging @ second.lin(z) + second.bias
        return s


class Interaction(nn.Module):
    """The drug queries the clusters, and both are rewritten."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.lin_key = nn.Linear(hidden, hidden, bias=False)
        self.lin_query = nn.Linear(hidden, hidden, bias=False)
        self.lin_value = nn.Linear(hidden, hidden, bias=False)
        self.lin_atom_value = nn.Linear(hidden, hidden, bias=False)
        self.drug_in_norm = nn.LayerNorm(hidden)
        self.residue_in_norm = nn.LayerNorm(hidden)
        self.drug_out_norm = nn.LayerNorm(hidden)
        self.residue_out_norm = nn.LayerNorm(hidden)
        self.clique_mlp = FeedForward(2 * hidden, 2 * hidden, hidden, norm=True)
        self.residue_mlp = FeedForward(2 * hidden, 2 * hidden, hidden, norm=True)

    def forward(self, drug: Tensor, q: Tensor, c: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """d (H), cliques c × H, clusters K × H → α (K × T), new cliques, new clusters."""
        k, f = c.shape[0], drug.shape[-1] // self.heads
        normed = self.residue_in_norm(c)
        query, key, value = self.lin_query(drug), self.lin_key(normed), self.lin_value(normed)
        drug_value = self.lin_atom_value(self.drug_in_norm(drug))
        for name, tensor in (("query", query), ("key", key), ("value", value), ("drug_value", drug_value)):
            trace(name, tensor)
        logit = (query.view(1, self.heads, f) * key.view(k, self.heads, f)).sum(-1) / math.sqrt(f)
        alpha = torch.softmax(logit, dim=0)
        trace("alpha", alpha)
        drug_raw = (alpha[:, :, None] * value.view(k, self.heads, f)).sum(0).reshape(-1)
        cluster_raw = (alpha[:, :, None] * drug_value.view(1, self.heads, f)).reshape(k, -1)
        trace("drug_raw", drug_raw)
        trace("cluster_raw", cluster_raw)
        u = self.drug_out_norm(drug_raw).expand_as(q)
        q = self.clique_mlp(torch.cat((q, u), dim=-1))
        c = self.residue_mlp(torch.cat((self.residue_out_norm(cluster_raw), c), dim=-1))
        trace("clique", q)
        trace("cluster", c)
        return alpha, q, c


class MotifPool(nn.Module):
    """From atoms to cliques to the drug vector."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        f = hidden // heads
        self.heads = heads
        self.lin_proj = nn.Linear(hidden, hidden)
        self.score_proj = nn.ModuleList(FeedForward(f, 2 * f, 1) for _ in range(heads))

    def forward(self, mean: Tensor, q: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """Clique means h and cliques q, c × H → new q, α^q (c × T), drug vector (H)."""
        q = q + torch.relu(self.lin_proj(mean))
        trace("clique", q)
        slices = q.view(q.shape[0], self.heads, -1)
        logit = torch.cat([score(slices[:, t]) for t, score in enumerate(self.score_proj)], dim=-1)
        trace("logit", logit)
        alpha = torch.softmax(logit, dim=0)
        trace("alpha", alpha)
        drug = (alpha[:, :, None] * slices).sum(0).reshape(-1)
        trace("drug", drug)
        return q, alpha, drug


class GraphNorm(nn.Module):
    """Normalisation over the nodes of one graph with a learned share of the mean."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.mean_scale = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """N × H → N × H."""
        y = x - self.mean_scale * x.mean(dim=0)
        return self.weight * y / (y.square().mean(dim=0) + 1e-5).sqrt() + self.bias


def averaging_matrix(edge_index: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Â: L × L, symmetric normalisation, one self loop per residue, no weights."""
    dense = torch.zeros(length, length, dtype=dtype, device=edge_index.device)
    dense[edge_index[1], edge_index[0]] = 1
    dense.fill_diagonal_(1)
    root = dense.sum(dim=1).rsqrt()
    return root[:, None] * dense * root


def _mean_over(rows: Tensor, of: Tensor, values: Tensor, n: int) -> Tensor:
    """For each of n groups the mean of ``values[rows]`` over the entries with that group; 0 where none."""
    total = values.new_zeros(n, values.shape[1]).index_add_(0, of, values[rows])
    count = torch.zeros(n, dtype=values.dtype, device=values.device)
    count.index_add_(0, of, torch.ones_like(of, dtype=values.dtype))
    return total / count.clamp(min=1)[:, None]


class PsichicNetwork(nn.Module):
    """The whole network; 461 tensors named as in the published state_dict."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        h, heads, layers = shape.hidden, shape.heads, range(LAYERS)
        self.shape = shape
        self.atom_type_encoder = nn.Embedding(20, h)
        self.atom_feat_encoder = FeedForward(ATOM_FEATURES, 2 * h, h, norm=True)
        self.clique_encoder = nn.Embedding(4, h)
        self.prot_evo = FeedForward(shape.evolutionary, 2 * h, h, norm=True)
        self.prot_aa = FeedForward(RESIDUE_FEATURES, 2 * h, h, norm=True)
        self.mol_convs = nn.ModuleList(BondConvolution(shape) for _ in layers)
        self.prot_convs = nn.ModuleList(ResidueConvolution(shape) for _ in layers)
        self.cluster = nn.ModuleList(ClusterAssignment(h, k) for k in shape.clusters)
        self.inter_convs = nn.ModuleList(Interaction(h, heads) for _ in layers)
        self.mol_pools = nn.ModuleList(MotifPool(h, heads) for _ in layers)
        self.mol_norms = nn.ModuleList(nn.LayerNorm(h) for _ in layers)
        self.prot_norms = nn.ModuleList(nn.LayerNorm(h) for _ in layers)
        self.atom_lins = nn.ModuleList(nn.Linear(h, h, bias=False) for _ in layers)
        self.residue_lins = nn.ModuleList(nn.Linear(h, h, bias=False) for _ in layers)
        self.c2a_mlps = nn.ModuleList(FeedForward(h, 2 * h, h, bias=False) for _ in layers)
        self.c2r_mlps = nn.ModuleList(FeedForward(h, 2 * h, h, bias=False) for _ in layers)
        self.mol_gn2 = nn.ModuleList(GraphNorm(h) for _ in layers)
        self.prot_gn2 = nn.ModuleList(GraphNorm(h) for _ in layers)
        self.atom_attn_lin = nn.Linear(LAYERS * heads, 1, bias=False)
        self.residue_attn_lin = nn.Linear(LAYERS * heads, 1, bias=False)
        self.mol_out = FeedForward(h, 2 * h, h, norm=True)
        self.prot_out = FeedForward(h, 2 * h, h, norm=True)
        self.reg_out = FeedForward(2 * h, h, 1)

    def forward(self, protein: ProteinInput, ligand: LigandGraph, trace: Trace = _ignore) -> Tensor:
        """The affinity of one pair, 1 × 1, in the parameters' dtype and on their device."""
        like = self.atom_type_encoder.weight
        dtype, device = like.dtype, like.device

        def placed(array: object) -> Tensor:
            return torch.as_tensor(array, device=device)

        bond_index, bond_type = placed(ligand.bond_index), placed(ligand.bond_type)
        atom_of, clique_of = placed(ligand.membership)
        edge_index = protein.edge_index.to(device)
        averaging = averaging_matrix(edge_index, protein.length, dtype)
        x, p, q, basis = self._inputs(protein, ligand, trace)

        clique_alphas: list[Tensor] = []
        residue_alphas: list[Tensor] = []
        for i in range(LAYERS):
            at = _prefixed(trace, i)
            x = self.mol_convs[i](x, bond_index, bond_type, at("mol"))
            trace(f"l{i}.mol.out", x)
            p = self.prot_convs[i](p, edge_index, basis, at("prot"))
            trace(f"l{i}.prot.out", p)

            mean = _mean_over(atom_of, clique_of, x, ligand.n_cliques)
            trace(f"l{i}.motif.mean", mean)
            q, clique_alpha, drug = self.mol_pools[i](mean, q, at("motif"))
            drug = self.mol_norms[i](drug)
            trace(f"l{i}.drug", drug)

            logit = self.cluster[i](p, averaging)
            s = torch.softmax(logit, dim=-1)
            raw = s.T @ p
            c = self.prot_norms[i](raw)
            for name, tensor in (("logit", logit), ("s", s), ("raw", raw), ("x", c)):
                trace(f"l{i}.cluster.{name}", tensor)
            alpha, q, c = self.inter_convs[i](drug, q, c, at("inter"))

            x = x + torch.relu(self.atom_lins[i](_mean_over(clique_of, atom_of, q, ligand.n_atoms)))
            trace(f"l{i}.atom.res1", x)
            x = x + self.c2a_mlps[i](x)
            trace(f"l{i}.atom.res2", x)
            x = self.mol_gn2[i](x)
            trace(f"l{i}.atom.out", x)
            p = p + torch.relu(self.residue_lins[i](s @ c))
            trace(f"l{i}.residue.res1", p)
            p = p + self.c2r_mlps[i](p)
            trace(f"l{i}.residue.res2", p)
            p = self.prot_gn2[i](p)
            trace(f"l{i}.residue.out", p)
            clique_alphas.append(clique_alpha)
            residue_alphas.append(s @ alpha)

        atom_scores = _mean_over(clique_of, atom_of, torch.cat(clique_alphas, dim=-1), ligand.n_atoms)
        f_m = _weighted_pool(x, atom_scores, self.atom_attn_lin.weight, "atom", "mol", trace)
        residue_scores = torch.cat(residue_alphas, dim=-1)
        f_p = _weighted_pool(p, residue_scores, self.residue_attn_lin.weight, "residue", "prot", trace)
        mol, prot = self.mol_out(f_m), self.prot_out(f_p)
        trace("final.mol", mol)
        trace("final.prot", prot)
        score: Tensor = self.reg_out(torch.cat((mol, prot))[None])
        trace("score", score)
        return score

    def _inputs(
        self, protein: ProteinInput, ligand: LigandGraph, trace: Trace
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Atoms x, residues p, cliques q and the edges' radial basis."""
        like = self.atom_type_encoder.weight
        dtype, device = like.dtype, like.device
        atom_type = self.atom_type_encoder(torch.as_tensor(ligand.atom_type, device=device))
        atom_feat = self.atom_feat_encoder(torch.as_tensor(ligand.atom_feature, device=device).to(dtype))
        residue_aa = self.prot_aa(protein.residue_feature.to(device, dtype))
        residue_evo = self.prot_evo(protein.token.to(device, dtype))
        x, p = atom_type + atom_feat, residue_aa + residue_evo
        q = self.clique_encoder(torch.as_tensor(ligand.clique_type, device=device))
        basis = radial_basis(protein.edge_weight.to(device), self.shape.hidden, dtype)
        for name, tensor in (
            ("in.atom_type", atom_type),
            ("in.atom_feat", atom_feat),
            ("in.atom", x),
            ("in.residue_aa", residue_aa),
            ("in.residue_evo", residue_evo),
            ("in.residue", p),
            ("in.clique", q),
            ("in.rbf", basis),
        ):
            trace(name, tensor)
        return x, p, q, basis


def _prefixed(trace: Trace, layer: int) -> Callable[[str], Trace]:
    """The trace of one part of one layer."""
    return lambda part: lambda name, value: trace(f"l{layer}.{part}.{name}", value)


def _weighted_pool(x: Tensor, scores: Tensor, weight: Tensor, part: str, pool: str, trace: Trace) -> Tensor:
    """Σ softmax(exp(w)·scores) x over the nodes of one graph: N × H → H."""
    logit = scores @ weight.exp().squeeze(0)
    share = torch.softmax(logit, dim=0)
    pooled = share @ x
    trace(f"final.{part}_scores", scores)
    trace(f"final.{part}_logit", logit)
    trace(f"final.{part}_weight", share)
    trace(f"final.{pool}_pool", pooled)
    return pooled
