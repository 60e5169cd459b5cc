"""What an epoch is judged on: the outside facts that were captured of it, or imported from a recording."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from app.domain import Commitment, EpochHeader, Neuron
from app.store.database import get_store
from app.store.epochs import Epochs
from chain.github_path import GitHubPath
from chain.sources import EpochSource

ARCHIVE_FOLDER: Final = "archive"


class EpochFacts:
    """One epoch's facts. They never change once they are there, and they do not say where they come from.

    Methods that find no answer raise :class:`chain.sources.Outage` where the fact was waited for in vain, and
    :class:`chain.sources.SourceUnavailable` where only this machine cannot have it now (another try is worth it).
    """

    def __init__(self, epoch_id: int, source: EpochSource | None = None) -> None:
        self._epoch_id = epoch_id
        self._given = source

    def header(self) -> EpochHeader:
        """The epoch's boundary blocks and their hashes."""
        return self._source.header()

    def rules_text(self) -> str:
        """The rules file that is in force, as text."""
        return self._source.rules_text()

    def metagraph(self) -> tuple[Neuron, ...]:
        """The metagraph at block ``end``, UIDs ascending."""
        return self._source.metagraph()

    def commitments(self) -> tuple[Commitment, ...]:
        """All commitments of the subnet at block ``end``, in the window or not."""
        return self._source.commitments()

    def content(self, path: GitHubPath) -> bytes:
        """The committed file's bytes. Raises ContentNotFound or ContentTooLarge."""
        return self._source.content(path)

    def push_time(self, path: GitHubPath) -> str:
        """When the file was last pushed, ISO 8601 with ``Z``; the empty string where unknown."""
        return self._source.push_time(path)

    def signature(self, drand_round: int) -> str:
        """The round's verified signature (hex). Raises RoundNotReached or SignatureUnverified."""
        return self._source.signature(drand_round)

    def protein_pool(self) -> tuple[str, ...]:
        """UniProt entries of the pool, in the dataset's row order."""
        return self._source.protein_pool()

    def sequence(self, code: str) -> str | None:
        """A protein's one-letter sequence; None where it is unknown."""
        return self._source.sequence(code)

    def molecule_database(self) -> Path:
        """The combinatorial database's file on this machine."""
        return self._source.molecule_database()

    def file(self, name: str) -> Path | None:
        """A named file of the epoch on this machine, such as ``archive/O15379_molecules.csv``, ``msa/O15379.a3m`` or
        ``scores/shared.json``; None where there is no such file.

        Raises:
            ArchiveUnavailable: nobody could have it when the epoch opened.
        """
        where = PurePosixPath(name)
        if where.parts[0] == ARCHIVE_FOLDER and name.endswith("_molecules.csv"):
            path = self._source.archive(where.name.removesuffix("_molecules.csv"))
        elif (scores := self._source.recorded_scores()) is not None:
            path = scores.parent / where
        else:
            return None
        return path if path.is_file() else None

    def warnings(self) -> tuple[str, ...]:
        """Sentences for the report about hosts that failed or lied while the facts were captured."""
        return self._source.warnings()

    @cached_property
    def _source(self) -> EpochSource:
        from app.epochs.steps import open_source

        if self._given is not None:
            return self._given
        with get_store().reading() as session:
            return open_source(Epochs(session).summary(self._epoch_id).source)
