"""The Celery instance: queues, routes, reliability. The operator names a queue; pool and concurrency follow from it."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from celery import Celery, chain
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    celeryd_init,
    setup_logging,
    worker_init,
    worker_process_init,
)
from kombu.entity import Queue
from kombu.utils.objects import cached_property

import beat_schedule
from app.clock import now
from app.cluster import transport
from app.cluster.results import BACKENDS
from app.cluster.transport import ANSWER_SECONDS, CONNECT_SECONDS, HEALTH_SECONDS
from app.cluster.watchdog import Watchdog, Worker
from app.domain import MODELS_NETUID, QueueName
from app.observability.logs import PROCESS_VARIABLE, configure, process_name
from app.observability.redaction import redaction
from app.settings import Settings, SettingsError, get_settings
from gpu.devices import visible_gpus

# One table, so that routes, documentation and tests cannot drift apart.
ROUTES: Final[Mapping[str, QueueName]] = {
    "workers.watch.watch_epoch": QueueName.CHAIN,
    "workers.epochs.open_epoch": QueueName.CHAIN,
    "workers.fetching.fetch_submissions": QueueName.CPU,
    "workers.epochs.plan_scoring": QueueName.CPU,
    "workers.epochs.close_epoch": QueueName.CPU,
    "workers.epochs.fail_epoch": QueueName.CPU,
    "workers.submissions.examine_submission": QueueName.CPU,
    "workers.scoring.score_psichic": QueueName.GPU,
    "workers.scoring.score_boltz": QueueName.GPU,
    "workers.scoring.score_boltzgen": QueueName.GPU,
    "workers.weights.submit_weights": QueueName.CHAIN,
    "workers.weights.submit_round": QueueName.CHAIN,
    "workers.weights.follow_weights": QueueName.CHAIN,
    "workers.weights.read_weight_parameters": QueueName.CHAIN,
    "workers.reports.deliver_report": QueueName.CPU,
    "workers.competitions.sync_metagraph": QueueName.CHAIN,
    "workers.competitions.update_models": QueueName.CHAIN,
    "workers.competitions.check_repository": QueueName.CPU,
    "workers.competitions.score_next_models": QueueName.CPU,
    "workers.competitions.follow_scoring": QueueName.CPU,
    "workers.competitions.release_stale": QueueName.CPU,
    "workers.competitions.set_model_weights": QueueName.CHAIN,
    "workers.competitions.update_reputations": QueueName.CPU,
    "workers.competitions.clean_models": QueueName.GPU,
    "workers.evaluations.evaluate_model": QueueName.GPU,
    "workers.evaluations.sweep_evaluations": QueueName.GPU,
    "workers.evaluations.note_capabilities": QueueName.GPU,
    "workers.upkeep.reconcile": QueueName.CHAIN,
    "workers.upkeep.forget_old": QueueName.CPU,
}

TASK_MODULES: Final = tuple(sorted({name.rsplit(".", 1)[0] for name in ROUTES}))

# How much longer than its soft limit a task may take before its process is ended.
_HARD_LIMIT_GRACE: Final = timedelta(seconds=60)

# A child that grew past this (kB) is replaced after its task: RDKit's caches grow. One whose have not takes 190 MB.
_CPU_CHILD_MEMORY: Final = 240_000

log = logging.getLogger(__name__)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings."""
    broker, results = settings.broker, settings.results
    limits = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": CONNECT_SECONDS}
    redis_options = {
        **broker.transport_options,
        "visibility_timeout": int(settings.visibility_timeout.total_seconds()),
        "global_keyprefix": settings.key_prefix,
        # blocking pops are polled for, never waited for inside a read, so these bound no pop
        **limits,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_SECONDS,
    }
    return {
        "broker_url": broker.url,
        "result_backend": results.url,
        "override_backends": BACKENDS,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": redis_options,
        "result_backend_transport_options": {
            **results.transport_options,
            "global_keyprefix": settings.key_prefix,
            "additional_connection_errors": ["redis.exceptions:ResponseError"],
        },
        "redis_socket_timeout": ANSWER_SECONDS,
        "redis_socket_connect_timeout": CONNECT_SECONDS,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": HEALTH_SECONDS,
        "result_expires": timedelta(days=1),
        # the store has what tasks found; a chord counts its parts without their results
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "timezone": "UTC",
        "task_queues": [Queue(name.value) for name in QueueName],
        "task_default_queue": QueueName.CPU.value,
        "task_create_missing_queues": False,
        "task_routes": {task: {"queue": queue.value} for task, queue in ROUTES.items()},
        "task_annotations": {
            "workers.submissions.examine_submission": _limits(settings.examine_limit),
            "workers.scoring.score_psichic": _limits(settings.scoring_limit),
            "workers.scoring.score_boltz": _limits(settings.scoring_limit),
            "workers.scoring.score_boltzgen": _limits(settings.scoring_limit),
            "workers.evaluations.evaluate_model": _limits(settings.evaluation_limit),
        },
        "imports": TASK_MODULES,
        # a message is gone only when its work is in the store
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        # forked: a spawned child imports everything again, which takes two seconds of processor time. The worker itself
        # never touches CUDA or RDKit, and keeps no connection to the store.
        "worker_pool": "prefork",
        "worker_pool_start_method": "fork",
        # a busy machine may need longer than the default of 4 s
        "worker_proc_alive_timeout": 120.0,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "beat_schedule": beat_schedule.timetable(settings),
        "beat_scheduler": "app.cluster.beat:SteadyScheduler",
        "beat_max_loop_interval": 5,
        "redbeat_redis_url": broker.beat_url,
        "redbeat_redis_options": {**limits, **broker.beat_options},
        "redbeat_key_prefix": settings.beat_prefix,
        "redbeat_lock_timeout": 60,
    }


def _limits(soft: timedelta) -> dict[str, float]:
    return {"soft_time_limit": soft.total_seconds(), "time_limit": (soft + _HARD_LIMIT_GRACE).total_seconds()}


def concurrency_for(queues: set[str], settings: Settings) -> int:
    """Children of a worker that serves these queues: 1 for chain, one per GPU for gpu, the cores for cpu."""
    if QueueName.CPU in queues:
        return settings.cpu_concurrency or os.cpu_count() or 1
    if QueueName.GPU in queues:
        return len(visible_gpus()) or 1
    return 1


def _settings_or_exit() -> Settings:
    try:
        return get_settings()
    except SettingsError as error:
        raise SystemExit(f"celery-validator: {error}") from None


_settings = _settings_or_exit()
if os.environ.get("CELERY_BROKER_URL") == os.environ.get("BROKER_URL", ""):
    # celery's own command line has taken BROKER_URL over, without BROKER_PASSWORD
    os.environ["CELERY_BROKER_URL"] = _settings.broker.url


class Application(Celery):  # type: ignore[misc]
    """Celery with our worker."""

    @cached_property
    def Worker(self) -> Any:  # noqa: N802  (Celery's name)
        """The class that ``celery worker`` starts."""
        return self.subclass_with_self(Worker)


transport.register()
app = Application("celery-validator", task_cls="app.task:ValidatorTask")
app.config_from_object(configuration(_settings))
app.steps["consumer"].add(Watchdog)


@celeryd_init.connect(weak=False)
def _shape_worker(sender: str, instance: Any, conf: Any, options: dict[str, Any], **_: Any) -> None:
    """Choose node name and concurrency from the queues, unless the operator named them."""
    queues = _queue_names(options.get("queues"))
    if not options.get("concurrency"):
        conf.worker_concurrency = concurrency_for(queues, get_settings())
    if queues == {QueueName.CPU.value}:
        # a quarter of the time of closing an epoch; a gpu worker's garbage may hold memory of its device
        gc.set_threshold(50_000, 20, 50)
        if not options.get("max_memory_per_child"):
            conf.worker_max_memory_per_child = _CPU_CHILD_MEMORY
    # the banner is for people
    instance.quiet = instance.quiet or get_settings().log_format == "json"
    # the children learn it from their environment
    os.environ[PROCESS_VARIABLE] = next(iter(queues)) if len(queues) == 1 else "worker"
    if sender.startswith("celery@") and len(queues) == 1:
        # three workers on one machine must not share a node name
        instance.hostname = f"{next(iter(queues))}@{sender.split('@', 1)[1]}"


def _queue_names(option: object) -> set[str]:
    if not option:
        return {name.value for name in QueueName}
    names = option.split(",") if isinstance(option, str) else [str(name) for name in option]  # type: ignore[attr-defined]
    return {name.strip() for name in names if name.strip()}


@setup_logging.connect(weak=False)
def _set_up_logs(loglevel: int | None, logfile: str | None, **_: Any) -> None:
    """Our own lines in every process of a worker, and in beat; ``--loglevel`` counts where it is not the default."""
    level = logging.getLevelName(loglevel) if loglevel and loglevel != logging.WARNING else None
    configure("beat" if "beat" in sys.argv else process_name(), level=level, file=logfile)


@celeryd_after_setup.connect(weak=False)
def _serve_metrics(sender: str, instance: Any, **_: Any) -> None:
    """Serve the children's metrics; where they write them is said before the first of them starts."""
    from app.observability.exporter import worker_exporter

    exporter = worker_exporter(get_settings(), sender, set(instance.app.amqp.queues.consume_from))
    if exporter is not None:
        exporter.start()


@beat_init.connect(weak=False)
def _serve_beat_metrics(**_: Any) -> None:
    from app.observability.exporter import PortOffset, single_exporter

    exporter = single_exporter(get_settings(), PortOffset.BEAT)
    if exporter is not None:
        exporter.start()


@worker_init.connect(weak=False)
def _prepare_store(**_: Any) -> None:
    """Bring the store's schema up to date before the first task."""
    from app.domain import ValidatorError
    from app.store.database import close_stores, get_store
    from app.store.schema import migrate

    try:
        migrate(get_store())
    except ValidatorError as error:
        print(f"celery-validator: {redaction()(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    close_stores()


@worker_init.connect(weak=False)
def _leave_modules_out_of_collections(**_: Any) -> None:
    """Look for no garbage among what is loaded already."""
    gc.freeze()


@worker_process_init.connect(weak=False)
def _bind_gpu(**_: Any) -> None:
    """Bind each child of a gpu worker to one device, before anything imports torch."""
    from billiard import current_process

    gpus = visible_gpus()
    if len(gpus) > 1:
        index = int(getattr(current_process(), "index", 0))
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]


@beat_init.connect(weak=False)
def _begin_models(**_: Any) -> None:
    """The models' validator starts with its chain data, instead of waiting for the first ticks."""
    settings = get_settings()
    if settings.netuid == MODELS_NETUID:
        # by name: the workers' modules are loaded by workers
        names = ["sync_metagraph", "update_models", "score_next_models"]
        steps = [app.signature(f"workers.competitions.{name}", immutable=True) for name in names]
        if settings.immediate:
            mark = f"immediate {now().isoformat(timespec='seconds')}"
            steps.append(app.signature("workers.competitions.set_model_weights", args=(mark,), immutable=True))
        chain(*steps, app=app).apply_async()
