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
from app.domain import Challenge
from app.epochs.recording import Recording
from app.epochs.rules import parse_rules
from chain.commitments import in_window
from chain.submission import fetch_submission, open_submission, parse_submission
from chem.database import CombinatorialDatabase
from chem.names import CombinatorialName, parse_name
from chem.reactions import BROMIDE_SUZUKI_SMARTS, CHLORIDE_SUZUKI_SMARTS, _reactant

ROUNDS = 7
WANTED = 0.8
VALID_UIDS = (1, 2, 3, 4)


def main() -> None:
    """Print molecules/s of the floor and of the validator, and their ratio."""
    source = Recording(RECORDING).facts
    rules = parse_rules(source.rules_text())
    header, neurons = source.header(), source.metagraph()
    committed = dict(in_window(source.commitments(), header, rules.no_submission_blocks, neurons))
    submissions = [
        rules.parse(open_submission(source, uid, parse_submission(fetch_submission(source, committed[uid]))))
        for uid in VALID_UIDS
    ]
    database = CombinatorialDatabase(source.molecule_database())
    inspect = rules.inspection(source, Challenge(("O15379",), (), (4, 5)))
    steps = [_bare_reaction(name, database) for items in submissions for name in items["molecule"]]
    molecules = len(steps)

    def validator() -> None:
        # each round meets its building blocks for the first time, as an epoch does
        _reactant.cache_clear()
        for items in submissions:
            inspect(1, items)

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
