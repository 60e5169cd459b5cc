"""A scorer around BoltzGen's command line.

BoltzGen pins versions that cannot live beside the worker's, so it runs as a process: one design per sequence and
target, its coordinates sampled, folded again and analysed. It sets no seed: its figures differ from run to run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from app.domain import BOLTZGEN_METRICS, PairScore, Protein, ScoringInterrupted, ValidatorError

_log = logging.getLogger(__name__)

_CONFIGURE: Final = (
    *("--protocol", "nanobody-anything", "--num_designs", "1", "--num_workers", "4", "--skip_inverse_folding"),
    *("--step_scale", "2.0", "--noise_scale", "0.88"),
)
# under this protocol no design_folding is configured, and what is not configured is left out
_LATER_STEPS: Final = ("folding", "design_folding", "analysis")
_DESIGNS: Final = "intermediate_designs"
_METRICS: Final = "aggregate_metrics_analyze.csv"
_MASK: Final = "design_mask"
_TOLD: Final = 400
_LOGGED: Final = 4000
_VERSION_SECONDS: Final = 120


class BoltzGenUnavailable(ValidatorError):
    """BoltzGen is not installed, or gives nothing for any design."""


@dataclass(frozen=True)
class Design:
    """One sequence against one target."""

    sequence: str
    protein: Protein

    @property
    def name(self) -> str:
        """``hash_target``, the SHA-256 of the sequence: what BoltzGen's identifiers begin with."""
        return f"{hashlib.sha256(self.sequence.encode()).hexdigest()}_{self.protein.code}"


@dataclass
class BoltzGenScorer:
    """``command`` is BoltzGen's program; ``cache`` where it keeps its weights (its default without one).

    ``options`` are further ones of ``boltzgen configure``.
    """

    command: str = "boltzgen"
    cache: Path | None = None
    options: Sequence[str] = field(default=())

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over program version and options. Scores of one digest are comparable, not equal."""
        parts = {"model": "boltzgen", "version": self._version(), "configure": [*_CONFIGURE, *self.options]}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        sequences: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """The ten metrics of each (protein, sequence), proteins outermost; one that BoltzGen leaves out is missing.

        All designs run together; where that fails, one by one, so that a bad one costs itself only.

        Raises:
            BoltzGenUnavailable: the program is missing, or fails on every design.
            ScoringInterrupted: it ran out of device memory.
        """
        known: dict[tuple[str, str], PairScore] = {}
        designs = {
            design.name: design
            for protein in proteins
            for design in (Design(sequence, protein) for sequence in sequences)
            if protein.sequence
        }
        for score in self._scored(list(designs.values())):
            known[score.protein, score.smiles] = score
            if on_score is not None:
                on_score(score)
        return [
            known[protein.code, sequence]
            if protein.sequence
            else PairScore(protein.code, sequence, error=f"no_sequence: nobody knows the sequence of {protein.code}")
            for protein in proteins
            for sequence in sequences
        ]

    def close(self) -> None:
        """Nothing stays loaded between runs."""

    def resident_bytes(self) -> int:
        """Nothing stays loaded between runs."""
        return 0

    def _scored(self, designs: Sequence[Design]) -> Iterator[PairScore]:
        if not designs:
            return
        try:
            found = self._run(designs)
        except _RunFailed as failure:
            if len(designs) == 1:
                raise BoltzGenUnavailable(f"BoltzGen fails: {failure}") from None
            _log.warning("BoltzGen fails on %d designs (%s); running them one by one", len(designs), failure)
            yield from self._one_by_one(designs)
            return
        yield from (_score(design, found.get(design.name)) for design in designs)

    def _one_by_one(self, designs: Sequence[Design]) -> Iterator[PairScore]:
        failures: list[PairScore] = []
        for design in designs:
            try:
                found = self._run([design])
            except _RunFailed as failure:
                failures.append(PairScore(design.protein.code, design.sequence, error=f"boltzgen: {failure}"))
            else:
                yield _score(design, found.get(design.name))
        if len(failures) == len(designs):
            raise BoltzGenUnavailable(f"BoltzGen fails on every design: {failures[-1].error}")
        yield from failures

    def _run(self, designs: Sequence[Design]) -> dict[str, dict[str, float]]:
        """The metrics by design name."""
        program = self._program()
        with tempfile.TemporaryDirectory(prefix="boltzgen-") as folder:
            specifications, out = Path(folder) / "inputs", Path(folder) / "out"
            specifications.mkdir()
            files = [write_specification(specifications, design) for design in designs]
            cache = ("--cache", str(self.cache)) if self.cache else ()
            _call([program, "configure", *map(str, files), "--output", str(out), *_CONFIGURE, *cache, *self.options])
            _call([program, "execute", str(out), "--steps", "design"])
            try:
                declare_designed(out / _DESIGNS, designs)
                _call([program, "execute", str(out), "--steps", *_LATER_STEPS])
                return read_metrics(out / _DESIGNS / _METRICS)
            except (OSError, ValueError, csv.Error) as error:
                raise _RunFailed(f"its files cannot be read: {error}") from None

    def _program(self) -> str:
        program = shutil.which(self.command)
        if program is None:
            raise BoltzGenUnavailable(
                f"there is no program {self.command}: install boltzgen 0.2.0 in an environment of its own and set "
                "BOLTZGEN_COMMAND to its program"
            )
        return program

    def _version(self) -> str:
        try:
            return _call([self._program(), "--version"], _VERSION_SECONDS).strip()
        except _RunFailed as failure:
            raise BoltzGenUnavailable(f"BoltzGen does not start: {failure}") from None


def write_specification(folder: Path, design: Design) -> Path:
    """BoltzGen's input: chain A the target with its alignment, chain B the nanobody without one."""
    alignment = "empty"
    if design.protein.alignment is not None:
        path = folder / f"{design.protein.code}.a3m"
        path.write_text(design.protein.alignment)
        alignment = str(path)
    chains = [("A", design.protein.sequence, alignment), ("B", design.sequence, "empty")]
    document = {
        "entities": [{"protein": {"id": chain, "sequence": letters, "msa": msa}} for chain, letters, msa in chains]
    }
    path = folder / f"{design.name}_input.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def declare_designed(folder: Path, designs: Sequence[Design]) -> None:
    """Tell the steps after the design that chain B is the designed one, in each design's metadata.

    BoltzGen takes a chain with a given sequence for undesigned and has then no interface to measure. The subnet's copy
    of BoltzGen is changed to take chain B; the metadata say the same to any copy.
    """
    lengths = {design.name: (len(design.protein.sequence or ""), len(design.sequence)) for design in designs}
    for path in folder.glob("*.npz"):
        # some of its arrays hold objects; they come from the program that we just ran
        with np.load(path, allow_pickle=True) as stored:
            metadata = dict(stored)
        target, own = lengths.get(_name(path.stem), (0, 0))
        if metadata.get(_MASK, np.empty(0)).shape != (target + own,):
            raise ValueError(f"{path.name} is not of {target} and {own} residues")
        metadata[_MASK] = (np.arange(target + own) >= target).astype(metadata[_MASK].dtype)
        np.savez_compressed(path, **metadata)


def _name(identifier: str) -> str:
    return "_".join(identifier.split("_")[:2])


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Finite metrics by ``hash_target``, from BoltzGen's table; of several rows of one design the first counts."""
    found: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(_name(row.get("id") or ""), dict(_numbers(row)))
    return found


def _numbers(row: Mapping[str, str | None]) -> Iterator[tuple[str, float]]:
    for name in BOLTZGEN_METRICS:
        with contextlib.suppress(TypeError, ValueError):
            value = float(row.get(name))  # type: ignore[arg-type]
            if math.isfinite(value):
                yield name, value


def _score(design: Design, metrics: Mapping[str, float] | None) -> PairScore:
    if not metrics:
        return PairScore(design.protein.code, design.sequence, error="no_metrics: BoltzGen gave none for this design")
    return PairScore(design.protein.code, design.sequence, metrics=metrics)


class _RunFailed(Exception):
    """BoltzGen ended without a result; the message holds its last words."""


def _call(command: Sequence[str], seconds: float | None = None) -> str:
    """Run to the end; its steps are processes of their own and end with it, whatever ends the wait."""
    try:
        process = subprocess.Popen(  # noqa: S603  (no shell; sequences have passed as amino acid letters)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _RunFailed(str(error)) from None
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise _RunFailed(f"no end after {seconds:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0:
        _log.warning("%s ended with status %d:\n%s", command[1], process.returncode, told[-_LOGGED:])
        words = " ".join(told.split())[-_TOLD:]
        if "out of memory" in told:
            raise ScoringInterrupted(f"BoltzGen found no room on the device: {words}")
        raise _RunFailed(words or f"exit status {process.returncode}")
    return told
