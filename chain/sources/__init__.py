"""Where an epoch's outside facts come from: a recording, or the live network behind the same interface."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from app.domain import Commitment, EpochHeader, Neuron, ValidatorError
from chain.github_path import GitHubPath


class SourceError(ValidatorError):
    """A fact that the epoch needs is malformed or cannot be had; the message names the file or the host."""


class SourceUnavailable(SourceError):
    """A host does not answer, or not truthfully: nobody's fault but the network's, and worth another try later."""


class ArchiveUnavailable(SourceUnavailable):
    """The archive was not to be had when the epoch opened; the rules say what follows."""


class Outage(SourceError):
    """A fact that was waited for and did not come; settled for this epoch, and not the miner's fault."""


class ContentNotFound(Exception):
    """No file at a committed path."""


class ContentTooLarge(Exception):
    """The file at a committed path is larger than a submission may be."""


class RoundNotReached(Exception):
    """The drand round has not been published."""


class SignatureUnverified(Exception):
    """No endpoint gave a signature of the round that verifies."""


class EpochSource(Protocol):
    """Every outside fact one epoch needs (specs/recording.md). Methods that fail raise :class:`SourceError`."""

    def header(self) -> EpochHeader:
        """The epoch's boundary blocks and their hashes."""
        ...

    def rules_text(self) -> str:
        """The rules file in force, as text."""
        ...

    def metagraph(self) -> tuple[Neuron, ...]:
        """The metagraph at block ``end``, UIDs ascending."""
        ...

    def commitments(self) -> tuple[Commitment, ...]:
        """All commitments of the subnet at block ``end``."""
        ...

    def content(self, path: GitHubPath) -> bytes:
        """The committed file's bytes. Raises ContentNotFound or ContentTooLarge."""
        ...

    def push_time(self, path: GitHubPath) -> str:
        """When the file was last pushed, ISO 8601 with ``Z``; the empty string where unknown."""
        ...

    def signature(self, drand_round: int) -> str:
        """The round's verified signature (hex). Raises RoundNotReached or SignatureUnverified."""
        ...

    def protein_pool(self) -> tuple[str, ...]:
        """UniProt entries of the pool, in the dataset's row order."""
        ...

    def sequence(self, code: str) -> str | None:
        """A protein's one-letter sequence; None where nobody knows it."""
        ...

    def molecule_database(self) -> Path:
        """The combinatorial database's file."""
        ...

    def archive(self, protein: str) -> Path:
        """The archive file of molecules already used for a target; it need not exist (empty archive)."""
        ...

    def recorded_scores(self) -> Path | None:
        """The folder of recorded scores, where there is one."""
        ...

    def warnings(self) -> tuple[str, ...]:
        """Sentences for the report about hosts that failed or lied while the facts were read."""
        ...
