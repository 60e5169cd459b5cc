"""Every command's help in one style: metavars in capitals, and no ``--no-`` for what is off anyway."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.cli import cli
from tests.app.cli.test_shared_options import EVERY, ROOT

GROUPS = {"": ROOT} | {name: found for name, found in ROOT.commands.items() if hasattr(found, "commands")}
COMMANDS = GROUPS | {words: found for words, (found, _) in EVERY.items()}

# "N", "OWNER/REPO/BRANCH/PATH", "KEY=VALUE"
METAVAR = re.compile(r"[A-Z][A-Z/|=]*")


def choices(parameter: Any) -> str:
    """What can be typed for a choice, as the help shows it."""
    return "|".join(map(str, parameter.type_descriptor.choices or ()))


@pytest.mark.parametrize("words", COMMANDS)
def test_metavars_are_in_capitals_and_flags_have_none(words: str) -> None:
    context = typer.Context(COMMANDS[words])
    for parameter in COMMANDS[words].get_params(context):
        shown = parameter.display_type_rich(context)
        if parameter.type_descriptor.annotation is bool:
            assert shown == ""
            twins = [name for name in parameter.secondary_opts if name.startswith("--no-")]
            assert not twins or parameter.default is True, f"{twins}: name the flag alone in typer.Option"
        elif parameter.param_type_name == "argument":
            assert METAVAR.fullmatch(parameter.metavar)
            assert shown == choices(parameter)
        elif found := choices(parameter):
            assert shown == found
        else:
            assert METAVAR.fullmatch(shown), parameter.name


@pytest.mark.parametrize("words", COMMANDS)
def test_the_page_says_the_same(words: str) -> None:
    shown = CliRunner().invoke(cli, [*words.split(), "--help"], env={"COLUMNS": "80"}).output
    assert not re.findall(r"\[\[|<\w+|--no-(?!flower|api)\w", shown)
    used = next(line for line in shown.splitlines() if "Usage:" in line)
    assert all(METAVAR.fullmatch(name) for name in re.findall(r"[{\[]([^}\]]+)[}\]]", used))
    assert max(map(len, shown.splitlines())) <= 80


def test_an_epoch_number_may_be_left_out_and_a_service_may_not() -> None:
    for words, usage in {
        "epoch watch": "[OPTIONS] [N]",
        "settings": "[OPTIONS] [WORD]",
        "healthcheck": "{SERVICE}",
    }.items():
        shown = CliRunner().invoke(cli, [*words.split(), "--help"], env={"COLUMNS": "200"}).output
        assert shown.split("\n")[1].rstrip().endswith(usage)
