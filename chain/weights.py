"""What the chain asks of a weight submission, and what it answers.

Parameters, the vector in the chain's units, refusals. Pure, with the SDK's own arithmetic. Subtensor checks a plain
``set_weights`` at dispatch. Of a commit it checks only the flag, the version, the registration and the rate limit;
stake, permit, version key and lengths are checked when it is revealed, and a failure there is only logged by the node.
So everything is checked here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from app.domain import ValidatorError

U16_MAX: Final = 65_535

# The chain compares shares exactly, after their rounding to u16; so the largest is cut this much lower.
_CUT: Final = 0.999

# The format of time-locked commits that the SDK writes.
COMMIT_REVEAL_VERSION: Final = 4


class UnusableVector(ValidatorError):
    """Weights that no chain would take: negative, not finite, or all zero."""


class SubmissionState(StrEnum):
    """What became of one try to set weights.

    ``REFUSED`` and ``NOT_REGISTERED`` cannot change by waiting; ``BUSY`` may pass; ``RATE_LIMITED`` passes at a block
    that is known; ``UNKNOWN`` may be in the chain already, or may yet enter it within ``SUBMISSION_ERA`` blocks.
    """

    INCLUDED = "included"
    RATE_LIMITED = "rate_limited"
    NOT_REGISTERED = "not_registered"
    REFUSED = "refused"
    BUSY = "busy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class WeightsOutcome:
    """One try: its state, a sentence, and where it stands on the chain. ``reveal_round`` is set under commit-reveal."""

    state: SubmissionState
    message: str
    block_hash: str | None = None
    extrinsic: str | None = None
    reveal_round: int | None = None


@dataclass(frozen=True, slots=True)
class WeightsShown:
    """What a block shows of the weights of one UID: whose UID it is, when they were set or committed, UID → u16."""

    block: int
    hotkey: str | None
    last_update: int
    weights: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class WeightsParameters:
    """Everything on which the chain's answer to ``set_weights`` depends, read at one block.

    None means that this runtime does not say; ``uid`` is None where the hotkey is not registered.
    """

    netuid: int
    hotkey: str
    block: int
    uid: int | None = None
    last_update: int | None = None
    rate_limit: int | None = None
    version_key: int | None = None
    min_allowed: int | None = None
    # share of the whole that one UID may get, in 65535ths
    max_limit: int | None = None
    permit: bool | None = None
    owns_subnet: bool = False
    # alpha plus weighted TAO, as the chain compares it with the threshold
    stake: float | None = None
    stake_threshold: float | None = None
    commit_reveal: bool | None = None
    commit_reveal_version: int | None = None
    mechanisms: int | None = None

    @property
    def due_block(self) -> int:
        """The first block whose rate limit lets weights in; not after ``block`` where they may come now."""
        if not self.rate_limit or not self.last_update:
            return self.block
        return max(self.block, self.last_update + self.rate_limit)

    @property
    def summary(self) -> str:
        """The parameters in a line; what this runtime does not tell is unknown."""
        yes = {True: "yes", False: "no", None: "unknown"}
        share = "unknown" if self.max_limit is None else f"{self.max_limit / U16_MAX:.2f}"
        parts = {
            "UID": self.uid,
            "stake": None if self.stake is None else f"{self.stake:.2f}",
            "stake asked": None if self.stake_threshold is None else f"{self.stake_threshold:.2f}",
            "permit": yes[self.permit],
            "version key": self.version_key,
            "weights at least": self.min_allowed,
            "share at most": share,
            "blocks between": self.rate_limit,
            "commit-reveal": yes[self.commit_reveal],
            "commit version": self.commit_reveal_version,
            "mechanisms": self.mechanisms,
        }
        return ", ".join(f"{name} {'unknown' if value is None else value}" for name, value in parts.items())

    @property
    def has_stake(self) -> bool:
        """Not below the threshold, as far as this runtime tells."""
        return self.stake is None or self.stake_threshold is None or self.stake >= self.stake_threshold

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a final refusal depends on: as long as it is the same, trying again is of no use."""
        found = asdict(self)
        for moving in ("block", "last_update", "rate_limit"):
            del found[moving]
        # stake moves with every block; only its side of the threshold matters
        return found | {"stake": self.has_stake}


@dataclass(frozen=True, slots=True)
class WeightsVerdict:
    """Whether weights would be accepted now: what stands against it, and what this runtime does not tell."""

    parameters: WeightsParameters
    objections: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Nothing stands against it, and nothing is unknown."""
        return not self.objections and not self.unknown

    @property
    def sentence(self) -> str:
        """The verdict for a person."""
        found = self.parameters
        if self.objections:
            return "weights will be refused: " + "; ".join(self.objections)
        if self.unknown:
            return f"unknown: the runtime does not tell {', '.join(self.unknown)}"
        if found.due_block > found.block:
            return f"weights will be accepted from block {found.due_block} on (rate limit of {found.rate_limit} blocks)"
        return "weights will be accepted"


def verdict(found: WeightsParameters, vector: Mapping[int, int] | None = None) -> WeightsVerdict:
    """Judge the parameters; with ``vector`` (UID → u16, as it would be sent) its length and shares too.

    The subnet's owner needs neither permit nor stake; a vector of only the validator's own UID needs no permit and may
    be short.
    """
    where = f"subnet {found.netuid}"
    if found.uid is None:
        return WeightsVerdict(found, (f"hotkey {found.hotkey} is not registered on {where}",), ())
    against: list[str] = []
    only_itself = vector is not None and list(vector) == [found.uid]
    if found.permit is False and not (found.owns_subnet or only_itself):
        against.append(
            f"hotkey {found.hotkey} (UID {found.uid}) has no validator permit on {where}: give it more stake than the "
            "last validator that has one"
        )
    if not found.has_stake and not found.owns_subnet:
        against.append(
            f"the hotkey's stake of {found.stake or 0:.2f} is below the {found.stake_threshold or 0:.2f} that the "
            "chain asks of a hotkey that sets weights"
        )
    if found.commit_reveal and found.commit_reveal_version not in {None, COMMIT_REVEAL_VERSION}:
        against.append(
            f"the chain takes commits of version {found.commit_reveal_version}, the installed bittensor writes version "
            f"{COMMIT_REVEAL_VERSION}: install the bittensor release for this runtime"
        )
    if vector is not None and not only_itself:
        against += _vector_objections(found, vector)
    needed = {
        "the validator permit": found.permit,
        "the hotkey's stake": found.stake,
        "the stake threshold": found.stake_threshold,
        "the version key": found.version_key,
        "the smallest number of weights": found.min_allowed,
        "the largest share": found.max_limit,
        "the rate limit": found.rate_limit,
        "whether weights are committed": found.commit_reveal,
    }
    return WeightsVerdict(found, tuple(against), tuple(name for name, value in needed.items() if value is None))


def _vector_objections(found: WeightsParameters, vector: Mapping[int, int]) -> list[str]:
    against = []
    if found.min_allowed is not None and len(vector) < found.min_allowed:
        against.append(
            f"subnet {found.netuid} takes no fewer than {found.min_allowed} weights (MinAllowedWeights); "
            f"this vector has {len(vector)}"
        )
    largest, whole = max(vector.values(), default=0), sum(vector.values())
    if found.max_limit is not None and largest * U16_MAX > found.max_limit * whole:
        against.append(
            f"one UID may get {found.max_limit / U16_MAX:.4f} of the whole (MaxWeightsLimit); this vector gives one "
            f"{largest / whole:.4f}"
        )
    return against


def in_chain_units(weights: Mapping[int, float], found: WeightsParameters) -> dict[int, int]:
    """The vector as it is sent, UID → u16: cut to the subnet's largest share, the largest scaled to 65535.

    What rounds to 0 is left out. A vector of only the validator's own UID is not cut.

    Raises:
        UnusableVector: a share is negative or not finite, or all are 0.
    """
    from bittensor.intents.weights import clip_to_max_weight, normalize
    from bittensor.result import BittensorError

    uids, shares = sorted(weights), [float(weights[uid]) for uid in sorted(weights)]
    try:
        if found.max_limit is not None and found.max_limit < U16_MAX and uids != [found.uid]:
            shares = clip_to_max_weight(shares, found.max_limit / U16_MAX * _CUT)
        kept, values = normalize(uids, shares)
    except (BittensorError, ValueError, OverflowError) as error:
        raise UnusableVector(str(error)) from None
    if not kept:
        raise UnusableVector("all weights are zero; nothing to set")
    return dict(zip(kept, values, strict=True))


def same_vector(one: Mapping[int, int], other: Mapping[int, int]) -> bool:
    """Whether two vectors in chain units are the same; the chain may round its own scaling by one unit."""
    return one.keys() == other.keys() and all(abs(one[uid] - other[uid]) <= 1 for uid in one)


# -- refusals ---------------------------------------------------------------------------------------------------------

_NOT_REGISTERED: Final = frozenset(
    {"HotKeyNotRegisteredInSubNet", "HotKeyNotRegisteredInNetwork", "HotKeyAccountNotExists", "NotRegistered"}
)
_RATE_LIMITED: Final = frozenset({"SettingWeightsTooFast", "CommittingWeightsTooFast", "RateLimitExceeded"})

# Errors of the pallet, and of its checks in the pool, that the same submission would meet again.
_FINAL: Final = frozenset(
    {
        "IncorrectWeightVersionKey",
        "IncorrectCommitRevealVersion",
        "WeightVecLengthIsLow",
        "WeightVecNotEqualSize",
        "MaxWeightExceeded",
        "DuplicateUids",
        "UidsLengthExceedUidsInSubNet",
        "NeuronNoValidatorPermit",
        "NotEnoughStakeToSetWeights",
        "StakeAmountTooLow",
        "MechanismDoesNotExist",
        "SubnetNotExists",
        "CanNotSetRootNetworkWeights",
        "SubtokenDisabled",
        "ColdkeySwapAnnounced",
        "ColdkeySwapDisputed",
        "CommitPayloadTooLarge",
        "BadOrigin",
        "Payment",
    }
)

# JSON-RPC codes of a node's transaction pool: the pool, or a block, may hold this very extrinsic.
_TEMPORARILY_BANNED, _ALREADY_IMPORTED = 1012, 1013
_PERHAPS_OURS: Final = frozenset({_TEMPORARILY_BANNED, _ALREADY_IMPORTED})

_SENTENCES: Final[Mapping[str, str]] = {
    "IncorrectWeightVersionKey": "the subnet asks for a newer version key than was sent",
    "WeightVecLengthIsLow": "the subnet asks for more weights than were sent (MinAllowedWeights)",
    "MaxWeightExceeded": "one weight is above the subnet's MaxWeightsLimit",
    "NeuronNoValidatorPermit": "the hotkey has no validator permit",
    "NotEnoughStakeToSetWeights": "the hotkey's stake is below what the chain asks of a hotkey that sets weights",
    "StakeAmountTooLow": "the hotkey's stake is below what the chain asks of a hotkey that sets weights",
}


def state_of_name(name: str | None) -> SubmissionState:
    """What an error of the chain means for the submission, by the error's name."""
    if name in _NOT_REGISTERED:
        return SubmissionState.NOT_REGISTERED
    if name in _RATE_LIMITED:
        return SubmissionState.RATE_LIMITED
    return SubmissionState.REFUSED if name in _FINAL else SubmissionState.BUSY


def dispatch_refusal(name: str | None, text: str) -> WeightsOutcome:
    """An extrinsic that is in a block and failed there."""
    return WeightsOutcome(state_of_name(name), _sentence(name, text))


def pool_refusal(code: int | None, name: str | None, text: str) -> WeightsOutcome:
    """An extrinsic that the node did not take: by the JSON-RPC code, then by the error's name.

    Without a code the node said nothing about the pool: the watch ended, or the connection did.
    """
    if code is None or code in _PERHAPS_OURS:
        return WeightsOutcome(SubmissionState.UNKNOWN, _sentence(name, text))
    return WeightsOutcome(state_of_name(name), f"{_sentence(name, text)} (code {code})")


def preflight_refusal(code: str, name: str | None, text: str) -> WeightsOutcome:
    """A refusal of the SDK's own look at the chain, before anything was signed: ``code`` is its ``ErrorCode``."""
    match code:
        case "rate_limited":
            state = SubmissionState.RATE_LIMITED
        case "not_registered":
            state = SubmissionState.NOT_REGISTERED
        case "invalid_argument" | "not_authorized" | "subnet_not_exists":
            state = SubmissionState.REFUSED
        case _:
            state = state_of_name(name)
    return WeightsOutcome(state, text)


def _sentence(name: str | None, text: str) -> str:
    if name is not None and name in _SENTENCES:
        return f"{_SENTENCES[name]} ({name})"
    text = text.strip()
    return text if name is None or name in text else f"{name}: {text}"
