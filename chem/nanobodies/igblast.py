"""IgBLAST: the germline V genes closest to a sequence, by NCBI's program ``igblastp``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chem.nanobodies.nativeness import GermlineHit, GermlineHits
from chem.nanobodies.steps import CONTROL, StepUnavailable

_STEP: Final = "igblast"
_SECONDS: Final = 120
_QUERY: Final = "query"
_ORGANISMS: Final = ("camelid", "human")

# columns of a V hit in outfmt "7 std qseq sseq", after IgBLAST's own first one
_SUBJECT, _IDENTITY, _START, _END, _QUERY_TEXT, _SUBJECT_TEXT = 2, 3, 8, 9, 14, 15


@dataclass(frozen=True, slots=True)
class IgBlast:
    """The program and its data: ``home`` holds ``internal_data/`` and ``database/camelid_V``, ``database/human_V``.

    ``home/bin/igblastp`` is taken where it is there, else ``igblastp`` from the PATH.
    """

    home: Path | None

    def check(self) -> tuple[str, Path]:
        """The program and its home.

        Raises:
            StepUnavailable: one of the two is missing.
        """
        if self.home is None:
            raise StepUnavailable(_STEP, "set IGBLAST_HOME to the folder with internal_data/ and database/")
        own = self.home / "bin" / "igblastp"
        program = str(own) if own.is_file() else shutil.which("igblastp")
        if program is None:
            raise StepUnavailable(
                _STEP, f"there is no igblastp in {own.parent} or on the PATH; get NCBI IgBLAST 1.22.0"
            )
        for organism in _ORGANISMS:
            # a BLAST database of proteins
            if not Path(f"{self._database(self.home, organism)}.psq").is_file():
                raise StepUnavailable(
                    _STEP,
                    f"{self._database(self.home, organism)} is no protein database; copy the subnet's databases there",
                )
        return program, self.home

    def hits(self, sequence: str) -> GermlineHits:
        """The first V hit in each germline set. A sequence that igblastp itself fails on matches nothing.

        Raises:
            StepUnavailable: the program is missing or cannot do even a typical nanobody.
        """
        program, home = self.check()
        try:
            return self._hits(program, home, sequence)
        except _Failed:
            try:
                self._hits(program, home, CONTROL)
            except _Failed as error:
                raise StepUnavailable(_STEP, f"igblastp fails: {error}") from None
            return GermlineHits(None, None)

    def _hits(self, program: str, home: Path, sequence: str) -> GermlineHits:
        camelid, human = (self._hit(program, home, sequence, organism) for organism in _ORGANISMS)
        return GermlineHits(camelid, human)

    def _hit(self, program: str, home: Path, sequence: str, organism: str) -> GermlineHit | None:
        with tempfile.TemporaryDirectory() as folder:
            query = Path(folder) / "query.fasta"
            query.write_text(f">{_QUERY}\n{sequence}\n")
            command = [program, "-query", str(query), "-germline_db_V", self._database(home, organism)]
            command += ["-organism", organism, "-domain_system", "imgt", "-outfmt", "7 std qseq sseq"]
            command += ["-num_threads", "1"]
            try:
                done = subprocess.run(  # noqa: S603  (no shell; the sequence is a file)
                    command,
                    env={**os.environ, "IGDATA": str(home)},
                    capture_output=True,
                    text=True,
                    timeout=_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise _Failed(str(error)) from None
        if done.returncode != 0:
            raise _Failed(" ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}")
        return first_v_hit(done.stdout)

    @staticmethod
    def _database(home: Path, organism: str) -> str:
        return str(home / "database" / f"{organism}_V")


class _Failed(Exception):
    """igblastp ended without an answer."""


def first_v_hit(report: str) -> GermlineHit | None:
    """The first V line of a report in outfmt ``7 std qseq sseq``; None where there is none, or it is cut off."""
    for line in report.splitlines():
        columns = line.rstrip("\r").split("\t")
        if columns[0] == "V" and len(columns) > _SUBJECT_TEXT:
            try:
                return GermlineHit(
                    v_call=columns[_SUBJECT],
                    identity=float(columns[_IDENTITY]) / 100,
                    query_start=int(columns[_START]),
                    query_end=int(columns[_END]),
                    query_alignment=columns[_QUERY_TEXT],
                    germline_alignment=columns[_SUBJECT_TEXT],
                )
            except ValueError:
                return None
    return None
