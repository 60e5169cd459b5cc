"""The live network as the source of an epoch: chain, GitHub, drand, Hugging Face and UniProt."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from app.domain import Commitment, EpochHeader, Neuron, ValidatorError
from app.settings import Settings
from app.untrusted import read_json, shown
from chain.drand import Drand
from chain.github import GitHub
from chain.github_path import GitHubPath
from chain.huggingface import FileAbsent, Hub
from chain.sources import SourceError, SourceUnavailable
from chain.subtensor import Subtensor
from chain.uniprot import UniProt
from chain.web import HostUnavailable, WebSession, shared_session

PROTEINS: Final = "Metanova/Proteins"
DATABASE: Final = "Metanova/Mol-Rxn-DB"
ARCHIVE: Final = "Metanova/Submission-Archive"
DATASETS: Final = (PROTEINS, DATABASE, ARCHIVE)

DATABASE_FILE: Final = "molecules.sqlite"

LIVE_PREFIX: Final = "live:"

# Where a dataset names no split, its one data file is the split.
_SPLIT: Final = "train"
_READABLE: Final = (".parquet", ".csv", ".jsonl", ".json")

log = logging.getLogger("celery_validator.live")


@dataclass(frozen=True, slots=True)
class LiveEpoch:
    """Which epoch of which subnet; its text is the reference that tasks pass on."""

    netuid: int
    end_block: int
    epoch_length: int

    @property
    def start_block(self) -> int:
        """The epoch's first block."""
        return self.end_block - self.epoch_length

    @property
    def number(self) -> int:
        """``end // epoch_length - 1`` (specs/epoch.md §1)."""
        return self.end_block // self.epoch_length - 1

    def run(self, block_hash: str) -> str:
        """The name under which the store knows the epoch, once.

        Numbers come again on another network and after a change of tempo; ``block_hash``, the end block's (of a missed
        epoch the last watched one's), does not.
        """
        return f"{self.netuid}:{self.end_block}:{block_hash[2:18]}"

    def __str__(self) -> str:
        return f"{LIVE_PREFIX}{self.netuid}:{self.end_block}:{self.epoch_length}"

    @classmethod
    def parse(cls, reference: str) -> LiveEpoch:
        """Raises SourceError for anything but ``live:<netuid>:<end block>:<epoch length>``."""
        try:
            netuid, end, length = (int(part) for part in reference.removeprefix(LIVE_PREFIX).split(":"))
        except ValueError:
            raise SourceError(f"{reference!r} is not live:<netuid>:<end block>:<epoch length>") from None
        return cls(netuid, end, length)


def subtensor_of(settings: Settings) -> Subtensor:
    """The chain these settings name."""
    return Subtensor(
        settings.subtensor_network,
        settings.subtensor_fallbacks,
        settings.subtensor_archives,
        settings.chain_timeout.total_seconds(),
    )


class LiveSource:
    """One epoch read from the network. Nothing is remembered here but the downloaded files.

    Args:
        epoch: which one.
        settings: addresses, tokens, the download folder.
        chain: the connection to the chain, asked for when it is needed.
        revisions: dataset → revision, as frozen when the epoch opened; asked for where it is missing.
        warn: takes a sentence for the epoch's report.
    """

    def __init__(
        self,
        epoch: LiveEpoch,
        settings: Settings,
        chain: Callable[[], Subtensor],
        revisions: Mapping[str, str] | None = None,
        warn: Callable[[str], None] = log.warning,
        session: WebSession | None = None,
    ) -> None:
        self.epoch = epoch
        self._settings = settings
        self._chain = chain
        self._revisions = dict(revisions or {})
        self._warn = warn
        session = session or shared_session()
        token = settings.github_token.get_secret_value() if settings.github_token else None
        self._github = GitHub(session, settings.github_raw_url, settings.github_api_url, token, warn)
        self._uniprot = UniProt(session, settings.uniprot_url)
        self._drand = Drand(session, settings.drand_urls, self._stored_pulse, warn)
        hub_token = settings.hf_token.get_secret_value() if settings.hf_token else None
        self._folder = settings.data_dir.expanduser().resolve() / "huggingface"
        self._hub = Hub(self._folder, settings.hf_endpoint, hub_token)

    def header(self) -> EpochHeader:
        """The boundary as the chain has it now: finalized blocks no longer change."""
        epoch = self.epoch
        return EpochHeader(
            netuid=epoch.netuid,
            network=self._settings.subtensor_network,
            epoch_length=epoch.epoch_length,
            start_block=epoch.start_block,
            end_block=epoch.end_block,
            start_block_hash=self._chain().block_hash(epoch.start_block),
            end_block_hash=self._chain().block_hash(epoch.end_block),
        )

    def rules_text(self) -> str:
        """``RULES_FILE`` as it stands; empty (the document's rules) where none is named."""
        path = self._settings.rules_file
        if path is None:
            return ""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"RULES_FILE {path} cannot be read: {error}") from None

    def metagraph(self) -> tuple[Neuron, ...]:
        """The metagraph at block ``end``."""
        return self._chain().metagraph(self.epoch.netuid, self.epoch.end_block)

    def commitments(self) -> tuple[Commitment, ...]:
        """All commitments at block ``end``, in one map query."""
        return self._chain().commitments(self.epoch.netuid, self.epoch.end_block)

    def content(self, path: GitHubPath) -> bytes:
        """From GitHub's raw host."""
        return self._github.content(path)

    def push_time(self, path: GitHubPath) -> str:
        """From GitHub's API."""
        return self._github.push_time(path)

    def signature(self, drand_round: int) -> str:
        """From the first drand endpoint that tells the truth, or from the chain."""
        return self._drand.signature(drand_round)

    def protein_pool(self) -> tuple[str, ...]:
        """Entries of the proteins dataset, in its row order."""
        return tuple(code for code, _ in self.pool)

    def sequence(self, code: str) -> str | None:
        """From UniProt; from the pool where UniProt has no such entry or is away.

        Raises:
            SourceUnavailable: UniProt is away and the pool does not know the protein either.
        """
        pooled = dict(self.pool).get(code)
        try:
            found = self._uniprot.sequence(code)
        except HostUnavailable as fault:
            if pooled is None:
                raise SourceUnavailable(f"no sequence of {code}: {fault}, and the pool does not have it") from None
            self._warn(f"the sequence of {code} was taken from the pool: {fault}")
            return pooled
        return found or pooled

    def molecule_database(self) -> Path:
        """``molecules.sqlite`` of the database's frozen revision."""
        try:
            return self._hub.file(DATABASE, self.revision(DATABASE), DATABASE_FILE)
        except FileAbsent as error:
            raise SourceError(str(error)) from None

    def archive(self, protein: str) -> Path:
        """The target's archive; a file that does not exist where the dataset has none.

        Raises:
            SourceUnavailable: the hub is away; ``archive_unavailable`` of the rules says what follows.
        """
        name = f"{protein}_molecules.csv"
        try:
            return self._hub.file(ARCHIVE, self.revision(ARCHIVE), name)
        except FileAbsent:
            return self._folder / "absent" / name

    def recorded_scores(self) -> None:
        """The live network has models, not scores."""
        return

    def revision(self, dataset: str) -> str:
        """The dataset's revision for this epoch.

        Where the hub is away, the newest that was used here before, and the report says so.
        """
        if dataset not in self._revisions:
            try:
                self._revisions[dataset] = self._hub.revision(dataset)
            except SourceUnavailable as fault:
                known = self._hub.known_revision(dataset)
                if known is None:
                    raise
                self._warn(f"{dataset} was read at revision {known[:12]}, the last one known here: {fault}")
                self._revisions[dataset] = known
        return self._revisions[dataset]

    @cached_property
    def pool(self) -> list[tuple[str, str]]:
        """Entry and sequence of every protein, in dataset order."""
        revision = self.revision(PROTEINS)
        kept = self._folder / "pools" / f"{revision}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                rows = [row for name in self._split_files(revision) for row in self._rows(revision, name)]
                if not rows:
                    raise SourceError(f"{PROTEINS} at {revision[:12]} has no rows")
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps(rows))
                partial.replace(kept)
        return [(code, sequence) for code, sequence in json.loads(kept.read_text())]

    def _split_files(self, revision: str) -> list[str]:
        files = [name for name in self._hub.files(PROTEINS, revision) if name.endswith(_READABLE)]
        return sorted(name for name in files if _SPLIT in name) or sorted(files)[:1]

    def _rows(self, revision: str, name: str) -> list[tuple[str, str]]:
        path = self._hub.file(PROTEINS, revision, name)
        try:
            rows = [(str(row["Entry"]), str(row["Sequence"] or "")) for row in _table(path)]
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise SourceError(
                f"{PROTEINS}: {name} has no readable columns Entry and Sequence ({shown(str(error), 160)})"
            ) from None
        return rows

    def _stored_pulse(self, drand_round: int) -> str | None:
        if self._settings.offline:
            return None
        return self._chain().drand_signature(drand_round)


def _table(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of a Parquet, CSV, JSON or JSON-lines file."""
    match path.suffix:
        case ".parquet":
            from pyarrow import parquet

            yield from parquet.read_table(path, columns=["Entry", "Sequence"]).to_pylist()
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                yield from csv.DictReader(stream)
        case ".json":
            yield from read_json(path.read_text(encoding="utf-8"))
        case _:
            with path.open(encoding="utf-8") as stream:
                yield from (read_json(line) for line in stream if line.strip())


def live_epoch_at(subtensor: Subtensor, netuid: int) -> tuple[LiveEpoch, int]:
    """The last closed epoch, and the finalized block that says so (specs/epoch.md §1).

    Raises:
        ValidatorError: the chain is younger than one epoch.
    """
    finalized = subtensor.finalized_block()
    length = subtensor.tempo(netuid, finalized) + 1
    if finalized < 2 * length:
        raise ValidatorError(f"{subtensor.network} is at block {finalized}: no epoch of {length} blocks has closed")
    return LiveEpoch(netuid, finalized // length * length, length), finalized
