"""Graphs read in child processes are those read here, whichever child dies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from gpu.child import Child
from gpu.psichic.errors import LigandError
from gpu.psichic.ligand import LigandGraph, ligand_graph
from gpu.psichic.reading import GraphsBeside

SMILES = ["CCO", "c1ccccc1C(=O)N", "C1CC1", "not a molecule", "CC(C)Cc1ccc(cc1)C(C)C(=O)O"] * 2


@pytest.fixture
def graphs() -> Iterator[GraphsBeside]:
    graphs = GraphsBeside(children=2)
    yield graphs
    graphs.close()


def read(graphs: GraphsBeside, smiles: str) -> LigandGraph | str:
    try:
        return graphs.graph(smiles)
    except LigandError as error:
        return str(error)


def same(found: Any, expected: LigandGraph) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(astuple(found), astuple(expected), strict=True))


def test_the_same_graphs_and_errors(graphs: GraphsBeside) -> None:
    graphs.expect(SMILES)
    for smiles in SMILES:
        found = read(graphs, smiles)
        if smiles == "not a molecule":
            assert str(found).startswith("unreadable_smiles: RDKit cannot read 'not a molecule' as a molecule;")
        else:
            assert same(found, ligand_graph(smiles))
    assert not graphs._coming


def test_a_molecule_that_ends_its_reader_costs_itself(graphs: GraphsBeside, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Child.ask

    def deadly(child: Child, question: Any) -> Any:
        answer = asked(child, question)
        if "C1CC1" in question:
            child.kill()
        return answer

    monkeypatch.setattr(Child, "ask", deadly)
    graphs.expect(SMILES[:3])
    assert same(read(graphs, "CCO"), ligand_graph("CCO"))
    assert str(read(graphs, "C1CC1")).startswith("crash: RDKit crashes when it reads 'C1CC1'")
    graphs.expect(["CCC"])
    assert same(read(graphs, "CCC"), ligand_graph("CCC"))


def test_graphs_that_nobody_asks_for_go(graphs: GraphsBeside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu.psichic.reading._KEPT", 2)
    graphs.expect(["C", "CC", "CCC"])
    assert list(graphs._coming) == ["CC", "CCC"]
    assert same(read(graphs, "C"), ligand_graph("C"))
