"""Writes a live epoch down as a recording that replays to the same result (specs/recording.md)."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from app.domain import (
    PSICHIC_METRIC,
    Commitment,
    EpochHeader,
    Neuron,
    PairScore,
    Protein,
    ScoringModel,
    SubmissionRejected,
    ValidatorError,
)
from app.epochs.capture import StoredSource, gather, give_up, process_subtensor
from app.epochs.result import report_text
from app.epochs.rules import RuleSet, build_report, parse_rules, rules_of
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Fact, FactKind, Facts, FactState
from app.store.records import OpenEpoch, Stage
from app.store.scores import Scores
from chain.commitments import in_window
from chain.github_path import parse_github_path
from chain.sources import ContentNotFound, ContentTooLarge, RoundNotReached, SourceUnavailable
from chain.sources.live import DATASETS, LiveEpoch, live_epoch_at
from chain.sources.scores import FAILURES_COLUMNS, FAILURES_FILE
from chain.submission import open_submission, parse_submission
from chain.timelock import QUICKNET_CHAIN
from chem.database import CombinatorialDatabase

SCHEMA: Final = 1

# The column of a table of Boltz-2 scores in which nothing was scored.
_USUAL_METRIC: Final = "affinity_probability_binary"

_SCORED: Final = frozenset({Stage.CLOSED, Stage.DONE})

log = logging.getLogger("celery_validator.recorder")


class RecorderError(ValidatorError):
    """The epoch cannot be recorded; the message says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written: the folder, the counts, and what is missing from it."""

    folder: Path
    submissions: int
    scores: int
    result: bool
    notes: tuple[str, ...]


def record(number: int, folder: Path) -> Recorded:
    """Record a live epoch of this validator's subnet, from the store where it knows it, else from the network.

    Raises:
        RecorderError: the epoch has not closed, or the folder holds something else.
    """
    settings = get_settings()
    if folder.exists() and any(folder.iterdir()):
        raise RecorderError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with get_store().reading() as session:
        epochs = Epochs(session)
        epoch_id = epochs.live(settings.netuid, number)
        stage = None if epoch_id is None else epochs.summary(epoch_id).stage
        opened = stage not in {None, Stage.ANNOUNCED, Stage.MISSED, Stage.FAILED}
        source_text = epochs.summary(epoch_id).source if epoch_id is not None else None
    if opened and epoch_id is not None and source_text is not None:
        return _Recording(folder, StoredSource(source_text)).of_stored(epoch_id)
    reference = source_text or str(_closed_epoch(number, settings))
    return _Recording(folder, StoredSource(reference)).of_network()


def _closed_epoch(number: int, settings: Settings) -> LiveEpoch:
    last, _ = live_epoch_at(process_subtensor(settings), settings.netuid)
    if number > last.number:
        raise RecorderError(f"epoch {number} has not closed; the last that has is {last.number}")
    return LiveEpoch(settings.netuid, (number + 1) * last.epoch_length, last.epoch_length)


class _Recording:
    """A folder that is being filled."""

    def __init__(self, folder: Path, source: StoredSource) -> None:
        self._folder = folder
        self._source = source
        self._notes: list[str] = []

    def of_stored(self, epoch_id: int) -> Recorded:
        """From what this validator judged the epoch on."""
        with get_store().reading() as session:
            epochs = Epochs(session)
            epoch, summary = epochs.get(epoch_id), epochs.summary(epoch_id)
            submissions, rules_text = epochs.submissions(epoch_id), epochs.rules_text(epoch_id)
            warnings = epochs.warnings(epoch_id)
        judged = [submission.commitment for submission in submissions]
        try:
            commitments: Sequence[Commitment] = self._source.commitments()
        except SourceUnavailable as fault:
            self._notes.append(f"only the commitments inside the window are recorded: {fault}")
            commitments = judged
        uid_of = {submission.commitment.hotkey: submission.uid for submission in submissions}
        self._common(epoch.header, epoch.neurons, rules_text, commitments)
        self._proteins(epoch.proteins)
        self._fetched(judged)
        self._database(judged, uid_of, rules_of(epoch))
        self._archive(epoch.challenge.targets[0])
        scores = self._scores(epoch) if summary.stage in _SCORED else 0
        if summary.stage is Stage.DONE:
            report = build_report(epoch, summary, submissions, warnings)
            (self._folder / "result.json").write_text(report_text(report), encoding="utf-8")
        else:
            self._notes.append(f"the epoch is still {summary.stage.value}: no result.json")
        return Recorded(self._folder, len(judged), scores, summary.stage is Stage.DONE, tuple(self._notes))

    def of_network(self) -> Recorded:
        """From the network alone: an epoch that this validator did not judge."""
        source = self._source
        header, neurons, commitments = source.header(), source.metagraph(), source.commitments()
        rules_text = source.rules_text()
        rules = parse_rules(rules_text)
        counted = in_window(commitments, header, rules.no_submission_blocks, neurons)
        judged = [commitment for _, commitment in counted]
        give_up(source, gather(source, judged))
        self._common(header, neurons, rules_text, commitments)
        challenge = rules.challenge(header.start_block_hash, source.protein_pool(), 1)
        self._proteins([Protein(code, source.sequence(code)) for code in challenge.proteins])
        self._database(judged, {commitment.hotkey: uid for uid, commitment in counted}, rules)
        self._fetched(judged)
        self._archive(challenge.targets[0])
        self._notes.append("this validator did not judge the epoch: no scores and no result.json")
        return Recorded(self._folder, len(judged), 0, result=False, notes=tuple(self._notes))

    def _common(
        self, header: EpochHeader, neurons: Iterable[Neuron], rules_text: str, commitments: Iterable[Commitment]
    ) -> None:
        revisions = {name: self._source.live.revision(name) for name in DATASETS}
        self._json("recording.json", {"schema": SCHEMA, **asdict(header), "revisions": revisions})
        self._json("metagraph.json", [asdict(neuron) for neuron in neurons])
        self._json("commitments.json", [asdict(commitment) for commitment in commitments])
        (self._folder / "rules.yaml").write_bytes(rules_text.encode())

    def _proteins(self, proteins: Iterable[Protein]) -> None:
        pool = self._source.live.pool
        _write_fasta(self._folder / "proteins.fasta", pool)
        known = dict(pool)
        others = [(p.code, p.sequence) for p in proteins if p.sequence and p.sequence != known.get(p.code)]
        if others:
            _write_fasta(self._folder / "sequences.fasta", others)

    def _fetched(self, commitments: Iterable[Commitment]) -> None:
        """Files, push times and signatures as they were served; outages as they were suffered."""
        contents, push_times = self._facts(FactKind.CONTENT), self._facts(FactKind.PUSH_TIME)
        outages: dict[str, Any] = {"warnings": sorted(self._facts(FactKind.WARNING)), "contents": {}, "signatures": {}}
        for archive in self._facts(FactKind.ARCHIVE).values():
            if archive.state is FactState.UNAVAILABLE:
                outages["archive"] = archive.detail or "the archive was unavailable"
        times: dict[str, str] = {}
        for commitment in commitments:
            with suppress(SubmissionRejected):
                key = str(parse_github_path(commitment.data))
                fact = contents.get(key)
                if fact is None:
                    outages["contents"][key] = "it was not fetched"
                elif fact.state is FactState.UNAVAILABLE:
                    outages["contents"][key] = fact.detail or "it could not be fetched"
                elif fact.state is not FactState.ABSENT:
                    self._content(key, fact)
                if key in push_times and push_times[key].value:
                    times[key] = (push_times[key].value or b"").decode()
        signatures: dict[str, str] = {}
        for drand_round, fact in self._facts(FactKind.SIGNATURE).items():
            if fact.state is FactState.HELD:
                signatures[drand_round] = (fact.value or b"").decode()
            elif fact.state is FactState.UNAVAILABLE:
                outages["signatures"][drand_round] = fact.detail or "no endpoint gave it"
        (self._folder / "github" / "contents").mkdir(parents=True, exist_ok=True)
        self._json("github/push_times.json", times)
        self._json("drand.json", {"chain": QUICKNET_CHAIN, "signatures": signatures})
        if any(outages.values()):
            self._json("outages.json", outages)

    def _content(self, key: str, fact: Fact) -> None:
        path = self._folder / "github" / "contents" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # of a file that is too large only that is kept
            path.write_bytes(b"\0" * 20_481 if fact.state is FactState.TOO_LARGE else fact.value or b"")
        except OSError as error:
            self._notes.append(f"{key!r:.120} cannot be a file here: {error.strerror}")

    def _database(self, commitments: Iterable[Commitment], uid_of: Mapping[str, int], rules: RuleSet) -> None:
        """The reactions, and the building blocks that the submissions name."""
        wanted: set[int] = set()
        for commitment in commitments:
            # whatever cannot be opened names no molecule
            with suppress(SubmissionRejected, ValidatorError, RoundNotReached, ContentNotFound, ContentTooLarge):
                path = parse_github_path(commitment.data)
                sealed = parse_submission(self._source.content(path))
                items = rules.parse(open_submission(self._source, uid_of[commitment.hotkey], sealed))
                wanted.update(number for number in rules.reactants(items) if number < 1 << 63)
        full = self._source.molecule_database()
        CombinatorialDatabase(full).close()
        _copy_subset(full, self._folder / "molecules.sqlite", wanted)

    def _archive(self, target: str) -> None:
        (self._folder / "archive").mkdir(exist_ok=True)
        try:
            found = self._source.archive(target)
        except SourceUnavailable as fault:
            self._notes.append(f"the archive is not recorded: {fault}")
            return
        if found.exists():
            shutil.copyfile(found, self._folder / "archive" / f"{target}_molecules.csv")

    def _scores(self, epoch: OpenEpoch) -> int:
        """``scores/*.csv`` as the models gave them; how many rows."""
        folder = self._folder / "scores"
        folder.mkdir()
        psichic = _pair_scores(epoch, ScoringModel.PSICHIC)
        boltz = _pair_scores(epoch, ScoringModel.BOLTZ)
        with (folder / "psichic.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["protein", "smiles", PSICHIC_METRIC])
            writer.writerows(
                [pair.protein, pair.smiles, repr(pair.metrics[PSICHIC_METRIC])] for pair in psichic if pair.metrics
            )
        names = sorted({name for pair in boltz for name in pair.metrics}) or [_USUAL_METRIC]
        with (folder / "boltz.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["smiles", *names])
            writer.writerows(
                [pair.smiles, *(repr(pair.metrics[name]) if name in pair.metrics else "" for name in names)]
                for pair in boltz
                if pair.metrics
            )
        failed = [
            (model.value, pair.protein, pair.smiles, pair.error)
            for model, pairs in ((ScoringModel.PSICHIC, psichic), (ScoringModel.BOLTZ, boltz))
            for pair in pairs
            if pair.error
        ]
        if failed:
            with (folder / FAILURES_FILE).open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([FAILURES_COLUMNS, *failed])
        return len(psichic) + len(boltz)

    def _facts(self, kind: FactKind) -> dict[str, Fact]:
        with get_store().reading() as session:
            return Facts(session).all(self._source.reference, kind)

    def _json(self, name: str, document: Any) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _pair_scores(epoch: OpenEpoch, model: ScoringModel) -> list[PairScore]:
    """Every score of a model that the store has for this epoch."""
    proteins = rules_of(epoch).proteins(epoch, model)
    if epoch.scores == "recorded":
        proteins = tuple(Protein(protein.code, None) for protein in proteins)
    found: dict[tuple[str, str], PairScore] = {}
    with get_store().reading() as session:
        for batch in Epochs(session).batches(epoch.id, model):
            found |= Scores(session).known(batch.model_digest or "", proteins, batch.smiles)
    return list(found.values())


def _write_fasta(path: Path, proteins: Iterable[tuple[str, str | None]]) -> None:
    path.write_text("".join(f">{code}\n{sequence or ''}\n" for code, sequence in proteins), encoding="utf-8")


def _copy_subset(full: Path, subset: Path, wanted: Iterable[int]) -> None:
    """Both tables with their own columns; of the molecules only those wanted."""
    with closing(sqlite3.connect(f"file:{full}?mode=ro", uri=True)) as source, closing(sqlite3.connect(subset)) as copy:
        for table in ("reactions", "molecules"):
            (statement,) = source.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
            ).fetchone()
            copy.execute(statement)
        rows = source.execute("SELECT * FROM reactions").fetchall()
        _insert(copy, "reactions", rows)
        for mol_id in sorted(wanted):
            _insert(copy, "molecules", source.execute("SELECT * FROM molecules WHERE mol_id = ?", (mol_id,)).fetchall())
        copy.commit()


def _insert(copy: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        marks = ",".join("?" * len(rows[0]))
        copy.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)  # noqa: S608  (our own table names)
