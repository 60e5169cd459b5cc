"""Parse a command line with the real command line interfaces, without running anything."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


def parse(words: list[str]) -> None:
    """Check ``python -m app …``, ``python -m NAME``, ``celery -A app …`` or ``make …``.

    Raises:
        UsageError (click's or typer's): there is no such command, option or value.
        ValueError: none of these programs, or no such module or target.
    """
    words = [re.sub(r"^(\.venv/bin/|/opt/[\w-]+/\.venv/bin/|/usr/bin/)", "", words[0]), *words[1:]]
    if words[:3] == ["python", "-m", "app"]:
        import typer

        from app.cli import cli

        _parse(typer.main.get_command(cli), "app", words[3:])
    elif words[0] == "celery":
        from celery.bin.base import CLIContext
        from celery.bin.celery import celery

        from app.celery import app

        if "-A app" not in " ".join(words):
            raise ValueError(f"celery needs -A app: {shlex.join(words)}")
        _parse(celery, "celery", words[1:], CLIContext(app=app, no_color=True, workdir=None))
    elif words[:2] == ["python", "-m"]:
        module = PROJECT / Path(*words[2].split("."))
        own = module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
        if not own and importlib.util.find_spec(words[2].partition(".")[0]) is None:
            raise ValueError(f"there is no module {words[2]}")
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        if unknown:
            raise ValueError(f"the Makefile has no target {unknown[0]}")
    else:
        raise ValueError(f"no command of this project: {shlex.join(words)}")


def _parse(command: Any, name: str, arguments: list[str], obj: object = None, parent: Any = None) -> None:
    if arguments == ["--help"]:
        return
    with command.make_context(name, list(arguments), parent=parent, obj=obj) as context:
        # typer has a click of its own, so its groups are no click.Group
        if hasattr(command, "resolve_command"):
            rest = [*context._protected_args, *context.args]
            if rest:
                found, subcommand, left = command.resolve_command(context, rest)
                assert subcommand is not None
                _parse(subcommand, found or "", left, obj, context)
