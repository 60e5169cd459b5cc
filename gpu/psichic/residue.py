"""Residues and their graph: sequence features, contact edges, radial basis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gpu.psichic.errors import ProteinError

if TYPE_CHECKING:
    import torch

RESIDUES: Final = "ACDEFGHIKLMNPQRSTVWYX"
RESIDUE_FEATURES: Final = 33
CONTACT_THRESHOLD: Final = 0.5

_CLASSES: Final = ("AILMV", "FWY", "CNQST", "DE", "HKR")
_MID_RANGE: Final = (121.635, 2.325, 9.7, 6.24, 6.765, 27.0, 22.5)
# weight, pKa, pKb, pKx, isoelectric point, hydrophobicity at pH 2 and at pH 7
_PROPERTIES: Final = {
    "A": (71.08, 2.34, 9.69, 0, 6.00, 47, 41),
    "C": (103.15, 1.96, 10.28, 8.18, 5.07, 52, 49),
    "D": (115.09, 1.88, 9.60, 3.65, 2.77, -18, -55),
    "E": (129.12, 2.19, 9.67, 4.25, 3.22, 8, -31),
    "F": (147.18, 1.83, 9.13, 0, 5.48, 92, 100),
    "G": (57.05, 2.34, 9.60, 0, 5.97, 0, 0),
    "H": (137.14, 1.82, 9.17, 6.00, 7.59, -42, 8),
    "I": (113.16, 2.36, 9.60, 0, 6.02, 100, 99),
    "K": (128.18, 2.18, 8.95, 10.53, 9.74, -37, -23),
    "L": (113.16, 2.36, 9.60, 0, 5.98, 100, 97),
    "M": (131.20, 2.28, 9.21, 0, 5.74, 74, 74),
    "N": (114.11, 2.02, 8.80, 0, 5.41, -41, -28),
    "P": (97.12, 1.99, 10.60, 0, 6.30, -46, -46),
    "Q": (128.13, 2.17, 9.13, 0, 5.65, -18, -10),
    "R": (156.19, 2.17, 9.04, 12.48, 10.76, -26, -14),
    "S": (87.08, 2.21, 9.15, 0, 5.68, -7, -5),
    "T": (101.11, 2.09, 9.10, 0, 5.60, 13, 13),
    "V": (99.13, 2.32, 9.62, 0, 5.96, 79, 76),
    "W": (186.22, 2.83, 9.39, 0, 5.89, 84, 97),
    "Y": (163.18, 2.32, 9.62, 0, 5.96, 49, 63),
}


def sanitise(sequence: str) -> str:
    """The sequence with every character PSICHIC does not know replaced by ``X``; nothing is trimmed."""
    return "".join(letter if letter in RESIDUES else "X" for letter in sequence)


def _feature_table() -> NDArray[np.float64]:
    """21 × 33: the feature row of each letter of :data:`RESIDUES`."""
    table = np.zeros((len(RESIDUES), RESIDUE_FEATURES))
    properties = np.array([_PROPERTIES[letter] for letter in RESIDUES[:20]], dtype=np.float64)
    low, high = properties.min(axis=0), properties.max(axis=0)
    for row, letter in enumerate(RESIDUES):
        table[row, row] = 1.0
        for column, letters in enumerate(_CLASSES):
            table[row, 21 + column] = letter in letters
    table[:20, 26:] = (properties - low) / (high - low)
    table[20, 26:] = _MID_RANGE
    return table


_TABLE: Final = _feature_table()


def residue_features(sequence: str) -> NDArray[np.float64]:
    """L × 33 features of a sanitised sequence, in float64 (the network takes them rounded to float32)."""
    return _TABLE[[RESIDUES.index(letter) for letter in sequence]]


def residue_graph(contact_map: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Edges (2 × E: source, target) and weights (E) of a contact map, L × L probabilities.

    Sorted by (source, target), then one self loop per residue. One residue alone has no edges. Raises
    :class:`ProteinError` for a map that is not square or empty.
    """
    if contact_map.ndim != 2 or contact_map.shape[0] != contact_map.shape[1] or contact_map.shape[0] == 0:
        raise ProteinError(
            f"a contact map of shape {contact_map.shape} is not a square of residues; give L × L probabilities."
        )
    length = contact_map.shape[0]
    if length == 1:
        return np.zeros((2, 0), dtype=np.int64), np.zeros(0, dtype=np.float32)
    weight = np.where(contact_map >= CONTACT_THRESHOLD, contact_map, 0).astype(np.float32)
    for offset in (1, 2):
        near = np.arange(length - offset)
        for rows, columns in ((near, near + offset), (near + offset, near)):
            weight[rows, columns] = np.maximum(weight[rows, columns], np.float32(0.5))
    weight = np.maximum(weight, weight.T)
    np.fill_diagonal(weight, 0)
    source, target = np.nonzero(weight)
    loop = np.arange(length)
    index = np.stack((np.concatenate((source, loop)), np.concatenate((target, loop))))
    weights = np.concatenate((weight[source, target], np.ones(length, dtype=np.float32)))
    return index.astype(np.int64), weights


def radial_basis(weight: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """E × width Gaussian features of edge weights, centres in float32 whatever the working dtype."""
    import torch

    centres = torch.linspace(0, 1, width, dtype=torch.float32).to(weight.device, dtype)
    clipped = weight.to(dtype).clamp(max=1.0)
    return torch.exp(-(((clipped[:, None] - centres) * width) ** 2))
