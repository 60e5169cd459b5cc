"""How an epoch opens: its facts are read, its challenge is drawn, and the commitments that count are found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.domain import Challenge, Commitment, EpochHeader, Neuron, Protein, ValidatorError
from app.epochs.facts import EpochFacts
from app.epochs.rules import parse_rules, rules_sha256
from chain.commitments import in_window
from chain.sources import EpochSource
from chem.database import CombinatorialDatabase

RECORDING_PREFIX: Final = "recording:"
LIVE_PREFIX: Final = "live:"

# In an epoch's report: its weights are nobody's earning, and never go to the chain.
UNTRAINED: Final = "PSICHIC scores come from the untrained demo checkpoint and mean nothing"


def open_source(reference: str) -> EpochSource:
    """The source behind a stored reference: ``recording:/path`` or ``live:<netuid>:<end block>:<epoch length>``."""
    if reference.startswith(RECORDING_PREFIX):
        from chain.sources.recorded import RecordedSource

        return RecordedSource(Path(reference.removeprefix(RECORDING_PREFIX)))
    if reference.startswith(LIVE_PREFIX):
        from app.epochs.capture import StoredSource

        return StoredSource(reference)
    raise ValidatorError(f"unknown epoch source {reference!r}; expected {RECORDING_PREFIX}/folder or {LIVE_PREFIX}…")


@dataclass(frozen=True, slots=True)
class Opening:
    """The facts an epoch is frozen with."""

    header: EpochHeader
    neurons: tuple[Neuron, ...]
    rules_text: str
    rules_digest: str
    challenge: Challenge
    proteins: tuple[Protein, ...]
    commitments: tuple[tuple[int, Commitment], ...]
    warnings: tuple[str, ...]


def gather_opening(source: EpochSource) -> Opening:
    """Read the rules, draw the challenge, and find the commitments that count."""
    header = source.header()
    text = source.rules_text()
    rules = parse_rules(text)
    database = CombinatorialDatabase(source.molecule_database())
    try:
        reaction_count = len(database.reactions)
    finally:
        database.close()
    challenge = rules.challenge(header.start_block_hash, source.protein_pool(), reaction_count)
    proteins = tuple(Protein(code, source.sequence(code)) for code in challenge.proteins)
    neurons = source.metagraph()
    warnings = [
        f"protein {protein.code} has no known sequence; every molecule scores -inf against it"
        for protein in proteins
        if protein.sequence is None
    ]
    warnings += rules.fact_warnings(EpochFacts(0, source), challenge)
    return Opening(
        header=header,
        neurons=neurons,
        rules_text=text,
        rules_digest=rules_sha256(text),
        challenge=challenge,
        proteins=proteins,
        commitments=tuple(in_window(source.commitments(), header, rules.no_submission_blocks, neurons)),
        warnings=tuple(warnings) + source.warnings(),
    )
