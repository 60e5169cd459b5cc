"""``python -m app settings``: every variable, what it is for, and what it is now."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.settings import Settings, get_settings


def settings(
    markdown: Annotated[bool, typer.Option(help="Print the README's table of names and defaults.")] = False,
) -> None:
    """Show every setting: its environment variable, its meaning and its present value (secrets hidden)."""
    if markdown:
        typer.echo(markdown_table())
        return
    present = get_settings()
    table = Table(title="Settings (environment or .env)", title_justify="left")
    for name in ("variable", "value", "meaning"):
        table.add_column(name, overflow="fold")
    for name, field in Settings.model_fields.items():
        table.add_row(name.upper(), escape(shown(getattr(present, name))), escape(field.description or ""))
    Console().print(table)


def markdown_table() -> str:
    """The README's configuration table, from the settings themselves."""
    rows = [
        f"| `{name.upper()}` | {_cell(shown(_default(field)))} | {field.description or ''} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


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


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True, validated_data={})
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _cell(text: str) -> str:
    return f"`{text}`" if text else ""
