"""README and docs/ stay true: commands parse with the real command lines, links lead somewhere, tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from app.cli.healthcheck import Service
from app.domain import QueueName, RejectionCode
from app.settings import Settings
from app.settings.secret_files import secret_names
from tests.command_lines import PROJECT, parse

DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]

# Variables of others: Docker's, CUDA's, and a name that stands for any.
FOREIGN = {"CUDA_VISIBLE_DEVICES", "DOCKER_HOST", "X_FILE"}

# What stands for a value of the reader's in a command.
PLACEHOLDERS = {"N": "18945", "NAME": "name", "HOT": "hot", "SCORE": "0.5", "ID": "voicebench", "EPOCH": "18945"}

_PROGRAM = r"(?:(?:\.venv/bin/|/opt/[\w-]+/\.venv/bin/)?(?:python -m [\w.]+|celery -A app)|make (?=[a-z]))"
OURS = re.compile(rf"(?:^|[\s`(])({_PROGRAM}(?:\\\||[^`|&;\n])*)")


def _blocks(text: str) -> list[str]:
    """The lines of indented and fenced code, and each code span; continued lines joined."""
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", outside)]
    return lines + spans


def _commands(path: Path) -> list[str]:
    found = []
    for line in _blocks(path.read_text(encoding="utf-8")):
        for command in OURS.findall(re.sub(r"\s#\s.*", "", line)):
            # prose in a table's cell, and alternatives such as `add|archive`, are no command
            found.append(re.sub(r"\s+[—–(].*$|(?<=\w)[.,:)]+$", "", command.replace("\\|", "|")).strip())
    return found


CASES = [(path.name, command) for path in DOCUMENTS for command in dict.fromkeys(_commands(path))]


def test_the_documents_do_hold_commands() -> None:
    assert len(CASES) > 60
    assert {"README.md", "deploy.md", "operate.md", "miners.md"} <= {name for name, _ in CASES}


@pytest.mark.parametrize(("document", "command"), CASES)
def test_a_command_is_one_that_the_program_knows(document: str, command: str, tmp_path: Path) -> None:
    # `[--option VALUE]` is an option that may be left out, `…` a value or the rest
    plain = re.sub(r"\[|\]", " ", command).replace("…", "x")
    for alternative in _alternatives(shlex.split(plain, comments=True)):
        parse([PLACEHOLDERS.get(word, word) for word in alternative])


def _alternatives(words: list[str]) -> list[list[str]]:
    """``psichic|esm2`` is two commands."""
    several: list[list[str]] = [[]]
    for word in words:
        several = [[*before, choice] for before in several for choice in word.split("|")]
    return several


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, f"{file} has no heading {anchor}"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:app|chain|chem|gpu|workers|docker|docs|tests)/[\w./-]+\.\w+)`", text))
    made = {"docker/.env"}
    assert not [name for name in named - made if not (PROJECT / name).exists()]


@pytest.mark.parametrize("name", ["README.md", "deploy.md", "operate.md"])
def test_every_variable_is_a_setting(name: str) -> None:
    text = next(path for path in DOCUMENTS if path.name == name).read_text(encoding="utf-8")
    known = {field.upper() for field in Settings.model_fields} | {f"{n.upper()}_FILE" for n in secret_names(Settings)}
    compose = "\n".join(path.read_text() for path in (PROJECT / "docker").iterdir() if path.is_file())
    for variable in re.findall(r"(?:`|^    )([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?==|`)", text, flags=re.MULTILINE):
        assert variable in known or variable in compose or variable in FOREIGN, variable


def test_the_miners_page_explains_every_code_in_the_order_of_examination() -> None:
    from app.api.pages.epochs.rejection_codes import EXPLANATIONS

    text = (PROJECT / "docs" / "miners.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert rows == [found.code.value for found in EXPLANATIONS]
    assert set(rows) == {code.value for code in RejectionCode}


def test_deploy_names_every_queue_and_every_secret() -> None:
    text = (PROJECT / "docs" / "deploy.md").read_text()
    for queue in QueueName:
        assert f"`celery -A app worker -Q {queue.value}`" in text
    for name in secret_names(Settings):
        assert f"`{name.upper()}" in text, name


def test_operate_names_every_service_that_can_be_asked() -> None:
    text = (PROJECT / "docs" / "operate.md").read_text()
    assert not [service for service in Service if service.value not in text]
