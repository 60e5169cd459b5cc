"""The workload both PSICHIC benchmarks share: full-size random weights, a 478-residue protein, 1,828 ligands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gpu.psichic.checkpoint import network_shape, open_weights
from gpu.psichic.network import NetworkShape, PsichicNetwork
from gpu.psichic.protein import ProteinFeatures
from gpu.psichic.residue import residue_graph

DATA = Path(__file__).parents[1] / "data" / "psichic"
RESIDUES, EDGES = 478, 5372


def full_size_network(seed: int = 0) -> PsichicNetwork:
    """H = 200, D = 1280, default initialisation from a seed: 5.9 million parameters."""
    small = network_shape(open_weights(DATA))
    shape = NetworkShape(200, 1280, 5, (5, 10, 20), small.ligand_degrees, small.protein_degrees)
    torch.manual_seed(seed)
    return PsichicNetwork(shape).requires_grad_(False).eval()


def synthetic_protein(seed: int) -> ProteinFeatures:
    """A random sequence of 478 residues with 5,372 edges: chain, contacts that favour near pairs, self loops."""
    rng = np.random.default_rng(seed)
    sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), RESIDUES))
    i, j = np.triu_indices(RESIDUES, 3)
    # Edges are 2 × (chain + contacts) + self loops; the chain gives L-1 and L-2 undirected ones.
    contacts = (EDGES - RESIDUES) // 2 - (2 * RESIDUES - 3)
    preference = rng.gumbel(size=i.size) - 0.8 * np.log(j - i)
    chosen = np.argpartition(-preference, contacts)[:contacts]
    contact_map = np.zeros((RESIDUES, RESIDUES), dtype=np.float32)
    contact_map[i[chosen], j[chosen]] = rng.uniform(0.5, 1.0, contacts)
    contact_map = np.maximum(contact_map, contact_map.T)
    index, weight = residue_graph(contact_map)
    assert weight.size == EDGES
    token = rng.normal(0, 0.3, (RESIDUES, 1280)).astype(np.float16)
    return ProteinFeatures(sequence, token, index, weight)


def drug_like_smiles() -> list[str]:
    """1,828 drug-like SMILES: 150 known ligands and recombinations of their fragments, 28 heavy atoms on average."""
    return (DATA / "druglike.smi").read_text().split()
