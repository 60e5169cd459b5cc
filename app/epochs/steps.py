"""What each step of an epoch computes, between the rooms and free of Celery and of the store.

Open (draw the challenge, read the commitments) → examine each submission → plan the batches → stand (rank, weigh).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.domain import (
    MINUS_INFINITY,
    PSICHIC_METRIC,
    Challenge,
    Commitment,
    EpochHeader,
    Molecule,
    Neuron,
    PairScore,
    Protein,
    ScoringModel,
    SubmissionRejected,
    ValidatorError,
)
from app.epochs.result import json_number
from app.rules import Rules, parse_rules, rules_sha256
from app.store.records import Examination, OpenEpoch, PartState, SubmissionRecord, Verdict
from chain.challenge import draw_challenge
from chain.commitments import in_window
from chain.github_path import parse_github_path
from chain.incentive.molecules import Entrant, boltz_candidates, rank, weight_vector
from chain.sources import ArchiveUnavailable, EpochSource
from chain.submission import fetch_submission, open_submission, parse_submission
from chem.archive import ArchiveUnreadable, read_archive
from chem.database import CombinatorialDatabase

# chem.validation and chem.diversity load RDKit (30 MB); the processes that examine nothing do without

BATCH_SIZE: Final = 32

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
    """Read the rules, draw the challenge, and find the commitments that count (specs/epoch.md §1 to §3)."""
    header = source.header()
    text = source.rules_text()
    rules = parse_rules(text)
    database = CombinatorialDatabase(source.molecule_database())
    try:
        reaction_count = len(database.reactions)
    finally:
        database.close()
    challenge = draw_challenge(header.start_block_hash, source.protein_pool(), reaction_count, rules)
    proteins = tuple(Protein(code, source.sequence(code)) for code in challenge.proteins)
    neurons = source.metagraph()
    warnings = [
        f"protein {protein.code} has no known sequence; every molecule scores -inf against it"
        for protein in proteins
        if protein.sequence is None
    ]
    _, archive_warning = load_archive(source, rules)
    return Opening(
        header=header,
        neurons=neurons,
        rules_text=text,
        rules_digest=rules_sha256(text),
        challenge=challenge,
        proteins=proteins,
        commitments=tuple(in_window(source.commitments(), header, rules.competition.no_submission_blocks, neurons)),
        warnings=tuple(warnings) + ((archive_warning,) if archive_warning else ()) + source.warnings(),
    )


def load_archive(source: EpochSource, rules: Rules) -> tuple[frozenset[str] | None, str | None]:
    """The target's archive and a warning for the report. None: unreadable, and the rules say ``reject``."""
    try:
        return read_archive(source.archive(rules.protein_selection.weekly_target)), None
    except (ArchiveUnreadable, ArchiveUnavailable) as error:
        accept = rules.archive_unavailable == "accept"
        consequence = "molecules were taken as unused" if accept else "every submission was refused"
        return frozenset() if accept else None, f"{error}; {consequence} (archive_unavailable)"


class Examiner:
    """Examines an epoch's submissions; holds what they share (database, archive, rules) for the worker's next one."""

    def __init__(self, source: EpochSource, rules: Rules, challenge: Challenge) -> None:
        from chem.validation import MoleculeRules, validate_molecules

        self._source = source
        self._rules = rules
        self._validate = validate_molecules
        self._database = CombinatorialDatabase(source.molecule_database())
        archive, _ = load_archive(source, rules)
        self._against = MoleculeRules(rules, challenge.allowed_reactions, archive, challenge.targets[0])

    def examine(self, uid: int, commitment: Commitment) -> Examination:
        """Fetch, decrypt and validate one submission; a refusal is a result, not an exception."""
        push_time = ""
        try:
            push_time = self._source.push_time(parse_github_path(commitment.data))
            sealed = parse_submission(fetch_submission(self._source, commitment))
            names = open_submission(self._source, uid, sealed, self._rules.molecule_validation.num_molecules)
            valid = self._validate(names, self._database, self._against)
        except SubmissionRejected as refusal:
            return Examination(push_time, rejection=refusal.rejection)
        return Examination(push_time, valid.molecules, valid.entropy)

    def close(self) -> None:
        """Give the database's file handle back."""
        self._database.close()


def plan_batches(
    epoch: OpenEpoch, submissions: Sequence[SubmissionRecord]
) -> dict[ScoringModel, list[tuple[str, ...]]]:
    """Unique SMILES of all valid submissions in first-seen order, UIDs ascending, in batches of 32 (§7, §8)."""
    valid = [submission for submission in submissions if submission.state is PartState.VALID]
    everything = (molecule.smiles for submission in valid for molecule in submission.molecules)
    if boltz_left_out(epoch):
        return {ScoringModel.PSICHIC: _batched(everything)}
    candidates = (molecule.smiles for submission in valid for molecule in candidates_of(epoch, submission))
    return {ScoringModel.PSICHIC: _batched(everything), ScoringModel.BOLTZ: _batched(candidates)}


def boltz_left_out(epoch: OpenEpoch) -> str | None:
    """Why this epoch runs no Boltz-2, for the report; None where it runs."""
    if epoch.without_boltz:
        return "Boltz-2 was not run: the operator said --without-boltz"
    if epoch.scores == "model" and epoch.rules.competition.boltz_weight == 0:
        return "Boltz-2 was not run: the rules give it no weight (boltz_weight: 0)"
    return None


def candidates_of(epoch: OpenEpoch, submission: SubmissionRecord) -> list[Molecule]:
    """The molecules of a submission that Boltz-2 scores (§8)."""
    indices = boltz_candidates(
        submission.uid, len(submission.molecules), epoch.header.end_block_hash, epoch.rules.molecule_validation
    )
    return [submission.molecules[index] for index in indices]


def _batched(smiles: Iterable[str]) -> list[tuple[str, ...]]:
    unique = list(dict.fromkeys(smiles))
    return [tuple(unique[start : start + BATCH_SIZE]) for start in range(0, len(unique), BATCH_SIZE)]


def proteins_for(epoch: OpenEpoch, model: ScoringModel) -> tuple[Protein, ...]:
    """PSICHIC meets targets and antitargets, Boltz-2 the weekly target alone."""
    return epoch.proteins if model is ScoringModel.PSICHIC else epoch.targets[:1]


@dataclass(slots=True)
class EpochScores:
    """All scores of an epoch, as compact as 25,600 molecules × 9 proteins ask for."""

    affinities: dict[str, dict[str, float]] = field(default_factory=dict)
    boltz: dict[str, Mapping[str, float]] = field(default_factory=dict)
    failures: dict[tuple[ScoringModel, str], set[str]] = field(default_factory=dict)

    def add(self, model: ScoringModel, pairs: Iterable[PairScore]) -> None:
        """Take up a batch's scores: affinity by protein and SMILES, Boltz metrics by SMILES, errors by cause."""
        for pair in pairs:
            if pair.error:
                self.failures.setdefault((model, pair.error.split(":", 1)[0]), set()).add(pair.smiles)
            elif model is ScoringModel.BOLTZ:
                self.boltz[pair.smiles] = pair.metrics
            elif math.isfinite(affinity := pair.metrics.get(PSICHIC_METRIC, MINUS_INFINITY)):
                self.affinities.setdefault(pair.protein, {})[pair.smiles] = affinity

    def affinity(self, protein: str, smiles: str) -> float:
        """The PSICHIC score, −inf where there is none."""
        return self.affinities.get(protein, {}).get(smiles, MINUS_INFINITY)

    def warnings(self) -> list[str]:
        """One sentence per cause, so that a thousand failed pairs do not drown the report."""
        return [
            f"{model.value}: {len(molecules)} molecule(s) without a score ({cause}), for example {min(molecules)[:120]}"
            for (model, cause), molecules in sorted(self.failures.items())
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An epoch's end: what is written for each valid submission, the winners and the weights."""

    verdicts: tuple[Verdict, ...]
    winners: tuple[int | None, int | None]
    weights: Mapping[int, float] | None
    warnings: tuple[str, ...]


def conclude(epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores) -> Outcome:
    """Rank the valid submissions and build the weight vector (§9, §10)."""
    valid = [submission for submission in submissions if submission.state is PartState.VALID]
    entrants = [_entrant(epoch, submission, scores) for submission in valid]
    ranking = rank(entrants, epoch.header.epoch, epoch.rules)
    vector = weight_vector(
        ranking.psichic_winner, ranking.boltz_winner, [neuron.uid for neuron in epoch.neurons], epoch.rules
    )
    entrant_of = {entrant.uid: entrant for entrant in entrants}
    submission_of = {submission.uid: submission for submission in valid}
    verdicts = tuple(
        Verdict(
            uid=standing.uid,
            scored=_scored(
                epoch, submission_of[standing.uid], entrant_of[standing.uid], standing.molecule_scores, scores
            ),
            psichic_score=standing.psichic_score,
            boltz_score=standing.boltz_score,
            entropy_boltz=entrant_of[standing.uid].entropy_boltz,
            psichic_rank=standing.psichic_rank,
            boltz_rank=standing.boltz_rank,
        )
        for standing in ranking.standings
    )
    warnings = scores.warnings()
    warnings += [reason for reason in (boltz_left_out(epoch), vector.reason) if reason]
    return Outcome(verdicts, (ranking.psichic_winner, ranking.boltz_winner), vector.weights, tuple(warnings))


def _entrant(epoch: OpenEpoch, submission: SubmissionRecord, scores: EpochScores) -> Entrant:
    candidates = candidates_of(epoch, submission)
    metric = epoch.rules.molecule_validation.boltz_metric
    metrics = [scores.boltz.get(molecule.smiles, {}) for molecule in candidates]
    return Entrant(
        uid=submission.uid,
        block=submission.commitment.block,
        push_time=submission.push_time,
        names=tuple(molecule.name for molecule in submission.molecules),
        target_scores=_table(submission.molecules, epoch.challenge.targets, scores),
        antitarget_scores=_table(submission.molecules, epoch.challenge.antitargets, scores),
        entropy=submission.entropy,
        boltz=tuple(found[metric] for found in metrics if metric in found),
        entropy_boltz=_entropy_of(candidates) if len(candidates) > 1 else None,
    )


def _entropy_of(molecules: Sequence[Molecule]) -> float | None:
    from chem.diversity import smiles_entropy

    return smiles_entropy([molecule.smiles for molecule in molecules])


def _table(
    molecules: Sequence[Molecule], proteins: Sequence[str], scores: EpochScores
) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(scores.affinity(code, molecule.smiles) for code in proteins) for molecule in molecules)


def _scored(
    epoch: OpenEpoch,
    submission: SubmissionRecord,
    entrant: Entrant,
    molecule_scores: Sequence[float],
    scores: EpochScores,
) -> list[dict[str, Any]]:
    candidates = {molecule.smiles for molecule in candidates_of(epoch, submission)}
    return [
        {
            "target_scores": [json_number(score) for score in entrant.target_scores[index]],
            "antitarget_scores": [json_number(score) for score in entrant.antitarget_scores[index]],
            "score": json_number(molecule_scores[index]),
            "boltz": dict(scores.boltz[molecule.smiles])
            if molecule.smiles in candidates and molecule.smiles in scores.boltz
            else None,
        }
        for index, molecule in enumerate(submission.molecules)
    ]
