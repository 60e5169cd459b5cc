"""The rules of October 2025: one track of molecules, judged by PSICHIC and Boltz-2, half of the weight burned."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from app.domain import (
    BindingPocket,
    Challenge,
    Molecule,
    Protein,
    RejectionCode,
    ScoringModel,
    SubmissionRejected,
    rejected,
)
from app.epochs.result import json_number, submission_report
from app.epochs.rules.archives import molecules_file, used_molecules
from app.epochs.rules.document import Section
from app.epochs.rules.rule_set import (
    ChallengeError,
    FactsNeeded,
    FactsReader,
    Inspection,
    Items,
    Judgement,
    RuleSet,
)
from app.epochs.scores import EpochScores
from app.store.records import EpochSummary, Findings, OpenEpoch, PartState, Standing, SubmissionRecord, Verdict
from chain.incentive.molecules import (
    Entrant,
    WeightVector,
    boltz_candidates,
    entropy_weight,
    rank,
    weight_vector,
)
from chem.names import SAVI, parse_name, reaction_of

Quirk = Literal["heavy_atoms_by_capitals", "zero_is_missing", "uid_zero_never_wins"]

Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

TRACK: Final = "molecule"
PSICHIC: Final = "psichic"
BOLTZ: Final = "boltz"

SCHEMA: Final = 1


class ProteinSelection(Section):
    weekly_target: str = Field("O15379", min_length=1)
    num_antitargets: int = Field(8, ge=0)

    @field_validator("weekly_target")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        if "/" in value or value.startswith("."):
            raise ValueError("is not a UniProt entry")
        return value


class ProteinConstraints(Section):
    """Where the ligand should sit: residues of chain A as ``[chain, 1-based position]``, and a distance in Å."""

    binding_pocket: list[tuple[str, int]] | None = None
    max_distance: Annotated[float, Field(gt=0)] | None = None
    force: bool = False

    @field_validator("binding_pocket", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """YAML has lists where a pair is meant."""
        return (
            [tuple(entry) if isinstance(entry, list) else entry for entry in value]
            if isinstance(value, list)
            else value
        )


class MoleculeValidation(Section):
    num_molecules: int = Field(100, ge=1)
    min_heavy_atoms: int = Field(20, ge=0)
    min_rotatable_bonds: int = Field(1, ge=0)
    max_rotatable_bonds: int = Field(10, ge=0)
    antitarget_weight: Finite = 0.9
    entropy_bonus_threshold: Finite = 0
    entropy_start_weight: Finite = 0.3
    entropy_start_epoch: int = 18703
    entropy_step_size: Finite = 0.007142857
    molecule_repetition_weight: Finite = Field(0, ge=0)
    molecule_repetition_threshold: Finite = 0
    num_molecules_boltz: int = Field(1, ge=0)
    boltz_metric: str = Field("affinity_probability_binary", min_length=1)
    sample_selection: Literal["first", "random"] = "first"

    @model_validator(mode="after")
    def _bounds_in_order(self) -> MoleculeValidation:
        if self.min_rotatable_bonds > self.max_rotatable_bonds:
            raise ValueError("min_rotatable_bonds is larger than max_rotatable_bonds")
        if self.num_molecules_boltz > self.num_molecules:
            raise ValueError("num_molecules_boltz is larger than num_molecules")
        return self


class ReactionFiltering(Section):
    allowed_reactions: list[int] = Field([4, 5])
    random_valid_reaction: bool = False


class Competition(Section):
    no_submission_blocks: int = Field(10, ge=0)
    boltz_weight: Share = 0.5
    burn_rate: Share = 0.5
    burn_uid: int = Field(0, ge=0)


class Parameters(Section):
    """All that the subnet could change from one epoch to the next without changing its rules."""

    era: Literal["october-2025"] = "october-2025"
    protein_selection: ProteinSelection = ProteinSelection()
    protein_constraints: ProteinConstraints = ProteinConstraints()
    molecule_validation: MoleculeValidation = MoleculeValidation()
    reaction_filtering: ReactionFiltering = ReactionFiltering()
    competition: Competition = Competition()
    archive_unavailable: Literal["accept", "reject"] = "accept"
    push_time_branch: bool = True
    quirks: list[Quirk] = Field([])

    def has_quirk(self, quirk: Quirk) -> bool:
        """Whether an oddity of the subnet's own validator is switched on."""
        return quirk in self.quirks


@dataclass(frozen=True)
class October2025(RuleSet):
    """See the module."""

    era: ClassVar[str] = "october-2025"
    models: ClassVar[tuple[ScoringModel, ...]] = (ScoringModel.PSICHIC, ScoringModel.BOLTZ)
    quirks: ClassVar[Mapping[str, str]] = {
        "heavy_atoms_by_capitals": "heavy atoms are counted on the SMILES text; aromatic ones do not count",
        "zero_is_missing": "a PSICHIC score of exactly zero counts as missing",
        "uid_zero_never_wins": "UID 0 counts as no winner",
    }
    given: Parameters

    @property
    def parameters(self) -> Parameters:
        return self.given

    @property
    def push_time_branch(self) -> bool:
        return self.given.push_time_branch

    @property
    def no_submission_blocks(self) -> int:
        return self.given.competition.no_submission_blocks

    @property
    def binding_pocket(self) -> BindingPocket | None:
        constraints = self.given.protein_constraints
        if not constraints.binding_pocket:
            return None
        return BindingPocket(tuple(constraints.binding_pocket), constraints.max_distance, constraints.force)

    def parse(self, text: str) -> Items:
        names, wanted = tuple(text.split(",")), self.given.molecule_validation.num_molecules
        if len(names) != wanted:
            raise rejected(
                RejectionCode.WRONG_MOLECULE_COUNT,
                f"the submission names {len(names)} molecules; exactly {wanted} are needed",
            )
        return {TRACK: names}

    def challenge(self, start_block_hash: str, pool: Sequence[str], reactions: int) -> Challenge:
        seed = int(start_block_hash.removeprefix("0x"), 16)
        selection, filtering = self.given.protein_selection, self.given.reaction_filtering
        if selection.num_antitargets > len(pool):
            raise ChallengeError(
                f"the protein pool has {len(pool)} entries; num_antitargets asks for {selection.num_antitargets}"
            )
        rows = random.Random(seed).sample(range(len(pool)), k=selection.num_antitargets)
        allowed: tuple[int | str, ...] = tuple(filtering.allowed_reactions)
        if filtering.random_valid_reaction:
            drawn = seed % (reactions + 1)
            allowed = (SAVI,) if drawn == 0 else (drawn,)
        return Challenge((selection.weekly_target,), tuple(pool[row] for row in rows), allowed)

    @property
    def undrawn_challenge(self) -> Challenge | None:
        if self.given.reaction_filtering.random_valid_reaction:
            return None
        target, reactions = self.given.protein_selection.weekly_target, self.given.reaction_filtering.allowed_reactions
        return Challenge((target,), (), tuple(reactions))

    def facts_needed(self, challenge: Challenge) -> FactsNeeded:
        return FactsNeeded(files=tuple(molecules_file(target) for target in challenge.targets))

    def fact_warnings(self, facts: FactsReader, challenge: Challenge) -> list[str]:
        _, warning = used_molecules(facts, challenge.targets[:1], self.given.archive_unavailable)
        return [warning] if warning else []

    def reactants(self, items: Items) -> Collection[int]:
        parsed = (parse_name(name) for name in items[TRACK])
        return {number for name in parsed if name for number in name.reactants}

    def inspection(self, facts: FactsReader, challenge: Challenge) -> Inspection:
        from app.epochs.rules.molecules import (
            building_blocks,
            duplicate_names,
            enough_heavy_atoms,
            entries,
            identical_molecules,
            in_database,
            not_used_before,
            reaction_allowed,
            rotatable_bonds_within,
        )
        from app.epochs.rules.walk import Check, Policy, TrackChecks, walk
        from chem.database import CombinatorialDatabase
        from chem.diversity import maccs_entropy

        limits, target = self.given.molecule_validation, challenge.targets[0]
        database = CombinatorialDatabase(facts.molecule_database())
        archive, _ = used_molecules(facts, (target,), self.given.archive_unavailable)

        def inspect(uid: int, items: Items) -> Findings:
            names = entries(items[TRACK], parse_name)
            checks = TrackChecks(
                before=(duplicate_names,),
                each=(
                    Check(reaction_allowed(challenge.allowed_reactions, reaction_of)),
                    Check(in_database(database, building_blocks(names, database))),
                    Check(
                        enough_heavy_atoms(
                            limits.min_heavy_atoms, by_capitals=self.given.has_quirk("heavy_atoms_by_capitals")
                        )
                    ),
                    Check(rotatable_bonds_within(limits.min_rotatable_bonds, limits.max_rotatable_bonds)),
                    Check(not_used_before(archive, target)),
                ),
                after=(identical_molecules,),
                policy=Policy.ALL_OR_NOTHING,
            )
            found = walk(names, checks)
            if found.rejection is not None:
                raise SubmissionRejected(found.rejection)
            entropy = maccs_entropy([item.mol for item in found.accepted])
            return Findings(tuple(item.molecule for item in found.accepted), entropy)

        return inspect

    def proteins(self, epoch: OpenEpoch, model: ScoringModel) -> tuple[Protein, ...]:
        """PSICHIC meets targets and antitargets, Boltz-2 the weekly target alone."""
        return epoch.proteins if model is ScoringModel.PSICHIC else epoch.targets[:1]

    def candidates(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord]
    ) -> Mapping[ScoringModel, Sequence[str]]:
        return {
            ScoringModel.PSICHIC: [molecule.smiles for one in submissions for molecule in one.molecules],
            ScoringModel.BOLTZ: [molecule.smiles for one in submissions for molecule in self._sampled(epoch, one)],
        }

    @property
    def unneeded_models(self) -> Mapping[ScoringModel, str]:
        if self.given.competition.boltz_weight == 0:
            return {ScoringModel.BOLTZ: "Boltz-2 was not run: the rules give it no weight (boltz_weight: 0)"}
        return {}

    def combine(self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores) -> Judgement:
        entrants = [self._entrant(epoch, submission, scores) for submission in submissions]
        ranking = rank(
            entrants,
            epoch.header.epoch,
            self.given.molecule_validation,
            zero_is_missing=self.given.has_quirk("zero_is_missing"),
        )
        entrant_of = {entrant.uid: entrant for entrant in entrants}
        submission_of = {submission.uid: submission for submission in submissions}
        verdicts = tuple(
            Verdict(
                uid=standing.uid,
                scored=self._scored(
                    epoch, submission_of[standing.uid], entrant_of[standing.uid], standing.molecule_scores, scores
                ),
                standings={
                    PSICHIC: Standing(standing.psichic_score, standing.psichic_rank),
                    BOLTZ: Standing(standing.boltz_score, standing.boltz_rank),
                },
                entropy_boltz=entrant_of[standing.uid].entropy_boltz,
            )
            for standing in ranking.standings
        )
        return Judgement(verdicts, {PSICHIC: ranking.psichic_winner, BOLTZ: ranking.boltz_winner})

    def weights(
        self, winners: Mapping[str, int | None], metagraph_uids: Sequence[int], unjudged: Mapping[str, str]
    ) -> WeightVector:
        return weight_vector(
            winners[PSICHIC],
            winners[BOLTZ],
            metagraph_uids,
            self.given.competition,
            uid_zero_never_wins=self.given.has_quirk("uid_zero_never_wins"),
        )

    def report(
        self, epoch: OpenEpoch, summary: EpochSummary, submissions: Sequence[SubmissionRecord], warnings: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "epoch": epoch.header.epoch,
            "rules_sha256": epoch.rules_sha256,
            "challenge": {
                "targets": list(epoch.challenge.targets),
                "antitargets": list(epoch.challenge.antitargets),
                "allowed_reactions": list(epoch.challenge.allowed_reactions),
            },
            "entropy_weight": entropy_weight(epoch.header.epoch, self.given.molecule_validation),
            "submissions": [_reported(submission) for submission in submissions],
            "winners": {name: summary.winners.get(name) for name in (PSICHIC, BOLTZ)},
            "weights": None if summary.weights is None else {str(uid): w for uid, w in summary.weights.items()},
            "warnings": list(warnings),
        }

    def _sampled(self, epoch: OpenEpoch, submission: SubmissionRecord) -> list[Molecule]:
        """The molecules of a submission that Boltz-2 scores."""
        indices = boltz_candidates(
            submission.uid, len(submission.molecules), epoch.header.end_block_hash, self.given.molecule_validation
        )
        return [submission.molecules[index] for index in indices]

    def _entrant(self, epoch: OpenEpoch, submission: SubmissionRecord, scores: EpochScores) -> Entrant:
        from chem.diversity import smiles_entropy

        sampled, target = self._sampled(epoch, submission), epoch.challenge.targets[0]
        metric = self.given.molecule_validation.boltz_metric
        metrics = [scores.of(ScoringModel.BOLTZ, target, molecule.smiles) or {} for molecule in sampled]
        return Entrant(
            uid=submission.uid,
            block=submission.commitment.block,
            push_time=submission.push_time,
            names=tuple(molecule.name for molecule in submission.molecules),
            target_scores=_table(submission.molecules, epoch.challenge.targets, scores),
            antitarget_scores=_table(submission.molecules, epoch.challenge.antitargets, scores),
            entropy=submission.entropy,
            boltz=tuple(found[metric] for found in metrics if metric in found),
            entropy_boltz=smiles_entropy([molecule.smiles for molecule in sampled]) if len(sampled) > 1 else None,
        )

    def _scored(
        self,
        epoch: OpenEpoch,
        submission: SubmissionRecord,
        entrant: Entrant,
        molecule_scores: Sequence[float],
        scores: EpochScores,
    ) -> list[dict[str, Any]]:
        target = epoch.challenge.targets[0]
        sampled = {molecule.smiles for molecule in self._sampled(epoch, submission)}
        boltz = {smiles: scores.of(ScoringModel.BOLTZ, target, smiles) for smiles in sampled}
        return [
            {
                "target_scores": [json_number(score) for score in entrant.target_scores[index]],
                "antitarget_scores": [json_number(score) for score in entrant.antitarget_scores[index]],
                "score": json_number(molecule_scores[index]),
                "boltz": dict(found) if (found := boltz.get(molecule.smiles)) is not None else None,
            }
            for index, molecule in enumerate(submission.molecules)
        ]


def _table(
    molecules: Sequence[Molecule], proteins: Sequence[str], scores: EpochScores
) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(scores.affinity(code, molecule.smiles) for code in proteins) for molecule in molecules)


def _reported(submission: SubmissionRecord) -> dict[str, Any]:
    valid = submission.state is PartState.VALID
    return {
        **submission_report(submission),
        "molecules": [
            {"name": molecule.name, "smiles": molecule.smiles, "inchikey": molecule.inchikey, **scored}
            for molecule, scored in zip(submission.molecules, submission.scored or [], strict=True)
        ]
        if valid
        else [],
        "entropy": submission.entropy,
        "psichic_score": json_number(submission.psichic_score),
        "boltz_score": json_number(submission.boltz_score),
        "entropy_boltz": submission.entropy_boltz,
        "psichic_rank": submission.psichic_rank,
        "boltz_rank": submission.boltz_rank,
    }
