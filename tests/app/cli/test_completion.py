"""Shell completion in a real bash: installed as its user installs it, then with the Tab key."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from app.cli import VERBS, cli

PROJECT = Path(__file__).parents[3]

# what bash calls when Tab is typed, with the words of the line as bash hands them over
ASKED = """
source <(celery-validator --show-completion)
complete -p celery-validator
while IFS= read -r line; do
    IFS=' ' read -ra COMP_WORDS <<< "$line"
    [ "${line: -1}" = " " ] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMPREPLY=()
    _celery_validator_completion celery-validator "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has celery-validator in PATH, as pip puts it there."""
    program = tmp_path / "bin" / "celery-validator"
    program.parent.mkdir()
    start = "import sys\nfrom app.__main__ import main\nsys.exit(main())\n"
    program.write_text(f"#!{sys.executable}\n{start}")
    program.chmod(0o755)
    path = f"{program.parent}:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "TERM": "dumb", "PS1": "$ "}


def test_bash_completes_every_group(shell: dict[str, str]) -> None:
    groups = {name: command for name, command in get_command(cli).commands.items() if hasattr(command, "commands")}
    wanted = {"": set(VERBS)} | {f"{name} ": set(command.commands) for name, command in groups.items()}
    wanted |= {
        "epo": {"epoch"},
        "epoch show --re": {"--replay"},
        "run --wallet.": {"--wallet.name", "--wallet.hotkey", "--wallet.path"},
        "epoch replay --scores ": {"recorded", "model"},
        "healthcheck val": {"validator"},
        "epoch nothing": set(),
    }
    # a script, so that bash is the parent by which the program knows the shell
    script = Path(shell["HOME"]) / "asked.sh"
    script.write_text(ASKED)
    lines = "".join(f"celery-validator {words}\n" for words in wanted)
    asked = subprocess.run(
        ["bash", str(script)], input=lines, env=shell, cwd=shell["HOME"], capture_output=True, text=True, check=True
    )
    registered, *answers = asked.stdout.splitlines()
    assert registered.endswith("-F _celery_validator_completion celery-validator")
    assert dict(zip(wanted, map(set, map(str.split, answers)), strict=True)) == wanted


class Terminal:
    """A bash on a terminal of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.output = ""
        self.child, self._terminal = pty.fork()
        if self.child == 0:
            os.chdir(environment["HOME"])
            os.execve("/bin/bash", ["bash", "--noprofile", "-i"], environment)

    def type(self, keys: str, until: str) -> None:
        """Type, and wait for a text to appear after what was there before."""
        seen = len(self.output)
        os.write(self._terminal, keys.encode())
        deadline = time.monotonic() + 60
        while until not in self.output[seen:]:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.output
            self.output += os.read(self._terminal, 4096).decode(errors="replace")


@pytest.fixture
def terminal(shell: dict[str, str]) -> Iterator[Any]:
    opened = Terminal(shell)
    yield opened
    os.kill(opened.child, 9)
    os.waitpid(opened.child, 0)


def test_the_tab_key_after_the_installation(terminal: Terminal) -> None:
    terminal.type("celery-validator --install-completion\n", until="completion installed in")
    terminal.type("source ~/.bashrc && echo re''ady\n", until="ready")
    terminal.type("celery-validator epoch rep\t", until="epoch replay ")
    terminal.type("\x15celery-validator comp\t", until="competition ")
    terminal.type("set-b\t", until="set-baseline ")


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_module_has_no_name_to_complete(tmp_path: Path, option: str) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "COLUMNS": "300"}
    refused = subprocess.run(
        [sys.executable, "-m", "app", option],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"then run: celery-validator {option}" in refused.stderr
    assert not (tmp_path / ".bashrc").exists()
