"""``python -m app weights preview``: the models' weights, and why each UID gets its share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.domain import ValidatorError
from app.untrusted import read_json
from chain.incentive.models import Competition, Incentive, IncentiveRules, incentive

weights_app = typer.Typer(no_args_is_help=True, help="Look at the models' weights.")


@weights_app.callback()
def _weights() -> None:
    """Keeps ``preview`` a word of its own."""


class _CompetitionInput(BaseModel):
    id: str
    reward_percentage: float
    baseline: float | None = None
    scores: dict[int, float | None] = {}


class _Input(BaseModel):
    uids: list[int]
    hotkeys: list[str]
    competitions: list[_CompetitionInput]
    reputations: dict[str, float | None] = {}
    previous: dict[str, float | None] = {}
    alpha: float = 0.0
    burn_uid: int = IncentiveRules().burn_uid


@weights_app.command()
def preview(
    file: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="A score table as JSON; the store by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: weights, pools, warnings.")] = False,
) -> None:
    """Show the weights that would be set now, or those of a score table. Nothing is kept or submitted."""
    found = _from_store() if file is None else _from_file(file)
    if as_json:
        print(json.dumps(_document(found), allow_nan=False))
    else:
        _show(found, Console())


def _from_file(file: Path) -> Incentive:
    try:
        table = _Input.model_validate(read_json(file.read_text(encoding="utf-8"), lenient=True))
    except OSError as error:
        raise ValidatorError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValidatorError(f"{file}: {where or 'the document'}: {first['msg']}") from None
    except ValueError as error:
        raise ValidatorError(f"{file} is no JSON document: {error}") from None
    if len(table.uids) != len(table.hotkeys):
        raise ValidatorError(f"{file}: {len(table.uids)} uids but {len(table.hotkeys)} hotkeys; give one for each")
    if len(set(table.uids)) != len(table.uids):
        raise ValidatorError(f"{file}: a UID stands in uids twice")
    return incentive(
        dict(zip(table.uids, table.hotkeys, strict=True)),
        [
            Competition(
                item.id,
                item.reward_percentage,
                item.baseline,
                {uid: score for uid, score in item.scores.items() if score is not None},
            )
            for item in table.competitions
        ],
        {hotkey: value for hotkey, value in table.reputations.items() if value is not None},
        previous={hotkey: value for hotkey, value in table.previous.items() if value is not None},
        alpha=table.alpha,
        rules=replace(IncentiveRules(), burn_uid=table.burn_uid),
    )


def _from_store() -> Incentive:
    from app.competitions.standings import incentive_now
    from app.settings import get_settings
    from app.store.database import get_store
    from app.store.schema import migrate

    store = get_store()
    migrate(store)
    with store.reading() as session:
        return incentive_now(session, get_settings())


def _document(found: Incentive) -> dict[str, Any]:
    return {
        "weights": {str(uid): weight for uid, weight in found.weights.items()},
        "pools": {
            name: {"above": list(pools.above), "below": list(pools.below)} for name, pools in found.pools.items()
        },
        "warnings": list(found.warnings),
    }


def _show(found: Incentive, console: Console) -> None:
    why: dict[int, list[str]] = {}
    for share in found.shares:
        parts = [f"{share.competition} {share.pool}: {share.weight:.4f}"]
        if share.score is not None:
            parts.append(f"score {share.score:.4f}")
        if share.reputation is not None:
            parts.append(f"reputation {share.reputation:.4f}")
        why.setdefault(share.uid, []).append(", ".join(parts))
    table = Table(title="Weights", title_justify="left")
    for name in ("UID", "weight", "before the EMA", "why"):
        table.add_column(name, justify="left" if name == "why" else "right")
    for uid, weight in sorted(found.weights.items(), key=lambda item: (-item[1], item[0])):
        if weight > 0:
            reasons = why.get(uid, ["earlier weights (EMA)"])
            table.add_row(str(uid), f"{weight:.4f}", f"{found.new.get(uid, 0.0):.4f}", escape("; ".join(reasons)))
    console.print(table)
    if not found.weights:
        console.print("Nobody has a weight.")
    for name, pools in found.pools.items():
        console.print(f"{escape(name)}: above {list(pools.above) or 'nobody'}, below {list(pools.below) or 'nobody'}")
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
