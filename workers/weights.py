"""The epoch's weights: into the recording's result, or onto the chain, once (specs/epoch.md §10)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from app.celery import app
from app.clock import now
from app.domain import EpochHeader, Neuron, ValidatorError
from app.epochs.capture import process_subtensor
from app.epochs.rules import rules_of
from app.epochs.scores import UNTRAINED
from app.observability.metrics import EpochOutcome, WeightsOf, epoch_ended, weights_settled
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import EpochSummary, OpenEpoch
from app.store.weight_submissions import WeightsState, WeightSubmission, WeightSubmissions
from app.task import ValidatorTask
from chain.sources import SourceUnavailable
from chain.subtensor import SUBMISSION_ERA, Subtensor, load_wallet
from chain.weights import SubmissionState, WeightsOutcome
from workers.reports import announce_reports

# Tries to set weights, WEIGHTS_PAUSE apart.
MOST_TRIES: Final = 10

# Looking at a chain that does not answer is not a try; but it ends too.
_MOST_FAILURES: Final = 40

# Blocks that a submission may need; one that lands in the next epoch would be taken for that epoch's.
_INCLUSION_BLOCKS: Final = 4

log = logging.getLogger("celery_validator.weights")


class _TryAgain(Exception):
    """Nothing is settled yet; the message goes into the store."""

    def __init__(self, sentence: str, *, may_arrive: bool = False, early: float | None = None) -> None:
        super().__init__(sentence)
        self.may_arrive = may_arrive
        # seconds by which the message came before the pause was over; no try was made
        self.early = early


class _Settled(Exception):
    """The submission's end."""

    def __init__(
        self,
        state: WeightsState,
        detail: str,
        vector: Mapping[int, float] | None = None,
        outcome: WeightsOutcome | None = None,
        *,
        warn: bool = False,
    ) -> None:
        super().__init__(detail)
        self.state, self.detail, self.vector, self.outcome, self.warn = state, detail, vector, outcome, warn


@app.task(bind=True, piece=True)
def submit_weights(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Submit the closed epoch's vector, once. A replay's goes into its result and nowhere else."""
    settings = get_settings()
    with self.transaction() as step:
        epochs, submissions = Epochs(step.session), WeightSubmissions(step.session)
        summary, epoch = epochs.summary(epoch_id), epochs.get(epoch_id)
        submission = submissions.begin(epoch_id)
    if not summary.publishes:
        return _settle(self, epoch_id, _recorded(summary))
    try:
        # the claim guards against another task, the lock against another cluster on this machine
        with FileLock(_lock_path(settings), timeout=0):
            _Submitting(epoch, summary, submission, settings).run()
    except Timeout:
        self.later(settings.weights_pause)
    except _Settled as end:
        return _settle(self, epoch_id, end)
    except _TryAgain as wait:
        if wait.early is None:
            with self.transaction() as step:
                WeightSubmissions(step.session).failed_try(epoch_id, str(wait), may_arrive=wait.may_arrive)
        self.later(settings.weights_pause if wait.early is None else timedelta(seconds=wait.early))
    raise AssertionError("a run ends in _Settled or _TryAgain")


def _recorded(summary: EpochSummary) -> _Settled:
    """A replay's weights stand in its result, and nowhere else."""
    state = WeightsState.NONE if summary.weights is None else WeightsState.RECORDED
    return _Settled(state, "replay: written to the result, not to the chain", summary.weights)


def _settle(task: ValidatorTask, epoch_id: int, end: _Settled) -> dict[str, Any]:
    outcome = end.outcome
    with task.finishing() as step:
        WeightSubmissions(step.session).settle(
            epoch_id,
            end.state,
            end.detail,
            end.vector,
            outcome.extrinsic if outcome else None,
            outcome.block_hash if outcome else None,
        )
        epochs = Epochs(step.session)
        if end.warn:
            epochs.warn(epoch_id, f"weights: {end.detail}")
        ended = epochs.finish(epoch_id)
        summary = epochs.summary(epoch_id)
        if summary.publishes:
            announce_reports(step, epoch_id)
    if ended:
        weights_settled(WeightsOf.MOLECULES, end.state)
        epoch_ended(EpochOutcome.DONE, summary.stage_times)
    log.info("epoch %s: weights %s: %s", epoch_id, end.state.value, end.detail)
    return {"epoch": epoch_id, "status": end.state.value}


def _lock_path(settings: Settings) -> Path:
    folder = settings.data_dir.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"weights-{settings.netuid}.lock"


class _Submitting:
    """One try; every way out is an exception that says what follows."""

    def __init__(
        self, epoch: OpenEpoch, summary: EpochSummary, submission: WeightSubmission, settings: Settings
    ) -> None:
        self._epoch = epoch
        self._summary = summary
        self._submission = submission
        self._settings = settings

    def run(self) -> None:
        """Raises _Settled or _TryAgain."""
        self._settle_without_chain()
        chain = process_subtensor(self._settings)
        try:
            self._on_chain(chain)
        except SourceUnavailable as fault:
            if len(self._submission.failures) + 1 >= _MOST_FAILURES:
                raise self._failed(f"the chain was not to be reached: {fault}") from None
            raise _TryAgain(str(fault), may_arrive=self._submission.sent_at_block is not None) from None
        except ValidatorError as error:
            raise _Settled(WeightsState.FAILED, str(error), warn=True) from None

    def _settle_without_chain(self) -> None:
        weights = self._summary.weights
        if weights is None:
            raise _Settled(WeightsState.NONE, "no winner, so nothing is submitted")
        if self._settings.weights_file is not None:
            _write_vector(self._settings.weights_file, self._epoch, weights)
            detail = f"test mode: written to {self._settings.weights_file}, not to the chain"
            raise _Settled(WeightsState.WRITTEN, detail, weights)
        if self._settings.offline or self._settings.dont_set_weights:
            flag = "--offline" if self._settings.offline else "--dont_set_weights"
            raise _Settled(WeightsState.NOT_SET, f"{flag}: nothing is submitted", weights)
        with get_store().reading() as session:
            untrained = UNTRAINED in Epochs(session).warnings(self._epoch.id)
        if untrained:
            # it was rehearsed in test mode, which has been switched off since
            raise _Settled(WeightsState.NOT_SET, f"{UNTRAINED}; nothing is submitted", weights)

    def _on_chain(self, chain: Subtensor) -> None:
        settings, submission = self._settings, self._submission
        live = self._epoch.header
        wallet = load_wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
        hotkey = str(wallet.hotkey.ss58_address)
        head = chain.current_block()
        last_update = chain.last_update(settings.netuid, hotkey)
        if last_update is None:
            detail = f"hotkey {hotkey} is not registered on subnet {settings.netuid}; nothing was submitted"
            raise _Settled(WeightsState.NOT_REGISTERED, detail, warn=True)
        self._settle_what_arrived(head, last_update, live)
        if head + _INCLUSION_BLOCKS >= live.end_block + live.epoch_length:
            detail = f"the next epoch closes or has closed (block {head}); weights are never set late"
            raise _Settled(WeightsState.LATE, detail, self._summary.weights, warn=True)
        if submission.tries >= MOST_TRIES:
            raise self._failed(submission.failures[-1] if submission.failures else "no reason was given")
        due = submission.updated_at + settings.weights_pause
        if submission.tries and now() < due:
            # a second message for the same epoch must not shorten the pause
            raise _TryAgain("waiting for the next try", early=max(0.5, (due - now()).total_seconds()))
        vector = self._current_vector(chain.metagraph(settings.netuid, head))
        with get_store().writing() as session:
            WeightSubmissions(session).about_to_send(self._epoch.id, vector, head, last_update)
        outcome = chain.set_weights(settings.netuid, vector, wallet)
        self._judge(outcome, vector, chain, hotkey, last_update)

    def _settle_what_arrived(self, head: int, last_update: int, live: EpochHeader) -> None:
        """Look on the chain for what was sent before, and for what somebody else sent with this hotkey."""
        submission = self._submission
        if submission.sent_at_block is not None:
            if last_update > (submission.last_update_before or 0):
                detail = f"found on the chain: the hotkey's weights were updated at block {last_update}"
                raise _Settled(WeightsState.SET, detail, submission.vector)
            if head <= submission.sent_at_block + SUBMISSION_ERA:
                raise _TryAgain(
                    f"sent at block {submission.sent_at_block}, not on the chain at block {head}", may_arrive=True
                )
        elif last_update > live.end_block:
            detail = (
                f"the hotkey's weights were updated at block {last_update}, after this epoch had ended, and not by "
                "this validator: another one uses the same hotkey; nothing was submitted"
            )
            raise _Settled(WeightsState.ALREADY_SET, detail, warn=True)

    def _current_vector(self, neurons: Sequence[Neuron]) -> dict[int, float]:
        """The vector with each winner at the UID its hotkey has now."""
        hotkey_then = {neuron.uid: neuron.hotkey for neuron in self._epoch.neurons}
        uid_now = {neuron.hotkey: neuron.uid for neuron in neurons}
        winners: dict[str, int | None] = {}
        for ranking, winner in self._summary.winners.items():
            if winner is None:
                winners[ranking] = None
            elif (hotkey := hotkey_then[winner]) in uid_now:
                winners[ranking] = uid_now[hotkey]
            else:
                detail = f"winner UID {winner} ({hotkey}) has left the subnet; nothing was submitted"
                raise _Settled(WeightsState.WINNER_LEFT, detail, warn=True)
        vector = rules_of(self._epoch).weights(winners, [neuron.uid for neuron in neurons], {})
        if vector.weights is None:
            raise _Settled(WeightsState.NONE, vector.reason or "no winner, so nothing is submitted", warn=True)
        return dict(vector.weights)

    def _judge(
        self, outcome: WeightsOutcome, vector: dict[int, float], chain: Subtensor, hotkey: str, last_update: int
    ) -> None:
        match outcome.state:
            case SubmissionState.INCLUDED:
                reveal = f"; revealed at drand round {outcome.reveal_round}" if outcome.reveal_round else ""
                raise _Settled(WeightsState.SET, f"{outcome.message or 'included'}{reveal}", vector, outcome)
            case SubmissionState.NOT_REGISTERED:
                raise _Settled(WeightsState.NOT_REGISTERED, outcome.message, vector, outcome, warn=True)
            case SubmissionState.UNKNOWN:
                after = chain.last_update(self._settings.netuid, hotkey)
                if after is not None and after > last_update:
                    detail = f"the answer was lost ({outcome.message}), but the chain has it since block {after}"
                    raise _Settled(WeightsState.SET, detail, vector, outcome)
                raise _TryAgain(f"unknown: {outcome.message}", may_arrive=True)
        sentence = f"{outcome.state.value}: {outcome.message}"
        if self._submission.tries + 1 >= MOST_TRIES:
            raise self._failed(sentence)
        raise _TryAgain(sentence)

    def _failed(self, sentence: str) -> _Settled:
        detail = f"given up after {MOST_TRIES} tries; the last one: {sentence}"
        return _Settled(WeightsState.FAILED, detail, self._summary.weights, warn=True)


def _write_vector(path: Path, epoch: OpenEpoch, weights: Mapping[int, float]) -> None:
    """Test mode: the vector as it would have been sent, one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "epoch": epoch.header.epoch,
        "netuid": epoch.header.netuid,
        "weights": {str(uid): share for uid, share in weights.items()},
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
