"""Plain modern English in code, documents, messages, pages and tests: words that this project once used stay out."""

from __future__ import annotations

import re
from pathlib import Path

from tests.command_lines import PROJECT

PLACES = ("app", "workers", "chem", "gpu", "chain", "tests", "docs", "docker", ".github")
KINDS = {".py", ".md", ".html", ".css", ".js", ".yml", ".yaml", ".toml", ".conf", ".sh", ".txt"}
# Texts of others, and this list.
LEFT_OUT = re.compile(r"tests/data/|app/demo/recording|tests/docs/test_words\.py$")

FORBIDDEN = re.compile(
    r"""
    \b(?: anew | aught | naught | hence | lest | whence | thence | whoever | whomever | strangers? | stranger's
        | tend(?:s|ed|ing)? | mend(?:s|ed|ing)? | weighed | tells?\ of | told\ of | be\ had | of\ our\ own\ making
        | brought\ to\ (?:its|their)\ end )\b
    | \b(?:is|are|was|were|be|been|or|judge|hub|host|face|github|drand|chain|broker|store|database|redis)\ away\b
    | (?-i:[a-z]Away)\b | ["']away["']
    | \bspecs/ | §
    """,
    re.VERBOSE | re.IGNORECASE,
)
# What a line may say all the same.
ALLOWED = re.compile(r"RFC \d+ §")


def _files() -> list[Path]:
    found = [path for place in PLACES for path in (PROJECT / place).rglob("*") if path.suffix in KINDS]
    return [*found, *PROJECT.glob("*.md"), *PROJECT.glob("*.toml"), PROJECT / "beat_schedule.py"]


def test_the_words_stay_out() -> None:
    said = []
    for path in _files():
        name = path.relative_to(PROJECT).as_posix()
        if LEFT_OUT.search(name):
            continue
        text = path.read_text(encoding="utf-8")
        if FORBIDDEN.search(text):
            lines = enumerate(text.splitlines(), start=1)
            said += [
                f"{name}:{number}: {word[0]}"
                for number, line in lines
                if not ALLOWED.search(line) and (word := FORBIDDEN.search(line))
            ]
    assert not said, "in plain modern English, please:\n" + "\n".join(said)


def test_the_list_finds_them() -> None:
    sentences = (
        "the broker is away",
        "StoreAway",
        "cannot be had",
        "a stranger",
        "specs/epoch.md",
        "Mend it",
        "tells of",
    )
    assert [text for text in sentences if not FORBIDDEN.search(text)] == []
    assert not FORBIDDEN.search("the miner's file goes away; a tendency; extended")
