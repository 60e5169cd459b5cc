"""What the child process does in which conformers are embedded, so that a hanging embedding can be killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers


def embedded_coordinates(molecule: Chem.Mol, seed: int) -> npt.NDArray[np.float64] | None:
    """Coordinates (atoms × 3, Å) of one conformer, or None where RDKit finds none.

    The same steps as boltz (ETKDGv3, once more from random coordinates, at most 1000 iterations of UFF), with
    the one difference that makes them repeatable: ``seed`` instead of RDKit's process-wide generator.
    """
    molecule = Chem.Mol(molecule)
    options: Any = rdDistGeom.ETKDGv3()
    options.clearConfs = False
    options.randomSeed = seed
    conformer = -1
    try:
        conformer = rdDistGeom.EmbedMolecule(molecule, options)
        if conformer == -1:
            options.useRandomCoords = True
            conformer = rdDistGeom.EmbedMolecule(molecule, options)
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, confId=conformer, maxIters=1000)
    except (RuntimeError, ValueError):
        # no force field for this molecule: boltz keeps the unoptimised conformer too, if there is one
        if conformer == -1:
            return None
    if conformer == -1:
        return None
    return np.asarray(molecule.GetConformer(conformer).GetPositions(), dtype=np.float64)


def embedding() -> Callable[[tuple[Any, int]], npt.NDArray[np.float64] | None]:
    """What the child does: answers a molecule as RDKit binary and a seed with coordinates."""
    blocker = rdBase.BlockLogs()

    def answer(question: tuple[Any, int]) -> npt.NDArray[np.float64] | None:
        binary, seed = question
        assert blocker is not None
        return embedded_coordinates(Chem.Mol(binary), seed)

    return answer
