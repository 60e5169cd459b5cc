"""What this validator counts (docs/metrics.md). Every metric of every process is defined here and nowhere else.

Labels come from the enumerations below, from task names and from queue names: never from a string of others. In the
children of a worker the values lie in files (see :mod:`app.observability.places`); so this module must not be
imported before ``PROMETHEUS_MULTIPROC_DIR`` is set there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from time import perf_counter
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.registry import Collector

from app.domain import RejectionCode, ScoringModel
from app.observability import places

places.use()


class EpochOutcome(StrEnum):
    """How an epoch ends."""

    DONE = "done"
    FAILED = "failed"
    MISSED = "missed"


class TaskOutcome(StrEnum):
    """How one run of a task ends."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    FAILED = "failed"


class BatchOutcome(StrEnum):
    """How one attempt at a batch ends. ``SPLIT``: it failed as a whole and was worked molecule by molecule."""

    SCORED = "scored"
    SPLIT = "split"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Service(StrEnum):
    """Everything outside that this validator asks or tells something, apart from the chain."""

    GITHUB_RAW = "github_raw"
    GITHUB_API = "github_api"
    DRAND = "drand"
    UNIPROT = "uniprot"
    HUGGINGFACE = "huggingface"
    SCORING_API = "scoring_api"
    JUDGE = "judge"
    REPORTS = "reports"
    OTHER = "other"


class Fault(StrEnum):
    """Why an outside service, or the chain, gave no usable answer."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER_ERROR = "server_error"
    RATE_LIMITED = "rate_limited"
    REFUSED = "refused"
    MALFORMED = "malformed"
    LEFT_ALONE = "left_alone"


class WeightsOf(StrEnum):
    """The two validators' weights: molecules (subnet 68) and models (subnet 21)."""

    MOLECULES = "molecules"
    MODELS = "models"


_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500

# a second series for every counter, which no alert or dashboard of ours asks for
disable_created_metrics()  # type: ignore[no-untyped-call]

_TASK_BUCKETS: Final = (0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
_STAGE_BUCKETS: Final = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 5400)

EPOCHS: Final = Counter("validator_epochs", "Epochs that ended, by outcome.", ["outcome"])
STAGE_SECONDS: Final = Histogram(
    "validator_stage_seconds",
    "Seconds that an epoch spent in a stage; observed when the epoch ends.",
    ["stage"],
    buckets=_STAGE_BUCKETS,
)
ACCEPTED: Final = Counter("validator_submissions_accepted", "Submissions found valid.")
REJECTED: Final = Counter("validator_submissions_rejected", "Submissions refused, by rejection code.", ["code"])
PAIRS: Final = Counter(
    "validator_pairs_scored",
    "Pairs of protein and molecule that a model judged, by whether it could.",
    ["model", "result"],
)
PAIR_SECONDS: Final = Counter("validator_pair_seconds", "Seconds spent in a model judging pairs.", ["model"])
BATCHES: Final = Counter("validator_batches", "Attempts at a batch, by outcome.", ["model", "outcome"])
WEIGHTS: Final = Counter("validator_weights", "Weight submissions that were settled, by outcome.", ["of", "outcome"])
WEIGHT_TRIES: Final = Counter("validator_weight_tries", "Single tries to set weights on the chain.", ["outcome"])
CHAIN_READS: Final = Counter("validator_chain_reads", "Questions put to the chain.")
CHAIN_ERRORS: Final = Counter("validator_chain_errors", "Endpoints that gave no usable answer, by fault.", ["kind"])
SERVICE_REQUESTS: Final = Counter("validator_service_requests", "Requests to outside services.", ["service"])
SERVICE_ERRORS: Final = Counter(
    "validator_service_errors", "Outside services that gave no usable answer, by fault.", ["service", "kind"]
)
MODEL_SCORINGS: Final = Counter("validator_model_scorings", "Scorings of miners' models that ended.", ["outcome"])
EVALUATIONS: Final = Counter("validator_evaluations", "Evaluations run on this cluster's GPUs that ended.", ["outcome"])
TASKS: Final = Counter("validator_tasks", "Runs of tasks that ended, by outcome.", ["task", "outcome"])
TASK_SECONDS: Final = Histogram(
    "validator_task_seconds", "Seconds that one run of a task took.", ["task"], buckets=_TASK_BUCKETS
)
TASKS_RUNNING: Final = Gauge("validator_tasks_running", "Tasks being run now.", ["task"], multiprocess_mode="livesum")
TASKS_SENT: Final = Counter("validator_tasks_sent", "Tasks that beat sent when they were due.", ["task"])
REQUESTS: Final = Counter("validator_http_requests", "Requests that the API answered.", ["route", "status"])
REQUEST_SECONDS: Final = Histogram("validator_http_request_seconds", "Seconds until the API's answer.", ["route"])

ALL: Final = (
    *(EPOCHS, STAGE_SECONDS, ACCEPTED, REJECTED, PAIRS, PAIR_SECONDS, BATCHES, WEIGHTS, WEIGHT_TRIES, CHAIN_READS),
    *(CHAIN_ERRORS, SERVICE_REQUESTS, SERVICE_ERRORS, MODEL_SCORINGS, EVALUATIONS, TASKS, TASK_SECONDS, TASKS_RUNNING),
    *(TASKS_SENT, REQUESTS, REQUEST_SECONDS),
)

# Counters whose first event must be seen as one: a rate over a series that begins at 1 is blind to it.
KNOWN_FROM_THE_START: Final[Mapping[Counter, tuple[tuple[str, ...], ...]]] = {
    EPOCHS: tuple((outcome.value,) for outcome in EpochOutcome),
    ACCEPTED: ((),),
    REJECTED: tuple((code.value,) for code in RejectionCode),
    PAIRS: tuple((model.value, result) for model in ScoringModel for result in ("scored", "error")),
    PAIR_SECONDS: tuple((model.value,) for model in ScoringModel),
    BATCHES: tuple((model.value, outcome.value) for model in ScoringModel for outcome in BatchOutcome),
    CHAIN_READS: ((),),
    CHAIN_ERRORS: tuple((fault.value,) for fault in Fault),
    SERVICE_REQUESTS: tuple((service.value,) for service in Service),
}


for _counter, _known in KNOWN_FROM_THE_START.items():
    for _values in filter(None, _known):
        _counter.labels(*_values)


class OwnMetrics(Collector):
    """The metrics above as this process counts them, for a process that has no children."""

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value here; the workers say what is 0."""
        for metric in ALL:
            yield from (family for family in metric.collect() if any(sample.value for sample in family.samples))


def own_metrics() -> Collector:
    """A collector of this process's metrics, without those of libraries."""
    return OwnMetrics()


def epoch_ended(outcome: EpochOutcome, stage_times: Mapping[str, str], number: int = 1) -> None:
    """Count an epoch once it is in a final stage. ``stage_times``: when each stage began, ISO 8601, in order."""
    EPOCHS.labels(outcome.value).inc(number)
    begun = [(stage, datetime.fromisoformat(at)) for stage, at in stage_times.items()]
    for (stage, began), (_, ended) in pairwise(begun):
        STAGE_SECONDS.labels(stage).observe((ended - began).total_seconds())


def submission_examined(refused: RejectionCode | None) -> None:
    """Count one submission once its examination is in the store."""
    if refused is None:
        ACCEPTED.inc()
    else:
        REJECTED.labels(refused.value).inc()


def pairs_scored(model: ScoringModel, seconds: float, errors: Iterable[bool]) -> None:
    """Count what one call of a model judged. ``errors`` holds for each pair whether it has no score."""
    results = ["error" if failed else "scored" for failed in errors]
    for result in ("scored", "error"):
        PAIRS.labels(model.value, result).inc(results.count(result))
    PAIR_SECONDS.labels(model.value).inc(seconds)


def batch_ended(model: ScoringModel, outcome: BatchOutcome) -> None:
    """Count one attempt at a batch."""
    BATCHES.labels(model.value, outcome.value).inc()


def weights_settled(of: WeightsOf, outcome: StrEnum) -> None:
    """Count a weight submission whose outcome is in the store."""
    WEIGHTS.labels(of.value, outcome.value).inc()


def service_asked(service: Service, fault: Fault | None = None) -> None:
    """Count one request to an outside service, and what was wrong with its answer."""
    SERVICE_REQUESTS.labels(service.value).inc()
    if fault is not None:
        SERVICE_ERRORS.labels(service.value, fault.value).inc()


def service_failed(service: Service, fault: Fault) -> None:
    """Count an answer that came, was counted, and turned out to be no use."""
    SERVICE_ERRORS.labels(service.value, fault.value).inc()


def chain_failed(error: BaseException) -> None:
    """Count an endpoint that gave no usable answer."""
    CHAIN_ERRORS.labels(fault_of(error).value).inc()


def fault_of(error: BaseException) -> Fault:
    """The fault behind an exception of the network."""
    name = type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return Fault.TIMEOUT
    if isinstance(error, OSError) or "Connection" in name or "SSL" in name:
        return Fault.CONNECTION
    return Fault.MALFORMED


def fault_of_status(status: int) -> Fault:
    """The fault that an HTTP status above 399 says."""
    if status >= _SERVER_ERROR:
        return Fault.SERVER_ERROR
    return Fault.RATE_LIMITED if status == _TOO_MANY else Fault.REFUSED


class TaskRun:
    """One run of a task while it is measured; ``outcome`` is what it will be counted as."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome = TaskOutcome.FAILED
        self._began = perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return perf_counter() - self._began


@contextmanager
def task_run(name: str) -> Iterator[TaskRun]:
    """Measure one run of a task of ours; it failed unless it says otherwise."""
    run = TaskRun(name)
    running = TASKS_RUNNING.labels(name)
    running.inc()
    try:
        yield run
    finally:
        running.dec()
        TASK_SECONDS.labels(name).observe(run.seconds)
        TASKS.labels(name, run.outcome.value).inc()
