"""A live epoch between the network and the store: every outside fact is fetched once and then read by all processes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from app.domain import Commitment, EpochHeader, Neuron, SubmissionRejected
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.facts import Fact, FactKind, Facts, FactState
from chain.github_path import GitHubPath, parse_github_path
from chain.sources import (
    ArchiveUnavailable,
    ContentNotFound,
    ContentTooLarge,
    Outage,
    RoundNotReached,
    SourceUnavailable,
)
from chain.sources.live import ARCHIVE, DATABASE, PROTEINS, LiveEpoch, LiveSource, subtensor_of
from chain.submission import parse_submission
from chain.subtensor import Subtensor
from chain.timelock import LAST_ROUND
from chain.web import HostUnavailable

# Requests in flight at once: GitHub allows a hundred, a small host fewer.
_THREADS: Final = 16

# One round of asking; what has not come by then is asked for in the next (s).
_PHASE_SECONDS: Final = 120.0

# Facts are written to the store in groups of about this many.
_WRITTEN_TOGETHER: Final = 32

# UniProt's sequences belong to no epoch.
_FOR_GOOD: Final = "uniprot"

log = logging.getLogger("celery_validator.live")


# One connection per process and network; the chain worker has one process.
_chains: dict[tuple[str, str, str], Subtensor] = {}


def process_subtensor(settings: Settings | None = None) -> Subtensor:
    """This process's connection to the chain that the settings name; opened on first use."""
    settings = settings or get_settings()
    key = (settings.subtensor_network, repr(settings.subtensor_fallbacks), repr(settings.subtensor_archives))
    if key not in _chains:
        _chains[key] = subtensor_of(settings)
    return _chains[key]


class StoredSource:
    """The live network as an :class:`chain.sources.EpochSource`, remembered in the store.

    With ``remember=False`` the store is read, but nothing is frozen for the epoch.
    """

    def __init__(self, reference: str, *, remember: bool = True) -> None:
        self.reference = reference
        self._remember = remember
        self.epoch = LiveEpoch.parse(reference)
        self._warnings: list[str] = []
        self._kinds: dict[FactKind, dict[str, Fact]] = {}

    @cached_property
    def live(self) -> LiveSource:
        """The network itself, with the datasets' revisions as they were frozen."""
        with get_store().reading() as session:
            frozen = Facts(session).all(self.reference, FactKind.REVISION)
        revisions = {name: (fact.value or b"").decode() for name, fact in frozen.items()}
        return LiveSource(self.epoch, get_settings(), process_subtensor, revisions, self._warnings.append)

    def warnings(self) -> tuple[str, ...]:
        """What the report must say about hosts that failed or lied."""
        return tuple(dict.fromkeys(self._warnings))

    def header(self) -> EpochHeader:
        """See :class:`chain.sources.EpochSource`."""
        return self.live.header()

    def rules_text(self) -> str:
        """See :class:`chain.sources.EpochSource`."""
        return self.live.rules_text()

    def metagraph(self) -> tuple[Neuron, ...]:
        """See :class:`chain.sources.EpochSource`."""
        return self.live.metagraph()

    def commitments(self) -> tuple[Commitment, ...]:
        """See :class:`chain.sources.EpochSource`."""
        return self.live.commitments()

    def content(self, path: GitHubPath) -> bytes:
        """See :class:`chain.sources.EpochSource`; raises Outage where GitHub was away too long."""
        fact = self._fact(FactKind.CONTENT, str(path), lambda: content_fact(self.live, path))
        match fact.state:
            case FactState.HELD:
                return fact.value or b""
            case FactState.TOO_LARGE:
                raise ContentTooLarge(str(path))
            case FactState.ABSENT:
                raise ContentNotFound(str(path))
        raise Outage(fact.detail or "the file could not be fetched")

    def push_time(self, path: GitHubPath) -> str:
        """See :class:`chain.sources.EpochSource`."""
        fact = self._fact(FactKind.PUSH_TIME, str(path), lambda: push_time_fact(self.live, path))
        return (fact.value or b"").decode()

    def signature(self, drand_round: int) -> str:
        """See :class:`chain.sources.EpochSource`; raises Outage where no endpoint told the truth."""
        fact = self._fact(FactKind.SIGNATURE, str(drand_round), lambda: signature_fact(self.live, drand_round))
        match fact.state:
            case FactState.HELD:
                return (fact.value or b"").decode()
            case FactState.NOT_REACHED:
                raise RoundNotReached(drand_round)
        raise Outage(fact.detail or f"no signature of drand round {drand_round}")

    def protein_pool(self) -> tuple[str, ...]:
        """See :class:`chain.sources.EpochSource`."""
        pool = self.live.protein_pool()
        self._freeze(PROTEINS)
        return pool

    def sequence(self, code: str) -> str | None:
        """See :class:`chain.sources.EpochSource`; what UniProt said once is kept for good."""
        with get_store().reading() as session:
            known = Facts(session).get(_FOR_GOOD, FactKind.SEQUENCE, code)
        if known is not None and known.value:
            return known.value.decode()
        before = len(self._warnings)
        found = self.live.sequence(code)
        if found and len(self._warnings) == before:
            # a sequence taken from the pool in an outage is not UniProt's word
            self._keep(FactKind.SEQUENCE, {code: Fact(FactState.HELD, found.encode())}, source=_FOR_GOOD)
        return found

    def molecule_database(self) -> Path:
        """See :class:`chain.sources.EpochSource`."""
        path = self.live.molecule_database()
        self._freeze(DATABASE)
        return path

    def archive(self, protein: str) -> Path:
        """See :class:`chain.sources.EpochSource`.

        Raises:
            ArchiveUnavailable: it was not to be had when the epoch opened; so it stays, on every machine.
            SourceUnavailable: it is only this machine that cannot have it now.
        """
        with get_store().reading() as session:
            frozen = Facts(session).get(self.reference, FactKind.ARCHIVE, protein)
        if frozen is not None and frozen.state is FactState.UNAVAILABLE:
            raise ArchiveUnavailable(frozen.detail or "the archive was unavailable")
        try:
            path = self.live.archive(protein)
        except SourceUnavailable as fault:
            if frozen is not None:
                raise
            self._keep(FactKind.ARCHIVE, {protein: Fact(FactState.UNAVAILABLE, detail=str(fault))})
            raise ArchiveUnavailable(str(fault)) from None
        if frozen is None:
            self._keep(FactKind.ARCHIVE, {protein: Fact(FactState.HELD)})
        self._freeze(ARCHIVE)
        return path

    def recorded_scores(self) -> Path | None:
        """The rehearsal's scores; the live network has models, not scores."""
        return get_settings().rehearsal_scores

    def _freeze(self, dataset: str) -> None:
        revision = self.live.revision(dataset)
        self._keep(FactKind.REVISION, {dataset: Fact(FactState.HELD, revision.encode())})

    def _fact(self, kind: FactKind, key: str, fetch: Callable[[], Fact]) -> Fact:
        known = self._gathered(kind).get(key)
        if known is None:
            with get_store().reading() as session:
                known = Facts(session).get(self.reference, kind, key)
        if known is None:
            known = fetch()
            self._keep(kind, {key: known})
        return known

    def _gathered(self, kind: FactKind) -> dict[str, Fact]:
        """All facts of a kind, read at once when they are complete: one query per process instead of one per miner."""
        if kind not in self._kinds:
            with get_store().reading() as session:
                self._kinds[kind] = Facts(session).all(self.reference, kind)
        return self._kinds[kind]

    def _keep(self, kind: FactKind, facts: Mapping[str, Fact], source: str | None = None) -> None:
        if not self._remember and source is None:
            return
        with get_store().writing() as session:
            Facts(session).keep(source or self.reference, kind, facts)


def content_fact(live: LiveSource, path: GitHubPath) -> Fact:
    """Ask GitHub for a file. Raises SourceUnavailable where GitHub does not say."""
    try:
        return Fact(FactState.HELD, live.content(path))
    except ContentNotFound:
        return Fact(FactState.ABSENT)
    except ContentTooLarge:
        return Fact(FactState.TOO_LARGE)


def push_time_fact(live: LiveSource, path: GitHubPath) -> Fact:
    """Ask GitHub when a file was pushed. Raises SourceUnavailable where GitHub does not say."""
    return Fact(FactState.HELD, live.push_time(path).encode())


def signature_fact(live: LiveSource, drand_round: int) -> Fact:
    """Ask drand for a signature. Raises SourceUnavailable where no endpoint tells the truth."""
    try:
        return Fact(FactState.HELD, live.signature(drand_round).encode())
    except RoundNotReached:
        return Fact(FactState.NOT_REACHED)


@dataclass(slots=True)
class Shortfall:
    """What could not be fetched this time: key → cause, per kind, and the patience a host asked for (s)."""

    causes: dict[FactKind, dict[str, str]] = field(default_factory=dict)
    retry_after: float = 0.0

    def __bool__(self) -> bool:
        return any(self.causes.values())

    def sentences(self) -> Iterator[str]:
        """One sentence per kind and cause, for the epoch's report."""
        for kind, causes in self.causes.items():
            by_cause: dict[str, list[str]] = {}
            for key, cause in causes.items():
                by_cause.setdefault(cause, []).append(key)
            for cause, keys in by_cause.items():
                example = min(keys).encode("unicode_escape").decode()[:100]
                yield f"{_WHAT[kind]} of {len(keys)} {_OF_WHAT[kind]}, for example {example}: {cause}"


_WHAT: Final = {
    FactKind.CONTENT: "no file could be fetched at the paths",
    FactKind.PUSH_TIME: "push times stay unknown",
    FactKind.SIGNATURE: "no drand signature could be had",
}
_OF_WHAT: Final = {
    FactKind.CONTENT: "path(s)",
    FactKind.PUSH_TIME: "path(s)",
    FactKind.SIGNATURE: "round(s)",
}


def gather(
    source: StoredSource, commitments: Iterable[Commitment], keep_claim: Callable[[], None] = lambda: None
) -> Shortfall:
    """Fetch every distinct path, its push time and every distinct drand round that is not in the store yet.

    ``keep_claim`` is called whenever facts were written, so that a long fetch is not taken for a dead one.
    """
    paths = {str(path): path for path in _well_formed(commitments)}
    live, shortfall = source.live, Shortfall()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
    try:
        jobs: dict[Future[Fact], tuple[FactKind, str]] = {}
        for kind, fetch in ((FactKind.CONTENT, content_fact), (FactKind.PUSH_TIME, push_time_fact)):
            for key in _missing(source.reference, kind, paths):
                jobs[pool.submit(fetch, live, paths[key])] = (kind, key)
        _collect(source.reference, jobs, shortfall, keep_claim)
        rounds = {str(number): number for number in _rounds(source.reference, paths)}
        missing = _missing(source.reference, FactKind.SIGNATURE, rounds)
        jobs = {pool.submit(signature_fact, live, rounds[key]): (FactKind.SIGNATURE, key) for key in missing}
        _collect(source.reference, jobs, shortfall, keep_claim)
    finally:
        # a host that feeds one byte at a time must not hold the epoch; its thread ends when the host does
        pool.shutdown(wait=False, cancel_futures=True)
    return shortfall


def remember_warnings(source: StoredSource, sentences: Iterable[str]) -> None:
    """Keep what the network did to this epoch, so that a recording of it says the same."""
    kept = {sentence[:500]: Fact(FactState.HELD) for sentence in sentences}
    with get_store().writing() as session:
        Facts(session).keep(source.reference, FactKind.WARNING, kept)


def give_up(source: StoredSource, shortfall: Shortfall) -> None:
    """Settle what did not come within the epoch's budget: unknown push times, outages for the rest."""
    with get_store().writing() as session:
        facts = Facts(session)
        for kind, causes in shortfall.causes.items():
            facts.keep(
                source.reference,
                kind,
                {key: Fact(FactState.UNAVAILABLE, detail=cause) for key, cause in causes.items()},
            )


def _well_formed(commitments: Iterable[Commitment]) -> Iterator[GitHubPath]:
    for commitment in commitments:
        with suppress(SubmissionRejected):
            yield parse_github_path(commitment.data)


def _missing(reference: str, kind: FactKind, wanted: Mapping[str, object]) -> list[str]:
    with get_store().reading() as session:
        known = Facts(session).all(reference, kind)
    return [key for key in wanted if key not in known]


def _rounds(reference: str, paths: Mapping[str, GitHubPath]) -> list[int]:
    """The drand rounds that the fetched submissions are sealed to."""
    with get_store().reading() as session:
        contents = Facts(session).all(reference, FactKind.CONTENT)
    rounds: set[int] = set()
    for key, path in paths.items():
        fact = contents.get(key)
        if fact is None or fact.value is None:
            continue
        if hashlib.sha256(fact.value).hexdigest()[:20] != path.content_hash:
            continue
        with suppress(SubmissionRejected):
            rounds.add(parse_submission(fact.value).drand_round)
    return sorted(number for number in rounds if number <= LAST_ROUND)


def _collect(
    reference: str,
    jobs: Mapping[Future[Fact], tuple[FactKind, str]],
    shortfall: Shortfall,
    keep_claim: Callable[[], None],
) -> None:
    waiting: list[tuple[FactKind, str, Fact]] = []
    late = dict(jobs)
    with suppress(TimeoutError):
        for future in as_completed(jobs, timeout=_PHASE_SECONDS):
            kind, key = late.pop(future)
            try:
                waiting.append((kind, key, future.result()))
            except SourceUnavailable as fault:
                shortfall.causes.setdefault(kind, {})[key] = str(fault)
                if isinstance(fault, HostUnavailable) and fault.retry_after:
                    shortfall.retry_after = max(shortfall.retry_after, fault.retry_after)
            if len(waiting) >= _WRITTEN_TOGETHER:
                _write(reference, waiting)
                waiting = []
                keep_claim()
    for kind, key in late.values():
        shortfall.causes.setdefault(kind, {})[key] = f"no answer within {_PHASE_SECONDS:.0f} s"
    _write(reference, waiting)
    keep_claim()


def _write(reference: str, found: Sequence[tuple[FactKind, str, Fact]]) -> None:
    if not found:
        return
    with get_store().writing() as session:
        facts = Facts(session)
        for kind in FactKind:
            facts.keep(reference, kind, {key: fact for of, key, fact in found if of is kind})
