"""Validation in molecules/s on one core, against the floor of the RDKit calls that it cannot avoid.

    python -m tests.benchmarks.validation

The floor runs the bare calls on the same molecules: reaction (and writing its product), product parse, InChIKey,
rotatable bonds, MACCS. Floor and validator take turns, and each one's best round counts, so that another process on
the machine spoils neither side alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdChemReactions, rdMolDescriptors
from rdkit.Chem.inchi import MolToInchiKey

from app.demo import RECORDING
from app.epochs.steps import open_source
from app.rules import parse_rules
from chain.commitments import in_window
from chain.submission import fetch_submission, open_submission, parse_submission
from chem.archive import read_archive
from chem.database import CombinatorialDatabase
from chem.names import CombinatorialName, parse_name
from chem.reactions import BROMIDE_SUZUKI_SMARTS, CHLORIDE_SUZUKI_SMARTS, _reactant
from chem.validation import MoleculeRules, validate_molecules

ROUNDS = 7
WANTED = 0.8
VALID_UIDS = (1, 2, 3, 4)


def main() -> None:
    """Print molecules/s of the floor and of the validator, and their ratio."""
    source = open_source(f"recording:{RECORDING}")
    rules = parse_rules(source.rules_text())
    header, neurons = source.header(), source.metagraph()
    committed = dict(in_window(source.commitments(), header, rules.competition.no_submission_blocks, neurons))
    submissions = [
        open_submission(source, uid, parse_submission(fetch_submission(source, committed[uid])), 100)
        for uid in VALID_UIDS
    ]
    database = CombinatorialDatabase(source.molecule_database())
    against = MoleculeRules(rules, (4, 5), read_archive(source.archive("O15379")), "O15379")
    steps = [_bare_reaction(name, database) for names in submissions for name in names]
    molecules = len(steps)

    def validator() -> None:
        # each round meets its building blocks for the first time, as an epoch does
        _reactant.cache_clear()
        for names in submissions:
            validate_molecules(names, database, against)

    floor_seconds, validator_seconds = [], []
    for _ in range(ROUNDS):
        floor_seconds.append(_seconds(lambda: _floor(steps)))
        validator_seconds.append(_seconds(validator))
    floor, ours = molecules / min(floor_seconds), molecules / min(validator_seconds)
    verdict = "met" if ours / floor >= WANTED else "MISSED"
    print(
        f"validation: floor {floor:.0f}/s, validator {ours:.0f}/s on one core; "
        f"ratio {ours / floor:.2f} ({verdict} {WANTED})"
    )


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _bare_reaction(name: str, database: CombinatorialDatabase) -> list[Any]:
    """The compiled reactions and parsed reactants of one name, so that the floor pays for neither."""
    parsed = parse_name(name)
    assert isinstance(parsed, CombinatorialName)
    blocks = database.building_blocks(parsed.reactants)
    mols = [Chem.MolFromSmiles(blocks[i].smiles) for i in parsed.reactants]
    bromide, chloride = (_compiled(s) for s in (BROMIDE_SUZUKI_SMARTS, CHLORIDE_SUZUKI_SMARTS))
    first, second = mols[:2]
    reaction = database.reactions[parsed.reaction]
    if not blocks[parsed.reactants[0]].serves(reaction.role_a):
        first, second = second, first
    return [bromide, first, second, chloride, mols[2]] if len(mols) == 3 else [bromide, first, second]


_reactions: dict[str, Any] = {}


def _compiled(smarts: str) -> Any:
    if smarts not in _reactions:
        _reactions[smarts] = rdChemReactions.ReactionFromSmarts(smarts)
        _reactions[smarts].Initialize()
    return _reactions[smarts]


def _floor(steps: list[list[Any]]) -> None:
    with rdBase.BlockLogs():
        for step in steps:
            smiles = Chem.MolToSmiles(step[0].RunReactants((step[1], step[2]), 1)[0][0])
            if len(step) == 5:
                middle = Chem.MolFromSmiles(smiles)
                smiles = Chem.MolToSmiles(step[3].RunReactants((middle, step[4]), 1)[0][0])
            mol = Chem.MolFromSmiles(smiles)
            MolToInchiKey(mol)
            rdMolDescriptors.CalcNumRotatableBonds(mol)
            rdMolDescriptors.GetMACCSKeysFingerprint(mol)


if __name__ == "__main__":
    main()
