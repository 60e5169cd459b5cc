"""What an epoch is judged on: the outside facts that were captured of it, or imported from a recording."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol

from sqlalchemy.orm import Session

from app.domain import Commitment, EpochHeader, Neuron, ScoringModel
from app.epochs import documents
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Blob, Blobs, Fact, FactKind, Facts, FactState, HubFile, file_fact, place_of
from app.store.records import OpenEpoch
from app.untrusted import NotJson, quoted, read_json
from chain.github_path import GitHubPath
from chain.huggingface import FileAbsent, Hub
from chain.sources import (
    ArchiveUnavailable,
    ContentNotFound,
    ContentTooLarge,
    Outage,
    RoundNotReached,
    SignatureUnverified,
    SourceError,
)
from chain.timelock import TimelockError, verified_signature

HEADER_FILE: Final = "recording.json"
RULES_FILE: Final = "rules.yaml"
METAGRAPH_FILE: Final = "metagraph.json"
COMMITMENTS_FILE: Final = "commitments.json"
POOL_FILE: Final = "proteins.fasta"
DATABASE_FILE: Final = "molecules.sqlite"

# A sentence longer than this is cut in the report too.
_WARNING_LENGTH: Final = 500


def opened_epoch(epoch_id: int) -> OpenEpoch:
    """An epoch as it was frozen when it opened."""
    with get_store().reading() as session:
        return Epochs(session).get(epoch_id)


class FactSheet(Protocol):
    """Where one epoch's facts are kept: in the store, or in memory for an epoch that this validator does not run."""

    def all(self, kind: FactKind) -> Mapping[str, Fact]:
        """The facts of a kind, by key."""
        ...

    def keep(self, kind: FactKind, facts: Mapping[str, Fact]) -> None:
        """Write facts; one that is there already stays as it is."""
        ...

    def keep_file(self, name: str, content: bytes | Path) -> None:
        """Write a file of the epoch; ``name`` is its path in a recording."""
        ...

    def path(self, name: str, fact: Fact) -> Path:
        """The file of a fact that is held, on this machine. Raises SourceUnavailable where that fails for now."""
        ...


class StoredSheet:
    """The facts of an epoch in the store; those written inside ``session``, where one is given, are its caller's."""

    def __init__(self, epoch_id: int, session: Session | None = None) -> None:
        self.epoch_id = epoch_id
        self._session = session

    def all(self, kind: FactKind) -> Mapping[str, Fact]:
        """See :class:`FactSheet`."""
        if self._session is not None:
            return Facts(self._session).all(self.epoch_id, kind)
        with get_store().reading() as session:
            return Facts(session).all(self.epoch_id, kind)

    def keep(self, kind: FactKind, facts: Mapping[str, Fact]) -> None:
        """See :class:`FactSheet`."""
        if self._session is not None:
            Facts(self._session).keep(self.epoch_id, kind, facts)
            return
        with get_store().writing() as session:
            Facts(session).keep(self.epoch_id, kind, facts)

    def keep_file(self, name: str, content: bytes | Path) -> None:
        """See :class:`FactSheet`."""
        if self._session is None:
            with get_store().writing() as session:
                StoredSheet(self.epoch_id, session).keep_file(name, content)
            return
        blob = Blobs(self._session).keep(content)
        Facts(self._session).keep(self.epoch_id, FactKind.FILE, {name: file_fact(blob)})

    def path(self, name: str, fact: Fact) -> Path:
        """See :class:`FactSheet`."""
        place = place_of(fact)
        return _downloaded(place) if isinstance(place, HubFile) else _unpacked(place, name)


class MemorySheet:
    """The facts of an epoch in this process."""

    def __init__(self) -> None:
        self._facts: dict[FactKind, dict[str, Fact]] = {}
        self._files: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def all(self, kind: FactKind) -> Mapping[str, Fact]:
        """See :class:`FactSheet`."""
        return self._facts.get(kind, {})

    def keep(self, kind: FactKind, facts: Mapping[str, Fact]) -> None:
        """See :class:`FactSheet`."""
        self._facts[kind] = {**facts, **self.all(kind)}

    def keep_file(self, name: str, content: bytes | Path) -> None:
        """See :class:`FactSheet`; a file that is given by its path stays where it is."""
        if isinstance(content, bytes):
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="epoch-")
            path = Path(self._folder.name) / f"{len(self._files)}-{PurePosixPath(name).name}"
            path.write_bytes(content)
            content = path
        self._files.setdefault(name, content)
        self.keep(FactKind.FILE, {name: Fact(FactState.HELD)})

    def path(self, name: str, fact: Fact) -> Path:
        """See :class:`FactSheet`."""
        if fact.value is None:
            return self._files[name]
        place = place_of(fact)
        assert isinstance(place, HubFile)
        return _downloaded(place)

    def copy_to(self, sheet: FactSheet) -> None:
        """Write all of them into another sheet."""
        for name, path in self._files.items():
            sheet.keep_file(name, path)
        for kind, facts in self._facts.items():
            elsewhere = {
                key: fact for key, fact in facts.items() if kind is not FactKind.FILE or key not in self._files
            }
            sheet.keep(kind, elsewhere)


class EpochFacts:
    """One epoch's facts. They never change once they are there, and they do not say where they come from.

    Raises:
        Outage: by any method whose fact was waited for in vain, or was not captured.
        SourceUnavailable: by methods that give files: only this machine cannot have the file now; try again later.
    """

    def __init__(self, epoch: int | FactSheet) -> None:
        self._sheet: FactSheet = StoredSheet(epoch) if isinstance(epoch, int) else epoch
        self._kinds: dict[FactKind, Mapping[str, Fact]] = {}

    def header(self) -> EpochHeader:
        """The epoch's boundary blocks and their hashes."""
        return documents.parse_header(self._text(HEADER_FILE), HEADER_FILE)

    def rules_text(self) -> str:
        """The rules file that is in force, as text."""
        return self._text(RULES_FILE)

    def metagraph(self) -> tuple[Neuron, ...]:
        """The metagraph at block ``end``, UIDs ascending."""
        return documents.parse_metagraph(self._text(METAGRAPH_FILE), METAGRAPH_FILE)

    def commitments(self) -> tuple[Commitment, ...]:
        """All commitments of the subnet at block ``end``, in the window or not."""
        return documents.parse_commitments(self._text(COMMITMENTS_FILE), COMMITMENTS_FILE)

    def content(self, path: GitHubPath) -> bytes:
        """The committed file's bytes. Raises ContentNotFound or ContentTooLarge."""
        fact = self._fact(FactKind.CONTENT, str(path))
        match fact.state:
            case FactState.HELD:
                return fact.value or b""
            case FactState.TOO_LARGE:
                raise ContentTooLarge(str(path))
            case FactState.ABSENT:
                raise ContentNotFound(str(path))
        raise Outage(fact.detail or "the file could not be fetched")

    def push_time(self, path: GitHubPath) -> str:
        """When the file was last pushed, ISO 8601 with ``Z``; the empty string where unknown."""
        fact = self._facts(FactKind.PUSH_TIME).get(str(path))
        return (fact.value or b"").decode() if fact else ""

    def signature(self, drand_round: int) -> str:
        """The round's signature (hex), proven. Raises RoundNotReached or SignatureUnverified."""
        fact = self._fact(FactKind.SIGNATURE, str(drand_round))
        if fact.state is FactState.NOT_REACHED:
            raise RoundNotReached(drand_round)
        if fact.state is not FactState.HELD:
            raise Outage(fact.detail or f"no signature of drand round {drand_round}")
        try:
            return verified_signature(drand_round, (fact.value or b"").decode())
        except TimelockError as error:
            raise SignatureUnverified(str(error)) from None

    def protein_pool(self) -> tuple[str, ...]:
        """UniProt entries of the pool, in the dataset's row order."""
        return tuple(code for code, _ in self._pool)

    def sequence(self, code: str) -> str | None:
        """A protein's one-letter sequence; None where it is unknown."""
        fact = self._facts(FactKind.SEQUENCE).get(code)
        if fact is not None:
            return (fact.value or b"").decode() or None
        return dict(self._pool).get(code) or None

    def molecule_database(self) -> Path:
        """The combinatorial database's file on this machine."""
        path = self.file(DATABASE_FILE)
        if path is None:
            raise SourceError(f"the epoch has no {DATABASE_FILE}")
        return path

    def file(self, name: str) -> Path | None:
        """A named file of the epoch on this machine, such as ``archive/O15379_molecules.csv``, ``msa/O15379.a3m`` or
        ``scores/shared.json``; None where there is no such file.

        Raises:
            ArchiveUnavailable: it was unavailable when the epoch opened, on every machine.
        """
        files = self._facts(FactKind.FILE)
        # of a recorded outage it is the folder that is known
        fact = files.get(f"{PurePosixPath(name).parent}/") or files.get(name)
        if fact is None or fact.state is FactState.ABSENT:
            return None
        if fact.state is FactState.UNAVAILABLE:
            raise ArchiveUnavailable(fact.detail or f"{name} was unavailable")
        return self._sheet.path(name, fact)

    def document(self, name: str) -> dict[str, Any] | None:
        """A named file as a JSON object; None where there is no such file.

        Raises:
            SourceError: it is not a JSON object.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            found = read_json(path.read_bytes())
        except NotJson as error:
            raise SourceError(f"{name} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise SourceError(f"{name} must hold a JSON object")
        return found

    def files(self, folder: str) -> tuple[str, ...]:
        """The names of the epoch's files in a folder of the recording, such as ``scores``."""
        held = (name for name, fact in self._facts(FactKind.FILE).items() if fact.state is FactState.HELD)
        return tuple(sorted(name for name in held if name.startswith(f"{folder}/")))

    def recorded_scores(self, model: ScoringModel) -> str | None:
        """The digest under which the store keeps the recorded scores of a model; None where none were recorded."""
        fact = self._facts(FactKind.SCORES).get(model.value)
        return None if fact is None else (fact.value or b"").decode()

    def warnings(self) -> tuple[str, ...]:
        """Sentences for the report about hosts that failed or lied while the facts were captured."""
        return tuple(sorted(self._facts(FactKind.WARNING)))

    def of_kind(self, kind: FactKind) -> Mapping[str, Fact]:
        """All facts of a kind as they were kept."""
        return self._facts(kind)

    @cached_property
    def _pool(self) -> list[tuple[str, str]]:
        return documents.parse_fasta(self._text(POOL_FILE), POOL_FILE)

    def _facts(self, kind: FactKind) -> Mapping[str, Fact]:
        # all of a kind at once: one query per process instead of one per miner
        if kind not in self._kinds:
            self._kinds[kind] = self._sheet.all(kind)
        return self._kinds[kind]

    def _fact(self, kind: FactKind, key: str) -> Fact:
        fact = self._facts(kind).get(key)
        if fact is None:
            raise Outage(f"{kind.value.replace('_', ' ')} {quoted(key, 120)} was not captured")
        return fact

    def _text(self, name: str) -> str:
        path = self.file(name)
        if path is None:
            raise Outage(f"{name} was not captured")
        return documents.read_text(path, name)


def keep_warnings(sheet: FactSheet, sentences: Iterable[str]) -> None:
    """Keep what the network did to this epoch, so that a recording of it says the same."""
    sheet.keep(FactKind.WARNING, {sentence[:_WARNING_LENGTH]: Fact(FactState.HELD) for sentence in sentences})


def hub_of(settings: Settings) -> Hub:
    """The datasets as this machine downloads them."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return Hub(settings.data_dir.expanduser().resolve() / "huggingface", settings.hf_endpoint, token)


def _downloaded(place: HubFile) -> Path:
    try:
        return hub_of(get_settings()).file(place.dataset, place.revision, place.name)
    except FileAbsent as error:
        raise SourceError(str(error)) from None


def _unpacked(blob: Blob, name: str) -> Path:
    """A file of the store in this machine's cache, under its digest and its own name."""
    cache = get_settings().data_dir.expanduser().resolve() / "facts"
    path = cache / blob.digest / PurePosixPath(name).name
    if path.exists():
        os.utime(path.parent)
        return path
    _forget_unused(cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        for part in _stored_parts(blob):
            digest.update(part)
            partial.write(part)
    if digest.hexdigest() != blob.digest:
        Path(partial.name).unlink()
        raise SourceError(f"the store no longer holds {name} (SHA-256 {blob.digest[:16]}…); import the epoch again")
    Path(partial.name).replace(path)
    return path


def _stored_parts(blob: Blob) -> Iterator[bytes]:
    with get_store().reading() as session:
        yield from Blobs(session).read(blob)


def _forget_unused(cache: Path) -> None:
    oldest = time.time() - get_settings().facts_retention.total_seconds()
    for folder in cache.glob("*"):
        with suppress(OSError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder)
