"""PSICHIC made fast: the same scores for a third of the work.

A protein meets thousands of ligands and a ligand meets nine proteins. What depends on the protein alone is computed
once and kept (:class:`PreparedProtein`); what depends on the ligand alone is computed once per batch
(:class:`PreparedLigands`); :meth:`Engine.pairs` does the rest, for all slots of a batch against one protein.

Shapes: B slots, L residues, E edges, A atom rows, C clique rows, H channels, T heads of F channels, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gpu.psichic import plain_kernels
from gpu.psichic.engine_weights import (
    Convolution,
    EngineWeights,
    GraphNormWeights,
    LayerWeights,
    Norm,
    Perceptron,
    ResidueTopology,
)
from gpu.psichic.network import ProteinInput, PsichicNetwork
from gpu.psichic.packing import LigandBatch
from gpu.psichic.residue import radial_basis


def in_turn(left: Callable[[], Any], right: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two independent branches one after the other."""
    return left(), right()


@dataclass(frozen=True, slots=True)
class DrugTerms:
    """What a layer's drug vectors bring to the interaction: B × H each."""

    query: Tensor
    """W_q d"""
    value: Tensor
    """W_av LN(d)"""


class Kernels(Protocol):
    """The irregular operations, which plain torch and Triton both offer."""

    def layer_norm(self, x: Tensor, norm: Norm) -> Tensor: ...

    def norm_relu_add(self, o: Tensor, x: Tensor, norm: Norm) -> Tensor: ...

    def residue_convolution(
        self, x: Tensor, conv: Convolution, edge_term: Tensor, graph: ResidueTopology
    ) -> Tensor: ...

    def neighbour_average(self, y: Tensor, graph: ResidueTopology) -> Tensor: ...

    def linear_relu(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...

    def cluster_sum(self, s: Tensor, p: Tensor) -> Tensor: ...

    def attend(
        self,
        query: Tensor,
        drug_value: Tensor,
        key: Tensor,
        value: Tensor,
        attention: Tensor,
        drug_out: Norm,
        residue_out: Norm,
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def add_relu_of_clusters(
        self, p: Tensor, s: Tensor, c: Tensor, weighted: Tensor, logit: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def residue_graph_norm(self, x: Tensor, y: Tensor, norm: GraphNormWeights) -> Tensor: ...

    def gather_mean(self, values: Tensor, ptr: Tensor, index: Tensor) -> Tensor: ...

    def bond_convolution(self, x: Tensor, conv: Convolution, bonds: Tensor, batch: LigandBatch) -> Tensor: ...

    def slot_attention(self, logit: Tensor, values: Tensor, ptr: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]: ...

    def slot_graph_norm(self, x: Tensor, norm: GraphNormWeights, ptr: Tensor, slot: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Clusters:
    """What a layer's clusters bring to the interaction; leading dimension B, or 1 for the protein's own layer 0."""

    assignment: Tensor
    """S: B × L × K"""
    key: Tensor
    """B × K × H"""
    value: Tensor
    """B × K × H"""
    own: Tensor
    """B × K × 2H: C's part of the cluster MLP's first Linear, bias included"""


@dataclass(frozen=True, slots=True)
class Interaction:
    """What comes of drug and clusters meeting."""

    weighted: Tensor
    """B × K: α times the head's residue weights, summed over heads"""
    drug: Tensor
    """u: B × H"""
    clusters: Tensor
    """C': B × K × H"""


@dataclass(frozen=True, slots=True)
class PreparedProtein:
    """All of a protein that no ligand changes."""

    graph: ResidueTopology
    residues: Tensor
    """1 × L × H: after layer 0's PNA"""
    clusters: Clusters
    """layer 0"""
    edge_terms: tuple[Tensor, ...]
    """of layers 1 and 2: E × H, in the topology's edge order"""


@dataclass(frozen=True, slots=True)
class PreparedLigands:
    """All of a batch of ligands that no protein changes."""

    atoms: Tensor
    """A × H: after layer 0's PNA"""
    cliques: Tensor
    """C × H: after layer 0's pool"""
    clique_share: Tensor
    """C × T: α^q of layer 0"""
    drug: DrugTerms
    """layer 0"""


class Engine:
    """The network on one device in one dtype."""

    def __init__(
        self,
        network: PsichicNetwork,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels = plain_kernels,
    ) -> None:
        self.weights = EngineWeights(network, dtype, device)
        self.dtype, self.device, self.kernels = dtype, device, kernels
        self.hidden, self.heads = network.shape.hidden, network.shape.heads
        self.side_by_side: Callable[[Callable[[], Any], Callable[[], Any]], tuple[Any, Any]] = in_turn

    # ------------------------------------------------------------------ building blocks

    def _perceptron(self, x: Tensor, mlp: Perceptron) -> Tensor:
        inner = self.kernels.linear_relu(x, mlp.first, mlp.first_bias)
        y = functional.linear(inner, mlp.second, mlp.second_bias)
        return y if mlp.norm is None else self.kernels.layer_norm(y, mlp.norm)

    def _clusters(self, p: Tensor, layer: LayerWeights, graph: ResidueTopology) -> Clusters:
        """Layer steps 3 and 4, and the clusters' side of step 5: residues B × L × H."""
        k = self.kernels
        y = k.neighbour_average(k.layer_norm(p, layer.cluster_norm), graph)
        wide = k.linear_relu(y, layer.widen, layer.widen_bias)
        logit = k.neighbour_average(functional.linear(wide, layer.narrow), graph) + layer.narrow_bias
        s = torch.softmax(logit, dim=-1)
        c = k.layer_norm(k.cluster_sum(s, p), layer.pooled_norm)
        key_value = functional.linear(k.layer_norm(c, layer.residue_in), layer.key_value)
        own = functional.linear(c, layer.residue_own, layer.residue_mlp.first_bias)
        return Clusters(s, key_value[..., : self.hidden], key_value[..., self.hidden :], own)

    def _motif_pool(
        self, x: Tensor, q: Tensor, layer: LayerWeights, batch: LigandBatch
    ) -> tuple[Tensor, Tensor, DrugTerms]:
        """Layer step 2: new cliques (C × H), α^q (C × T), and what d brings to step 5."""
        k = self.kernels
        mean = k.gather_mean(x, batch.clique_atom_ptr, batch.clique_atom)
        q = k.linear_relu(mean, layer.pool, layer.pool_bias).add_(q)
        slices = q.view(-1, self.heads, self.hidden // self.heads).transpose(0, 1)
        inner = torch.baddbmm(layer.score_bias[:, None], slices, layer.score_first).relu_()
        logit = torch.bmm(inner, layer.score_second[:, :, None]).squeeze(-1).T.contiguous()
        share, pooled = k.slot_attention(logit, q, batch.clique_ptr, batch.clique_slot)
        drug = k.layer_norm(pooled, layer.drug_norm)
        value = functional.linear(k.layer_norm(drug, layer.drug_in), layer.drug_value)
        return q, share, DrugTerms(functional.linear(drug, layer.query), value)

    def _interaction(self, drug: DrugTerms, clusters: Clusters, layer: LayerWeights, attention: Tensor) -> Interaction:
        """Layer step 5 without the cliques' MLP; ``attention`` holds the head's residue weights of this layer."""
        k = self.kernels
        weighted, u, v = k.attend(
            drug.query, drug.value, clusters.key, clusters.value, attention, layer.drug_out, layer.residue_out
        )
        inner = (functional.linear(v, layer.residue_drug) + clusters.own).relu_()
        c = functional.linear(inner, layer.residue_mlp.second, layer.residue_mlp.second_bias)
        return Interaction(weighted, u, k.layer_norm(c, _norm_of(layer.residue_mlp)))

    def _update_ligands(
        self, x: Tensor, q: Tensor, u: Tensor, layer: LayerWeights, batch: LigandBatch
    ) -> tuple[Tensor, Tensor]:
        """The cliques' MLP of step 5 and the atoms' side of step 6: new atoms and cliques."""
        k = self.kernels
        by_slot = functional.linear(u, layer.clique_drug, layer.clique.first_bias)
        inner = functional.linear(q, layer.clique_own).add_(by_slot.index_select(0, batch.clique_slot)).relu_()
        q = functional.linear(inner, layer.clique.second, layer.clique.second_bias)
        q = k.layer_norm(q, _norm_of(layer.clique))
        mean = k.gather_mean(q, batch.atom_clique_ptr, batch.atom_clique)
        x = k.linear_relu(mean, layer.to_atom, None).add_(x)
        x = x + self._perceptron(x, layer.atom_mlp)
        return k.slot_graph_norm(x, layer.atom_norm, batch.atom_ptr, batch.atom_slot), q

    def _update_residues(
        self, p: Tensor, logit: Tensor, s: Tensor, met: Interaction, layer: LayerWeights
    ) -> tuple[Tensor, Tensor]:
        """The residues' side of step 6, and this layer's part of the head's logits: B × L × H, B × L."""
        k = self.kernels
        c = functional.linear(met.clusters, layer.to_residue)
        p, logit = k.add_relu_of_clusters(p, s, c, met.weighted, logit)
        return k.residue_graph_norm(p, self._perceptron(p, layer.residue_update), layer.graph_norm), logit

    # ------------------------------------------------------------------ the three parts

    def prepare_protein(self, protein: ProteinInput) -> PreparedProtein:
        """Everything that depends on the protein alone."""
        w, k = self.weights, self.kernels
        graph = ResidueTopology(protein.edge_index, protein.length, w.place)
        token = protein.token[graph.order].to(self.device, self.dtype)
        feature = protein.residue_feature[graph.order].to(self.device, self.dtype)
        p = (self._perceptron(feature, w.residue_feature) + self._perceptron(token, w.token))[None]
        basis = radial_basis(protein.edge_weight[graph.edge_order].to(self.device), self.hidden, self.dtype)
        first, *later = (functional.linear(basis, layer.residue.edge, layer.residue.edge_bias) for layer in w.layers)
        p = k.residue_convolution(p, w.layers[0].residue, first, graph)
        return PreparedProtein(graph, p, self._clusters(p, w.layers[0], graph), tuple(later))

    def prepare_ligands(self, batch: LigandBatch) -> PreparedLigands:
        """Everything that depends on the ligands alone."""
        w, layer = self.weights, self.weights.layers[0]
        x = self._perceptron(batch.atom_feature.to(self.dtype), w.atom_feature)
        x = x + functional.embedding(batch.atom_type, w.atom_type)
        x = self.kernels.bond_convolution(x, layer.bond, layer.bond_terms, batch)
        q, share, drug = self._motif_pool(x, functional.embedding(batch.clique_type, w.clique_type), layer, batch)
        return PreparedLigands(x, q, share, drug)

    def pairs(self, ligands: PreparedLigands, batch: LigandBatch, protein: PreparedProtein) -> Tensor:
        """The scores of every slot against one protein: B.

        Between two interactions the residues and the ligands go their own ways, so the two branches may overlap.
        """
        w = self.weights
        x, q, share, drug = ligands.atoms, ligands.cliques, ligands.clique_share, ligands.drug
        p, clusters = protein.residues, protein.clusters
        clique_logit = share @ w.atom_attention[0]
        logit = p.new_zeros(batch.atom_ptr.shape[0] - 1, protein.graph.length)
        last = len(w.layers) - 1
        for i, layer in enumerate(w.layers):
            met = self._interaction(drug, clusters, layer, w.residue_attention[i])
            s = clusters.assignment
            if i == last:
                (p, logit), (x, _) = self.side_by_side(
                    partial(self._update_residues, p, logit, s, met, layer),
                    partial(self._update_ligands, x, q, met.drug, layer, batch),
                )
                continue
            (p, logit, clusters), (x, q, share, drug) = self.side_by_side(
                partial(self._residues_onward, p, logit, s, met, protein, i),
                partial(self._ligands_onward, x, q, met.drug, batch, i),
            )
            clique_logit = clique_logit + share @ w.atom_attention[i + 1]
        return self._head(x, clique_logit, p, logit, batch)

    def _residues_onward(
        self, p: Tensor, logit: Tensor, s: Tensor, met: Interaction, protein: PreparedProtein, i: int
    ) -> tuple[Tensor, Tensor, Clusters]:
        """The residues' way from layer i's interaction to the next one."""
        layers = self.weights.layers
        p, logit = self._update_residues(p, logit, s, met, layers[i])
        p = self.kernels.residue_convolution(p, layers[i + 1].residue, protein.edge_terms[i], protein.graph)
        return p, logit, self._clusters(p, layers[i + 1], protein.graph)

    def _ligands_onward(
        self, x: Tensor, q: Tensor, u: Tensor, batch: LigandBatch, i: int
    ) -> tuple[Tensor, Tensor, Tensor, DrugTerms]:
        """The ligands' way from layer i's interaction to the next one."""
        layer, following = self.weights.layers[i], self.weights.layers[i + 1]
        x, q = self._update_ligands(x, q, u, layer, batch)
        x = self.kernels.bond_convolution(x, following.bond, following.bond_terms, batch)
        return (x, *self._motif_pool(x, q, following, batch))

    def _head(self, x: Tensor, clique_logit: Tensor, p: Tensor, residue_logit: Tensor, batch: LigandBatch) -> Tensor:
        """Both pools and the regression: B scores."""
        w, k = self.weights, self.kernels
        atom_logit = k.gather_mean(clique_logit[:, None], batch.atom_clique_ptr, batch.atom_clique)
        _, f_m = k.slot_attention(atom_logit, x, batch.atom_ptr, batch.atom_slot)
        share = torch.softmax(residue_logit, dim=-1)
        f_p = torch.matmul(share[:, None], p).squeeze(1)
        both = torch.cat((self._perceptron(f_m, w.mol_out), self._perceptron(f_p, w.prot_out)), dim=-1)
        return self._perceptron(both, w.score).squeeze(-1)


def _norm_of(mlp: Perceptron) -> Norm:
    """The closing norm of an MLP that is known to have one."""
    assert mlp.norm is not None
    return mlp.norm
