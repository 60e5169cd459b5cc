"""An epoch's outside facts: captured once, read by every process, kept for a recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import delete_slice, insert_ignoring
from app.store.tables.facts import BlobRow, FactRow, SequenceRow

_PART_BYTES: Final = 1 << 20


class FactKind(StrEnum):
    """What a fact is about, and what its key is."""

    FILE = "file"  # a file's name in a recording, such as archive/O15379_molecules.csv
    CONTENT = "content"  # a GitHub path
    PUSH_TIME = "push_time"  # a GitHub path
    SIGNATURE = "signature"  # a drand round
    SEQUENCE = "sequence"  # a UniProt entry
    REVISION = "revision"  # a dataset
    SCORES = "scores"  # a model; the value is the digest that its recorded scores are kept under
    WARNING = "warning"  # a sentence for the report
    CAPTURED = "captured"  # a part of the epoch of which no fact is missing any more


class FactState(StrEnum):
    """Whether the fact is there, or why not for good."""

    HELD = "held"
    ABSENT = "absent"
    TOO_LARGE = "too_large"
    NOT_REACHED = "not_reached"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact's state, its bytes where it is held, and a sentence where it is not."""

    state: FactState
    value: bytes | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in the store, by the SHA-256 of its bytes."""

    digest: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hugging Face dataset at one revision; every machine downloads it for itself."""

    dataset: str
    revision: str
    name: str


def file_fact(place: Blob | HubFile) -> Fact:
    """The fact that a file of the epoch lies at a place."""
    return Fact(FactState.HELD, json.dumps(asdict(place)).encode())


def place_of(fact: Fact) -> Blob | HubFile:
    """Where the file of a fact that is held lies."""
    fields = json.loads(fact.value or b"")
    return Blob(**fields) if "digest" in fields else HubFile(**fields)


class Facts:
    """Reads and writes the facts of epochs inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self, epoch_id: int, kind: FactKind) -> dict[str, Fact]:
        """The epoch's facts of a kind, by key."""
        rows = self._session.execute(
            select(FactRow.key, FactRow.state, FactRow.value, FactRow.detail)
            .where(FactRow.epoch_id == epoch_id, FactRow.kind == kind.value)
            .order_by(FactRow.key)
        )
        return {row.key: Fact(FactState(row.state), row.value, row.detail) for row in rows}

    def keys(self, epoch_id: int, kind: FactKind) -> set[str]:
        """The keys of the facts that are there, without their values."""
        query = select(FactRow.key).where(FactRow.epoch_id == epoch_id, FactRow.kind == kind.value)
        return set(self._session.execute(query).scalars())

    def keep(self, epoch_id: int, kind: FactKind, facts: Mapping[str, Fact]) -> None:
        """Write facts; one that is there already stays as it is."""
        at = now()
        insert_ignoring(
            self._session,
            FactRow,
            [
                {
                    "epoch_id": epoch_id,
                    "kind": kind.value,
                    "key": key,
                    "state": fact.state.value,
                    "value": fact.value,
                    "detail": fact.detail,
                    "captured_at": at,
                }
                for key, fact in sorted(facts.items())
            ],
        )

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Forget up to ``at_most`` facts that were captured before ``instant``; how many went."""
        key = [FactRow.epoch_id, FactRow.kind, FactRow.key]
        return delete_slice(self._session, key, FactRow.captured_at < instant, at_most)


class Blobs:
    """Files by the SHA-256 of their bytes, in parts of a megabyte."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def keep(self, content: bytes | Path) -> Blob:
        """Keep a file's bytes, once."""
        digest = hashlib.sha256()
        for part in _parts(content):
            digest.update(part)
        blob, at = Blob(digest.hexdigest()), now()
        # a file that is there is young again, so that nobody deletes it before the epoch that refers to it is written
        there = self._session.execute(update(BlobRow).where(BlobRow.digest == blob.digest).values(kept_at=at))
        if cast(CursorResult[Any], there).rowcount == 0:
            for number, part in enumerate(_parts(content)):
                row = {"digest": blob.digest, "part": number, "value": part, "kept_at": at}
                insert_ignoring(self._session, BlobRow, [row])
        return blob

    def read(self, blob: Blob) -> Iterator[bytes]:
        """A file's bytes, part by part; nothing where there is no such file."""
        query = select(BlobRow.value).where(BlobRow.digest == blob.digest)
        number = 0
        while (part := self._session.execute(query.where(BlobRow.part == number)).scalar_one_or_none()) is not None:
            yield part
            number += 1

    def delete_unused(self, instant: datetime, at_most: int) -> int:
        """Forget up to ``at_most`` files that were kept before ``instant`` and that no fact names; how many went."""
        files = select(FactRow.value).where(FactRow.kind == FactKind.FILE.value, FactRow.value.is_not(None)).distinct()
        places = [place_of(Fact(FactState.HELD, value)) for value in self._session.execute(files).scalars()]
        used = {place.digest for place in places if isinstance(place, Blob)}
        old = self._session.execute(select(BlobRow.digest).where(BlobRow.kept_at < instant).distinct()).scalars()
        unused = sorted(set(old) - used)[:at_most]
        for digest in unused:
            self._session.execute(delete(BlobRow).where(BlobRow.digest == digest, BlobRow.kept_at < instant))
        return len(unused)


class Sequences:
    """Proteins' sequences as UniProt gave them; they belong to no epoch."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, code: str) -> str | None:
        """A sequence, if UniProt was asked before."""
        return self._session.execute(select(SequenceRow.sequence).where(SequenceRow.code == code)).scalar_one_or_none()

    def keep(self, code: str, sequence: str) -> None:
        """Keep a sequence for good."""
        insert_ignoring(self._session, SequenceRow, [{"code": code, "sequence": sequence, "kept_at": now()}])


def _parts(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        # an empty file has one part too
        for start in range(0, max(1, len(content)), _PART_BYTES):
            yield content[start : start + _PART_BYTES]
        return
    with content.open("rb") as stream:
        part = stream.read(_PART_BYTES)
        yield part
        while part := stream.read(_PART_BYTES):
            yield part
