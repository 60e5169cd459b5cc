"""``celery-validator settings``: every variable, what it is for, and what it is now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from rich.padding import Padding
from rich.text import Text

from app.cli.terminal import Console
from app.domain import ValidatorError
from app.settings import CONCERNS, get_settings
from app.untrusted import visible


def settings(
    word: Annotated[
        str | None, typer.Argument(metavar="WORD", help="Only those whose name or meaning has this word.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, by variable.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of docs/settings.md: names and defaults.")
    ] = False,
) -> None:
    """Show every setting: its environment variable, its meaning and its present value (secrets hidden)."""
    if markdown:
        typer.echo(markdown_tables())
        return
    found = [row for row in _rows() if word is None or _has(word, row)]
    if not found:
        raise ValidatorError(f"no setting has {word!r} in its name, meaning or concern; leave it out to see all")
    present = get_settings()
    values = {name: shown(getattr(present, name)) for _, name, _ in found}
    if as_json:
        rows = {name.upper(): {"value": values[name], "meaning": field.description or ""} for _, name, field in found}
        typer.echo(json.dumps(rows))
        return
    console = Console()
    for concern in dict.fromkeys(concern for concern, _, _ in found):
        console.print(f"[bold]{concern[0].upper()}{concern[1:]}[/]")
        for within, name, field in found:
            if within == concern:
                line = Text(f"  {name.upper()}=", "cyan").append(visible(values[name]), "default")
                console.print(line, soft_wrap=True)
                console.print(Padding(Text(field.description or "", "dim"), (0, 0, 0, 6)))


def markdown_tables() -> str:
    """The tables of docs/settings.md, one a concern, from the settings themselves."""
    parts = []
    for concern in CONCERNS:
        rows = [
            f"| `{name.upper()}` | {_cell(shown(_default(field)))} | {field.description or ''} |"
            for found, name, field in _rows()
            if found == concern
        ]
        parts.append(
            "\n".join(
                [
                    f"## {concern[0].upper()}{concern[1:]}",
                    "",
                    "| variable | default | meaning |",
                    "| --- | --- | --- |",
                    *rows,
                ]
            )
        )
    return "\n\n".join(parts)


def shown(value: Any) -> str:
    """A value as an operator would write it; nothing for None, stars for a secret that is set."""
    if value is None or value == ():
        return ""
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.15g}"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rows() -> Iterator[tuple[str, str, FieldInfo]]:
    """Concern, name and field of each setting."""
    for concern, kind in CONCERNS.items():
        for name, field in kind.model_fields.items():
            yield concern, name, field


def _has(word: str, row: tuple[str, str, FieldInfo]) -> bool:
    concern, name, field = row
    return word.lower() in f"{name} {field.description} {concern}".lower()


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True, validated_data={})
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _cell(text: str) -> str:
    return f"`{text}`" if text else ""
