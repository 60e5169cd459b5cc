"""From a name's building blocks to the product's SMILES."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from rdkit import Chem
from rdkit.Chem import rdChemReactions

from chem.database import BuildingBlock, Reaction
from chem.names import CombinatorialName
from chem.properties import parse_smiles

TRIAZOLE: Final = 1
TRIAZOLE_THEN_AMIDE: Final = 3
BROMIDE_THEN_CHLORIDE_SUZUKI: Final = 5

AMIDE_SMARTS: Final = "[C:1](=O)[OH].[N:2]>>[C:1](=O)[N:2]"
BROMIDE_SUZUKI_SMARTS: Final = "[#6:1][Br].[#6:2][B]([OH])[OH]>>[#6:1][#6:2]"
CHLORIDE_SUZUKI_SMARTS: Final = "[#6:1][Cl].[#6:2][B]([OH])[OH]>>[#6:1][#6:2]"

# One miner's file draws on a few hundred building blocks and the next miner's on the same popular ones.
_REACTANTS_KEPT: Final = 4096


@lru_cache(maxsize=_REACTANTS_KEPT)
def _reactant(smiles: str) -> Any:
    return parse_smiles(smiles)


@lru_cache(maxsize=64)
def _reaction(smarts: str) -> Any:
    """The compiled reaction of two reactants, or None where the SMARTS is none."""
    try:
        reaction = rdChemReactions.ReactionFromSmarts(smarts)
    except ValueError:
        return None
    if reaction is None or reaction.GetNumReactantTemplates() != 2:
        return None
    reaction.Initialize()
    return reaction


def run_smarts(smarts: str, a: Any, b: Any) -> str | None:
    """The first product of the first outcome, as RDKit writes it, never sanitised again; None without an outcome."""
    reaction = _reaction(smarts)
    if reaction is None or a is None or b is None:
        return None
    try:
        outcomes = reaction.RunReactants((a, b), maxProducts=1)
    except (ValueError, RuntimeError):
        return None
    if not outcomes or not outcomes[0]:
        return None
    return str(Chem.MolToSmiles(outcomes[0][0]))


def join_triazole_synthons(a: Any, b: Any) -> str | None:
    """Bond the neighbour of ``[1*]`` in ``a`` to the neighbour of ``[2*]`` in ``b``, dummies removed."""
    if a is None or b is None:
        return None
    joined = Chem.RWMol(Chem.CombineMols(a, b))
    offset = a.GetNumAtoms()
    dummies = [_dummy(joined, 1, 0, offset), _dummy(joined, 2, offset, joined.GetNumAtoms())]
    if any(dummy is None or dummy.GetDegree() != 1 for dummy in dummies):
        return None
    left, right = (dummy.GetNeighbors()[0].GetIdx() for dummy in dummies if dummy is not None)
    joined.AddBond(left, right, Chem.BondType.SINGLE)
    for index in sorted((dummy.GetIdx() for dummy in dummies if dummy is not None), reverse=True):
        joined.RemoveAtom(index)
    return str(Chem.MolToSmiles(joined))


def _dummy(mol: Any, label: int, start: int, stop: int) -> Any:
    for index in range(start, stop):
        atom = mol.GetAtomWithIdx(index)
        if atom.GetAtomicNum() == 0 and atom.GetIsotope() == label:
            return atom
    return None


def product_smiles(
    name: CombinatorialName,
    reactions: Mapping[int, Reaction],
    blocks: Mapping[int, BuildingBlock],
    any_bit_order: bool = False,
) -> str | None:
    """The product's SMILES, or None where the database does not hold this molecule.

    The first two reactants may come in either order of roles A and B, (A, B) first; the third serves role C. With
    ``any_bit_order``, three reactants count as in (A, B) order where each shares *some* bit with its role.
    """
    reaction = reactions.get(name.reaction)
    reactants = [blocks.get(i) for i in name.reactants]
    if reaction is None or any(block is None for block in reactants):
        return None
    known = [block for block in reactants if block is not None]
    ordered = _in_role_order(known[0], known[1], reaction)
    if any_bit_order and ordered is not None and len(known) == 3:
        ordered = _by_any_bit(known[0], known[1], reaction)
    if ordered is None:
        return None
    first, second = (_reactant(smiles) for smiles in ordered)
    if len(known) == 2:
        if name.reaction == TRIAZOLE:
            return join_triazole_synthons(first, second)
        return run_smarts(reaction.smarts, first, second)
    third = known[2]
    if not third.serves(reaction.role_c):
        return None
    if name.reaction == TRIAZOLE_THEN_AMIDE:
        middle = join_triazole_synthons(first, second)
        return None if middle is None else run_smarts(AMIDE_SMARTS, parse_smiles(middle), _reactant(third.smiles))
    if name.reaction == BROMIDE_THEN_CHLORIDE_SUZUKI:
        middle = run_smarts(BROMIDE_SUZUKI_SMARTS, first, second)
        chloride = CHLORIDE_SUZUKI_SMARTS
        return None if middle is None else run_smarts(chloride, parse_smiles(middle), _reactant(third.smiles))
    return None


def _in_role_order(first: BuildingBlock, second: BuildingBlock, reaction: Reaction) -> tuple[str, str] | None:
    if first.serves(reaction.role_a) and second.serves(reaction.role_b):
        return first.smiles, second.smiles
    if second.serves(reaction.role_a) and first.serves(reaction.role_b):
        return second.smiles, first.smiles
    return None


def _by_any_bit(first: BuildingBlock, second: BuildingBlock, reaction: Reaction) -> tuple[str, str]:
    in_order = first.role_mask & (reaction.role_a or 0) and second.role_mask & (reaction.role_b or 0)
    return (first.smiles, second.smiles) if in_order else (second.smiles, first.smiles)
