"""Conformer embedding with a time limit: in a process that can be killed."""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from gpu.boltz import conformer_worker
from gpu.boltz.failure import BoltzInstallationError, FailureCode, MoleculeFailure

_START_SECONDS: Final = 120.0


class ConformerEmbedder:
    """Embeds one molecule at a time in a child process, started on first use and again after a kill.

    The result is bitwise what :func:`gpu.boltz.conformer_worker.embedded_coordinates` gives in this process.
    A plain child (not multiprocessing) because a Celery worker's child is daemonic and may have no such children.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def coordinates(self, molecule: Chem.Mol, seed: int) -> npt.NDArray[np.float64] | None:
        """Coordinates (atoms × 3, Å) of one conformer of ``molecule`` (hydrogens included), None where there is none.

        Raises:
            MoleculeFailure: code ``conformer``, when the time is over or the child died of this molecule.
            BoltzInstallationError: when the child cannot be started.
        """
        child = self._running()
        binary = molecule.ToBinary(int(Chem.PropertyPickleOptions.AllProps))
        try:
            conformer_worker.write_frame(cast(BinaryIO, child.stdin), (binary, seed))
            answer = _answer(child, self._seconds)
        except TimeoutError:
            self.close()
            raise MoleculeFailure(
                FailureCode.CONFORMER, f"no 3D conformer within {self._seconds:g} s of embedding"
            ) from None
        except (EOFError, BrokenPipeError):
            self.close()
            raise MoleculeFailure(FailureCode.CONFORMER, "RDKit's embedding crashed on this molecule") from None
        except BaseException:
            # interrupted: what the child answers now would be taken for the next molecule's conformer
            self.close()
            raise
        return cast("npt.NDArray[np.float64] | None", answer)

    def close(self) -> None:
        """End the child, whatever it is doing."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> ConformerEmbedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        command = [sys.executable, "-P", str(Path(conformer_worker.__file__))]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        self._child = child
        try:
            ready = _answer(child, _START_SECONDS)
        except (TimeoutError, EOFError):
            ready = None
        if ready != "ready":
            self.close()
            raise BoltzInstallationError(
                f"The conformer process ({' '.join(command)}) does not start: run it by hand to see why; "
                "it needs nothing but rdkit and numpy."
            )
        return child


def _answer(child: subprocess.Popen[bytes], seconds: float) -> Any:
    """The child's next frame; TimeoutError when it does not begin in time."""
    stream = cast(BinaryIO, child.stdout)
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
    return conformer_worker.read_frame(stream)
