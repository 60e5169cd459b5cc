"""The frozen types that travel between the rooms. No I/O, no Celery, no SQL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

MOLECULES_NETUID: Final = 68
MODELS_NETUID: Final = 21

# Subtensor makes a block every 12 seconds.
BLOCK: Final = timedelta(seconds=12)

# What every code of a refusal is made of, those of newer versions too.
WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

MINUS_INFINITY: Final = float("-inf")

PSICHIC_METRIC: Final = "predicted_binding_affinity"

BOLTZGEN_METRICS: Final = (
    "design_iiptm",
    "design_ptm",
    "design_to_target_iptm",
    "min_design_to_target_pae",
    "interaction_pae",
    "plip_hbonds_refolded",
    "plip_saltbridge_refolded",
    "delta_sasa_refolded",
    "liability_score",
    "liability_num_violations",
)
"""What is kept of BoltzGen's table."""


class QueueName(StrEnum):
    """The three queues: the chain has one writer; submissions are examined on CPUs, and scored on GPUs."""

    CHAIN = "chain"
    CPU = "cpu"
    GPU = "gpu"


class ScoringModel(StrEnum):
    """The models that scores come from: PSICHIC and Boltz-2 judge molecules, BoltzGen nanobodies."""

    PSICHIC = "psichic"
    BOLTZ = "boltz"
    BOLTZGEN = "boltzgen"


def percent(share: float | None, places: int = 1) -> str:
    """A share of one as a percentage, written everywhere alike: ``25.0 %``; a dash where there is none."""
    return "–" if share is None else f"{share * 100:.{places}f} %"


class RejectionCode(StrEnum):
    """Why a submission, one of its tracks or one of its items is refused."""

    PATH_MALFORMED = "path_malformed"
    CONTENT_NOT_FOUND = "content_not_found"
    CONTENT_TOO_LARGE = "content_too_large"
    HASH_MISMATCH = "hash_mismatch"
    FORMAT_INVALID = "format_invalid"
    ROUND_NOT_REACHED = "round_not_reached"
    DECRYPTION_FAILED = "decryption_failed"
    UID_MISMATCH = "uid_mismatch"
    WRONG_MOLECULE_COUNT = "wrong_molecule_count"
    PAYLOAD_MALFORMED = "payload_malformed"
    NOTHING_SUBMITTED = "nothing_submitted"
    TRACK_EXCLUDED = "track_excluded"
    DUPLICATE_NAMES = "duplicate_names"
    REACTION_NOT_ALLOWED = "reaction_not_allowed"
    NOT_IN_DATABASE = "not_in_database"
    TOO_FEW_HEAVY_ATOMS = "too_few_heavy_atoms"
    ROTATABLE_BONDS = "rotatable_bonds"
    ALREADY_USED = "already_used"
    CHEMICALLY_IDENTICAL = "chemically_identical"
    BANNED_ATOM = "banned_atom"
    TOO_SIMILAR = "too_similar"
    LIST_ENDED = "list_ended"
    TOO_FEW_ITEMS = "too_few_items"
    WRONG_SEQUENCE_COUNT = "wrong_sequence_count"
    DUPLICATE_SEQUENCES = "duplicate_sequences"
    SEQUENCE_LENGTH = "sequence_length"
    INVALID_RESIDUE = "invalid_residue"
    HOMOPOLYMER_RUN = "homopolymer_run"
    DIPEPTIDE_REPEAT = "dipeptide_repeat"
    TOO_FEW_CYSTEINES = "too_few_cysteines"
    NO_CYSTEINE_PAIR = "no_cysteine_pair"
    SIGNAL_PEPTIDE = "signal_peptide"
    NOT_VHH = "not_vhh"
    LOW_NATIVENESS = "low_nativeness"
    NO_HUMAN_MATCH = "no_human_match"
    LOW_HUMAN_FRAMEWORK = "low_human_framework"
    NOT_DEVELOPABLE = "not_developable"
    STEP_UNAVAILABLE = "step_unavailable"
    INTERNAL_ERROR = "internal_error"

    @classmethod
    def _missing_(cls, value: object) -> RejectionCode | None:
        """A code that a newer version wrote is shown as it is, though nothing here explains it."""
        if not isinstance(value, str) or not WORD.fullmatch(value):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        return member


class ValidatorError(Exception):
    """An error for the person who must act: the message names the input and the fix."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one submission was refused, in words its miner understands."""

    code: RejectionCode
    message: str
    molecule: str | None = None
    index: int | None = None
    # the structure of the molecule, where the rule got so far as to know it; for its drawing
    smiles: str | None = field(default=None, compare=False)


class SubmissionRejected(Exception):
    """Raised by the rule that refuses a submission; carries the :class:`Rejection`."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def rejected(
    code: RejectionCode, message: str, molecule: str | None = None, index: int | None = None
) -> SubmissionRejected:
    """The exception for one refusal, to be raised at the rule that decides it."""
    return SubmissionRejected(Rejection(code, message, molecule, index))


@dataclass(frozen=True, slots=True)
class Neuron:
    """One row of the metagraph. ``stake`` is in alpha (not rao)."""

    uid: int
    hotkey: str
    coldkey: str
    stake: float
    validator_permit: bool


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a miner wrote on the chain: ``data`` is a GitHub path, ``block`` the block it was written in."""

    hotkey: str
    block: int
    data: str


@dataclass(frozen=True, slots=True)
class EpochHeader:
    """The boundary of one epoch. Block hashes carry their ``0x``."""

    netuid: int
    network: str
    epoch_length: int
    start_block: int
    end_block: int
    start_block_hash: str
    end_block_hash: str

    @property
    def epoch(self) -> int:
        """``end // epoch_length - 1``."""
        return self.end_block // self.epoch_length - 1


@dataclass(frozen=True, slots=True)
class Challenge:
    """What an epoch's molecules are judged against."""

    targets: tuple[str, ...]
    antitargets: tuple[str, ...]
    allowed_reactions: tuple[int | str, ...]
    nanobody_targets: tuple[str, ...] = ()

    @property
    def proteins(self) -> tuple[str, ...]:
        """Targets, then antitargets, then the nanobodies' targets: the row order of every score table."""
        return self.targets + self.antitargets + self.nanobody_targets


@dataclass(frozen=True, slots=True)
class Protein:
    """A protein by its UniProt entry.

    ``sequence`` is one-letter residues; None where nobody knows it. ``alignment`` is a multiple sequence alignment in
    A3M whose first row is the sequence; None where the models get the sequence alone.
    """

    code: str
    sequence: str | None
    alignment: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that a model is told: two entries with one sequence and alignment share their scores."""
        text = self.sequence if self.sequence is not None else f"unknown:{self.code}"
        return hashlib.sha256((text if self.alignment is None else f"{text}\n{self.alignment}").encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BindingPocket:
    """Where a ligand should sit: residues as (chain, 1-based position), within ``max_distance`` Å of them.

    ``force`` adds a guiding potential; without it the model is only told. A distance of None is the model's default.
    """

    residues: tuple[tuple[str, int], ...]
    max_distance: float | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Molecule:
    """One accepted molecule of a submission."""

    name: str
    smiles: str
    inchikey: str


@dataclass(frozen=True, slots=True)
class PairScore:
    """What a model computed for one (protein, SMILES) pair: its metrics, or the reason that there are none.

    ``metrics`` maps the metric name (``predicted_binding_affinity``, …) to a finite float. It is empty exactly where
    ``error`` is set (``code: sentence``).
    """

    protein: str
    smiles: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


class ScoringInterrupted(ValidatorError):
    """A scorer had to stop for a reason that passes (a full device): keep ``finished``, ask again for the rest."""

    def __init__(self, message: str, finished: Sequence[PairScore] = ()) -> None:
        super().__init__(message)
        self.finished = tuple(finished)


class Scorer(Protocol):
    """Anything that scores ligands against proteins: PSICHIC, Boltz-2, or a recording.

    One scorer lives as long as its worker process; it loads its model on first use and keeps it.
    """

    @property
    def digest(self) -> str:
        """Hex SHA-256 over all that decides a number: weights, code version, precision, library versions."""
        ...

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """One :class:`PairScore` per protein and SMILES, proteins outermost, in the order given.

        ``on_score``, where given, hears of scores as soon as they are there (all models may also tell at the end).

        A ligand or protein that cannot be scored is a PairScore with ``error``; an exception means that the
        *batch* failed for a reason that is not the molecule's (a lost device, a broken installation).
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelId:
    """A miner's model as committed on the chain: a Hugging Face repository,
    the revision to take, and the competition it enters. None where the commitment leaves a field out."""

    namespace: str
    name: str
    epoch: str | None
    commit: str | None
    hash: str | None
    competition_id: str | None

    @property
    def repository(self) -> str:
        """``namespace/name``, the Hugging Face repository."""
        return f"{self.namespace}/{self.name}"

    @property
    def text(self) -> str:
        """The commitment text: ``namespace:name:epoch:commit:hash:competition_id``."""
        fields = (self.namespace, self.name, self.epoch, self.commit, self.hash, self.competition_id)
        return ":".join(str(field) for field in fields)


@dataclass(frozen=True, slots=True)
class ModelCommitment:
    """A model and the block it was committed in."""

    hotkey: str
    block: int
    model: ModelId


class ReportedScore(NamedTuple):
    """What one validator reported of a model. A tuple, for thousands are read at once."""

    scorer: str
    score: float
    scored_at: datetime | None = None
    model_hash: str | None = None
