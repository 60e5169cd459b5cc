"""How an epoch opens: its facts are read, its challenge is drawn, and the commitments that count are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain import Challenge, Commitment, EpochHeader, Neuron, Protein
from app.epochs.facts import EpochFacts
from app.epochs.rules import RuleSet, parse_rules, rdkit_difference, rules_sha256
from chain.commitments import in_window
from chem.database import CombinatorialDatabase


@dataclass(frozen=True, slots=True)
class Opening:
    """The facts an epoch is frozen with."""

    header: EpochHeader
    neurons: tuple[Neuron, ...]
    rules_text: str
    rules_digest: str
    rules: RuleSet
    challenge: Challenge
    proteins: tuple[Protein, ...]
    commitments: tuple[tuple[int, Commitment], ...]
    warnings: tuple[str, ...]

    def frozen(self) -> dict[str, Any]:
        """The keywords of :meth:`app.store.epochs.Epochs.open`."""
        return {
            "header": self.header,
            "neurons": self.neurons,
            "rules": self.rules_text,
            "rules_sha256": self.rules_digest,
            "era": self.rules.era,
            "parameters": self.rules.parameters.model_dump(mode="json"),
            "challenge": self.challenge,
            "proteins": self.proteins,
            "commitments": self.commitments,
            "warnings": self.warnings,
        }


def drawn(rules: RuleSet, start_block_hash: str, pool: Sequence[str], molecule_database: Path) -> Challenge:
    """The challenge that the hash of an epoch's first block draws from a pool of proteins and a table of reactions."""
    database = CombinatorialDatabase(molecule_database)
    try:
        reaction_count = len(database.reactions)
    finally:
        database.close()
    return rules.challenge(start_block_hash, pool, reaction_count)


def opening_of(facts: EpochFacts) -> Opening:
    """Read the rules, draw the challenge, and find the commitments that count."""
    header, text, neurons = facts.header(), facts.rules_text(), facts.metagraph()
    rules = parse_rules(text)
    challenge = drawn(rules, header.start_block_hash, facts.protein_pool(), facts.molecule_database())
    proteins = tuple(
        Protein(
            code,
            None if (whole := facts.sequence(code)) is None else rules.scored_part(challenge, place, whole),
            _alignment(facts, rules, code),
        )
        for place, code in enumerate(challenge.proteins)
    )
    warnings = [
        f"protein {protein.code} has no known sequence; every molecule scores -inf against it"
        for protein in proteins
        if protein.sequence is None
    ]
    warnings += rules.fact_warnings(facts, challenge)
    if (difference := rdkit_difference(rules)) is not None:
        warnings.append(difference)
    return Opening(
        header=header,
        neurons=neurons,
        rules_text=text,
        rules_digest=rules_sha256(text),
        rules=rules,
        challenge=challenge,
        proteins=proteins,
        commitments=tuple(in_window(facts.commitments(), header, rules.no_submission_blocks, neurons)),
        warnings=(*warnings, *facts.warnings()),
    )


def _alignment(facts: EpochFacts, rules: RuleSet, code: str) -> str | None:
    path = facts.file(f"msa/{code}.a3m") if rules.uses_alignments else None
    return None if path is None else path.read_text(encoding="ascii", errors="replace")
