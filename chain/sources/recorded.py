"""A recording as the source of an epoch: a folder that holds every outside fact (specs/recording.md)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.domain import Commitment, EpochHeader, Neuron
from app.untrusted import NotJson, quoted, read_json, shown
from chain.github_path import GitHubPath
from chain.sources import (
    ArchiveUnavailable,
    ContentNotFound,
    ContentTooLarge,
    Outage,
    RoundNotReached,
    SignatureUnverified,
    SourceError,
)
from chain.submission import MAX_SUBMISSION_BYTES
from chain.timelock import QUICKNET_CHAIN, TimelockError, verified_signature

T = TypeVar("T")

SCHEMA: Final = 1

# No file of a recording but the database and the score tables is ever this large; a larger one is not read.
_MAX_JSON_BYTES: Final = 64 * 1024 * 1024

BlockHash = Field(pattern=r"^0x[0-9a-fA-F]{1,64}$")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Header(_Entry):
    schema_: int = Field(alias="schema")
    netuid: int = Field(ge=0)
    network: str
    epoch_length: int = Field(ge=1)
    start_block: int = Field(ge=0)
    end_block: int = Field(ge=0)
    start_block_hash: str = BlockHash
    end_block_hash: str = BlockHash


class _Neuron(_Entry):
    uid: int = Field(ge=0)
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


class _Outages(_Entry):
    warnings: tuple[str, ...] = ()
    contents: dict[str, str] = {}
    signatures: dict[str, str] = {}
    archive: str | None = None


class RecordedSource:
    """One epoch read from a folder. Nothing is written, nothing is fetched.

    Raises:
        SourceError: a file that the recording must have is missing or malformed; names the file and what it needs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder; give the folder that holds recording.json")

    def check(self) -> None:
        """Read all that every epoch reads, so that a malformed recording fails before any work is queued."""
        self.header()
        self.rules_text()
        self.metagraph()
        self.commitments()
        self.protein_pool()
        _ = self._push_times, self._signatures, self._outages

    def header(self) -> EpochHeader:
        """The epoch's boundary, from ``recording.json``."""
        document = self._json("recording.json")
        found = document.get("schema") if isinstance(document, dict) else None
        if found != SCHEMA:
            raise SourceError(
                f"{self.folder / 'recording.json'}: schema {shown(found)} is unknown; this version reads {SCHEMA}"
            )
        header = self._parsed(TypeAdapter(_Header), document, "recording.json")
        if header.end_block % header.epoch_length != 0 or header.start_block != header.end_block - header.epoch_length:
            raise SourceError(
                f"{self.folder / 'recording.json'}: blocks {header.start_block} to {header.end_block} are not one "
                f"epoch of {header.epoch_length} blocks"
            )
        return EpochHeader(**header.model_dump(exclude={"schema_"}))

    def rules_text(self) -> str:
        """``rules.yaml`` as text."""
        return self._text("rules.yaml")

    def metagraph(self) -> tuple[Neuron, ...]:
        """``metagraph.json``, UIDs ascending."""
        rows = self._parsed(TypeAdapter(list[_Neuron]), self._json("metagraph.json"), "metagraph.json")
        neurons = sorted((Neuron(**row.model_dump()) for row in rows), key=lambda neuron: neuron.uid)
        self._refuse_repeats([neuron.uid for neuron in neurons], "metagraph.json", "UID")
        self._refuse_repeats([neuron.hotkey for neuron in neurons], "metagraph.json", "hotkey")
        return tuple(neurons)

    def commitments(self) -> tuple[Commitment, ...]:
        """``commitments.json`` in file order."""
        rows = self._parsed(TypeAdapter(list[_Commitment]), self._json("commitments.json"), "commitments.json")
        self._refuse_repeats([row.hotkey for row in rows], "commitments.json", "hotkey")
        return tuple(Commitment(**row.model_dump()) for row in rows)

    def content(self, path: GitHubPath) -> bytes:
        """The served bytes; never more than a submission may hold is read."""
        if fault := self._outages.contents.get(str(path)):
            raise Outage(fault)
        root = (self.folder / "github" / "contents").resolve()
        try:
            file = (root / str(path)).resolve()
            if not file.is_relative_to(root) or not file.is_file():
                raise ContentNotFound(str(path))
            with file.open("rb") as stream:
                content = stream.read(MAX_SUBMISSION_BYTES + 1)
        except (OSError, ValueError):
            raise ContentNotFound(str(path)) from None
        if len(content) > MAX_SUBMISSION_BYTES:
            raise ContentTooLarge(str(path))
        return content

    def push_time(self, path: GitHubPath) -> str:
        """The recorded push time, or the empty string."""
        return self._push_times.get(str(path), "")

    def signature(self, drand_round: int) -> str:
        """The recorded signature, proven before use."""
        if fault := self._outages.signatures.get(str(drand_round)):
            raise Outage(fault)
        signature = self._signatures.get(str(drand_round))
        if signature is None:
            raise RoundNotReached(drand_round)
        try:
            return verified_signature(drand_round, signature)
        except TimelockError as error:
            raise SignatureUnverified(str(error)) from None

    def protein_pool(self) -> tuple[str, ...]:
        """The entries of ``proteins.fasta``, in file order."""
        return tuple(code for code, _ in self._pool)

    def sequence(self, code: str) -> str | None:
        """From ``sequences.fasta``, else from the pool."""
        return self._sequences.get(code)

    def molecule_database(self) -> Path:
        """``molecules.sqlite``."""
        return self.folder / "molecules.sqlite"

    def archive(self, protein: str) -> Path:
        """``archive/<protein>_molecules.csv``."""
        if "/" in protein or protein.startswith("."):
            raise SourceError(f"rules.yaml: weekly_target {quoted(protein)} is not a UniProt entry")
        if self._outages.archive:
            raise ArchiveUnavailable(self._outages.archive)
        return self.folder / "archive" / f"{protein}_molecules.csv"

    def recorded_scores(self) -> Path | None:
        """``scores/``, where the recording has it."""
        scores = self.folder / "scores"
        return scores if scores.is_dir() else None

    def warnings(self) -> tuple[str, ...]:
        """What the recording's validator had to say of the network."""
        return self._outages.warnings

    @cached_property
    def _outages(self) -> _Outages:
        """``outages.json``, written where the recorded validator could not have everything."""
        if not (self.folder / "outages.json").exists():
            return _Outages()
        return self._parsed(TypeAdapter(_Outages), self._json("outages.json"), "outages.json")

    @cached_property
    def _push_times(self) -> dict[str, str]:
        if not (self.folder / "github" / "push_times.json").exists():
            return {}
        return self._parsed(TypeAdapter(dict[str, str]), self._json("github/push_times.json"), "github/push_times.json")

    @cached_property
    def _signatures(self) -> dict[str, str]:
        drand = self._parsed(TypeAdapter(_Drand), self._json("drand.json"), "drand.json")
        if drand.chain != QUICKNET_CHAIN:
            raise SourceError(
                f"{self.folder / 'drand.json'}: chain {quoted(drand.chain, 17)} is not quicknet, {QUICKNET_CHAIN[:16]}…"
            )
        return drand.signatures

    @cached_property
    def _pool(self) -> list[tuple[str, str]]:
        return list(self._fasta("proteins.fasta"))

    @cached_property
    def _sequences(self) -> dict[str, str]:
        known = {code: sequence for code, sequence in self._pool if sequence}
        if (self.folder / "sequences.fasta").exists():
            known |= {code: sequence for code, sequence in self._fasta("sequences.fasta") if sequence}
        return known

    def _text(self, name: str) -> str:
        path = self.folder / name
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise SourceError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB; it is not part of a recording")
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SourceError(f"{path} is missing; a recording needs it (specs/recording.md)") from None
        except UnicodeDecodeError:
            raise SourceError(f"{path} is not UTF-8 text") from None
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from None

    def _json(self, name: str) -> Any:
        try:
            return read_json(self._text(name))
        except NotJson as error:
            raise SourceError(f"{self.folder / name} is not JSON: {error}") from None

    def _parsed(self, adapter: TypeAdapter[T], document: Any, name: str) -> T:
        try:
            return adapter.validate_python(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(shown(part) for part in first["loc"]) or "the file"
            raise SourceError(
                f"{self.folder / name}: {where}: {first['msg']} (found {shown(first['input'])}; "
                f"{error.error_count()} problem(s) in all)"
            ) from None

    def _fasta(self, name: str) -> Iterator[tuple[str, str]]:
        code: str | None = None
        residues: list[str] = []
        for number, line in enumerate(self._text(name).splitlines(), 1):
            if line.startswith(">"):
                if code is not None:
                    yield code, "".join(residues)
                code, residues = line[1:].split(maxsplit=1)[0] if line[1:].strip() else "", []
                if not code:
                    raise SourceError(f"{self.folder / name}: line {number} names no protein after '>'")
            elif line.strip():
                if code is None:
                    raise SourceError(f"{self.folder / name}: line {number} comes before the first '>ENTRY' line")
                residues.append(line.strip())
        if code is not None:
            yield code, "".join(residues)

    def _refuse_repeats(self, values: list[Any], name: str, what: str) -> None:
        repeated = {value for value in values if values.count(value) > 1}
        if repeated:
            raise SourceError(f"{self.folder / name}: {what} {shown(min(repeated))} stands there more than once")
