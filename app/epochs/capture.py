"""Capturing an epoch: the only code that asks the network about one. Every outside fact is asked for once and kept.

Chain, GitHub, drand, Hugging Face and UniProt are asked; the answers become facts. What follows reads those.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Final

from app.domain import Commitment, EpochHeader, SubmissionRejected
from app.epochs import documents
from app.epochs.allowance import keep_quota, last_quota
from app.epochs.facts import (
    COMMITMENTS_FILE,
    DATABASE_FILE,
    HEADER_FILE,
    METAGRAPH_FILE,
    POOL_FILE,
    RULES_FILE,
    EpochFacts,
    FactSheet,
    hub_of,
    keep_warnings,
)
from app.epochs.opening import drawn
from app.epochs.recorded_scores import keep_scores, score_tables
from app.epochs.rules import parse_rules
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.facts import Fact, FactKind, FactState, HubFile, Sequences, file_fact
from app.store.services import StoredAnswers
from app.untrusted import quoted, shown
from chain.commitments import may_tie
from chain.datasets import ARCHIVE, DATABASE, PROTEINS, protein_pool
from chain.drand import Drand
from chain.epochs import ClosedEpoch
from chain.github import GitHub, paths_to_ask
from chain.github_path import GitHubPath, parse_github_path
from chain.huggingface import FileAbsent
from chain.sources import ContentNotFound, ContentTooLarge, RoundNotReached, SourceError, SourceUnavailable
from chain.submission import parse_submission
from chain.subtensor import Subtensor
from chain.timelock import LAST_ROUND
from chain.uniprot import UniProt
from chain.web import HostUnavailable, shared_session

OPENING: Final = "opening"
SUBMISSIONS: Final = "submissions"

# Requests in flight at once: GitHub allows a hundred, a small host fewer.
_THREADS: Final = 16

# One round of asking; what has not come by then is asked for in the next (s).
_PHASE_SECONDS: Final = 120.0

# Facts are written to the store in groups of about this many.
_WRITTEN_TOGETHER: Final = 32

log = logging.getLogger("celery_validator.capture")


# One connection per process and network; the chain worker has one process.
_chains: dict[tuple[str, str, str], Subtensor] = {}


def process_subtensor(settings: Settings | None = None) -> Subtensor:
    """This process's connection to the chain that the settings name; opened on first use."""
    settings = settings or get_settings()
    key = (settings.subtensor_network, repr(settings.subtensor_fallbacks), repr(settings.subtensor_archives))
    if key not in _chains:
        _chains[key] = subtensor_of(settings)
    return _chains[key]


def subtensor_of(settings: Settings) -> Subtensor:
    """The chain these settings name."""
    return Subtensor(
        settings.subtensor_network,
        settings.subtensor_fallbacks,
        settings.subtensor_archives,
        settings.chain_timeout.total_seconds(),
    )


def closed_epoch(header: EpochHeader) -> ClosedEpoch:
    """The epoch that a header bounds."""
    return ClosedEpoch(header.netuid, header.end_block, header.epoch_length)


def captured(sheet: FactSheet, part: str) -> bool:
    """Whether no fact of a part of the epoch is missing any more."""
    return part in sheet.all(FactKind.CAPTURED)


class Capture:
    """One epoch on its way from the network into a sheet of facts. What is on the sheet is not asked for again.

    Args:
        push_time_branch: push times are those of the committed branch, not of the repository's default one.
    """

    def __init__(self, epoch: ClosedEpoch, sheet: FactSheet, *, push_time_branch: bool = True) -> None:
        settings, session = get_settings(), shared_session()
        token = settings.github_token.get_secret_value() if settings.github_token else None
        self._epoch, self._sheet, self._settings = epoch, sheet, settings
        self._github = GitHub(
            session,
            settings.github_raw_url,
            settings.github_api_url,
            token,
            self._warn,
            memory=StoredAnswers(get_store()),
            asks_branch=push_time_branch,
        )
        self._uniprot = UniProt(session, settings.uniprot_url)
        self._drand = Drand(session, settings.drand_urls, self._stored_pulse, self._warn)
        self._hub = hub_of(settings)
        self._warnings: list[str] = []

    def opening(self) -> None:
        """Everything that the epoch is opened with: its boundary, rules, metagraph, commitments, proteins and files.

        Raises:
            SourceUnavailable: something did not come; what came is kept, come again.
            ValidatorError: something that came is malformed, and will be again.
        """
        if captured(self._sheet, OPENING):
            return
        try:
            self._opening()
        finally:
            keep_warnings(self._sheet, self.warnings())
        self._sheet.keep(FactKind.CAPTURED, {OPENING: Fact(FactState.HELD)})

    def _opening(self) -> None:
        epoch = self._epoch
        self._file(HEADER_FILE, lambda: documents.json_text(documents.header_document(self._header())))
        self._file(RULES_FILE, self._rules_text)
        self._file(METAGRAPH_FILE, lambda: _rows(self._chain.metagraph(epoch.netuid, epoch.end_block)))
        self._file(COMMITMENTS_FILE, lambda: _rows(self._chain.commitments(epoch.netuid, epoch.end_block)))
        self._file(POOL_FILE, lambda: documents.fasta(self.protein_pool()))
        if DATABASE_FILE not in self._sheet.all(FactKind.FILE):
            place = HubFile(DATABASE, self.revision(DATABASE), DATABASE_FILE)
            try:
                self._hub.file(place.dataset, place.revision, place.name)
            except FileAbsent as error:
                raise SourceError(str(error)) from None
            self._sheet.keep(FactKind.FILE, {DATABASE_FILE: file_fact(place)})
        facts = EpochFacts(self._sheet)
        rules = parse_rules(facts.rules_text())
        challenge = drawn(rules, facts.header().start_block_hash, facts.protein_pool(), facts.molecule_database())
        for name in rules.facts_needed(challenge).files:
            self.archive(name)
        for code in challenge.proteins:
            self._sequence(code)
        if self._settings.rehearsal_scores is not None:
            with get_store().writing() as session:
                digests = keep_scores(session, score_tables(self._settings.rehearsal_scores))
            self._sheet.keep(FactKind.SCORES, digests)

    def protein_pool(self) -> list[tuple[str, str]]:
        """Entry and sequence of every protein of the pool, in the dataset's row order."""
        return protein_pool(self._hub, self.revision(PROTEINS))

    def archive(self, name: str) -> None:
        """Note where a file of the archive lies; once it is noted as unavailable, it stays so on every machine."""
        if name in self._sheet.all(FactKind.FILE):
            return
        try:
            place = HubFile(ARCHIVE, self.revision(ARCHIVE), name.rsplit("/", 1)[-1])
            self._hub.file(place.dataset, place.revision, place.name)
            fact = file_fact(place)
        except FileAbsent:
            fact = Fact(FactState.ABSENT)
        except SourceUnavailable as fault:
            fact = Fact(FactState.UNAVAILABLE, detail=str(fault))
        self._sheet.keep(FactKind.FILE, {name: fact})

    def revision(self, dataset: str) -> str:
        """The dataset's revision for this epoch.

        Where the hub is unavailable, the newest that was used here before, and the report says so.
        """
        frozen = self._sheet.all(FactKind.REVISION).get(dataset)
        if frozen is not None:
            return (frozen.value or b"").decode()
        try:
            found = self._hub.revision(dataset)
        except SourceUnavailable as fault:
            known = self._hub.known_revision(dataset)
            if known is None:
                raise
            self._warn(f"{dataset} was read at revision {known[:12]}, the last one known here: {fault}")
            found = known
        self._sheet.keep(FactKind.REVISION, {dataset: Fact(FactState.HELD, found.encode())})
        return found

    def submissions(self, commitments: Sequence[Commitment], keep_claim: Callable[[], object] = bool) -> Shortfall:
        """Fetch every distinct path, its push time and every distinct drand round that is not on the sheet yet.

        ``keep_claim`` is called whenever facts were written, so that a long fetch is not taken for a dead one.
        """
        shortfall = Shortfall()
        with get_store().reading() as session:
            known = last_quota(session)
        if known is not None:
            self._github.adopt(known.quota)
        paths = {str(path): path for path in well_formed_paths(commitments)}
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
        try:
            jobs: dict[Future[Fact], tuple[FactKind, str]] = {}
            for key in self._missing(FactKind.CONTENT, paths):
                jobs[pool.submit(self._content, paths[key])] = (FactKind.CONTENT, key)
            for key in self._push_times_to_ask(commitments, paths):
                jobs[pool.submit(self._push_time, paths[key])] = (FactKind.PUSH_TIME, key)
            self._collect(jobs, shortfall, keep_claim)
            self._settle_what_decides_nothing(commitments, shortfall)
            rounds = {str(number): number for number in self._rounds(paths)}
            missing = self._missing(FactKind.SIGNATURE, rounds)
            jobs = {pool.submit(self._signature, rounds[key]): (FactKind.SIGNATURE, key) for key in missing}
            self._collect(jobs, shortfall, keep_claim)
        finally:
            # a host that feeds one byte at a time must not hold the epoch; its thread ends when the host does
            pool.shutdown(wait=False, cancel_futures=True)
        with get_store().writing() as session:
            keep_quota(session, self._github.quota)
        keep_warnings(self._sheet, self.warnings())
        return shortfall

    def give_up(self, shortfall: Shortfall, budget: str = "at once") -> None:
        """Settle what did not come ``budget``: unknown push times, outages for the rest."""
        keep_warnings(self._sheet, [f"{sentence} ({budget})" for sentence in shortfall.sentences()])
        for kind, causes in shortfall.causes.items():
            facts = {key: Fact(FactState.UNAVAILABLE, detail=cause) for key, cause in causes.items()}
            self._sheet.keep(kind, facts)
        self._sheet.keep(FactKind.CAPTURED, {SUBMISSIONS: Fact(FactState.HELD)})

    def warnings(self) -> tuple[str, ...]:
        """What the report must say about hosts that failed or lied."""
        return tuple(dict.fromkeys(self._warnings))

    # -- one question each ----------------------------------------------------------------------------------------

    @cached_property
    def _chain(self) -> Subtensor:
        return process_subtensor(self._settings)

    def _header(self) -> EpochHeader:
        """The boundary as the chain has it now: finalized blocks no longer change."""
        epoch = self._epoch
        return EpochHeader(
            netuid=epoch.netuid,
            network=self._settings.subtensor_network,
            epoch_length=epoch.epoch_length,
            start_block=epoch.start_block,
            end_block=epoch.end_block,
            start_block_hash=self._chain.block_hash(epoch.start_block),
            end_block_hash=self._chain.block_hash(epoch.end_block),
        )

    def _rules_text(self) -> str:
        """``RULES_FILE`` as it stands; empty (the built-in rules) where none is named."""
        path = self._settings.rules_file
        if path is None:
            return ""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"RULES_FILE {path} cannot be read: {error}") from None

    def _sequence(self, code: str) -> None:
        """A protein's sequence from UniProt, which is asked once for all epochs; else from the pool."""
        if code in self._sheet.all(FactKind.SEQUENCE):
            return
        with get_store().reading() as session:
            found = Sequences(session).get(code)
        if found is None:
            pooled = EpochFacts(self._sheet).sequence(code)
            try:
                found = self._uniprot.sequence(code)
            except HostUnavailable as fault:
                if pooled is None:
                    raise SourceUnavailable(f"no sequence of {code}: {fault}, and the pool does not have it") from None
                self._warn(f"the sequence of {code} was taken from the pool: {fault}")
            if found is not None:
                with get_store().writing() as session:
                    Sequences(session).keep(code, found)
            found = found or pooled
        fact = Fact(FactState.ABSENT) if found is None else Fact(FactState.HELD, found.encode())
        self._sheet.keep(FactKind.SEQUENCE, {code: fact})

    def _content(self, path: GitHubPath) -> Fact:
        try:
            return Fact(FactState.HELD, self._github.content(path))
        except ContentNotFound:
            return Fact(FactState.ABSENT)
        except ContentTooLarge:
            return Fact(FactState.TOO_LARGE)

    def _push_time(self, path: GitHubPath) -> Fact:
        return Fact(FactState.HELD, self._github.push_time(path).encode())

    def _signature(self, drand_round: int) -> Fact:
        try:
            return Fact(FactState.HELD, self._drand.signature(drand_round).encode())
        except RoundNotReached:
            return Fact(FactState.NOT_REACHED)

    def _stored_pulse(self, drand_round: int) -> str | None:
        return None if self._settings.offline else self._chain.drand_signature(drand_round)

    def _file(self, name: str, text: Callable[[], str]) -> None:
        if name not in self._sheet.all(FactKind.FILE):
            self._sheet.keep_file(name, text().encode())

    def _warn(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self._warnings.append(sentence)

    # -- many at once ---------------------------------------------------------------------------------------------

    def _missing(self, kind: FactKind, wanted: Iterable[str]) -> list[str]:
        known = self._sheet.all(kind)
        return [key for key in wanted if key not in known]

    def _push_times_to_ask(self, commitments: Sequence[Commitment], paths: Iterable[str]) -> list[str]:
        """Where GitHub's allowance is short, those that decide nothing stay unknown for good."""
        missing = self._missing(FactKind.PUSH_TIME, paths)
        asked = paths_to_ask(missing, _ties(commitments), self._github.quota)
        self._leave_unknown(set(missing) - set(asked))
        return asked

    def _settle_what_decides_nothing(self, commitments: Sequence[Commitment], shortfall: Shortfall) -> None:
        """Where GitHub refuses more calls than were planned for, the epoch waits for push times that can matter."""
        missing = shortfall.causes.get(FactKind.PUSH_TIME)
        if not missing or self._github.quota.remaining > 0:
            return
        idle = set(missing) - _ties(commitments)
        self._leave_unknown(idle)
        for path in idle:
            del missing[path]

    def _leave_unknown(self, paths: Collection[str]) -> None:
        if not paths:
            return
        sentence = self._github.quota.sentence
        self._warn(f"{len(paths)} push times that cannot decide a tie were not asked for: {sentence}")
        unknown = Fact(FactState.UNAVAILABLE, detail="it cannot decide a tie, and GitHub allows few calls")
        self._sheet.keep(FactKind.PUSH_TIME, dict.fromkeys(paths, unknown))

    def _rounds(self, paths: Mapping[str, GitHubPath]) -> list[int]:
        """The drand rounds that the fetched submissions are sealed to."""
        contents = self._sheet.all(FactKind.CONTENT)
        found = (sealed_round(contents[key].value, path) for key, path in paths.items() if key in contents)
        return sorted({number for number in found if number is not None})

    def _collect(
        self,
        jobs: Mapping[Future[Fact], tuple[FactKind, str]],
        shortfall: Shortfall,
        keep_claim: Callable[[], object],
    ) -> None:
        waiting: dict[FactKind, dict[str, Fact]] = {}
        late = dict(jobs)
        with suppress(TimeoutError):
            for future in as_completed(jobs, timeout=_PHASE_SECONDS):
                kind, key = late.pop(future)
                try:
                    waiting.setdefault(kind, {})[key] = future.result()
                except SourceUnavailable as fault:
                    patience = fault.retry_after if isinstance(fault, HostUnavailable) else None
                    shortfall.add(kind, key, str(fault), patience or 0.0)
                # a fault of ours with one miner's file must cost no other miner
                except Exception as error:
                    log.exception("%s %s could not be fetched", kind.value, quoted(key, 200))
                    shortfall.add(kind, key, f"this validator failed on it: {type(error).__name__}")
                if sum(map(len, waiting.values())) >= _WRITTEN_TOGETHER:
                    self._write(waiting)
                    waiting = {}
                    keep_claim()
        for kind, key in late.values():
            shortfall.add(kind, key, f"no answer within {_PHASE_SECONDS:.0f} s")
        self._write(waiting)
        keep_claim()

    def _write(self, found: Mapping[FactKind, Mapping[str, Fact]]) -> None:
        for kind, facts in found.items():
            self._sheet.keep(kind, facts)


@dataclass(slots=True)
class Shortfall:
    """What could not be fetched this time: key → cause, and the patience that its host asked for (s), per kind."""

    causes: dict[FactKind, dict[str, str]] = field(default_factory=dict)
    patience: dict[FactKind, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.causes.values())

    def add(self, kind: FactKind, key: str, cause: str, patience: float = 0.0) -> None:
        """Note one more."""
        self.causes.setdefault(kind, {})[key] = cause
        self.patience[kind] = max(self.patience.get(kind, 0.0), patience)

    @property
    def retry_after(self) -> float:
        """When to ask again (s): no kind waits for another's host."""
        return min((self.patience[kind] for kind, causes in self.causes.items() if causes), default=0.0)

    def worth_waiting(self, seconds: float) -> bool:
        """Whether something of it can come within so long: no push time does before GitHub's hour is over."""
        missing = {kind for kind, causes in self.causes.items() if causes}
        return bool(missing) and (missing != {FactKind.PUSH_TIME} or self.retry_after <= seconds)

    def sentences(self) -> Iterator[str]:
        """One sentence per kind and cause, for the epoch's report."""
        for kind, causes in self.causes.items():
            by_cause: dict[str, list[str]] = {}
            for key, cause in causes.items():
                by_cause.setdefault(cause, []).append(key)
            for cause, keys in by_cause.items():
                example = shown(min(keys), 100)
                yield f"{_WHAT[kind]} of {len(keys)} {_OF_WHAT[kind]}, for example {example}: {cause}"


_WHAT: Final = {
    FactKind.CONTENT: "no file could be fetched at the paths",
    FactKind.PUSH_TIME: "push times stay unknown",
    FactKind.SIGNATURE: "no drand signature could be fetched",
}
_OF_WHAT: Final = {
    FactKind.CONTENT: "path(s)",
    FactKind.PUSH_TIME: "path(s)",
    FactKind.SIGNATURE: "round(s)",
}


def sealed_round(content: bytes | None, path: GitHubPath) -> int | None:
    """The drand round that a committed file is sealed to; None where the file is missing, altered or malformed."""
    if content is None or hashlib.sha256(content).hexdigest()[:20] != path.content_hash:
        return None
    try:
        number = parse_submission(content).drand_round
    except SubmissionRejected:
        return None
    # a fault of ours with one miner's file must cost no other miner; examining it says what the fault is
    except Exception:
        log.exception("the file at %s could not be parsed", path)
        return None
    return number if number <= LAST_ROUND else None


def _ties(commitments: Sequence[Commitment]) -> frozenset[str]:
    """The paths whose push time can decide something."""
    return may_tie((0, commitment) for commitment in commitments)


def well_formed_paths(commitments: Iterable[Commitment]) -> Iterator[GitHubPath]:
    """The paths that can be fetched; what is wrong with the others, examining them says."""
    for commitment in commitments:
        try:
            yield parse_github_path(commitment.data)
        except SubmissionRejected:
            continue
        # a fault of ours with one miner's path must cost no other miner
        except Exception:
            log.exception("the commitment of %s could not be parsed", commitment.hotkey)


def _rows(entries: Iterable[object]) -> str:
    return documents.json_text([asdict(entry) for entry in entries])  # type: ignore[call-overload]
