"""``python -m app rules show``: the rules in force, and where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.domain import ValidatorError
from app.settings import get_settings

rules_app = typer.Typer(no_args_is_help=True, help="The rules that epochs are judged by.")


@rules_app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE|DIR", help="A rules file or recording; RULES_FILE by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the rules in force: each value, and whether the file says so or it is the rule set's default."""
    from app.epochs.rules import parse_rules, rules_sha256
    from app.epochs.rules.document import read_document

    path = _rules_file(file)
    text, origin = _read(path), "built in" if path is None else str(path)
    rules, given = parse_rules(text, origin), read_document(text, origin)
    values = {
        key: {"value": value, "from": _source(key, given)}
        for key, value in _flat(rules.parameters.model_dump(mode="json"))
    }
    if as_json:
        typer.echo(json.dumps({"era": rules.era, "sha256": rules_sha256(text), "rules": values}, indent=1))
        return
    console = Console()
    console.print(f"[bold]{rules.era}[/], from {escape(origin)}, sha256 {rules_sha256(text)[:12]}")
    table = Table()
    for name in ("rule", "value", "from"):
        table.add_column(name, overflow="fold")
    for key, entry in values.items():
        table.add_row(key, escape(json.dumps(entry["value"], ensure_ascii=False)), escape(entry["from"]))
    console.print(table)
    for quirk, meaning in rules.quirks.items():
        console.print(f"quirk {quirk}: {meaning}", highlight=False)


def _rules_file(given: Path | None) -> Path | None:
    path = given or get_settings().rules_file
    return path / "rules.yaml" if path is not None and path.is_dir() else path


def _read(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValidatorError(f"{path} cannot be read: {error}") from None


def _flat(section: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted key."""
    found: list[tuple[str, Any]] = []
    for key, value in section.items():
        name = f"{before}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return found


def _source(key: str, given: Any) -> str:
    for part in key.split("."):
        if not isinstance(given, dict) or part not in given:
            return "the sections of the file" if key == "era" and given else "default"
        given = given[part]
    return "the file"
