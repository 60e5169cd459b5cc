"""What can go wrong with PSICHIC, each a type with a sentence for the person who must act."""

from __future__ import annotations

from app.domain import ValidatorError


class PsichicError(ValidatorError):
    """Anything that keeps PSICHIC from scoring."""


class LigandError(PsichicError):
    """A SMILES that has no graph. ``code`` is a short slug, ``reason`` the sentence."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type[LigandError], tuple[str, str]]:
        return LigandError, (self.code, self.reason)


class ProteinError(PsichicError):
    """A sequence or feature file from which no residue graph can be made."""


class CheckpointError(PsichicError):
    """A weights folder whose files are missing, damaged, or of another network."""


class DeviceError(PsichicError):
    """A device that was asked for and is not there, or has no room for a single pair."""
