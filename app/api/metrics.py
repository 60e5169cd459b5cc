"""The API's own metrics, and what only store and broker know, once per cluster (docs/metrics.md).

What is a *state* (the last epoch, the last weights, what waits) is read at the scrape: it survives every restart and is
never counted twice. What is an *event* is counted by the process where it happens (:mod:`app.observability.metrics`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.domain import WORD, QueueName, RejectionCode, ValidatorError
from app.judgement import Cluster, Condition, Judgement, Part, cluster, gather, judge
from app.observability.broker import workers_by_queue
from app.observability.exporter import DataDisk, Exporter, PortOffset, process_folder, processes_write_to
from app.observability.metrics import own_metrics
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.records import FINAL_STAGES, PartState, Stage
from app.store.tables.competitions import ModelRow
from app.store.tables.epochs import BatchRow, EpochRow, SubmissionRow
from app.store.tables.weights import WeightSubmissionRow
from app.store.weight_submissions import WEIGHTS_FINE, WEIGHTS_TROUBLE, WeightsState

log = logging.getLogger("celery_validator.metrics")


def api_exporter(settings: Settings, processes: int = 1) -> Exporter | None:
    """The exporter of the API, on a port that is not the API's own; None where METRICS_PORT is 0.

    To be called before the API's processes start, where there are several.
    """
    if not settings.metrics_port:
        return None
    registry = CollectorRegistry()
    registry.register(processes_write_to(process_folder(settings, "api")) if processes > 1 else own_metrics())
    registry.register(DataDisk(settings.data_dir))
    registry.register(ClusterState())
    ProcessCollector(registry=registry)
    return Exporter(registry, settings.metrics_host, settings.metrics_port + PortOffset.API)


class ClusterState(Collector):
    """What store and broker say now. One that does not answer is a 0 in ``…_up``, and its metrics are left out."""

    def collect(self) -> Iterator[Metric]:
        """Every metric of the cluster."""
        asked = cluster()
        yield from _broker(asked)
        try:
            with get_store().reading() as session:
                found = [*_epochs(session), *_last_epoch(session), *_weights(session), *_models(session)]
                judged = judge(gather(session, get_settings(), asked))
                found += [_judgement(judged), _accepted(judged)]
        except (SQLAlchemyError, ValidatorError, OSError) as error:
            log.warning("the store does not say how it is: %s", error)
            found = [GaugeMetricFamily("validator_store_up", "Whether the store answers.", 0)]
        else:
            found.append(GaugeMetricFamily("validator_store_up", "Whether the store answers.", 1))
        yield from found


def _judgement(judged: Judgement) -> Metric:
    """1 for each part's condition, 0 for its other two; parts that this validator does not have are left out."""
    family = GaugeMetricFamily(
        "validator_condition",
        "How each part is judged to be, as the home page and healthcheck have it: healthy, trouble, unknown.",
        labels=["part", "condition"],
    )
    for part in Part:
        found = judged.of(part)
        for condition in Condition if found is not None else ():
            family.add_metric([part.value, condition.name.lower()], float(condition is found))
    return family


def _broker(asked: Cluster) -> Iterator[Metric]:
    depths, workers = asked.depths, asked.workers
    yield GaugeMetricFamily("validator_broker_up", "Whether the broker answers.", float(depths is not None))
    if depths is not None:
        waiting = GaugeMetricFamily("validator_queue_messages", "Messages of a queue.", labels=["queue", "state"])
        for name, depth in depths.items():
            waiting.add_metric([name.value, "ready"], depth.ready)
            waiting.add_metric([name.value, "unacknowledged"], depth.unacknowledged)
        yield waiting
    if workers is not None:
        alive = GaugeMetricFamily(
            "validator_workers", "Workers that answer, by the queue they serve.", labels=["queue"]
        )
        for name in QueueName:
            alive.add_metric([name.value], workers_by_queue(workers)[name])
        yield alive


def _epochs(session: Session) -> Iterator[Metric]:
    """All that RETENTION keeps: a gauge, since old ones are forgotten."""
    # a replay is nobody's duty
    live = EpochRow.publishes
    counts = dict(session.execute(select(EpochRow.stage, func.count()).group_by(EpochRow.stage)).all())
    kept = GaugeMetricFamily("validator_epochs_kept", "Epochs in the store, by stage.", labels=["stage"])
    for stage in Stage:
        kept.add_metric([stage.value], counts.get(stage.value, 0))
    yield kept
    yield _timestamp(
        "validator_last_epoch_done_timestamp_seconds",
        "When a live epoch last ended as done.",
        session.execute(select(func.max(EpochRow.touched_at)).where(EpochRow.stage == Stage.DONE.value, live)).scalar(),
    )
    yield _timestamp(
        "validator_last_epoch_announced_timestamp_seconds",
        "When a live epoch was last announced.",
        session.execute(
            select(func.max(EpochRow.created_at)).where(EpochRow.stage != Stage.MISSED.value, live)
        ).scalar(),
    )
    oldest = session.execute(
        select(func.min(EpochRow.created_at)).where(
            EpochRow.stage.not_in([stage.value for stage in FINAL_STAGES]), live
        )
    ).scalar()
    yield GaugeMetricFamily(
        "validator_epoch_open_seconds",
        "Age of the oldest live epoch that is not at its end; 0 where there is none.",
        max(0.0, time.time() - oldest.timestamp()) if oldest else 0.0,
    )


def _last_epoch(session: Session) -> Iterator[Metric]:
    columns = (EpochRow.id, EpochRow.number, EpochRow.stage)
    row = session.execute(
        select(*columns).where(EpochRow.stage != Stage.MISSED.value).order_by(EpochRow.id.desc()).limit(1)
    ).one_or_none()
    if row is None:
        return
    yield GaugeMetricFamily("validator_epoch_number", "Number of the newest epoch that was announced.", row.number)
    stage = GaugeMetricFamily("validator_epoch_stage", "1 for the stage of the newest epoch.", labels=["stage"])
    for name in Stage:
        stage.add_metric([name.value], float(row.stage == name.value))
    yield stage
    results = session.execute(
        select(SubmissionRow.state, SubmissionRow.code, func.count())
        .where(SubmissionRow.epoch_id == row.id)
        .group_by(SubmissionRow.state, SubmissionRow.code)
    )
    known = (PartState.PENDING, PartState.VALID, *RejectionCode)
    counts = {result.value: 0 for result in known}
    for state, code, count in results:
        # a code of a newer version counts as it is; text that is no code at all must not become a label
        result = (code or state) if WORD.fullmatch(code or state) else "other"
        counts[result] = counts.get(result, 0) + count
    submissions = GaugeMetricFamily(
        "validator_epoch_submissions",
        "Submissions of the newest epoch: pending, valid, or the code they were refused with.",
        labels=["result"],
    )
    for result, count in counts.items():
        submissions.add_metric([result], count)
    yield submissions
    batches = GaugeMetricFamily("validator_epoch_batches", "Batches of the newest epoch.", labels=["model", "state"])
    for model, state, count in session.execute(
        select(BatchRow.model, BatchRow.state, func.count())
        .where(BatchRow.epoch_id == row.id)
        .group_by(BatchRow.model, BatchRow.state)
    ):
        batches.add_metric([model, state], count)
    yield batches


def _weights(session: Session) -> Iterator[Metric]:
    # a replay's weights were never meant for the chain
    ours = WeightSubmissionRow.mark.is_not(None) | EpochRow.publishes
    is_round = WeightSubmissionRow.mark.is_not(None)
    settled = session.execute(
        select(is_round, WeightSubmissionRow.state, func.max(WeightSubmissionRow.updated_at))
        .outerjoin(EpochRow, EpochRow.id == WeightSubmissionRow.epoch_id)
        .where(ours)
        .group_by(is_round, WeightSubmissionRow.state)
    )
    found = {("models" if of_round else "molecules", WeightsState(state)): at for of_round, state, at in settled}
    family = GaugeMetricFamily(
        "validator_last_weights_timestamp_seconds",
        "When weights last ended fine (the chain shows them, or they were not to be set), and when not; 0: never.",
        labels=["of", "ended"],
    )
    unrevealed = GaugeMetricFamily(
        "validator_last_unrevealed_weights_timestamp_seconds",
        "When committed weights were last found not to have been revealed; 0 where never.",
        labels=["of"],
    )
    for of in ("molecules", "models"):
        for ended, states in (("fine", WEIGHTS_FINE), ("failed", WEIGHTS_TROUBLE)):
            times = [found[of, state].timestamp() for state in states if (of, state) in found]
            family.add_metric([of, ended], max(times, default=0.0))
        missed = found.get((of, WeightsState.UNREVEALED))
        unrevealed.add_metric([of], missed.timestamp() if missed else 0.0)
    yield family
    yield unrevealed


def _accepted(judged: Judgement) -> Metric:
    """Whether the chain would take weights: 1, 0, or no sample where that is not known or none are to be set."""
    family = GaugeMetricFamily(
        "validator_weights_accepted",
        "Whether the chain would accept this validator's weights, as the home page judges it; nothing where unknown.",
        labels=["netuid"],
    )
    found = judged.of(Part.ACCEPTANCE)
    if found in {Condition.HEALTHY, Condition.TROUBLE}:
        family.add_metric([str(get_settings().netuid)], float(found is Condition.HEALTHY))
    return family


def _models(session: Session) -> Iterator[Metric]:
    waiting, scoring = session.execute(
        select(
            func.count().filter(ModelRow.is_new, ModelRow.is_being_scored_by.is_(None)),
            func.count().filter(ModelRow.is_being_scored_by.is_not(None)),
        )
    ).one()
    models = GaugeMetricFamily("validator_models", "Miners' models in the queue, by state.", labels=["state"])
    models.add_metric(["waiting"], waiting)
    models.add_metric(["scoring"], scoring)
    yield models


def _timestamp(name: str, text: str, at: datetime | None) -> GaugeMetricFamily:
    """Seconds since 1970; 0 where it never happened, so that an alert can tell."""
    return GaugeMetricFamily(name, text, at.timestamp() if at else 0.0)
