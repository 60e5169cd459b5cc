"""A molecule's structure as SVG, for screens in light and dark."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from chem.properties import parse_smiles

_WIDTH: Final = 260
_HEIGHT: Final = 150

# A larger one is no drug, and its picture helps nobody.
_MOST_ATOMS: Final = 250

# So many characters name no molecule of so few atoms; RDKit's time grows with the square of a chain's length.
_LONGEST_SMILES: Final = 20 * _MOST_ATOMS

# A picture in an <img> sees the screen's theme, but not the page's style sheet.
_STYLE: Final = (
    "<style>svg{color:#1b1f1d}path:not([fill]){fill:none;stroke:currentColor;stroke-width:1.4px}"
    "@media (prefers-color-scheme:dark){svg{color:#e6e9e6}}@media print{svg{color:#000}}</style>"
)

# RDKit's declaration, namespaces and comments, and the style that it repeats at every bond.
_PROLOGUE: Final = re.compile(r"^.*?<svg[^>]*>\s*(<!--.*?-->\s*)?", re.DOTALL)
_BOND: Final = re.compile(r" style='fill:none;fill-rule:evenodd;stroke:#000000;[^']*'")
_CLASS: Final = re.compile(r" class='[^']*'")
_BLACK: Final = re.compile(r"#000000", re.IGNORECASE)


@lru_cache(maxsize=512)
def drawing(smiles: str) -> str | None:
    """The structure in one colour, transparent behind: an SVG document of 260 × 150.

    None where RDKit reads no molecule, or one too large to be looked at. The picture holds no text of the input's;
    atoms are drawn as paths.
    """
    molecule = parse_smiles(smiles) if len(smiles) <= _LONGEST_SMILES else None
    if molecule is None or not 0 < molecule.GetNumAtoms() <= _MOST_ATOMS:
        return None
    return _framed(_drawn(molecule))


def _drawn(molecule: Any) -> str:
    # only here: the drawing library loads imaging libraries, which a worker does without
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = rdMolDraw2D.MolDraw2DSVG(_WIDTH, _HEIGHT)
    options: Any = drawer.drawOptions()
    options.useBWAtomPalette()
    options.clearBackground = False
    options.padding = 0.04
    drawer.DrawMolecule(rdMolDraw2D.PrepareMolForDrawing(molecule, kekulize=True))
    drawer.FinishDrawing()
    return str(drawer.GetDrawingText())


def _framed(text: str) -> str:
    body = _CLASS.sub("", _BOND.sub("", _PROLOGUE.sub("", text, count=1)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}">{_STYLE}{_BLACK.sub("currentColor", body)}'
    )
