"""``python -m app competition …``: competitions and their baselines, each change logged with who and when."""

from __future__ import annotations

import getpass
import json
import math
import socket
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.domain import ValidatorError

competition_app = typer.Typer(no_args_is_help=True, help="Manage the model competitions.")

By = Annotated[str | None, typer.Option("--by", help="Who makes the change; user@host by default.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The competition's id, as miners commit it.")]


def _store() -> Any:
    from app.store.database import get_store
    from app.store.schema import migrate

    store = get_store()
    migrate(store)
    return store


def _who(by: str | None) -> str:
    return by or f"{getpass.getuser()}@{socket.gethostname()}"


@competition_app.command(name="list")
def list_competitions(
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    changes: Annotated[bool, typer.Option("--changes", help="The log of changes too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the competitions with percentage and baseline."""
    from app.store.competitions import Competitions

    with _store().reading() as session:
        records = Competitions(session).all(archived=archived)
        log = Competitions(session).changes() if changes else []
    if as_json:
        print(
            json.dumps(
                {
                    "competitions": [
                        {
                            "id": record.id,
                            "reward_percentage": record.reward_percentage,
                            "baseline": record.baseline.score if record.baseline else None,
                            "archived": record.archived_at is not None,
                        }
                        for record in records
                    ],
                    "changes": [
                        {
                            "competition_id": change.competition_id,
                            "action": change.action,
                            "detail": change.detail,
                            "by": change.changed_by,
                            "at": change.changed_at.isoformat(),
                        }
                        for change in log
                    ],
                }
            )
        )
        return
    table = Table(title="Competitions", title_justify="left")
    for name in ("id", "percentage", "baseline", "set by", "set at", "state"):
        table.add_column(name)
    for record in records:
        baseline = record.baseline
        table.add_row(
            record.id,
            f"{record.reward_percentage:g}",
            "none" if baseline is None else f"{baseline.score:g}",
            "" if baseline is None else escape(baseline.set_by),
            "" if baseline is None else f"{baseline.set_at:%Y-%m-%d %H:%M}",
            "runs" if record.archived_at is None else f"archived {record.archived_at:%Y-%m-%d}",
        )
    console = Console()
    console.print(table)
    if not records:
        console.print("Add one with: python -m app competition add ID --percentage 1.0")
    for change in log:
        console.print(
            f"{change.changed_at:%Y-%m-%d %H:%M:%S} {escape(change.changed_by)}: {change.action} "
            f"{escape(change.competition_id)} {escape(change.detail)}"
        )


@competition_app.command()
def add(
    competition: Id,
    percentage: Annotated[float, typer.Option(help="Its part of all rewards, against the other competitions'.")],
    by: By = None,
) -> None:
    """Add a competition, or bring an archived one back."""
    from app.store.competitions import Competitions
    from chain.model_metadata import COMPETITION_ID

    if not COMPETITION_ID.match(competition) or competition == "None":
        raise ValidatorError(
            f"{competition!r} is no competition id: up to 32 letters, digits, dots, dashes and underscores"
        )
    if not (math.isfinite(percentage) and percentage >= 0):
        raise ValidatorError(f"the percentage is {percentage}; it must be a number that is not negative")
    with _store().writing() as session:
        Competitions(session).add(competition, percentage, _who(by))
    print(f"competition {competition} added with percentage {percentage:g}")


@competition_app.command(context_settings={"ignore_unknown_options": True})
def set_baseline(
    competition: Id, score: Annotated[float, typer.Argument(help="The score to beat.")], by: By = None
) -> None:
    """Set the baseline of a competition from now on."""
    from app.store.competitions import Competitions

    if not math.isfinite(score):
        raise ValidatorError(f"the baseline is {score}; it must be a finite number")
    with _store().writing() as session:
        Competitions(session).set_baseline(competition, score, _who(by))
    print(f"baseline of {competition} set to {score:g}")


@competition_app.command()
def archive(competition: Id, by: By = None) -> None:
    """End a competition; its history stays."""
    from app.store.competitions import Competitions

    with _store().writing() as session:
        Competitions(session).archive(competition, _who(by))
    print(f"competition {competition} archived")
