"""The command line as its user meets it, in this process: what was printed, and the exit status."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from app.cli import main


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended; ``output`` is what it wrote to both streams."""

    exit_code: int
    output: str


def command(*arguments: object) -> Ended:
    """Run ``python -m app`` with these arguments."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output), patch.object(sys, "argv", ["app", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            return Ended(int(end.code or 0), output.getvalue())
    return Ended(0, output.getvalue())
