"""The documents of a recording: parsed into domain types, or refused with the file's name and the place in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.domain import Commitment, EpochHeader, Neuron
from app.untrusted import NotJson, quoted, read_json, shown
from chain.sources import SourceError
from chain.timelock import QUICKNET_CHAIN

T = TypeVar("T")

SCHEMA: Final = 1

# No document of a recording is ever this large; a larger one is not read.
_MAX_BYTES: Final = 64 * 1024 * 1024

# What the store's columns hold.
_LARGEST: Final = (1 << 31) - 1

BlockHash = Field(pattern=r"^0x[0-9a-fA-F]{1,64}$")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Header(_Entry):
    schema_: int = Field(alias="schema")
    netuid: int = Field(ge=0, le=_LARGEST)
    network: str
    epoch_length: int = Field(ge=1)
    start_block: int = Field(ge=0)
    end_block: int = Field(ge=0, le=_LARGEST)
    start_block_hash: str = BlockHash
    end_block_hash: str = BlockHash


class _Neuron(_Entry):
    uid: int = Field(ge=0, le=_LARGEST)
    hotkey: str
    coldkey: str
    stake: float
    validator_permit: bool


class _Commitment(_Entry):
    hotkey: str
    block: int
    data: str


class _Drand(_Entry):
    chain: str
    signatures: dict[str, str]


class Outages(_Entry):
    """What the recorded validator could not have: a sentence per path, round, or for the archive."""

    warnings: tuple[str, ...] = ()
    contents: dict[str, str] = {}
    signatures: dict[str, str] = {}
    archive: str | None = None


def read_text(path: Path, name: str) -> str:
    """A document's text. Raises SourceError where it is missing, too large or not UTF-8."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{name} is larger than {_MAX_BYTES >> 20} MiB; it is not part of a recording")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"{name} is missing; a recording needs it") from None
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8 text") from None
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error.strerror}") from None


def parse_header(text: str, name: str) -> EpochHeader:
    """The epoch's boundary, from ``recording.json``."""
    document = _json(text, name)
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise SourceError(f"{name}: schema {shown(found, 40)} is unknown; this version reads schema {SCHEMA}")
    header = _parsed(TypeAdapter(_Header), document, name)
    if header.end_block % header.epoch_length != 0 or header.start_block != header.end_block - header.epoch_length:
        raise SourceError(
            f"{name}: blocks {header.start_block} to {header.end_block} are not one epoch of "
            f"{header.epoch_length} blocks"
        )
    return EpochHeader(**header.model_dump(exclude={"schema_"}))


def header_document(header: EpochHeader) -> dict[str, Any]:
    """``recording.json`` of an epoch."""
    return {"schema": SCHEMA, **asdict(header)}


def parse_metagraph(text: str, name: str) -> tuple[Neuron, ...]:
    """The metagraph, UIDs ascending."""
    rows = _parsed(TypeAdapter(list[_Neuron]), _json(text, name), name)
    _refuse_repeats((neuron.uid for neuron in rows), name, "UID")
    _refuse_repeats((neuron.hotkey for neuron in rows), name, "hotkey")
    return tuple(sorted((Neuron(**row.model_dump()) for row in rows), key=lambda neuron: neuron.uid))


def parse_commitments(text: str, name: str) -> tuple[Commitment, ...]:
    """Commitments in file order."""
    rows = _parsed(TypeAdapter(list[_Commitment]), _json(text, name), name)
    _refuse_repeats((row.hotkey for row in rows), name, "hotkey")
    return tuple(Commitment(**row.model_dump()) for row in rows)


def parse_push_times(text: str, name: str) -> dict[str, str]:
    """Push times by GitHub path."""
    return _parsed(TypeAdapter(dict[str, str]), _json(text, name), name)


def parse_signatures(text: str, name: str) -> dict[str, str]:
    """drand signatures by round."""
    drand = _parsed(TypeAdapter(_Drand), _json(text, name), name)
    if drand.chain != QUICKNET_CHAIN:
        raise SourceError(f"{name}: chain {quoted(drand.chain, 17)} is not quicknet, {QUICKNET_CHAIN[:16]}…")
    return drand.signatures


def parse_outages(text: str, name: str) -> Outages:
    """``outages.json``."""
    return _parsed(TypeAdapter(Outages), _json(text, name), name)


def parse_fasta(text: str, name: str) -> list[tuple[str, str]]:
    """Entry and residues of each record, in file order; what follows the entry on its line is ignored."""
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(">"):
            if not line[1:].strip():
                raise SourceError(f"{name}: line {number} names no protein after '>'")
            found.append((line[1:].split(maxsplit=1)[0], []))
        elif line.strip():
            if not found:
                raise SourceError(f"{name}: line {number} comes before the first '>ENTRY' line")
            found[-1][1].append(line.strip())
    return [(code, "".join(residues)) for code, residues in found]


def fasta(proteins: Iterable[tuple[str, str]]) -> str:
    """Records as :func:`parse_fasta` reads them."""
    return "".join(f">{code}\n{sequence}\n" for code, sequence in proteins)


def json_text(document: Any) -> str:
    """A document as it is written. ASCII, so that no text from outside can be unwritable."""
    return json.dumps(document, indent=1) + "\n"


def _json(text: str, name: str) -> Any:
    try:
        return read_json(text)
    except NotJson as error:
        raise SourceError(f"{name} is not JSON: {error}") from None


def _parsed(adapter: TypeAdapter[T], document: Any, name: str) -> T:
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(shown(part) for part in first["loc"]) or "the file"
        raise SourceError(
            f"{name}: {where}: {first['msg']} (found {shown(first['input'])}; {error.error_count()} problem(s) in all)"
        ) from None


def _refuse_repeats(values: Iterable[Any], name: str, what: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise SourceError(f"{name}: {what} {shown(min(repeated))} stands there more than once")
