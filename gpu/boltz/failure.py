"""What can go wrong with a Boltz score, and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from app.domain import PairScore, ScoringInterrupted, ValidatorError


class FailureCode(StrEnum):
    """Permanent: the molecule can never be scored, here or elsewhere, and costs no other molecule."""

    UNPARSEABLE_SMILES = "unparseable_smiles"
    ATOM_NAME = "atom_name"
    LIGAND_TOO_LARGE = "ligand_too_large"
    CONFORMER = "conformer"
    PARSE = "parse"
    FEATURIZE = "featurize"
    NON_FINITE = "non_finite"


_NO_MEMORY: Final = ("out of memory", "DefaultCPUAllocator")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine, not the molecule, is to blame: no room on the device or in this process."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


MOLECULE_ERRORS: Final = (
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    TypeError,
    AttributeError,
)
"""What boltz and RDKit raise for a molecule they cannot handle. Others (a worker's time limit, a missing file, a
missing module) are nobody's bad molecule; that these, too, can come of a broken installation is what the control
record of ``RecordReader`` is for."""


class MoleculeFailure(Exception):
    """One molecule's permanent failure; becomes the ``error`` of its PairScore."""

    def __init__(self, code: FailureCode, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code, self.sentence = code, sentence

    def __reduce__(self) -> tuple[type[MoleculeFailure], tuple[FailureCode, str]]:
        return type(self), (self.code, self.sentence)


class BoltzInstallationError(ValidatorError):
    """boltz, its weights or its components cannot be used; no molecule is to blame."""


class PocketError(ValidatorError):
    """The binding pocket of the rules is not on the protein."""


class DeviceOutOfMemory(ScoringInterrupted):
    """The device had no room for some molecules, even alone, or for the weights: retry, here later or elsewhere.

    ``finished`` holds every score of the batch that did succeed (or failed for good), ``unfinished`` the
    (protein code, SMILES) pairs to ask for again. An out-of-memory is never a score.
    """

    def __init__(self, finished: Sequence[PairScore], unfinished: Sequence[tuple[str, str]], device: str) -> None:
        super().__init__(
            f"{device} ran out of memory for {len(unfinished)} molecule(s), the first "
            f"{unfinished[0][1]!r}; {len(finished)} others are scored. Retry them on this worker when nothing "
            "else uses the device, or on one with more memory.",
            finished,
        )
        self.unfinished = tuple(unfinished)
