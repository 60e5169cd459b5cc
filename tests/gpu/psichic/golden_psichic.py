"""The golden slice in tests/data/psichic: a small random-weight model, two proteins, 89 ligands, all odd ones."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu.psichic.protein import ProteinFeatures, read_feature_file

FOLDER = Path(__file__).parents[2] / "data" / "psichic"


@dataclass(frozen=True)
class Expected:
    """Float64 scores of the original: proteins × ligands."""

    proteins: list[str]
    smiles: list[str]
    scores: NDArray[np.float64]


@cache
def expected() -> Expected:
    """All pairs of the slice."""
    with (FOLDER / "expected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    proteins = list(dict.fromkeys(row["protein_id"] for row in rows))
    smiles = list(dict.fromkeys(row["smiles"] for row in rows))
    table = {(row["protein_id"], row["smiles"]): float(row["fp64_b32"]) for row in rows}
    return Expected(proteins, smiles, np.array([[table[p, s] for s in smiles] for p in proteins]))


@cache
def proteins() -> dict[str, ProteinFeatures]:
    """Features of both proteins."""
    return read_feature_file(FOLDER / "proteins.pt")


@cache
def protein_records() -> dict[str, dict[str, Any]]:
    """The raw records, contact maps included."""
    records: dict[str, dict[str, Any]] = torch.load(FOLDER / "proteins.pt", weights_only=True)
    return records


def odd_ligands() -> list[dict[str, str]]:
    """tag, smiles, status (ok or none) of every odd ligand."""
    with (FOLDER / "ligands.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))
