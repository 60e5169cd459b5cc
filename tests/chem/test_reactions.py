"""Products drawn by hand, one per reaction of the specification."""

from rdkit import Chem

from chem.database import BuildingBlock, Reaction
from chem.names import CombinatorialName
from chem.reactions import AMIDE_SMARTS, BROMIDE_SUZUKI_SMARTS, product_smiles

REACTIONS = {
    1: Reaction(1, "", 1, 2, None),
    2: Reaction(2, AMIDE_SMARTS, 4, 8, None),
    3: Reaction(3, "", 1, 2, 8),
    4: Reaction(4, BROMIDE_SUZUKI_SMARTS, 16, 32, None),
    5: Reaction(5, "", 64, 32, 32),
    6: Reaction(6, "not a smarts", 1, 2, None),
    7: Reaction(7, AMIDE_SMARTS, 4, 8, 8),
}
BLOCKS = {
    1: BuildingBlock("[1*]c1ccc(C(=O)O)cc1", 1),
    2: BuildingBlock("[2*]n1ccnn1", 2),
    3: BuildingBlock("CC(=O)O", 4),
    4: BuildingBlock("NCC", 8),
    5: BuildingBlock("Brc1ccccc1", 16),
    6: BuildingBlock("OB(O)c1ccncc1", 32),
    7: BuildingBlock("Clc1ccc(Br)cc1", 64),
    8: BuildingBlock("OB(O)c1ccco1", 32),
    9: BuildingBlock("this is no SMILES", 32),
    10: BuildingBlock("CCO", 16),
}


def product(reaction: int, *reactants: int) -> str | None:
    return product_smiles(CombinatorialName(reaction, reactants), REACTIONS, BLOCKS)


def canonical(smiles: str) -> str:
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles))


def test_triazole_joins_the_neighbours_of_the_dummies() -> None:
    assert product(1, 1, 2) == canonical("OC(=O)c1ccc(cc1)-n1ccnn1")


def test_triazole_then_amide() -> None:
    assert product(3, 1, 2, 4) == canonical("CCNC(=O)c1ccc(cc1)-n1ccnn1")


def test_smarts_of_the_database() -> None:
    assert product(2, 3, 4) == canonical("CC(=O)NCC")
    assert product(4, 5, 6) == canonical("c1ccccc1-c1ccncc1")


def test_the_two_suzukis_take_bromide_then_chloride() -> None:
    assert product(5, 7, 6, 8) == canonical("c1cnccc1-c1ccc(cc1)-c1ccco1")


def test_the_first_two_may_come_in_either_order() -> None:
    assert product(4, 6, 5) == product(4, 5, 6)
    assert product(1, 2, 1) == product(1, 1, 2)


def test_what_the_database_does_not_hold() -> None:
    assert product(4, 5, 999) is None
    assert product(99, 5, 6) is None
    assert product(4, 5, 5) is None
    assert product(5, 7, 6, 5) is None, "the third reactant must serve role C"
    assert product(4, 5, 9) is None, "an unreadable building block"
    assert product(4, 10, 6) is None, "no bromide to react"
    assert product(6, 1, 2) is None, "a SMARTS that is none"
    assert product(7, 3, 4, 4) is None, "three reactants of another reaction"


def test_a_role_needs_all_its_bits() -> None:
    assert BuildingBlock("C", 0b110).serves(0b010)
    assert BuildingBlock("C", 0b110).serves(0b110)
    assert not BuildingBlock("C", 0b010).serves(0b110)
    assert not BuildingBlock("C", 0b010).serves(None)
