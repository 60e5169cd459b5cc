"""``python -m app epoch list | show | watch | record``: the epochs of this validator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.epoch import epoch_app, follow
from app.cli.epoch_tables import print_report
from app.cli.terminal import Console
from app.domain import ValidatorError
from app.settings import get_settings
from app.store.records import EpochSummary

if TYPE_CHECKING:
    from app.store.epochs import Epochs


@epoch_app.command("list")
def list_epochs(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    replays: Annotated[bool, typer.Option("--replays", help="Replays too, not only live epochs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the epochs in the store: how far each is, its winners and what became of its weights."""
    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.schema import migrate
    from app.store.weight_submissions import states_of

    migrate(get_store())
    with get_store().reading() as session:
        found = Epochs(session).recent(limit, published_only=not replays)
        weights = states_of(session, [epoch.id for epoch in found])
    if as_json:
        rows = [
            {
                "epoch": epoch.number,
                "run": "live" if epoch.publishes else "replay",
                "stage": epoch.stage.value,
                "error": epoch.error,
                "opened_at": epoch.created_at.isoformat(),
                "psichic_winner": epoch.psichic_winner,
                "boltz_winner": epoch.boltz_winner,
                "winners": dict(epoch.winners),
                "unjudged": dict(epoch.unjudged),
                "weights": weights[epoch.id].value if epoch.id in weights else None,
            }
            for epoch in found
        ]
        typer.echo(json.dumps({"epochs": rows}))
        return
    table = Table(title=f"Epochs of {get_store().shown_url}", title_justify="left")
    for name in ("epoch", "run", "stage", "opened (UTC)", "winners", "weights"):
        table.add_column(name)
    for epoch in found:
        table.add_row(
            str(epoch.number),
            "live" if epoch.publishes else "replay",
            epoch.stage.value,
            epoch.created_at.strftime("%Y-%m-%d %H:%M"),
            winners_of(epoch),
            weights[epoch.id].value if epoch.id in weights else "–",
        )
    console = Console()
    console.print(table)
    if not found:
        console.print("No epochs." if replays else "No live epochs; --replays lists replays too.")


def winners_of(epoch: EpochSummary) -> str:
    """The winner of each ranking, or of each track, of an epoch of any era; ``–`` where nobody has won yet."""
    ranked = epoch.winners
    if all(winner is None for winner in ranked.values()) and not epoch.unjudged:
        return "–"
    return ", ".join(
        f"{ranking}: " + ("unjudged" if ranking in epoch.unjudged else "–" if winner is None else f"UID {winner}")
        for ranking, winner in ranked.items()
    )


@epoch_app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The epoch's number.")],
    replay: Annotated[
        bool, typer.Option("--replay", help="Its newest replay, even where there is a live epoch of this number.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of tables.")] = False,
) -> None:
    """Show an epoch, live or else replayed: leaderboard, refusals, warnings, weights, what was sent to the chain."""
    from app.epochs.rules import build_report
    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.records import Stage
    from app.store.schema import migrate
    from app.store.weight_submissions import WeightSubmissions

    migrate(get_store())
    console = Console()
    with get_store().reading() as session:
        epochs = Epochs(session)
        epoch_id = _found(epochs, number, replay=replay)
        summary = epochs.summary(epoch_id)
        report = None
        if summary.stage in {Stage.CLOSED, Stage.DONE}:
            report = build_report(
                epochs.get(epoch_id), summary, epochs.submissions(epoch_id), epochs.warnings(epoch_id)
            )
        progress, submission = epochs.progress(epoch_id), WeightSubmissions(session).get(epoch_id)
    if not summary.publishes and not as_json:
        console.print(f"A replay, opened {summary.created_at:%Y-%m-%d %H:%M} UTC; its weights go to no chain.")
    if report is None:
        if as_json:
            raise ValidatorError(f"epoch {number} is {summary.stage.value}; it has no result yet")
        console.print(
            f"[bold]Epoch {number}[/] is {summary.stage.value}"
            + (f": {escape(summary.error)}" if summary.error else "")
        )
        console.print(f"examined {progress.submissions_done} of {progress.submissions}")
        for model, total in progress.batches.items():
            console.print(f"{model}: {progress.batches_done.get(model, 0)} of {total} batches")
        return
    if as_json:
        typer.echo(json.dumps(report, indent=1, allow_nan=False))
        return
    print_report(report, console)
    for stage, at in sorted(summary.stage_times.items(), key=lambda item: item[1]):
        console.print(f"{at[:19]}  {stage}")
    if submission is not None:
        console.print(f"[bold]Weight submission:[/] {submission.state.value}: {escape(submission.detail or '')}")
        for failure in submission.failures:
            console.print(f"  failed try: {escape(failure)}")
        if submission.extrinsic:
            console.print(f"  extrinsic {submission.extrinsic} in block {submission.block_hash}")


@epoch_app.command()
def watch(
    number: Annotated[
        int | None, typer.Argument(metavar="N", help="An epoch's number; the running one by default.")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="The newest replay of this number.")] = False,
) -> None:
    """Follow an epoch until its end, with a bar for each stage; exit 1 where it fails."""
    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.records import Stage
    from app.store.schema import migrate

    migrate(get_store())
    console = Console()
    with get_store().reading() as session:
        epochs = Epochs(session)
        epoch_id = epochs.unfinished() if number is None else _found(epochs, number, replay=replay)
        if epoch_id is None:
            raise ValidatorError(
                "no epoch is running; name one (epoch watch N), or see 'python -m app epoch list --replays'"
            )
        summary = epochs.summary(epoch_id)
    console.print(
        f"[bold]Epoch {summary.number}[/] ({'live' if summary.publishes else 'replay'}), Ctrl-C leaves it alone"
    )
    try:
        stage, error = follow(epoch_id, console)
    except KeyboardInterrupt:
        return
    console.print(f"{stage.value}: {escape(error)}" if error else stage.value)
    if stage is not Stage.DONE:
        raise typer.Exit(1)
    console.print(f"See it: python -m app epoch show {summary.number}{'' if summary.publishes else ' --replay'}")


def _found(epochs: Epochs, number: int, *, replay: bool) -> int:
    netuid = get_settings().netuid
    epoch_id = epochs.find(netuid, number, replay=replay)
    if epoch_id is None or (replay and epochs.summary(epoch_id).publishes):
        wanted = "no replay of" if replay else "neither a live epoch nor a replay of"
        raise ValidatorError(
            f"the store has {wanted} epoch {number} of subnet {netuid}; 'python -m app epoch list --replays' lists "
            "what it has (the store is DATABASE_URL, in DATA_DIR when unset)"
        )
    return epoch_id


@epoch_app.command()
def record(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    epoch: Annotated[int, typer.Option(help="The epoch's number.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Record a live epoch, while or after it is processed, so that it replays to the same result."""
    from app.epochs.recording import record as record_epoch
    from app.store.database import get_store
    from app.store.schema import migrate

    migrate(get_store())
    written = record_epoch(epoch, folder)
    if as_json:
        summary = {"folder": str(written.folder), "submissions": written.submissions, "result": written.result}
        typer.echo(json.dumps(summary | {"notes": written.notes}))
        return
    console = Console()
    console.print(f"Epoch {epoch} recorded in {folder}: {written.submissions} submissions, {written.scores} scores")
    for note in written.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    if written.result:
        console.print(f"Audit it: python -m app epoch replay {folder}")
