"""The one way to submit weights, for both subnets: checked, sent once, read back until the chain shows these weights.

A call moves a submission on by one step and returns what follows as a value: :class:`Ended` or :class:`Again`. Whatever
dies in between, the next call reads from the store what may have been sent and from the chain what became of it.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy.orm import Session

from app.clock import now
from app.domain import BLOCK, Neuron, ValidatorError
from app.settings import Settings
from app.store.database import Store
from app.store.services import ServiceStates
from app.store.weight_submissions import WeightsState, WeightSubmission, WeightSubmissions
from app.untrusted import quoted
from chain.sources import SourceUnavailable
from chain.subtensor import SUBMISSION_ERA, PreparedWeights, load_wallet
from chain.timelock import round_time
from chain.weights import (
    SubmissionState,
    UnusableVector,
    WeightsOutcome,
    WeightsParameters,
    WeightsShown,
    WeightsVerdict,
    in_chain_units,
    same_vector,
    verdict,
)

# Tries to set weights; the pause between them doubles up to _LONGEST_PAUSE times the first.
MOST_TRIES: Final = 10
_LONGEST_PAUSE: Final = 5

# Blocks that a submission may need; one that lands in the next epoch would be taken for that epoch's.
_INCLUSION_BLOCKS: Final = 4

# A submission that waits for its block, or for a parameter to change, looks again at least this often.
_LOOK_EVERY: Final = timedelta(minutes=5)

# The chain reveals in the block after it has the round; one that shows nothing for so long did not reveal.
_REVEAL_GRACE: Final = timedelta(minutes=5)

# A reveal that did not happen is looked for a little longer: the chain's own oracle of drand may be behind.
_REVEAL_SEARCH: Final = timedelta(hours=1)

log = logging.getLogger("celery_validator.weights")


@dataclass(frozen=True, slots=True)
class NoVector:
    """Nothing is to be sent, and why."""

    state: WeightsState
    reason: str


@dataclass(frozen=True, slots=True)
class WeightsJob:
    """What is to be submitted, and until when.

    Attributes:
        netuid: the subnet.
        vector: shares by the UIDs of the metagraph it is given, which is the newest.
        closes_at: after this instant nothing is sent any more.
        closes_block: the same as a block, where the subnet counts in blocks.
        foreign_after: an update of the hotkey's weights after this block that is not ours is somebody else's.
    """

    netuid: int
    vector: Callable[[Sequence[Neuron]], Mapping[int, float] | NoVector]
    closes_at: datetime
    closes_block: int | None = None
    foreign_after: int | None = None

    def closed(self, block: int) -> bool:
        """Whether it is too late at this block."""
        late = self.closes_block is not None and block + _INCLUSION_BLOCKS >= self.closes_block
        return late or now() >= self.closes_at


@dataclass(frozen=True, slots=True)
class Ended:
    """The submission's outcome. ``INCLUDED`` and what a changed parameter may cure are followed up."""

    state: WeightsState
    detail: str
    vector: Mapping[int, float] | None = None
    outcome: WeightsOutcome | None = None
    refused_with: Mapping[str, Any] | None = None

    @property
    def followed(self) -> bool:
        """Whether somebody looks at the chain again for this submission."""
        return self.state is WeightsState.INCLUDED or self.refused_with is not None

    def write(self, submissions: WeightSubmissions, submission_id: int) -> None:
        """Settle the submission in the store."""
        submissions.settle(
            submission_id,
            self.state,
            self.detail,
            vector=self.vector,
            extrinsic=self.outcome.extrinsic if self.outcome else None,
            block_hash=self.outcome.block_hash if self.outcome else None,
            refused_with=self.refused_with,
        )


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing is settled yet; look again after ``pause``. ``sentence``: why a try, or a reveal, came to nothing."""

    pause: timedelta
    state: WeightsState
    sentence: str | None = None


Step = Ended | Again


class WeightsChain(Protocol):
    """What submitting needs of the chain: :class:`chain.subtensor.Subtensor`."""

    def weights_parameters(self, netuid: int, hotkey: str) -> tuple[WeightsParameters, tuple[Neuron, ...]]:
        """Parameters and metagraph as of the newest block."""
        ...

    def weights_on_chain(self, netuid: int, uid: int) -> WeightsShown:
        """What the newest block shows of a validator's weights."""
        ...

    def prepare_weights(
        self, found: WeightsParameters, weights: Mapping[int, float], wallet: Any
    ) -> PreparedWeights | WeightsOutcome:
        """Build and sign, or say what refuses it."""
        ...

    def send_weights(self, prepared: PreparedWeights, wallet: Any) -> WeightsOutcome:
        """Send once."""
        ...


class Submitter:
    """Moves submissions on. ``pause`` is the wait after a first failed try."""

    def __init__(self, chain: WeightsChain, wallet: Any, store: Store, pause: timedelta) -> None:
        self._chain = chain
        self._wallet = wallet
        self._hotkey = str(wallet.hotkey.ss58_address)
        self._store = store
        self._pause = pause

    def advance(self, submission: WeightSubmission, job: WeightsJob) -> Step:
        """Send the job's vector, unless the chain has it, may yet get it, or would refuse it."""
        try:
            found, neurons = self._chain.weights_parameters(job.netuid, self._hotkey)
            return self._advance(submission, job, found, neurons)
        except SourceUnavailable as fault:
            if now() >= job.closes_at:
                return Ended(WeightsState.FAILED, f"the chain did not answer in time: {fault}")
            return Again(self._backoff(len(submission.failures)), submission.state, str(fault))
        except ValidatorError as error:
            return Ended(WeightsState.FAILED, str(error))

    def _advance(
        self, submission: WeightSubmission, job: WeightsJob, found: WeightsParameters, neurons: Sequence[Neuron]
    ) -> Step:
        self._keep(verdict(found))
        if found.uid is None:
            return _refused(
                WeightsState.NOT_REGISTERED, f"{verdict(found).objections[0]}; nothing was submitted", found
            )
        if submission.sent_at_block is not None:
            arrived = self._arrived(submission, self._chain.weights_on_chain(job.netuid, found.uid))
            if arrived is not None:
                return arrived
        if submission.sent_at_block is None and job.foreign_after is not None:
            updated = found.last_update or 0
            if updated > job.foreign_after:
                return Ended(WeightsState.ALREADY_SET, _foreign(updated, "before this validator sent any"))
        if job.closed(found.block):
            late = f"the next weights are due or were set (block {found.block}); weights are never set late"
            return Ended(WeightsState.LATE, late)
        if submission.tries >= MOST_TRIES:
            last = submission.failures[-1] if submission.failures else "no reason was given"
            return Ended(WeightsState.FAILED, f"given up after {MOST_TRIES} tries; the last one: {last}")
        if found.due_block > found.block:
            return Again(self._until(found), WeightsState.COMPUTED)
        vector = job.vector(neurons)
        if isinstance(vector, NoVector):
            return Ended(vector.state, vector.reason)
        return self._send(submission, found, vector)

    def _send(self, submission: WeightSubmission, found: WeightsParameters, vector: Mapping[int, float]) -> Step:
        try:
            judged = verdict(found, in_chain_units(vector, found))
        except UnusableVector as error:
            return Ended(WeightsState.FAILED, str(error), vector)
        if judged.objections:
            self._keep(judged)
            return _refused(WeightsState.REFUSED, judged.sentence, found, vector)
        prepared = self._chain.prepare_weights(found, vector, self._wallet)
        if isinstance(prepared, WeightsOutcome):
            return self._judge(prepared, submission, found, vector)
        with self._store.writing() as session:
            WeightSubmissions(session).about_to_send(
                submission.id,
                vector,
                prepared.vector,
                block=found.block,
                last_update=found.last_update or 0,
                reveal_round=prepared.reveal_round,
            )
        outcome = self._chain.send_weights(prepared, self._wallet)
        with self._store.reading() as session:
            sent = WeightSubmissions(session).by_id(submission.id)
        assert sent is not None
        return self._judge(outcome, sent, found, vector)

    def _judge(
        self,
        outcome: WeightsOutcome,
        submission: WeightSubmission,
        found: WeightsParameters,
        vector: Mapping[int, float],
    ) -> Step:
        """What one try's answer means. ``submission`` as it stands after the try."""
        sentence = f"{outcome.state.value}: {outcome.message}"
        match outcome.state:
            case SubmissionState.INCLUDED | SubmissionState.UNKNOWN:
                assert found.uid is not None
                return self._read_back(outcome, submission, found.uid, vector)
            case SubmissionState.NOT_REGISTERED:
                return _refused(WeightsState.NOT_REGISTERED, outcome.message, found, vector, outcome)
            case SubmissionState.REFUSED:
                return _refused(WeightsState.REFUSED, outcome.message, found, vector, outcome)
            case _:
                return Again(self._backoff(submission.tries - 1), WeightsState.COMPUTED, sentence)

    def _read_back(
        self, outcome: WeightsOutcome, submission: WeightSubmission, uid: int, vector: Mapping[int, float]
    ) -> Step:
        """The node's word is not enough: the chain must show it."""
        sentence = f"{outcome.state.value}: {outcome.message}"
        try:
            arrived = self._arrived(submission, self._chain.weights_on_chain(submission.netuid, uid))
        except SourceUnavailable as fault:
            return Again(self._pause, WeightsState.SENT, f"{sentence}; {fault}")
        if not isinstance(arrived, Ended):
            return Again(self._pause, WeightsState.SENT, sentence)
        answer = "" if outcome.state is SubmissionState.INCLUDED else f"the answer was lost ({outcome.message}), but "
        return Ended(arrived.state, answer + arrived.detail, vector, outcome)

    def _arrived(self, submission: WeightSubmission, shown: WeightsShown) -> Step | None:
        """What the chain says of a vector that was sent, or was about to be; None where it may be sent now."""
        assert submission.sent_at_block is not None
        assert submission.sent is not None
        pending = submission.state is WeightsState.SENT and shown.block <= submission.sent_at_block + SUBMISSION_ERA
        wait = Again(self._pause, WeightsState.SENT) if pending else None
        updated = shown.last_update
        if shown.hotkey != self._hotkey or updated <= (submission.last_update_before or 0):
            return wait
        if submission.reveal_round is not None:
            at = datetime.fromtimestamp(round_time(submission.reveal_round), UTC)
            return Ended(
                WeightsState.INCLUDED,
                f"committed at block {updated}; revealed at drand round {submission.reveal_round}, {at:%H:%M} UTC",
                submission.vector,
            )
        if same_vector(shown.weights, submission.sent):
            return Ended(WeightsState.SET, f"the chain shows these weights since block {updated}", submission.vector)
        # an endpoint may be a block behind
        return wait or Ended(WeightsState.ALREADY_SET, _foreign(updated, "to others than this validator's"))

    # -- what comes later -----------------------------------------------------------------------------------------

    def follow(self, submission: WeightSubmission, job: WeightsJob | None) -> Step:
        """Look whether a commit was revealed, or whether what refused a submission has changed.

        ``job`` is None where it is too late to send anything.
        """
        try:
            if submission.reveal_round is not None and submission.state in _REVEALING:
                return self._revealed(submission)
            found, _ = self._chain.weights_parameters(submission.netuid, self._hotkey)
            self._keep(verdict(found))
            if job is None or job.closed(found.block):
                return Ended(submission.state, submission.detail or "")
            if found.fingerprint == submission.refused_with:
                return Again(_LOOK_EVERY, submission.state)
        except SourceUnavailable as fault:
            log.warning("%s", fault)
            return Again(_LOOK_EVERY, submission.state)
        # a parameter changed: begin again
        return Again(timedelta(0), WeightsState.COMPUTED)

    def _revealed(self, submission: WeightSubmission) -> Step:
        assert submission.sent is not None
        assert submission.reveal_round is not None
        seen = self._shown(submission.netuid)
        shown = {} if seen is None else seen.weights
        if seen is not None and same_vector(shown, submission.sent):
            return Ended(WeightsState.REVEALED, f"revealed: the chain shows these weights at block {seen.block}")
        with self._store.reading() as session:
            later = WeightSubmissions(session).later_than(submission)
        if any(one.sent is not None and same_vector(shown, one.sent) for one in later):
            return Ended(WeightsState.SUPERSEDED, "the chain shows later weights of this validator")
        due = datetime.fromtimestamp(round_time(submission.reveal_round), UTC)
        if now() < due + _REVEAL_GRACE:
            return Again(max(BLOCK, min(due - now(), _LOOK_EVERY)), submission.state)
        found, _ = self._chain.weights_parameters(submission.netuid, self._hotkey)
        self._keep(verdict(found))
        why = verdict(found, submission.sent)
        detail = (
            f"committed, but not revealed by {now():%H:%M} UTC (drand round {submission.reveal_round} was published at "
            f"{due:%H:%M}): the chain drops a commit whose stake, permit, version key or lengths do not hold at the "
            f"reveal. Now: {why.sentence}"
        )
        if now() < due + _REVEAL_SEARCH:
            return Again(_LOOK_EVERY, WeightsState.UNREVEALED, detail)
        return Ended(WeightsState.UNREVEALED, detail)

    def _shown(self, netuid: int) -> WeightsShown | None:
        """What the chain shows of this hotkey's weights; None where it is not registered."""
        with self._store.reading() as session:
            known = last_verdict(session, netuid)
        if known is not None and known.verdict.parameters.uid is not None:
            shown = self._chain.weights_on_chain(netuid, known.verdict.parameters.uid)
            if shown.hotkey == self._hotkey:
                return shown
        # it has another UID than when it was last asked for
        found, _ = self._chain.weights_parameters(netuid, self._hotkey)
        self._keep(verdict(found))
        return None if found.uid is None else self._chain.weights_on_chain(netuid, found.uid)

    def _keep(self, judged: WeightsVerdict) -> None:
        with self._store.writing() as session:
            keep_verdict(session, judged)

    def _backoff(self, failures: int) -> timedelta:
        return self._pause * min(2.0 ** max(0, failures), _LONGEST_PAUSE)

    def _until(self, found: WeightsParameters) -> timedelta:
        return min(_LOOK_EVERY, BLOCK * (found.due_block - found.block))


_REVEALING: Final = frozenset({WeightsState.INCLUDED, WeightsState.UNREVEALED})


def _refused(
    state: WeightsState,
    detail: str,
    found: WeightsParameters,
    vector: Mapping[int, float] | None = None,
    outcome: WeightsOutcome | None = None,
) -> Ended:
    return Ended(state, detail, vector, outcome, found.fingerprint)


def _foreign(updated: int, how: str) -> str:
    return (
        f"the hotkey's weights were updated at block {updated} {how}: another validator uses the same hotkey; "
        "stop one of the two"
    )


# -- weights that do not go to the chain ------------------------------------------------------------------------------


def kept_from_chain(
    settings: Settings,
    weights: Mapping[int, float] | None,
    netuid: int,
    *,
    epoch: int | None = None,
    mark: str | None = None,
) -> Ended | None:
    """What the settings make of a vector instead of sending it; None where it is to be sent."""
    if not weights:
        return Ended(WeightsState.NONE, "nobody has a weight, so nothing is submitted")
    if settings.weights_file is not None:
        try:
            write_vector(settings.weights_file, netuid, weights, epoch=epoch, mark=mark)
        except ValidatorError as error:
            return Ended(WeightsState.FAILED, str(error), weights)
        detail = f"test mode: written to {settings.weights_file}, not to the chain"
        return Ended(WeightsState.WRITTEN, detail, weights)
    if settings.offline or settings.dont_set_weights:
        flag = "--offline" if settings.offline else "--dont-set-weights"
        return Ended(WeightsState.NOT_SET, f"{flag}: nothing is submitted", weights)
    return None


def write_vector(
    path: Path, netuid: int, weights: Mapping[int, float], *, epoch: int | None = None, mark: str | None = None
) -> None:
    """The vector as it would have been sent, one JSON document for both subnets; whole or not at all.

    Raises:
        ValidatorError: the file cannot be written.
    """
    shares = {str(uid): share for uid, share in sorted(weights.items())}
    document = {"netuid": netuid, "epoch": epoch, "mark": mark, "weights": shares}
    with _written_beside(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def require_weights_file(settings: Settings) -> None:
    """Raise a ValidatorError where WEIGHTS_FILE is set and cannot be written; what it holds stays."""
    if settings.weights_file is not None:
        with _written_beside(settings.weights_file) as partial:
            partial.touch()
            partial.unlink()


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """Where to write what then replaces the file; a fault of the system is said with the setting and the fix."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path.with_name(f".{path.name}.partial")
    except (OSError, ValueError) as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or "no such path can be"
        raise ValidatorError(
            f"WEIGHTS_FILE: {quoted(str(path), 200)} cannot be written ({cause}); "
            "set it to a file in a folder that this user may write to"
        ) from None


def weights_verdict(settings: Settings, chain: WeightsChain) -> WeightsVerdict:
    """Ask the chain whether this validator's weights would be accepted now, whatever they are.

    Raises:
        ValidatorError: no wallet, no such subnet, or no answer.
    """
    wallet = load_wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
    found, _ = chain.weights_parameters(settings.netuid, str(wallet.hotkey.ss58_address))
    return verdict(found)


@dataclass(frozen=True, slots=True)
class ReadVerdict:
    """What stood for or against weights when the chain was last asked."""

    verdict: WeightsVerdict
    read_at: datetime


def keep_verdict(session: Session, judged: WeightsVerdict) -> None:
    """Keep a subnet's verdict for callers that must not wait for the chain: the pages, the metrics."""
    document = {
        "parameters": asdict(judged.parameters),
        "objections": list(judged.objections),
        "unknown": list(judged.unknown),
    }
    ServiceStates(session).keep(f"weights:{judged.parameters.netuid}", document)


def last_verdict(session: Session, netuid: int) -> ReadVerdict | None:
    """The verdict of a subnet's weights as last read; None where the chain was never asked."""
    state = ServiceStates(session).latest(f"weights:{netuid}")
    if state is None:
        return None
    found = state.document
    parameters = WeightsParameters(**found["parameters"])
    return ReadVerdict(WeightsVerdict(parameters, tuple(found["objections"]), tuple(found["unknown"])), state.read_at)
