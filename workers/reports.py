"""What others are told of an epoch: the results, and the validator's state; apart from the weights in every way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

import requests
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from sqlalchemy.orm import Session

from app.celery import app
from app.epochs.rules import build_report
from app.observability.metrics import EpochOutcome, Service, epoch_ended, fault_of, fault_of_status, service_asked
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.deliveries import Deliveries, Destination
from app.store.epochs import Epochs
from app.store.weight_submissions import WeightSubmissions
from app.task import ValidatorTask
from app.untrusted import read_json

SCHEMA: Final = 1

_MOST_TRIES: Final = 8
_LONGEST_PAUSE: Final = 600

# A delivery nobody is at after this long was lost with its message; one that was never tried waits for nobody's host.
_LOST_AFTER: Final = timedelta(minutes=30)
_NEVER_TRIED_AFTER: Final = timedelta(minutes=2)

_SECONDS: Final = (5.0, 30.0)
_RETRY_LATER: Final = frozenset({408, 425, 429})
_CLIENT_ERROR, _SERVER_ERROR, _REDIRECT = 400, 500, 300

log = logging.getLogger("celery_validator.reports")


def announce_reports(session: Session, epoch_id: int, *destinations: Destination) -> list[Destination]:
    """Note who is to be told of an epoch (all where none is named), in the transaction that ends it.

    Returns those that are configured, for :func:`queue_reports`.
    """
    settings = get_settings()
    wanted = [destination for destination in destinations or tuple(Destination) if _address(settings, destination)[0]]
    for destination in wanted:
        Deliveries(session).announce(epoch_id, destination)
    return wanted


def queue_reports(epoch_id: int, destinations: Iterable[Destination]) -> None:
    """Queue what was announced; where the broker is away, or this process ends before, :func:`resend_pending` does."""
    for destination in destinations:
        try:
            deliver_report.delay(epoch_id, destination.value)
        except OperationalError as error:
            log.warning("epoch %s: %s is not queued yet: %s", epoch_id, destination.value, error)


def fail_epoch(epoch_id: int, error: str) -> None:
    """End an epoch that cannot go on; monitoring is told of one that publishes."""
    with get_store().writing() as session:
        epochs = Epochs(session)
        ended = epochs.fail(epoch_id, error)
        stage_times = epochs.summary(epoch_id).stage_times
        publishes = epochs.summary(epoch_id).publishes
        told = announce_reports(session, epoch_id, Destination.MONITORING) if publishes else []
    if ended:
        epoch_ended(EpochOutcome.FAILED, stage_times)
    queue_reports(epoch_id, told)


def resend_pending() -> None:
    """Queue again what this cluster announced and nobody is delivering."""
    cluster = get_settings().cluster_name
    with get_store().reading() as session:
        lost = Deliveries(session).pending_before(cluster, _NEVER_TRIED_AFTER, _LOST_AFTER)
    for epoch_id, destination in lost:
        with get_store().writing() as session:
            Deliveries(session).touch(epoch_id, destination)
        queue_reports(epoch_id, [destination])


@app.task(base=ValidatorTask, bind=True)
def deliver_report(self: ValidatorTask, epoch_id: int, destination: str) -> dict[str, Any]:
    """Post one epoch's report to one destination; a host that is away is tried again for about half an hour."""
    where, status = Destination(destination), {"epoch": epoch_id, "destination": destination}
    settings, store = get_settings(), get_store()
    url, key = _address(settings, where)
    with store.writing() as session:
        tries = Deliveries(session).begin(epoch_id, where)
    if tries is None or url is None:
        return status | {"status": "delivered before" if tries is None else "not configured"}
    payload = results_payload(epoch_id, settings) if where is Destination.RESULTS else state_payload(epoch_id, settings)
    fault, again = _post(url, key, payload)
    with store.writing() as session:
        Deliveries(session).note(epoch_id, where, fault, final=not again or tries >= _MOST_TRIES)
    if fault is None:
        return status | {"status": "delivered"}
    log.warning("epoch %s: %s could not be delivered: %s", epoch_id, destination, fault)
    if again and tries < _MOST_TRIES:
        raise self.retry(countdown=min(_LONGEST_PAUSE, 5 * 2**tries), max_retries=None)
    return status | {"status": "failed"}


def results_payload(epoch_id: int, settings: Settings) -> dict[str, Any]:
    """``SUBMIT_RESULTS_URL``'s document (docs/live.md): the whole result.json and what became of the weights."""
    with get_store().reading() as session:
        epochs = Epochs(session)
        result = build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )
    return {
        "schema": SCHEMA,
        "kind": "epoch_result",
        "validator": _validator(settings),
        "result": result,
        "weights_submission": _weights(epoch_id),
    }


def state_payload(epoch_id: int, settings: Settings) -> dict[str, Any]:
    """``MONITORING_URL``'s document (docs/live.md): how the epoch went, without molecules."""
    with get_store().reading() as session:
        epochs = Epochs(session)
        summary, submissions = epochs.summary(epoch_id), epochs.submissions(epoch_id)
        warnings = epochs.warnings(epoch_id)
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
        "weights_submission": _weights(epoch_id),
        "warnings": warnings,
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


def _weights(epoch_id: int) -> dict[str, Any] | None:
    with get_store().reading() as session:
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
    """The fault, if any, and whether another try may mend it."""
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
