"""The network's parameters and a protein's edges, rearranged once for the fast engine.

All rearrangements are products of parameters, taken in float64 and then rounded to the working dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpu.psichic.network import (
    DegreeAverages,
    FeedForward,
    GraphNorm,
    PrincipalAggregation,
    PsichicNetwork,
)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm's parameters."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class GraphNormWeights:
    """A GraphNorm's parameters."""

    weight: Tensor
    bias: Tensor
    mean_scale: Tensor


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Two Linears with ReLU between, ``x @ first.T``, and the closing norm where there is one."""

    first: Tensor
    first_bias: Tensor | None
    second: Tensor
    second_bias: Tensor | None
    norm: Norm | None


class Convolution:
    """A PNA convolution split: per node, per edge, per aggregate."""

    def __init__(self, typed: PrincipalAggregation, norm: nn.LayerNorm, place: Placement) -> None:
        conv: Any = typed  # torch types every submodule as Module
        h, t = conv.lin.weight.shape[0], conv.heads
        f = h // t
        first = torch.stack([pre[0].weight.double() for pre in conv.pre_nns])
        first_bias = torch.stack([pre[0].bias.double() for pre in conv.pre_nns])
        post = torch.stack([p[0].weight.double() for p in conv.post_nns])
        edge_in, edge_bias = conv.edge_encoder.weight.double(), conv.edge_encoder.bias.double()
        edge_part = first[:, :, 2 * f :]
        self.towers = t
        self.node = place(torch.cat((first[:, :, :f], first[:, :, f : 2 * f]), dim=1).transpose(1, 2))
        """T × F × 2F: target part, then source part"""
        edge, edge_offset = (edge_part @ edge_in).reshape(h, h), (edge_part @ edge_bias + first_bias).reshape(h)
        self.edge = place(edge)
        """H × H: edge feature → its part of the first pre-layer"""
        self.edge_bias = place(edge_offset)
        self._edge = edge, edge_offset
        self.second = place(torch.stack([pre[2].weight.double().T for pre in conv.pre_nns]))
        """T × F × F"""
        self.second_bias = place(torch.stack([pre[2].bias.double() for pre in conv.pre_nns]))
        self.post_own = place(post[:, :, :f].transpose(1, 2))
        """T × F × F: the node's own part"""
        self.node_and_own = torch.cat((self.node, self.post_own), dim=2).contiguous()
        """T × F × 3F: target part, source part, the post-layer's own part"""
        self._scaled = post[:, :, f:].reshape(t, f, 3, 4 * f)
        self.post_scaled = place(self._scaled.permute(0, 3, 2, 1).reshape(t, 4 * f, 3 * f))
        """T × 4F × 3F: aggregates → identity, amplification and linear parts"""
        self.post_bias = place(torch.cat([p[0].bias.double() for p in conv.post_nns]))
        self.out, self.out_bias = place(conv.lin.weight), place(conv.lin.bias)
        self.norm = place.norm(norm)
        averages: DegreeAverages = conv.averages
        self.log_average, self.linear_average = averages.logarithm, averages.linear
        self._own = post[:, :, :f]
        self._place = place
        self._by_degree: dict[int, Tensor] = {}
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}

    def table_terms(self, table: Tensor) -> Tensor:
        """Edge terms of a table of edge features, R × H → R × H: made once, in float64, then placed."""
        return self._place(table.double().cpu() @ self._edge[0].T + self._edge[1])

    def node_terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each node gives the first pre-layer as target and as source: B × N × H each."""
        h = x.shape[-1]
        f = h // self.towers
        target, source = torch.empty_like(x), torch.empty_like(x)
        rows = x.view(-1, h)
        for t in range(self.towers):
            s = slice(t * f, (t + 1) * f)
            torch.mm(rows[:, s], self.node[t, :, :f], out=target.view(-1, h)[:, s])
            torch.mm(rows[:, s], self.node[t, :, f:], out=source.view(-1, h)[:, s])
        return target, source

    def scale_tables(self, largest: int) -> tuple[Tensor, Tensor]:
        """Amplification and linear scale of every in-degree from 0 to ``largest``."""
        known = self._tables.get(largest)
        if known is None:
            d = torch.arange(largest + 1, dtype=torch.float64).clamp(min=1)
            known = self._place((d + 1).log() / self.log_average), self._place(d / self.linear_average)
            self._tables[largest] = known
        return known

    def post_for(self, degree: int) -> Tensor:
        """T × 5F × F: own features and aggregates of a node of this in-degree → tower output, scalers folded in."""
        known = self._by_degree.get(degree)
        if known is None:
            d = float(max(degree, 1))
            one, log, lin = self._scaled[:, :, 0], self._scaled[:, :, 1], self._scaled[:, :, 2]
            amplification = float(np.log(d + 1)) / self.log_average
            folded = one + log * amplification + lin * (d / self.linear_average)
            known = self._place(torch.cat((self._own, folded), dim=2).transpose(1, 2))
            self._by_degree[degree] = known
        return known


@dataclass(frozen=True, slots=True)
class Placement:
    """Moves parameters to the working dtype and device."""

    dtype: torch.dtype
    device: torch.device

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, self.dtype).contiguous()

    def norm(self, module: nn.LayerNorm) -> Norm:
        """A layer norm, placed."""
        return Norm(self(module.weight), self(module.bias))

    def graph_norm(self, module: GraphNorm) -> GraphNormWeights:
        """A GraphNorm, placed."""
        return GraphNormWeights(self(module.weight), self(module.bias), self(module.mean_scale))

    def perceptron(self, module: FeedForward) -> Perceptron:
        """An MLP, placed."""
        first: Any
        second: Any
        first, second = module.FC_layers[0], module.FC_layers[1]
        return Perceptron(
            self(first.weight),
            None if first.bias is None else self(first.bias),
            self(second.weight),
            None if second.bias is None else self(second.bias),
            None if module.out_ln is None else self.norm(module.out_ln),
        )


@dataclass(frozen=True, slots=True)
class DegreeGroup:
    """The residues of one in-degree and their edges, contiguous in the topology's order."""

    degree: int
    count: int
    residues: slice
    edges: slice


class ResidueTopology:
    """A protein's edges with residues ordered by in-degree, then position; edges ordered by target.

    All of the network is indifferent to the order of residues, so the order is free to suit the machine.
    """

    def __init__(self, edge_index: Tensor, length: int, place: Placement) -> None:
        device = place.device
        source, target = edge_index[0].cpu().numpy(), edge_index[1].cpu().numpy()
        degree = np.bincount(target, minlength=length)
        order = np.lexsort((np.arange(length), degree))
        rank = np.empty(length, dtype=np.int64)
        rank[order] = np.arange(length)
        self.edge_order = torch.from_numpy(np.lexsort((rank[source], rank[target])))
        source, target = rank[source][self.edge_order.numpy()], rank[target][self.edge_order.numpy()]
        self.order = torch.from_numpy(order)
        self.length = length
        self.source = torch.from_numpy(source).to(device)
        self.target = torch.from_numpy(target).to(device)
        degrees = degree[order]
        ptr = np.concatenate(([0], np.cumsum(degrees)))
        self.ptr = torch.from_numpy(ptr).to(device)
        self.groups = tuple(
            DegreeGroup(
                degree=int(d),
                count=int(last - first),
                residues=slice(int(first), int(last)),
                edges=slice(int(ptr[first]), int(ptr[last])),
            )
            for d, first, last in (
                (d, np.searchsorted(degrees, d, "left"), np.searchsorted(degrees, d, "right"))
                for d in np.unique(degrees)
            )
        )
        self._average(source, target, place)
        self._dense: Tensor | None = None

    def _average(self, source: np.ndarray, target: np.ndarray, place: Placement) -> None:
        """Rows of Â: every neighbour and exactly one self loop."""
        length = self.length
        proper = source != target
        loop = np.arange(length)
        rows = np.concatenate((target[proper], loop))
        columns = np.concatenate((source[proper], loop))
        by_row = np.lexsort((columns, rows))
        rows, columns = rows[by_row], columns[by_row]
        in_degree = np.bincount(rows, minlength=length).astype(np.float64)
        weight = 1.0 / np.sqrt(in_degree[rows] * in_degree[columns])
        self.average_ptr = torch.from_numpy(np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=length))))).to(
            place.device
        )
        self.average_index = torch.from_numpy(columns).to(place.device)
        self.average_weight = place(torch.from_numpy(weight))
        self._average_rows = torch.from_numpy(rows).to(place.device)

    def dense_average(self) -> Tensor:
        """Â as L × L, made on first use."""
        if self._dense is None:
            dense = torch.zeros(self.length, self.length, dtype=self.average_weight.dtype, device=self.source.device)
            dense[self._average_rows, self.average_index] = self.average_weight
            self._dense = dense
        return self._dense


class LayerWeights:
    """One of the three layers, rearranged."""

    def __init__(self, typed: PsichicNetwork, index: int, place: Placement) -> None:
        network: Any = typed  # torch types every submodule as Module
        h = typed.shape.hidden
        bond, residue = network.mol_convs[index], network.prot_convs[index]
        self.bond = Convolution(bond.atom_conv, bond.atom_norm, place)
        self.bond_terms = self.bond.table_terms(bond.bond_encoder.weight)
        """5 × H: per bond type, its part of the first pre-layer"""
        self.residue = Convolution(residue.conv, residue.norm, place)
        pool = network.mol_pools[index]
        self.pool, self.pool_bias = place(pool.lin_proj.weight), place(pool.lin_proj.bias)
        scores = [pool.score_proj[t].FC_layers for t in range(network.shape.heads)]
        self.score_first = place(torch.stack([fc[0].weight.T for fc in scores]))
        self.score_bias = place(torch.stack([fc[0].bias for fc in scores]))
        self.score_second = place(torch.stack([fc[1].weight[0] for fc in scores]))
        self.drug_norm = place.norm(network.mol_norms[index])
        cluster = network.cluster[index]
        self.cluster_norm = place.norm(cluster.in_ln)
        self.widen, self.widen_bias = place(cluster.Conv_layers[0].lin.weight), place(cluster.Conv_layers[0].bias)
        self.narrow, self.narrow_bias = place(cluster.Conv_layers[1].lin.weight), place(cluster.Conv_layers[1].bias)
        self.pooled_norm = place.norm(network.prot_norms[index])
        inter = network.inter_convs[index]
        self.query = place(inter.lin_query.weight)
        self.key_value = place(torch.cat((inter.lin_key.weight, inter.lin_value.weight)))
        """2H × H: keys, then values"""
        self.drug_value = place(inter.lin_atom_value.weight)
        self.drug_in, self.drug_out = place.norm(inter.drug_in_norm), place.norm(inter.drug_out_norm)
        self.residue_in, self.residue_out = place.norm(inter.residue_in_norm), place.norm(inter.residue_out_norm)
        self.clique = place.perceptron(inter.clique_mlp)
        self.clique_own, self.clique_drug = self.clique.first[:, :h].contiguous(), self.clique.first[:, h:].contiguous()
        self.residue_mlp = place.perceptron(inter.residue_mlp)
        self.residue_drug = self.residue_mlp.first[:, :h].contiguous()
        self.residue_own = self.residue_mlp.first[:, h:].contiguous()
        self.to_atom, self.to_residue = (
            place(network.atom_lins[index].weight),
            place(network.residue_lins[index].weight),
        )
        self.atom_mlp = place.perceptron(network.c2a_mlps[index])
        self.residue_update = place.perceptron(network.c2r_mlps[index])
        self.atom_norm = place.graph_norm(network.mol_gn2[index])
        self.graph_norm = place.graph_norm(network.prot_gn2[index])


class EngineWeights:
    """All parameters the engine needs, on one device in one dtype."""

    def __init__(self, network: PsichicNetwork, dtype: torch.dtype, device: torch.device) -> None:
        place = Placement(dtype, device)
        shape = network.shape
        self.shape, self.place = shape, place
        self.atom_type = place(network.atom_type_encoder.weight)
        self.atom_feature = place.perceptron(network.atom_feat_encoder)
        self.clique_type = place(network.clique_encoder.weight)
        self.token = place.perceptron(network.prot_evo)
        self.residue_feature = place.perceptron(network.prot_aa)
        self.layers = tuple(LayerWeights(network, i, place) for i in range(len(shape.clusters)))
        t = shape.heads
        self.atom_attention = place(network.atom_attn_lin.weight.double().exp().view(-1, t))
        self.residue_attention = place(network.residue_attn_lin.weight.double().exp().view(-1, t))
        """3 × T: layer by head"""
        self.mol_out, self.prot_out = place.perceptron(network.mol_out), place.perceptron(network.prot_out)
        self.score = place.perceptron(network.reg_out)
