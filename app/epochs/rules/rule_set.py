"""What a subnet may change from one era to the next, as one object; the engine around it names no rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from app.domain import BindingPocket, Challenge, Protein, ScoringModel, ValidatorError
from app.epochs.rules.document import Section
from app.epochs.scores import EpochScores
from app.store.records import EpochSummary, Findings, OpenEpoch, SubmissionRecord, Verdict
from chain.incentive.molecules import WeightVector

# Items by track, as a miner named them and in the miner's order.
Items = Mapping[str, tuple[str, ...]]

# Judges one submission's items, given its UID; raises SubmissionRejected where nothing of it counts.
Inspection = Callable[[int, Items], Findings]


class ChallengeError(ValidatorError):
    """The challenge cannot be drawn from what was given; the epoch cannot be judged."""


class FactsReader(Protocol):
    """The facts that rules may read (:class:`app.epochs.facts.EpochFacts`)."""

    def molecule_database(self) -> Path:
        """The combinatorial database's file."""
        ...

    def file(self, name: str) -> Path | None:
        """A named file of the epoch; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class FactsNeeded:
    """What must be captured for a challenge besides the submissions: named files, such as archives."""

    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The end of an epoch: what is written for each valid submission, the winner of each ranking, and warnings.

    ``unjudged`` names the rankings that this validator could not make, and why: nobody has won them, and weights must
    not pretend that nobody entered.
    """

    verdicts: tuple[Verdict, ...]
    winners: Mapping[str, int | None]
    warnings: tuple[str, ...] = ()
    unjudged: Mapping[str, str] = field(default_factory=dict)


class RuleSet(ABC):
    """The rules of one era with one set of parameters: pure functions, and how the era's result is written."""

    era: ClassVar[str]
    """The name that ``era:`` in a rules file gives."""

    models: ClassVar[tuple[ScoringModel, ...]]
    """The models that this era's scores come from."""

    @property
    @abstractmethod
    def parameters(self) -> Section:
        """The rules file with every default filled in."""

    rdkit: ClassVar[str] = "2024.9.4"
    """The RDKit that the era's validators count with; others differ in rotatable bonds, aromaticity and rings."""

    quirks: ClassVar[Mapping[str, str]] = {}
    """The oddities of the subnet's own validator that a rules file may list, and what each does."""

    uses_alignments: ClassVar[bool] = False
    """Whether structure models are given the targets' alignments, ``msa/TARGET.a3m`` among the epoch's facts."""

    boltz_profile: ClassVar[str | None] = None
    """The numerics of Boltz-2 that the era's validators score with; None where the settings choose."""

    exchanges_scores: ClassVar[bool] = False
    """Whether the era's validators exchange their scores before they rank (:meth:`share`)."""

    needs_every_model: ClassVar[bool] = True
    """Whether an epoch fails where a model cannot be run here; else only what that model ranks is not judged."""

    @property
    @abstractmethod
    def no_submission_blocks(self) -> int:
        """How many blocks before the epoch's end a commitment comes too late."""

    @property
    def push_time_branch(self) -> bool:
        """Whether push times are those of the committed branch, or else of the repository's default branch."""
        return True

    @property
    def binding_pocket(self) -> BindingPocket | None:
        """Where a structure model is told to place the ligand; None where it is not."""
        return None

    @abstractmethod
    def parse(self, text: str) -> Items:
        """The items of an opened submission, its ``uid:`` taken off.

        Raises:
            SubmissionRejected: the text is not of the era's grammar.
        """

    @abstractmethod
    def challenge(self, start_block_hash: str, pool: Sequence[str], reactions: int) -> Challenge:
        """Draw the challenge from the hash of the epoch's first block.

        Args:
            start_block_hash: with its ``0x``.
            pool: UniProt entries of the protein pool, in the dataset's row order.
            reactions: rows of the table ``reactions``.

        Raises:
            ChallengeError: nothing can be drawn from these.
        """

    @property
    @abstractmethod
    def undrawn_challenge(self) -> Challenge | None:
        """The challenge as far as checks ask, where the rules draw nothing that a check depends on; else None."""

    def scored_part(self, challenge: Challenge, position: int, sequence: str) -> str:
        """The part of a protein's sequence that is scored; ``position`` counts the challenge's proteins."""
        return sequence

    @abstractmethod
    def facts_needed(self, challenge: Challenge) -> FactsNeeded:
        """The named files that the checks and the models read."""

    @abstractmethod
    def fact_warnings(self, facts: FactsReader, challenge: Challenge) -> list[str]:
        """What the report must say of facts that are unavailable, and what follows from it."""

    @abstractmethod
    def reactants(self, items: Items) -> Collection[int]:
        """The building blocks that the items name, for a recording's subset of the database."""

    @abstractmethod
    def inspection(self, facts: FactsReader, challenge: Challenge) -> Inspection:
        """The checks of each track in their order, over what an epoch's submissions share (database, archives)."""

    @abstractmethod
    def proteins(self, epoch: OpenEpoch, model: ScoringModel) -> tuple[Protein, ...]:
        """What a model scores items against."""

    @abstractmethod
    def candidates(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord]
    ) -> Mapping[ScoringModel, Sequence[str]]:
        """What each model scores of the valid submissions (UIDs ascending); items may repeat."""

    @property
    def unneeded_models(self) -> Mapping[ScoringModel, str]:
        """The models whose scores change nothing, each with the reason for the report."""
        return {}

    def scores_to_post(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores
    ) -> Mapping[str, Any]:
        """What of our own scores the exchange is given, as its API takes it; of no item, only the epoch's number."""
        return {"epoch": epoch.header.epoch}

    def share(
        self, submissions: Sequence[SubmissionRecord], scores: EpochScores, shared: Mapping[str, Any] | None
    ) -> list[str]:
        """Put what the exchange with other validators gave in the place of our own scores; what the report must say.

        ``shared`` is the document ``scores/shared.json``; None where nothing was exchanged.
        """
        return []

    @abstractmethod
    def combine(self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores) -> Judgement:
        """Scores, ranks and winners of all submissions at once, for some ranks depend on every competitor."""

    @abstractmethod
    def weights(
        self,
        winners: Mapping[str, int | None],
        metagraph_uids: Sequence[int],
        unjudged: Mapping[str, str],
    ) -> WeightVector:
        """The epoch's weights over the metagraph, or the reason that none may be sent."""

    def weights_of_failed(self, metagraph_uids: Sequence[int], error: str) -> WeightVector:
        """The weights of an epoch that nobody judged because of ``error``: none, unless an era says otherwise."""
        return WeightVector(None, error)

    @abstractmethod
    def report(
        self, epoch: OpenEpoch, summary: EpochSummary, submissions: Sequence[SubmissionRecord], warnings: Sequence[str]
    ) -> dict[str, Any]:
        """``result.json`` of this era; ``submissions`` has an entry for each, which depends on no other submission."""
