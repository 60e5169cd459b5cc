import pytest
from hypothesis import given
from hypothesis import strategies as st

from chem.names import SAVI, CombinatorialName, parse_name, reaction_of


def test_two_and_three_reactants() -> None:
    assert parse_name("rxn:4:1:22") == CombinatorialName(4, (1, 22))
    assert parse_name("rxn:5:1:2:3") == CombinatorialName(5, (1, 2, 3))


def test_quotes_are_stripped_first() -> None:
    assert parse_name('"rxn:4:1:2"') == parse_name("'rxn:4:1:2'") == CombinatorialName(4, (1, 2))
    assert reaction_of("'rxn:4:1:2'") == 4


@pytest.mark.parametrize(
    "name",
    ["", "rxn", "rxn:", "rxn:4", "rxn:4:1", "rxn:4:1:2:3:4", "rxn:4:-1:2", "rxn:4:1:2 ", "rxn:4:1.0:2", "rxn:4:1:٢",
     "RXN:4:1:2", "rxn:4:1:2\n", "rxn:4:" + "9" * 30 + ":1"],
)  # fmt: skip
def test_anything_else_is_no_combinatorial_name(name: str) -> None:
    assert parse_name(name) is None


def test_the_reaction_a_name_claims() -> None:
    assert reaction_of("rxn:5:junk") == 5
    assert reaction_of("rxn:4") == 4
    assert reaction_of("rxn:x:1:2") is None
    assert reaction_of("S_1234") == SAVI


@given(st.text(max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    parse_name(text)
    reaction_of(text)
