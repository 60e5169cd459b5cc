"""TNP, the Therapeutic Nanobody Profiler, as a program of its own: it models the structure and measures the surface."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chem.nanobodies.developability import Profile
from chem.nanobodies.steps import CONTROL, StepUnavailable

_STEP: Final = "developability"
_SECONDS: Final = 300
_NAME: Final = "nanobody"
_FIX: Final = "install TNP (github.com/oxpig/TNP) in an environment of its own and set TNP_COMMAND to its program"


@dataclass(slots=True)
class Tnp:
    """``command`` is the program ``TNP`` or a path to it."""

    command: str = "TNP"
    _works: bool = field(default=False, init=False)

    def check(self) -> str:
        """The program.

        Raises:
            StepUnavailable: it is not installed.
        """
        program = shutil.which(self.command)
        if program is None:
            raise StepUnavailable(_STEP, f"there is no program {self.command}: {_FIX}")
        return program

    def profile(self, sequence: str) -> Profile | None:
        """TNP's figures; None where it has none for this sequence within five minutes.

        Raises:
            StepUnavailable: it is not installed, or has none for a typical nanobody either.
        """
        program = self.check()
        found = _profile(program, sequence)
        if found is None and not self._works:
            if _profile(program, CONTROL) is None:
                raise StepUnavailable(_STEP, f"{program} cannot profile even a typical nanobody: {_FIX}")
            self._works = True
        return found


def _profile(program: str, sequence: str) -> Profile | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(  # noqa: S603  (no shell; the sequence has passed as amino acid letters)
                [program, "--name", _NAME, "--output", folder, "--seq", sequence],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
            document = json.loads((Path(folder) / f"TNP_Results_SingleSeqEntry_{_NAME}.json").read_text())
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
    return profile_of(document.get(_NAME) if isinstance(document, dict) else None)


def profile_of(entry: Any) -> Profile | None:
    """One sequence's entry of TNP's JSON; None where a figure is missing or no number."""
    try:
        return Profile(
            total_cdr_length=int(entry["Total CDR Length"]),
            cdr3_length=int(entry["CDR3 Length"]),
            cdr3_compactness=float(entry["CDR3 Compactness"]),
            psh=float(entry["PSH"]),
            ppc=float(entry["PPC"]),
            pnc=float(entry["PNC"]),
        )
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
