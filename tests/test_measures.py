"""Measures that hold: short task bodies, few modules at the top, no store session opened by hand in workers."""

from __future__ import annotations

import ast
from pathlib import Path

PROJECT = Path(__file__).parents[1]
WORKERS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((PROJECT / "workers").glob("*.py"))}

MEAN_BODY, LONGEST_BODY, TOP_MODULES = 6, 12, 8

# How a session is had without the task base, which gives one with the claim, one snapshot or one transaction.
BY_HAND = {"Session", "sessionmaker", "create_engine", "Store"}


def _bodies() -> dict[str, int]:
    """Each task's lines of code, without docstring, comments and empty lines."""
    found = {}
    for module, source in WORKERS.items():
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and any("app.task" in ast.unparse(d) for d in node.decorator_list):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                texts = [line.strip() for line in lines[body[0].lineno - 1 : body[-1].end_lineno]]
                found[f"{module}.{node.name}"] = sum(1 for text in texts if text and not text.startswith("#"))
    return found


def test_task_bodies_are_short() -> None:
    bodies = _bodies()
    assert len(bodies) >= 25
    assert {name: lines for name, lines in bodies.items() if lines > LONGEST_BODY} == {}
    assert sum(bodies.values()) / len(bodies) <= MEAN_BODY, sorted(bodies.items(), key=lambda one: -one[1])[:8]


def test_the_top_of_the_application_has_few_modules() -> None:
    modules = {path.name for path in (PROJECT / "app").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(modules) <= TOP_MODULES, sorted(modules)


def test_no_worker_opens_a_store_session_by_hand() -> None:
    opened = []
    for module, source in WORKERS.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                of_store = called.endswith((".reading", ".writing")) and "store" in called.lower()
                if of_store or called.rpartition(".")[2] in BY_HAND:
                    opened.append(f"{module}:{node.lineno}: {called}")
    assert opened == []
