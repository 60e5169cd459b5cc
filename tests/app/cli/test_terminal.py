"""Nothing that others sent controls the terminal of a command."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

import app.cli
from app.cli.terminal import Console

EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp\r"


@pytest.mark.parametrize("colour", [False, True])
def test_controls_are_shown_in_lines_and_tables(colour: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=colour, width=300)
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    console.print(EVIL, table, {"key": EVIL}, sep="\n")
    console.print(f"[bold]{EVIL}[/]")
    text = out.getvalue()
    assert "\x1b[31mred" not in text
    assert not set(text) & {"\x07", "\x9b", "\u202e", "\r"}
    assert "\x1b]" not in text
    assert text.count("⟨U+001B⟩") >= 8


def test_brackets_that_close_nothing_do_not_fail() -> None:
    out = io.StringIO()
    Console(file=out, width=300).print("an error of [/else]")
    assert out.getvalue() == "an error of [/else]\n"


def test_every_command_prints_through_this_console() -> None:
    for file in Path(app.cli.__file__).parent.glob("*.py"):
        imported = [
            node.module
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and any(name.name == "Console" for name in node.names)
        ]
        assert set(imported) <= {"app.cli.terminal"}, file.name
