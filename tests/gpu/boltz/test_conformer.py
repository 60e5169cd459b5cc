"""Embedding in a killable process gives what embedding here gives."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from rdkit import Chem

from gpu.boltz import MoleculeFailure
from gpu.boltz.conformer import ConformerEmbedder
from gpu.boltz.conformer_worker import embedded_coordinates
from gpu.boltz.profile import record_seed

LIGANDS = (
    "C",
    "[Na+]",
    "CC(=O)Nc1ccc(O)cc1",
    "C[C@H](N)C(=O)N1CCC[C@@H]1C(=O)O",
    "C/C=C/C(=O)O",
    "OB(O)c1ccccc1",
    "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "C1[C@H]2CC[C@H]1C2",
)


def with_hydrogens(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def test_the_child_gives_the_bits_of_this_process_whatever_came_before() -> None:
    here = {smiles: embedded_coordinates(with_hydrogens(smiles), record_seed(smiles, "MKT")) for smiles in LIGANDS}
    assert here["C1[C@H]2CC[C@H]1C2"] is None
    with ConformerEmbedder(30.0) as embedder:
        for smiles in reversed(LIGANDS):
            there = embedder.coordinates(with_hydrogens(smiles), record_seed(smiles, "MKT"))
            expected = here[smiles]
            if expected is None:
                assert there is None
            else:
                assert there is not None
                assert there.tobytes() == expected.tobytes()


def test_the_seed_decides_the_conformer() -> None:
    molecule = with_hydrogens(LIGANDS[3])
    first, second = embedded_coordinates(molecule, 1), embedded_coordinates(molecule, 2)
    assert first is not None
    assert second is not None
    assert not np.array_equal(first, second)
    assert molecule.GetNumConformers() == 0


def test_a_molecule_over_its_time_is_killed_and_the_next_one_embedded() -> None:
    with ConformerEmbedder(1.0) as embedder:
        embedder.coordinates(with_hydrogens("CC"), 1)
        child = embedder._child
        assert child is not None
        started = time.monotonic()
        with pytest.raises(MoleculeFailure, match=r"^conformer: .* within 1 s"):
            embedder.coordinates(with_hydrogens("C" * 20 + "C1[C@H]2CC[C@H]1C2"), 1)
        assert time.monotonic() - started < 10
        assert child._process.returncode == -signal.SIGKILL
        after = embedder.coordinates(with_hydrogens("CC"), 1)
    assert after is not None
    assert after.tobytes() == embedded_coordinates(with_hydrogens("CC"), 1).tobytes()  # type: ignore[union-attr]


def test_a_child_that_dies_costs_its_molecule() -> None:
    with ConformerEmbedder(30.0) as embedder:
        embedder.coordinates(with_hydrogens("CC"), 1)
        child = embedder._child
        assert child is not None
        os.kill(child._process.pid, signal.SIGSTOP)
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(MoleculeFailure, match=r"^conformer: .*crashed"):
            embedder.coordinates(with_hydrogens("CC"), 1)
        assert embedder.coordinates(with_hydrogens("CC"), 1) is not None
