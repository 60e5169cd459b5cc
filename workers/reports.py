"""What is reported of an epoch: the results, and the validator's state; apart from the weights in every way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import requests
from pydantic import SecretStr
from sqlalchemy.orm import Session

from app.celery import app
from app.domain import ValidatorError
from app.epochs.rules import build_report, rules_of
from app.observability.metrics import EpochOutcome, Service, epoch_ended, fault_of, fault_of_status, service_asked
from app.settings import Settings, get_settings
from app.store.deliveries import Deliveries, Destination
from app.store.epochs import Epochs
from app.store.weight_submissions import WeightSubmissions
from app.task import MOST_FAILURES, Step, ValidatorTask
from app.untrusted import read_json

SCHEMA: Final = 1

_MOST_TRIES: Final = 8
_FIRST_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE: Final = timedelta(minutes=10)

_SECONDS: Final = (5.0, 30.0)
_RETRY_LATER: Final = frozenset({408, 425, 429})
_CLIENT_ERROR, _SERVER_ERROR, _REDIRECT = 400, 500, 300

log = logging.getLogger("celery_validator.reports")


def announce_reports(step: Step, epoch_id: int, *destinations: Destination) -> None:
    """Report an epoch to ``destinations``, or to all that the settings name, once the step is committed."""
    settings = get_settings()
    for destination in destinations or tuple(Destination):
        if _address(settings, destination)[0]:
            Deliveries(step.session).announce(epoch_id, destination)
            step.send_epoch("workers.reports.deliver_report", epoch_id, destination.value)


def end_failed(step: Step, epoch_id: int, error: str) -> None:
    """End an epoch that cannot go on; report one that publishes to monitoring; set the weights that are due anyway."""
    epochs = Epochs(step.session)
    if epochs.fail(epoch_id, error, weights := _weights_of_failed(epochs, epoch_id, error)):
        summary = epochs.summary(epoch_id)
        epoch_ended(EpochOutcome.FAILED, summary.stage_times)
        if summary.publishes:
            announce_reports(step, epoch_id, Destination.MONITORING)
            if weights is not None:
                step.send_epoch("workers.weights.submit_weights", epoch_id)


def _weights_of_failed(epochs: Epochs, epoch_id: int, error: str) -> Mapping[int, float] | None:
    try:
        epoch = epochs.get(epoch_id)
        return rules_of(epoch).weights_of_failed([neuron.uid for neuron in epoch.neurons], error).weights
    except ValidatorError:
        # it failed before its rules and its metagraph were known
        return None


def _undelivered(step: Step, epoch_id: int, destination: str, why: str) -> None:
    # the epoch is not touched by what becomes of its report
    Deliveries(step.session).note(epoch_id, Destination(destination), why, MOST_FAILURES, final=True)


@app.task(bind=True, piece=True, gives_up=staticmethod(_undelivered))
def deliver_report(self: ValidatorTask, epoch_id: int, destination: str) -> dict[str, Any]:
    """Post one epoch's report to one destination; a host that is unavailable is tried again for about half an hour."""
    where = Destination(destination)
    fault = _tried(self, epoch_id, where)
    with self.finishing() as step:
        Deliveries(step.session).note(epoch_id, where, fault, self.held.attempts, final=True)
    return {"epoch": epoch_id, "destination": destination, "status": "delivered" if fault is None else "failed"}


def _tried(task: ValidatorTask, epoch_id: int, where: Destination) -> str | None:
    """Why the report could not be delivered, for good; None where it was. Else the task comes back."""
    tries = task.held.attempts
    fault, again = _delivered(task, epoch_id, where)
    if fault is not None:
        log.warning("epoch %s: %s could not be delivered: %s", epoch_id, where.value, fault)
    if again and tries < _MOST_TRIES:
        with task.transaction() as step:
            Deliveries(step.session).note(epoch_id, where, fault, tries, final=False)
        task.later(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries))
    return fault


def _delivered(task: ValidatorTask, epoch_id: int, where: Destination) -> tuple[str | None, bool]:
    """The fault, if any, and whether another try may go through."""
    settings = get_settings()
    url, key = _address(settings, where)
    if url is None:
        return "no address is configured any more", False
    with task.reading() as session:
        payload = (results_payload if where is Destination.RESULTS else state_payload)(session, epoch_id, settings)
    return _post(url, key, payload)


def results_payload(session: Session, epoch_id: int, settings: Settings) -> dict[str, Any]:
    """``SUBMIT_RESULTS_URL``'s document (docs/live.md): the whole result.json and what became of the weights."""
    epochs = Epochs(session)
    result = build_report(
        epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
    )
    return {
        "schema": SCHEMA,
        "kind": "epoch_result",
        "validator": _validator(settings),
        "result": result,
        "weights_submission": _weights(session, epoch_id),
    }


def state_payload(session: Session, epoch_id: int, settings: Settings) -> dict[str, Any]:
    """``MONITORING_URL``'s document (docs/live.md): how the epoch went, without molecules."""
    epochs = Epochs(session)
    summary, submissions = epochs.summary(epoch_id), epochs.submissions(epoch_id)
    refused = Counter(entry.rejection.code.value for entry in submissions if entry.rejection)
    return {
        "schema": SCHEMA,
        "kind": "validator_state",
        "validator": _validator(settings),
        "epoch": summary.number,
        "stage": summary.stage.value,
        "error": summary.error,
        "stage_times": dict(summary.stage_times),
        "submissions": {"valid": len(submissions) - refused.total(), "rejected": dict(sorted(refused.items()))},
        "winners": dict(summary.winners),
        "weights_submission": _weights(session, epoch_id),
        "warnings": epochs.warnings(epoch_id),
    }


def _validator(settings: Settings) -> dict[str, Any]:
    return {"hotkey": _hotkey(settings), "netuid": settings.netuid, "network": settings.subtensor_network}


def _hotkey(settings: Settings) -> str | None:
    """The hotkey's address from its public file, without loading the key or the SDK."""
    folder = settings.wallet_path.expanduser() / settings.wallet_name / "hotkeys"
    for name in (f"{settings.wallet_hotkey}pub.txt", settings.wallet_hotkey):
        try:
            document = read_json((folder / name).read_text(encoding="utf-8"))
            return str(document["ss58Address"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None


def _weights(session: Session, epoch_id: int) -> dict[str, Any] | None:
    found = WeightSubmissions(session).get(epoch_id)
    if found is None:
        return None
    return {
        "state": found.state.value,
        "detail": found.detail,
        "tries": found.tries,
        "weights": None if found.vector is None else {str(uid): share for uid, share in found.vector.items()},
        "extrinsic": found.extrinsic,
        "block_hash": found.block_hash,
    }


def _address(settings: Settings, destination: Destination) -> tuple[str | None, SecretStr | None]:
    if destination is Destination.RESULTS:
        return settings.submit_results_url, settings.submit_results_key
    return settings.monitoring_url, settings.monitoring_key


def _post(url: str, key: SecretStr | None, payload: dict[str, Any]) -> tuple[str | None, bool]:
    """The fault, if any, and whether another try may succeed."""
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = requests.post(url, json=payload, headers=headers, timeout=_SECONDS, allow_redirects=False, stream=True)
        answer.close()
    except requests.RequestException as error:
        service_asked(Service.REPORTS, fault_of(error))
        return f"{type(error).__name__}", True
    refused = None if answer.status_code < _REDIRECT else fault_of_status(answer.status_code)
    service_asked(Service.REPORTS, refused)
    if refused is None:
        return None, False
    again = answer.status_code >= _SERVER_ERROR or answer.status_code in _RETRY_LATER
    return f"status {answer.status_code}", again
