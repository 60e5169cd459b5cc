"""The workload both PSICHIC benchmarks share: full-size random weights, a 478-residue protein, 1,828 ligands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from app.domain import Protein
from gpu.psichic.checkpoint import network_shape, open_weights
from gpu.psichic.network import NetworkShape, PsichicNetwork
from gpu.psichic.protein import ProteinFeatures
from gpu.psichic.residue import residue_graph
from gpu.psichic.scorer import PsichicScorer

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


def full_size_scorer(place: Path, device: str) -> tuple[PsichicScorer, list[Protein]]:
    """A scorer on a checkpoint of these weights written to ``place``, and nine proteins whose features it knows."""
    (place / "degree.pt").write_bytes((DATA / "degree.pt").read_bytes())
    config = (DATA / "config.json").read_text().replace('"hidden_channels": 40', '"hidden_channels": 200')
    (place / "config.json").write_text(config.replace('"prot_evo_channels": 64', '"prot_evo_channels": 1280'))
    torch.save(full_size_network().state_dict(), place / "model.pt")
    known = [synthetic_protein(seed) for seed in range(9)]
    features = {
        str(i): {
            "seq": f.sequence,
            "token_representation": torch.from_numpy(f.token),
            "edge_index": torch.from_numpy(f.edge_index),
            "edge_weight": torch.from_numpy(f.edge_weight),
        }
        for i, f in enumerate(known)
    }
    torch.save(features, place / "proteins.pt")
    scorer = PsichicScorer.from_directory(
        place, device=device, feature_cache=place, protein_features=place / "proteins.pt"
    )
    return scorer, [Protein(str(i), f.sequence) for i, f in enumerate(known)]
