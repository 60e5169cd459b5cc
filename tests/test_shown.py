"""What others sent appears in a sentence through ``shown`` or ``quoted`` alone: ``repr`` has no bound and may raise."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# the rooms that meet what miners, hosts and nodes send
ROOMS = ("app/api", "app/competitions", "app/epochs", "app/store", "app/task.py", "chain", "gpu/evaluation", "workers")

# values of this program, or checked before: by file and expression
OURS = {
    # two results' values, side by side
    ("app/epochs/result.py", "old"),
    ("app/epochs/result.py", "new"),
    ("app/store/competitions.py", "competition_id"),
    ("app/store/competitions.py", "score"),
    ("chain/incentive/models.py", "competition.id"),
    # a name of ours that the answer lacks
    ("gpu/evaluation/model_client.py", "name"),
    # the operator's own setting, and a benchmark's sample
    ("gpu/evaluation/voicebench/dataset.py", "part"),
    ("gpu/evaluation/voicebench/dataset.py", "match['set']"),
    ("gpu/evaluation/voicebench/bbh.py", "sample.reference"),
}


def raw(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of each value that a sentence holds by its ``repr``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FormattedValue(conversion=114, value=value):
                yield node.lineno, ast.unparse(value)
            case ast.FormattedValue(value=ast.Call(func=ast.Name(id="repr"))):
                yield node.lineno, ast.unparse(node.value)
            case ast.Constant(value=str(text)) if "%r" in text:
                yield node.lineno, text
            case ast.Constant(value="unicode_escape"):
                yield node.lineno, "unicode_escape"
            case _:
                pass


def files() -> list[Path]:
    return [path for room in ROOMS for path in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))]


def test_no_sentence_holds_a_raw_value() -> None:
    found = [
        f"{name}:{line}: {expression}"
        for path in files()
        for line, expression in raw(path.read_text(encoding="utf-8"))
        if ((name := str(path.relative_to(ROOT))), expression) not in OURS
    ]
    assert not found, "use app.untrusted.shown or quoted:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line", ['f"no {x!r:.80}"', 'f"no {repr(x)}"', 'log.error("no %r", x)', 'x.encode("unicode_escape")']
)
def test_the_check_sees_them(line: str) -> None:
    assert list(raw(line))
