"""Conformer embedding with a time limit: in a process that can be killed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from gpu.boltz.failure import BoltzInstallationError, FailureCode, MoleculeFailure
from gpu.child import Child, ChildDied

_START_SECONDS: Final = 120.0


class ConformerEmbedder:
    """Embeds one molecule at a time in a child process, started on first use and again after a kill.

    The result is bitwise what :func:`gpu.boltz.conformer_worker.embedded_coordinates` gives in this process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._child: Child | None = None

    def coordinates(self, molecule: Chem.Mol, seed: int) -> npt.NDArray[np.float64] | None:
        """Coordinates (atoms × 3, Å) of one conformer of ``molecule`` (hydrogens included), None where there is none.

        Raises:
            MoleculeFailure: code ``conformer``, when the time is over or the child died of this molecule.
            BoltzInstallationError: when the child cannot be started.
        """
        child = self._running()
        binary = molecule.ToBinary(int(Chem.PropertyPickleOptions.AllProps))
        try:
            return cast("npt.NDArray[np.float64] | None", child.ask((binary, seed)).result(self._seconds))
        except TimeoutError:
            self.close()
            raise MoleculeFailure(
                FailureCode.CONFORMER, f"no 3D conformer within {self._seconds:g} s of embedding"
            ) from None
        except ChildDied:
            self.close()
            raise MoleculeFailure(FailureCode.CONFORMER, "RDKit's embedding crashed on this molecule") from None
        except BaseException:
            # interrupted: the next molecule is not to wait for this one's conformer
            self.close()
            raise

    def close(self) -> None:
        """End the child, whatever it is doing."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def __enter__(self) -> ConformerEmbedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> Child:
        if self._child is not None and self._child.alive:
            return self._child
        self.close()
        self._child = child = Child("gpu.boltz.conformer_worker:embedding")
        try:
            child.started.result(_START_SECONDS)
        except Exception as error:
            self.close()
            raise BoltzInstallationError(
                f"The conformer process does not start: run `{sys.executable} -c 'import gpu.boltz.conformer_worker'` "
                "to see why; it needs nothing but rdkit and numpy."
            ) from error
        return child
