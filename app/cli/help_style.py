"""How the help of every command names what is to be typed: N, TEXT, FILE; Typer's own way shows Python's types."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import typer

# where an option does not say it better by its own metavar
_METAVARS: Final[dict[Any, str]] = {int: "N", float: "NUMBER", Path: "PATH", str: "TEXT", list[str]: "TEXT"}


def in_one_style(command: Any) -> Any:
    """The command, or the group with each of its commands: see :func:`style`."""
    style(command.get_params(typer.Context(command)))
    for member in getattr(command, "commands", {}).values():
        in_one_style(member)
    return command


def style(parameters: Iterable[Any]) -> None:
    """Metavars in capitals; of a choice what can be typed, as it is typed; nothing for a flag."""
    for parameter in parameters:
        kind, is_argument = parameter.type_descriptor, parameter.param_type_name == "argument"
        if is_argument:
            parameter.metavar = parameter.metavar or parameter.name.upper()
        if kind.is_choice:
            shown = "|".join(map(str, kind.choices))
        elif is_argument or kind.annotation is bool:
            # an argument's metavar has a column of its own
            shown = ""
        else:
            shown = parameter.metavar or _METAVARS[kind.annotation]
        parameter.display_type_rich = lambda ctx, shown=shown: shown
