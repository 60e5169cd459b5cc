"""A child answers in order, its errors are raised here, and its death fails what is pending and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu.child import Child, ChildDied

PROJECT = Path(__file__).parents[2]


def echoing(greeting: str) -> Callable[[Any], Any]:
    """The child's part."""

    def answer(question: Any) -> Any:
        if question == "raise":
            raise KeyError("no such thing")
        if question == "die":
            os._exit(3)
        if question == "sleep":
            time.sleep(60)
        print("a library prints")
        return greeting, question, os.getpid()

    return answer


def refusing() -> Callable[[Any], Any]:
    """A child that cannot start."""
    raise RuntimeError("nothing is installed")


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("tests.gpu.test_child:echoing", "hello")
    yield child
    child.close()


def test_questions_are_answered_in_order_by_another_process(child: Child, capfd: pytest.CaptureFixture[str]) -> None:
    tensor = torch.arange(100_000)
    answers = [child.ask(question) for question in (1, "raise", "x" * 1_000_000, tensor)]
    greeting, one, pid = answers[0].result(60)
    assert (greeting, one) == ("hello", 1)
    assert pid != os.getpid()
    with pytest.raises(KeyError, match="no such thing"):
        answers[1].result(60)
    assert answers[2].result(60)[1] == "x" * 1_000_000
    assert torch.equal(answers[3].result(60)[1], tensor)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("how", ["dies", "is killed"])
def test_a_child_that_ends_fails_what_is_pending(child: Child, how: str) -> None:
    child.started.result(60)
    pending = [child.ask("die" if how == "dies" else "sleep"), child.ask(2)]
    if how == "is killed":
        child.kill()
    for answer in (*pending, child.ask(3)):
        with pytest.raises(ChildDied):
            answer.result(60)
    assert not child.alive


def test_what_keeps_a_child_from_starting_is_raised_here() -> None:
    child = Child("tests.gpu.test_child:refusing")
    with pytest.raises(RuntimeError, match="nothing is installed"):
        child.started.result(60)
    child.close()


def test_a_child_ends_with_its_parent() -> None:
    program = (
        "import os; from gpu.child import Child; child = Child('tests.gpu.test_child:echoing', 'x'); "
        "child.started.result(60); print(child._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False, timeout=90
    )
    place = Path(f"/proc/{int(parent.stdout)}/stat")
    deadline = time.monotonic() + 30
    while place.exists() and " Z " not in place.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
