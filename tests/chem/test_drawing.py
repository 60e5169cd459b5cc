"""Structures as SVG."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from chem.drawing import drawing

SVG = "{http://www.w3.org/2000/svg}"


def test_a_structure_is_drawn_in_the_colour_of_the_theme() -> None:
    text = drawing("C[C@H](F)Oc1ccc(Cl)cc1")
    assert text is not None
    root = ET.fromstring(text)
    assert root.get("viewBox") == "0 0 260 150"
    paths = root.findall(f"{SVG}path")
    # ten atoms and a ring: at least as many lines as bonds
    assert len(paths) >= 11
    assert "#000000" not in text
    assert "prefers-color-scheme:dark" in text
    assert {element.tag for element in root.iter()} == {f"{SVG}svg", f"{SVG}style", f"{SVG}path"}
    assert text == drawing("C[C@H](F)Oc1ccc(Cl)cc1")
    assert text != drawing("C[C@@H](F)Oc1ccc(Cl)cc1"), "a mirror image is another molecule"


@pytest.mark.parametrize("smiles", ["", "no molecule", "c1cccc1", "C" * 251, "<script>", "C" * 20_000])
def test_what_is_no_drawable_molecule_has_no_picture(smiles: str) -> None:
    assert drawing(smiles) is None


@pytest.mark.parametrize("smiles", ["C", "[Na+].[Cl-]", "[13CH4]", "*C", "[H][H]", "C" * 250])
def test_odd_molecules_are_drawn(smiles: str) -> None:
    ET.fromstring(drawing(smiles) or "")


def test_a_worker_that_draws_nothing_loads_no_imaging_library() -> None:
    program = "import sys, chem.drawing; print('PIL' in sys.modules, 'rdkit.Chem.Draw' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["False", "False"]
