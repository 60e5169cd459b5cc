"""``python -m app epoch …``: replay an epoch, and look at those that were run."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from app.cli.epoch_tables import print_report
from app.cli.surroundings import require_folder, require_redis
from app.cli.terminal import Console
from app.domain import ScoringModel, ValidatorError
from app.settings import get_settings
from app.untrusted import read_json

if TYPE_CHECKING:
    from app.epochs.recording import Recording
    from app.store.records import Stage

epoch_app = typer.Typer(no_args_is_help=True, help="Replay and inspect molecule epochs.")

EXIT_DIFFERS = 1

_POLL_SECONDS = 0.2

# What the name of a replay's own cluster begins with.
_OWN = "replay-"
_WORKERS_SECONDS = 30.0


class ScoresFrom(StrEnum):
    """Where a replay's scores come from."""

    RECORDED = "recorded"
    MODEL = "model"


@epoch_app.command()
def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The recording's folder.")],
    scores: Annotated[
        ScoresFrom | None, typer.Option(help="recorded: the folder's scores/; model: run the models.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the result goes; DIR/result.json by default.")] = None,
    cluster: Annotated[
        str, typer.Option(help="eager: in this process; embedded: a cluster of its own; or a broker's URL.")
    ] = "embedded",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a result that differs.")] = False,
    without_boltz: Annotated[bool, typer.Option("--without-boltz", help="Run no Boltz-2; the result says so.")] = False,
) -> None:
    """Replay a recorded epoch and write its result.json; exit 1 where a result that is there differs."""
    recording = _checked_recording(folder, scores)
    chosen = scores or (ScoresFrom.RECORDED if recording.scores_folder else ScoresFrom.MODEL)
    if chosen is ScoresFrom.MODEL and cluster in {"eager", "embedded"} and not without_boltz:
        _refuse_missing_boltz(recording)
    console = Console()
    with _cluster(cluster, console) as running:
        report = _run(recording, chosen, running, console, without_boltz=without_boltz)
        print_report(report, console)
        _write(report, out or folder / "result.json", force=force, console=console)


def _checked_recording(folder: Path, scores: ScoresFrom | None) -> Recording:
    """A recording that is sound; every fault is found before any work is queued."""
    from app.epochs.recording import Recording
    from app.epochs.rules import parse_rules
    from chem.database import CombinatorialDatabase

    recording = Recording(folder)
    parse_rules(recording.rules_text, str(folder / "rules.yaml"))
    CombinatorialDatabase(recording.facts.molecule_database()).close()
    if scores is ScoresFrom.RECORDED and recording.scores_folder is None:
        raise ValidatorError(f"{folder / 'scores'} does not exist; replay with --scores model")
    if scores is not ScoresFrom.MODEL:
        recording.check_scores()
    return recording


def _refuse_missing_boltz(recording: Recording) -> None:
    """Raise now, rather than after PSICHIC's work, where Boltz-2 is wanted on this machine and not there."""
    from app.epochs.rules import parse_rules
    from gpu.boltz.files import cache_folder, check_files

    if ScoringModel.BOLTZ in parse_rules(recording.rules_text).unneeded_models:
        return
    try:
        check_files(cache_folder(get_settings().boltz_cache))
    except ValidatorError as error:
        raise ValidatorError(f"{error} Or replay with --without-boltz.") from None


@dataclass(slots=True)
class _Cluster:
    """What runs the replay: this very process (eager) or workers.

    ``ready`` waits for the workers, ``revive`` starts again what died of them. A cluster of our ``own`` ends with us,
    and its epoch with it; once it is ``finished``, nothing is left for the workers to do.
    """

    eager: bool = False
    own: bool = False
    ready: Callable[[], object] = bool
    revive: Callable[[], object] = bool
    finished: bool = False


@contextmanager
def _cluster(choice: str, console: Console) -> Iterator[_Cluster]:
    """The cluster that runs the replay."""
    from app.store.database import get_store
    from app.store.schema import migrate

    if choice == "eager":
        _settle(
            {"BROKER_URL": "memory://", "RESULT_BACKEND": "cache+memory://", "CLUSTER_NAME": f"eager-{os.getpid()}"}
        )
        migrate(get_store())
        yield _Cluster(eager=True, own=True)
    elif choice == "embedded":
        yield from _embedded(console)
    else:
        _settle({"BROKER_URL": choice, "RESULT_BACKEND": choice})
        require_redis(get_settings())
        migrate(get_store())
        _refuse_idle_cluster()
        yield _Cluster()


def _embedded(console: Console) -> Iterator[_Cluster]:
    """The embedded cluster of this data folder if one is up, else one for the length of this replay."""
    from app.cluster.embedded import EmbeddedCluster, running_cluster
    from app.store.database import get_store
    from app.store.schema import migrate

    settings = get_settings()
    require_folder(settings)
    migrate(get_store())
    running = running_cluster(settings.data_dir.expanduser())
    # another replay's cluster ends with that replay
    if running is not None and not running["CLUSTER_NAME"].startswith(_OWN):
        _settle(dict(running))
        console.print("Using the cluster that 'python -m app up' started here.")
        yield _Cluster()
        return
    cluster = EmbeddedCluster(settings, flower=False, name=f"{_OWN}{uuid.uuid4().hex[:12]}")
    with console.status("starting Redis and the chain, cpu and gpu workers…"):
        cluster.__enter__()
    replaying = _Cluster(own=True, revive=cluster.revive)
    try:
        _settle(dict(cluster.environment))
        from app.celery import app

        replaying.ready = partial(cluster.await_workers, app)
        yield replaying
    finally:
        with console.status("stopping the cluster…"):
            cluster.stop(warmly=not replaying.finished)


def _settle(environment: dict[str, str]) -> None:
    """Put the cluster's addresses where every later reader of the settings finds them."""
    os.environ.update(environment)
    get_settings.cache_clear()
    get_settings()


def _refuse_idle_cluster() -> None:
    """Raise unless a worker serves every queue; workers that are still starting are waited for."""
    from app.celery import app

    deadline = time.monotonic() + _WORKERS_SECONDS
    while True:
        queues = app.control.inspect(timeout=2.0).active_queues() or {}
        missing = {"chain", "cpu", "gpu"} - {queue["name"] for found in queues.values() for queue in found}
        if not missing:
            return
        if time.monotonic() > deadline:
            commands = ", ".join(f"celery -A app worker -Q {name}" for name in sorted(missing))
            raise ValidatorError(
                f"no worker of the cluster {get_settings().cluster_name!r} (CLUSTER_NAME) serves "
                f"{', '.join(sorted(missing))} at the broker given; start {commands}"
            )


def _run(
    recording: Recording, scores: ScoresFrom, cluster: _Cluster, console: Console, *, without_boltz: bool
) -> dict[str, Any]:
    from app.celery import app
    from app.epochs.rules import build_report
    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.records import Stage
    from workers.epochs import open_epoch

    store = get_store()
    with store.writing() as session:
        epoch_id = recording.announce(session, scores.value, get_settings().cluster_name, without_boltz=without_boltz)
    try:
        if cluster.eager:
            app.conf.update(task_always_eager=True, task_eager_propagates=True)
            # what a worker does at its start: tasks are sent by name
            app.loader.import_default_modules()
            threading.Thread(target=_eagerly, args=(open_epoch, epoch_id), daemon=True).start()
        else:
            # it waits in the queue: the first worker that is up begins
            open_epoch.delay(epoch_id)
        with console.status("waiting for the workers…"):
            cluster.ready()
        stage, error = follow(epoch_id, console, cluster.revive)
    except BaseException as end:
        if cluster.own:
            with store.writing() as session:
                Epochs(session).fail(epoch_id, str(end) or "the replay was interrupted")
        raise
    if stage is not Stage.DONE:
        raise ValidatorError(error or f"epoch {epoch_id} ended as {stage.value}")
    cluster.finished = True
    with store.reading() as session:
        epochs = Epochs(session)
        return build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )


def _eagerly(task: Any, epoch_id: int) -> None:
    from app.store.database import get_store
    from app.store.epochs import Epochs

    try:
        task.delay(epoch_id)
    except Exception as error:
        with get_store().writing() as session:
            Epochs(session).fail(epoch_id, f"{type(error).__name__}: {error}")
        raise


def follow(epoch_id: int, console: Console, revive: Callable[[], object] = bool) -> tuple[Stage, str | None]:
    """Show a bar per stage until the epoch has ended; its last stage and its error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.records import FINAL_STAGES, Stage

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        shown: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in shown:
                if not total:
                    return
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=done, total=total)

        while True:
            with get_store().reading() as session:
                progress = Epochs(session).progress(epoch_id)
            show("examine", progress.submissions_done, progress.submissions)
            for model in ScoringModel:
                show(f"score {model.value}", progress.batches_done.get(model, 0), progress.batches.get(model, 0))
            if progress.stage in FINAL_STAGES:
                if progress.stage is Stage.DONE:
                    show("rank and weigh", 1, 1)
                return progress.stage, progress.error
            revive()
            time.sleep(_POLL_SECONDS)


def _write(report: dict[str, Any], path: Path, *, force: bool, console: Console) -> None:
    from app.epochs.result import differences, report_text

    text = report_text(report)
    if path.exists() and not force:
        try:
            found = differences(read_json(path.read_text(encoding="utf-8")), json.loads(text))
        except (OSError, ValueError):
            found = ["the file that is there is not a JSON document"]
        if not found:
            console.print(f"The result is identical to {path}")
            return
        console.print(f"[bold red]The result differs from {path}[/] (--force overwrites it):")
        for line in found:
            console.print(f"  {escape(line)}")
        raise typer.Exit(EXIT_DIFFERS)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    console.print(f"Result written to {path}")
