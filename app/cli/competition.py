"""``python -m app competition …``: competitions and their baselines, each change logged with who and when."""

from __future__ import annotations

import getpass
import json
import math
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.domain import ValidatorError, percent
from app.untrusted import NotJson, quoted, read_json

if TYPE_CHECKING:
    from app.store.competitions import GivenBenchmark

competition_app = typer.Typer(no_args_is_help=True, help="Manage the model competitions.")

By = Annotated[str | None, typer.Option("--by", help="Who makes the change; user@host by default.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The competition's id, as miners commit it.")]


BenchmarkName = Annotated[
    str | None,
    typer.Option("--benchmark", help="voicebench, voicebench+mos, v2v or o1; by the profile, from the id, when unset."),
]
Parameter = Annotated[
    list[str] | None, typer.Option("--parameter", metavar="KEY=VALUE", help="A parameter of the benchmark; repeatable.")
]


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
    """List the competitions with their shares of all rewards and their baselines."""
    from app.store.competitions import Competitions, shares_of

    with _store().reading() as session:
        records = Competitions(session).all(archived=archived)
        log = Competitions(session).changes() if changes else []
    shares = shares_of(records)
    if as_json:
        print(
            json.dumps(
                {
                    "competitions": [
                        {
                            "id": record.id,
                            "reward_percentage": record.reward_percentage,
                            "share": shares[record.id],
                            "baseline": record.baseline.score if record.baseline else None,
                            "archived": record.archived_at is not None,
                            "benchmark": record.benchmark.name if record.benchmark else None,
                            "parameters": dict(record.benchmark.parameters) if record.benchmark else None,
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
    for name in ("id", "share", "baseline", "set by", "set at", "benchmark", "state"):
        table.add_column(name)
    for record in records:
        baseline = record.baseline
        table.add_row(
            record.id,
            percent(shares[record.id]),
            "none" if baseline is None else f"{baseline.score:g}",
            "" if baseline is None else escape(baseline.set_by),
            "" if baseline is None else f"{baseline.set_at:%Y-%m-%d %H:%M}",
            escape(record.benchmark.name) if record.benchmark else "the profile's",
            "runs" if record.archived_at is None else f"archived {record.archived_at:%Y-%m-%d}",
        )
    console = Console()
    console.print(table)
    if not records:
        console.print("Add one with: python -m app competition add ID --share 1")
    for change in log:
        console.print(
            f"{change.changed_at:%Y-%m-%d %H:%M:%S} {escape(change.changed_by)}: {change.action} "
            f"{escape(change.competition_id)} {escape(change.detail)}"
        )


@competition_app.command()
def add(
    competition: Id,
    share: Annotated[float, typer.Option("--share", help="Its part of all rewards, against the other competitions'.")],
    benchmark: BenchmarkName = None,
    parameter: Parameter = None,
    by: By = None,
) -> None:
    """Add a competition, or bring an archived one back."""
    from app.competitions.benchmarks import plan_of
    from app.settings import get_settings
    from app.store.competitions import Competitions, shares_of
    from chain.model_metadata import COMPETITION_ID

    given = _benchmark(benchmark, parameter)

    if not COMPETITION_ID.match(competition) or competition == "None":
        raise ValidatorError(
            f"{competition!r} is no competition id: up to 32 letters, digits, dots, dashes and underscores"
        )
    if not (math.isfinite(share) and share >= 0):
        raise ValidatorError(f"the share is {share}; it must be a number that is not negative")
    with _store().writing() as session:
        Competitions(session).add(competition, share, _who(by))
        if given is not None:
            Competitions(session).set_benchmark(competition, given, _who(by))
        plan = plan_of(session, get_settings(), competition)
        shares = shares_of(Competitions(session).all())
    print(f"competition {competition} added with share {share:g}: {percent(shares[competition])} of all rewards")
    if plan is None:
        Console(stderr=True).print(
            f"warning: no benchmark is known for {competition}, so only a scoring API that knows one can score it; "
            f"give it one with: python -m app competition benchmark {competition} NAME",
            soft_wrap=True,
            highlight=False,
        )


@competition_app.command(name="benchmark")
def set_benchmark(
    competition: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A benchmark, or 'profile' for the profile's.")],
    parameter: Parameter = None,
    by: By = None,
) -> None:
    """Judge a competition's models by another benchmark, or with other parameters, from now on."""
    from app.store.competitions import Competitions

    given = None if name == "profile" else _benchmark(name, parameter)
    with _store().writing() as session:
        Competitions(session).set_benchmark(competition, given, _who(by))
    print(f"competition {competition} is judged by {'the benchmark of the profile' if given is None else name}")


def _benchmark(name: str | None, parameters: list[str] | None) -> GivenBenchmark | None:
    """What was typed, checked.

    Raises:
        ValidatorError: no such benchmark, or a parameter that it does not take.
    """
    from app.store.competitions import GivenBenchmark
    from gpu.evaluation.plan import BenchmarkPlan

    if name is None:
        if parameters:
            raise ValidatorError("--parameter belongs to a benchmark; name it with --benchmark")
        return None
    given: dict[str, Any] = {}
    for one in parameters or ():
        key, equals, value = one.partition("=")
        if not equals:
            raise ValidatorError(f"--parameter {quoted(one)} is not KEY=VALUE, such as spoken_samples=2")
        try:
            given[key] = read_json(value)
        except NotJson:
            given[key] = value
    checked = BenchmarkPlan(name, given).parameters()
    return GivenBenchmark(name, checked.model_dump(mode="json", exclude_unset=True))


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
