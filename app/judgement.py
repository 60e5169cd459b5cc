"""How the validator is, judged once for everyone who asks: the pages, the metrics behind the alerts, ``healthcheck``.

Three conditions, each with its reasons. Healthy needs evidence: what has not answered, or has not happened yet, is not
known yet and never healthy. :func:`judge` is pure; :func:`gather` reads the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy.orm import Session

from app.clock import now
from app.domain import MODELS_NETUID, QueueName
from app.observability.broker import (
    LONGEST_WAIT,
    LiveWorker,
    QueueDepth,
    broker_fault,
    live_workers,
    queue_depths,
    workers_by_queue,
)
from app.settings import Settings
from app.store.epoch_views import EpochLine, EpochViews
from app.store.records import FINAL_STAGES, PartState, Stage
from app.store.weight_submissions import (
    WEIGHTS_FINE,
    WEIGHTS_OPEN,
    WEIGHTS_TROUBLE,
    LastWeights,
    WeightsState,
    WeightSubmissions,
)
from app.weights import ReadVerdict, last_verdict

# Epochs in a row of which one that failed or was missed is still worth a word.
RECENT: Final = 5

# As the alerts EpochLate, NoEpochDone and EverythingRejected have it: docs/alerts.md.
_LATE: Final = timedelta(hours=1)
_SILENT: Final = timedelta(hours=3)
_FEW: Final = 5

# Rounds of subnet 21 come every 20 minutes.
_ROUNDS_SILENT: Final = timedelta(hours=1)

# As the alert WeightsOld has it.
_WEIGHTS_OLD: Final = timedelta(hours=4)

# The parameters are read every 10 minutes; older than this they say nothing of now.
_VERDICT_KEPT: Final = timedelta(minutes=45)


class Condition(StrEnum):
    """How something is. UNKNOWN is a condition of its own: it calls for patience, or for a second look."""

    HEALTHY = "healthy"
    TROUBLE = "trouble"
    UNKNOWN = "not known yet"


class Part(StrEnum):
    """What is judged."""

    BROKER = "broker"
    WORKERS = "workers"
    EPOCHS = "epochs"
    WEIGHTS = "weights"
    ACCEPTANCE = "acceptance"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part's condition, and the sentence that says why."""

    part: Part
    condition: Condition
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All findings: trouble where one is trouble, else not known yet where one is not known, else healthy."""

    findings: tuple[Finding, ...]

    @property
    def condition(self) -> Condition:
        """The whole validator's."""
        return _worst(finding.condition for finding in self.findings)

    def of(self, part: Part) -> Condition | None:
        """One part's condition; None where this validator has no such part."""
        found = [finding.condition for finding in self.findings if finding.part is part]
        return _worst(iter(found)) if found else None

    def reasons(self, condition: Condition) -> tuple[str, ...]:
        """The sentences of every finding of one condition."""
        return tuple(finding.reason for finding in self.findings if finding.condition == condition)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the broker says: None where it has not answered in time; ``fault`` where it cannot be reached."""

    depths: Mapping[QueueName, QueueDepth] | None
    workers: tuple[LiveWorker, ...] | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a judgement rests on. ``recent``: epochs, newest first; of subnet 21 its last round instead.

    ``live``: live epochs are watched, and a replay then tells nothing of how the validator is.
    """

    cluster: Cluster
    netuid: int
    live: bool
    sets_weights: bool
    recent: tuple[EpochLine, ...]
    done_at: datetime | None
    last_weights: LastWeights | None
    round_at: datetime | None
    verdict: ReadVerdict | None
    at: datetime

    @property
    def judged(self) -> tuple[EpochLine, ...]:
        """The epochs that tell how the validator is."""
        return tuple(line for line in self.recent if line.live or not self.live)


def cluster(wait: float = LONGEST_WAIT) -> Cluster:
    """Ask the broker, no longer than ``wait`` seconds for each question."""
    depths = queue_depths(wait)
    # a broker that does not say how deep its queues are need not be asked who works them
    workers = None if depths is None else live_workers(wait)
    return Cluster(depths, workers, broker_fault() if depths is None else None)


def gather(session: Session, settings: Settings, found: Cluster) -> Evidence:
    """Read what the store knows. Eight queries, however long the history is."""
    views, submissions = EpochViews(session), WeightSubmissions(session)
    ours = tuple(views.lines(RECENT, live_only=True))
    return Evidence(
        cluster=found,
        netuid=settings.netuid,
        live=settings.live or settings.netuid == MODELS_NETUID or bool(ours),
        sets_weights=settings.sets_weights,
        recent=ours or tuple(views.lines(RECENT)),
        done_at=views.last_live_end(),
        last_weights=submissions.last(settings.netuid),
        round_at=submissions.last_round() if settings.netuid == MODELS_NETUID else None,
        verdict=last_verdict(session, settings.netuid),
        at=now(),
    )


def judge(evidence: Evidence) -> Judgement:
    """The one judgement."""
    return Judgement(
        (
            *_broker(evidence.cluster),
            *_workers(evidence.cluster),
            *(_rounds(evidence) if evidence.netuid == MODELS_NETUID else _epochs(evidence)),
            *_weights(evidence),
            *_acceptance(evidence),
        )
    )


def _sentence(text: str) -> str:
    """The text as a sentence, since reasons are shown one after the other."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _worst(conditions: Iterator[Condition]) -> Condition:
    found = set(conditions)
    if Condition.TROUBLE in found:
        return Condition.TROUBLE
    return Condition.UNKNOWN if Condition.UNKNOWN in found or not found else Condition.HEALTHY


def _broker(found: Cluster) -> Iterator[Finding]:
    if found.depths is not None:
        yield Finding(Part.BROKER, Condition.HEALTHY, "The broker answers.")
    elif found.fault is not None:
        yield Finding(
            Part.BROKER,
            Condition.TROUBLE,
            f"The broker does not answer, so nothing is known of queues and workers: {found.fault}",
        )
    else:
        yield Finding(Part.BROKER, Condition.UNKNOWN, "The broker has not answered yet.")


def _workers(found: Cluster) -> Iterator[Finding]:
    if found.workers is None:
        yield Finding(Part.WORKERS, Condition.UNKNOWN, "The workers have not answered yet.")
        return
    served = workers_by_queue(found.workers)
    idle = [name.value for name in QueueName if not served[name]]
    if idle:
        commands = ", ".join(f"celery -A app worker -Q {name}" for name in idle)
        yield Finding(Part.WORKERS, Condition.TROUBLE, f"No worker serves {', '.join(idle)}; start: {commands}")
    else:
        yield Finding(Part.WORKERS, Condition.HEALTHY, "Every queue is served.")


def _epochs(evidence: Evidence) -> Iterator[Finding]:
    troubles = [*_ended_in_trouble(evidence.judged), *_late(evidence)]
    yield from (Finding(Part.EPOCHS, Condition.TROUBLE, reason) for reason in troubles)
    if troubles:
        return
    ended = [line for line in evidence.judged if line.final]
    if not ended:
        kind = "live epoch" if evidence.live else "epoch"
        yield Finding(Part.EPOCHS, Condition.UNKNOWN, f"No {kind} has ended here yet.")
        return
    yield Finding(Part.EPOCHS, Condition.HEALTHY, f"Epoch {ended[0].summary.number} ended as it should.")


def _ended_in_trouble(recent: Sequence[EpochLine]) -> Iterator[str]:
    for line in recent:
        number, error = line.summary.number, line.summary.error
        if line.summary.stage is Stage.FAILED:
            yield f"Epoch {number} failed: {error or 'no reason was kept'}"
        elif line.summary.stage is Stage.MISSED:
            yield f"Epoch {number} was missed: {error or 'no validator watched'}"
    newest = next((line for line in recent if line.summary.stage is not Stage.MISSED), None)
    if newest is not None:
        counts = newest.counts
        refused = counts.get(PartState.REJECTED, 0)
        if refused >= _FEW and not counts.get(PartState.VALID, 0) and not counts.get(PartState.PENDING, 0):
            yield f"All {refused} submissions of epoch {newest.summary.number} were refused."


def _late(evidence: Evidence) -> Iterator[str]:
    for line in evidence.recent:
        age = evidence.at - line.summary.created_at
        if line.live and line.summary.stage not in FINAL_STAGES and age > _LATE:
            minutes = age.total_seconds() / 60
            yield f"Epoch {line.summary.number} is {line.summary.stage.value} {minutes:.0f} min after it was announced."
    if evidence.done_at is not None and evidence.at - evidence.done_at > _SILENT:
        hours = (evidence.at - evidence.done_at).total_seconds() / 3600
        yield f"No live epoch has ended for {hours:.1f} h."


def _rounds(evidence: Evidence) -> Iterator[Finding]:
    if evidence.round_at is None:
        yield Finding(Part.EPOCHS, Condition.UNKNOWN, "No round of weights has been computed yet.")
    elif evidence.at - evidence.round_at > _ROUNDS_SILENT:
        minutes = (evidence.at - evidence.round_at).total_seconds() / 60
        yield Finding(Part.EPOCHS, Condition.TROUBLE, f"No round of weights has been computed for {minutes:.0f} min.")
    else:
        yield Finding(Part.EPOCHS, Condition.HEALTHY, "Rounds of weights are computed.")


def _weights(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.live:
        return
    last = evidence.last_weights
    if last is None:
        yield Finding(Part.WEIGHTS, Condition.UNKNOWN, "No weights have been submitted yet.")
    elif last.state in WEIGHTS_TROUBLE:
        yield Finding(
            Part.WEIGHTS,
            Condition.TROUBLE,
            _sentence(f"The weights of {last.of} were not set: {last.detail or last.state.value}"),
        )
    elif last.state in WEIGHTS_FINE | WEIGHTS_OPEN | {WeightsState.INCLUDED} and (
        (age := evidence.at - last.updated_at) > _WEIGHTS_OLD
    ):
        hours = age.total_seconds() / 3600
        sentence = f"Weights are {hours:.1f} h old, those of {last.of}: {last.detail or last.state.value}"
        yield Finding(Part.WEIGHTS, Condition.TROUBLE, _sentence(sentence))
    elif last.state in WEIGHTS_FINE:
        yield Finding(
            Part.WEIGHTS, Condition.HEALTHY, _sentence(f"The weights of {last.of}: {last.detail or last.state.value}")
        )
    else:
        word = {
            WeightsState.COMPUTED: "computed, not sent yet",
            WeightsState.SENT: "sent, not on the chain yet",
            WeightsState.INCLUDED: "committed, not revealed yet",
        }.get(last.state, last.state.value)
        yield Finding(Part.WEIGHTS, Condition.UNKNOWN, f"The weights of {last.of} are {word}.")


def _acceptance(evidence: Evidence) -> Iterator[Finding]:
    if not (evidence.live and evidence.sets_weights):
        return
    read = evidence.verdict
    if read is None:
        sentence = "The chain has not been asked yet whether it would accept weights."
        yield Finding(Part.ACCEPTANCE, Condition.UNKNOWN, sentence)
        return
    shown = _sentence(read.verdict.sentence)
    if read.verdict.objections:
        yield Finding(Part.ACCEPTANCE, Condition.TROUBLE, shown)
    elif read.verdict.unknown:
        yield Finding(Part.ACCEPTANCE, Condition.UNKNOWN, shown)
    elif evidence.at - read.read_at > _VERDICT_KEPT:
        minutes = (evidence.at - read.read_at).total_seconds() / 60
        late = f"Whether weights would be accepted was last read {minutes:.0f} min ago."
        yield Finding(Part.ACCEPTANCE, Condition.UNKNOWN, late)
    else:
        yield Finding(Part.ACCEPTANCE, Condition.HEALTHY, shown)
