import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.demo import RECORDING
from app.epochs.rules import RulesError, parse_rules, rules_sha256
from app.epochs.rules.october_2025 import Parameters

# thirty lists, each nine times the one before
ALIAS_BOMB = "a:\n" + "".join(f" b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9 if n else ['x'])}]\n" for n in range(30))


def parameters(text: str) -> Parameters:
    found = parse_rules(text).parameters
    assert isinstance(found, Parameters)
    return found


def test_the_documents_values_are_the_defaults() -> None:
    assert parameters("") == Parameters() == parameters((RECORDING / "rules.yaml").read_text())
    rules = parameters("")
    assert rules.molecule_validation.antitarget_weight == 0.9
    assert rules.reaction_filtering.allowed_reactions == [4, 5]
    assert rules.competition.burn_rate == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("molecule_validation: {num_molecule: 100}", "unknown key 'molecule_validation.num_molecule'"),
        ("colour: red", "unknown key 'colour'"),
        ("molecule_validation: {num_molecules: many}", "molecule_validation.num_molecules"),
        ("molecule_validation: {num_molecules: true}", "molecule_validation.num_molecules"),
        ("molecule_validation: {num_molecules: '100'}", "molecule_validation.num_molecules"),
        ("molecule_validation: {antitarget_weight: .nan}", "molecule_validation.antitarget_weight"),
        ("molecule_validation: {min_rotatable_bonds: 11}", "larger than max_rotatable_bonds"),
        ("molecule_validation: {num_molecules_boltz: 101}", "larger than num_molecules"),
        ("molecule_validation: {sample_selection: last}", "molecule_validation.sample_selection"),
        ("competition: {burn_rate: 1.5}", "competition.burn_rate"),
        ("quirks: [zero_is_misspelt]", "quirks.0"),
        ("archive_unavailable: ignore", "archive_unavailable"),
        ("- a list", "must hold sections"),
        ("{", "is not YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("a: 2024-99-99", "line 1: '2024-99-99' is not a timestamp"),
        ("a: !!int x", "line 1: 'x' is not a int"),
        ("a: !!float ''", "line 1: '' is not a float"),
        ("a: !!bool x", "line 1: 'x' is not a bool"),
        ("a: !!timestamp x", "line 1: 'x' is not a timestamp"),
        ("a: 2024-01-01", "a is a date"),
        ("a: !!set {b}", "a is a set"),
        ("a: !!binary aGk=", "a is a bytes"),
        ("? [1]\n: 2", "is not YAML"),
        ("1: 2", "a key that is not a name: a int"),
        ("0x" + "f" * 900 + ": 2", "a key that is not a name"),
        ('"\\uD800": 2', "a key that is not a name"),
        ("a" * 500 + ": 2", "a key that is not a name"),
        ("competition: {burn_uid: 0x" + "f" * 5000 + "}", "competition.burn_uid is a number of 20000 bits"),
        ("competition: {burn_uid: " + "1" * 6000 + "}", "is not YAML"),
        ("a: &a [*a]", "a.0 contains itself"),
        (ALIAS_BOMB, "unknown key 'a'"),
        ("era: march-2031", "era: 'march-2031' is unknown; the eras are october-2025"),
        ("protein_selection: {weekly_target: ../../x}", "weekly_target: is not a UniProt entry"),
    ],
)
def test_a_wrong_rules_file_is_a_sentence_that_names_the_key(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=r"rules\.yaml") as caught:
        parse_rules(text)
    assert message in str(caught.value)


def test_a_binding_pocket_is_chains_and_positions() -> None:
    rules = parameters("protein_constraints: {binding_pocket: [[A, 5], [A, 9]], max_distance: 6.0, force: true}")
    assert rules.protein_constraints.binding_pocket == [("A", 5), ("A", 9)]
    with pytest.raises(RulesError, match=r"protein_constraints\.binding_pocket"):
        parse_rules("protein_constraints: {binding_pocket: [[A, five]]}")


def test_rules_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parameters("").competition.burn_rate = 1.0  # type: ignore[misc]


@given(st.text(max_size=100))
def test_no_text_is_too_strange(text: str) -> None:
    try:
        parse_rules(text)
    except RulesError:
        return


def test_the_identity_of_a_rules_file_is_that_of_its_bytes() -> None:
    assert rules_sha256("quirks: []") != rules_sha256("quirks: [] ")
