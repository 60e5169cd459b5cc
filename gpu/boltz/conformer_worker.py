"""The process in which conformers are embedded, so that a hanging embedding can be killed.

Started by file path (see :mod:`gpu.boltz.conformer`), needs RDKit and nothing else. On stdin and stdout: frames
of a 4-byte little-endian length and a pickle; in: (molecule as RDKit binary, seed); out: coordinates or None.
"""

from __future__ import annotations

import pickle
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

_LENGTH = struct.Struct("<I")


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


def write_frame(stream: BinaryIO, value: Any) -> None:
    """Send one pickled value."""
    payload = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(payload)) + payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> Any:
    """Receive one pickled value; EOFError where the other side is gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(header)
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return pickle.loads(payload)  # noqa: S301  (both ends are this program)


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    blocker = rdBase.BlockLogs()
    write_frame(answers, "ready")
    while True:
        try:
            binary, seed = read_frame(requests)
        except EOFError:
            break
        write_frame(answers, embedded_coordinates(Chem.Mol(binary), seed))
    del blocker


if __name__ == "__main__":
    main()
