"""A folder and an epoch's facts: imported from it for a replay, exported to it for an audit."""

from __future__ import annotations

import csv
import logging
import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.domain import (
    PSICHIC_METRIC,
    Commitment,
    PairScore,
    ScoringModel,
    SubmissionRejected,
    ValidatorError,
)
from app.epochs import documents
from app.epochs.capture import (
    OPENING,
    SUBMISSIONS,
    Capture,
    closed_epoch,
    process_subtensor,
    sealed_round,
    well_formed_paths,
)
from app.epochs.facts import (
    COMMITMENTS_FILE,
    DATABASE_FILE,
    HEADER_FILE,
    METAGRAPH_FILE,
    POOL_FILE,
    RULES_FILE,
    EpochFacts,
    MemorySheet,
    StoredSheet,
    keep_warnings,
)
from app.epochs.opening import opening_of
from app.epochs.recorded_scores import (
    FAILURES_COLUMNS,
    FAILURES_FILE,
    RECORDED,
    SCORE_FILES,
    ScoreTable,
    item_column,
    keep_scores,
    names_protein,
    recorded_proteins,
    score_tables,
)
from app.epochs.result import report_text
from app.epochs.rules import RuleSet, build_report, parse_rules, rules_of
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Fact, FactKind, FactState
from app.store.records import OpenEpoch, Stage, SubmissionRecord
from app.store.scores import Scores
from app.untrusted import quoted
from chain.epochs import ClosedEpoch, last_closed_epoch
from chain.github_path import GitHubPath, parse_github_path
from chain.sources import ContentNotFound, ContentTooLarge, SourceError
from chain.submission import MAX_SUBMISSION_BYTES, open_submission, parse_submission
from chain.timelock import QUICKNET_CHAIN
from chem.database import CombinatorialDatabase
from chem.nanobodies.tools import FILES, Figures

# What is no document of its own: facts of every kind, by the names that rule sets give them.
_FILES: Final = ("*.csv", "archive/*", "msa/*", "scores/*")
_DOCUMENTS: Final = (HEADER_FILE, RULES_FILE, METAGRAPH_FILE, COMMITMENTS_FILE, POOL_FILE, DATABASE_FILE)
_SCORE_TABLES: Final = frozenset(f"scores/{name}" for name in (*SCORE_FILES.values(), FAILURES_FILE))

_SCORED: Final = frozenset({Stage.CLOSED, Stage.DONE})
_NOT_OPENED: Final = frozenset({Stage.ANNOUNCED, Stage.MISSED, Stage.FAILED})

# The column of a table in which nothing was scored.
_USUAL_METRICS: Final = {
    ScoringModel.PSICHIC: PSICHIC_METRIC,
    ScoringModel.BOLTZ: "affinity_probability_binary",
    ScoringModel.BOLTZGEN: "design_iiptm",
}

# What the database's key holds.
_LARGEST_ID: Final = (1 << 63) - 1

log = logging.getLogger("celery_validator.recording")


class RecorderError(ValidatorError):
    """The epoch cannot be recorded; the message says why."""


# -- from a folder ----------------------------------------------------------------------------------------------------


class Recording:
    """A folder that holds every outside fact of one epoch, read and checked; nothing of it is written or fetched.

    Raises:
        SourceError: a file is missing or malformed; names the file, and the place in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder; give the folder that holds recording.json")
        self.folder = folder
        self.sheet = MemorySheet()
        self.facts = EpochFacts(self.sheet)
        self._read_files()
        self.header = documents.parse_header(self._text(HEADER_FILE), self._name(HEADER_FILE))
        documents.parse_metagraph(self._text(METAGRAPH_FILE), self._name(METAGRAPH_FILE))
        documents.parse_fasta(self._text(POOL_FILE), self._name(POOL_FILE))
        self.rules_text = self._text(RULES_FILE)
        commitments = documents.parse_commitments(self._text(COMMITMENTS_FILE), self._name(COMMITMENTS_FILE))
        outages = documents.Outages()
        if self._has("outages.json"):
            outages = documents.parse_outages(self._text("outages.json"), self._name("outages.json"))
        self._read_outages(outages)
        self._read_sequences()
        self._read_push_times()
        paths = list(well_formed_paths(commitments))
        self._read_contents(paths)
        self._read_signatures(paths)
        for part in (OPENING, SUBMISSIONS):
            self.sheet.keep(FactKind.CAPTURED, {part: Fact(FactState.HELD)})

    @property
    def scores_folder(self) -> Path | None:
        """The folder of recorded scores, where there is one."""
        folder = self.folder / "scores"
        return folder if folder.is_dir() else None

    def check_scores(self) -> None:
        """Read the score tables. Raises SourceError naming file and line."""
        for table in self._score_tables:
            table.check()

    def announce(
        self, session: Session, scores: str, cluster: str, *, without_boltz: bool = False, run: str | None = None
    ) -> int:
        """Write the recording into the store as an epoch that publishes nothing; its id.

        Args:
            scores: ``recorded`` takes the recording's scores, ``model`` runs the models.
            run: a name of its own, where it is to be found again.
        """
        epoch_id = Epochs(session).announce(
            run or f"replay:{uuid.uuid4()}", self.header, scores, cluster, without_boltz=without_boltz
        )
        sheet = StoredSheet(epoch_id, session)
        self.sheet.copy_to(sheet)
        if scores == RECORDED:
            sheet.keep(FactKind.SCORES, keep_scores(session, self._score_tables))
        return epoch_id

    @cached_property
    def _score_tables(self) -> tuple[ScoreTable, ...]:
        return () if self.scores_folder is None else score_tables(self.scores_folder)

    def _read_files(self) -> None:
        for name in _DOCUMENTS:
            if self._has(name):
                self.sheet.keep_file(name, self.folder / name)
        for pattern in _FILES:
            for path in self.folder.glob(pattern):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and name not in _SCORE_TABLES:
                    self.sheet.keep_file(name, path)

    def _read_outages(self, outages: documents.Outages) -> None:
        if outages.archive:
            self.sheet.keep(FactKind.FILE, {"archive/": Fact(FactState.UNAVAILABLE, detail=outages.archive)})
        for kind, causes in ((FactKind.CONTENT, outages.contents), (FactKind.SIGNATURE, outages.signatures)):
            self.sheet.keep(kind, {key: Fact(FactState.UNAVAILABLE, detail=cause) for key, cause in causes.items()})
        keep_warnings(self.sheet, outages.warnings)

    def _read_sequences(self) -> None:
        if self._has("sequences.fasta"):
            known = dict(documents.parse_fasta(self._text("sequences.fasta"), self._name("sequences.fasta")))
            held = {code: Fact(FactState.HELD, sequence.encode()) for code, sequence in known.items() if sequence}
            self.sheet.keep(FactKind.SEQUENCE, held)

    def _read_push_times(self) -> None:
        name = "github/push_times.json"
        if self._has(name):
            times = documents.parse_push_times(self._text(name), self._name(name))
            held = {key: Fact(FactState.HELD, text.encode("utf-8", "replace")) for key, text in times.items()}
            self.sheet.keep(FactKind.PUSH_TIME, held)

    def _read_contents(self, paths: Iterable[GitHubPath]) -> None:
        self.sheet.keep(FactKind.CONTENT, {str(path): self._content(path) for path in paths})

    def _read_signatures(self, paths: Iterable[GitHubPath]) -> None:
        signatures = documents.parse_signatures(self._text("drand.json"), self._name("drand.json"))
        held = {key: Fact(FactState.HELD, text.encode("utf-8", "replace")) for key, text in signatures.items()}
        self.sheet.keep(FactKind.SIGNATURE, held)
        contents = self.sheet.all(FactKind.CONTENT)
        rounds = (sealed_round(contents[str(path)].value, path) for path in paths)
        # a round that was asked for and has no signature had not been reached
        self.sheet.keep(
            FactKind.SIGNATURE, {str(number): Fact(FactState.NOT_REACHED) for number in rounds if number is not None}
        )

    def _content(self, path: GitHubPath) -> Fact:
        """The served bytes; never more than a submission may hold is read, and nothing outside the folder."""
        root = (self.folder / "github" / "contents").resolve()
        try:
            file = (root / str(path)).resolve()
            if not file.is_relative_to(root) or not file.is_file():
                return Fact(FactState.ABSENT)
            with file.open("rb") as stream:
                content = stream.read(MAX_SUBMISSION_BYTES + 1)
        except (OSError, ValueError):
            return Fact(FactState.ABSENT)
        return Fact(FactState.TOO_LARGE) if len(content) > MAX_SUBMISSION_BYTES else Fact(FactState.HELD, content)

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _name(self, name: str) -> str:
        return str(self.folder / name)

    def _text(self, name: str) -> str:
        return documents.read_text(self.folder / name, self._name(name))


# -- to a folder ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written: the folder, the counts, and what is missing from it."""

    folder: Path
    submissions: int
    scores: int
    result: bool
    notes: tuple[str, ...]


def record(number: int, folder: Path) -> Recorded:
    """Record an epoch of this validator's subnet, from the store where it knows it, else from the network.

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
        header = None if epoch_id is None else epochs.header(epoch_id)
        opened = epoch_id is not None and epochs.summary(epoch_id).stage not in _NOT_OPENED
    closed = _closed_epoch(number, settings) if header is None else closed_epoch(header)
    if opened and epoch_id is not None:
        return _of_stored(epoch_id, closed, folder)
    sheet = MemorySheet()
    Capture(closed, sheet).opening()
    opening = opening_of(EpochFacts(sheet))
    rules, judged = parse_rules(opening.rules_text), opening.commitments
    capture = Capture(closed, sheet, push_time_branch=rules.push_time_branch)
    capture.give_up(capture.submissions([commitment for _, commitment in judged]))
    notes = _export(EpochFacts(sheet), rules, judged, folder)
    notes.append("this validator did not judge the epoch: no scores and no result.json")
    return Recorded(folder, len(judged), 0, result=False, notes=tuple(notes))


def _closed_epoch(number: int, settings: Settings) -> ClosedEpoch:
    last, _ = last_closed_epoch(process_subtensor(settings), settings.netuid)
    if number > last.number:
        raise RecorderError(f"epoch {number} has not closed; the last that has is {last.number}")
    return ClosedEpoch(settings.netuid, (number + 1) * last.epoch_length, last.epoch_length)


def _of_stored(epoch_id: int, closed: ClosedEpoch, folder: Path) -> Recorded:
    """From what this validator judged the epoch on."""
    with get_store().reading() as session:
        epochs = Epochs(session)
        epoch, summary = epochs.get(epoch_id), epochs.summary(epoch_id)
        submissions, warnings = epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        rules_text = epochs.rules_text(epoch_id)
    sheet = StoredSheet(epoch_id)
    # facts that an older version did not keep, or that have been forgotten, are asked for again; these are frozen
    if RULES_FILE not in sheet.all(FactKind.FILE):
        sheet.keep_file(RULES_FILE, rules_text.encode())
    Capture(closed, sheet).opening()
    judged = [(submission.uid, submission.commitment) for submission in submissions]
    notes = _export(EpochFacts(sheet), rules_of(epoch), judged, folder)
    _export_figures(EpochFacts(sheet), submissions, folder)
    scores = _export_scores(epoch, folder / "scores") if summary.stage in _SCORED else 0
    if summary.stage is Stage.DONE:
        report = build_report(epoch, summary, submissions, warnings)
        (folder / "result.json").write_text(report_text(report), encoding="utf-8")
    else:
        notes.append(f"the epoch is still {summary.stage.value}: no result.json")
    return Recorded(folder, len(judged), scores, summary.stage is Stage.DONE, tuple(notes))


def _export(facts: EpochFacts, rules: RuleSet, judged: Sequence[tuple[int, Commitment]], folder: Path) -> list[str]:
    """Write the facts as a recording; what could not be written, in sentences."""
    notes: list[str] = []
    revisions = {name: (fact.value or b"").decode() for name, fact in facts.of_kind(FactKind.REVISION).items()}
    header = documents.header_document(facts.header()) | ({"revisions": revisions} if revisions else {})
    (folder / HEADER_FILE).write_text(documents.json_text(header), encoding="utf-8")
    outages: dict[str, Any] = {"warnings": facts.warnings(), "contents": {}, "signatures": {}}
    for name, fact in facts.of_kind(FactKind.FILE).items():
        if fact.state is FactState.UNAVAILABLE:
            outages["archive"] = fact.detail or "the archive was unavailable"
            notes.append(f"{name} is not recorded: {outages['archive']}")
        elif name not in {HEADER_FILE, DATABASE_FILE} and (path := facts.file(name)) is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    (folder / "archive").mkdir(exist_ok=True)
    _export_sequences(facts, folder)
    _export_contents(facts, [commitment for _, commitment in judged], folder, outages["contents"], notes)
    signatures: dict[str, str] = {}
    for drand_round, fact in facts.of_kind(FactKind.SIGNATURE).items():
        if fact.state is FactState.HELD:
            signatures[drand_round] = (fact.value or b"").decode()
        elif fact.state is FactState.UNAVAILABLE:
            outages["signatures"][drand_round] = fact.detail or "no endpoint gave it"
    drand = {"chain": QUICKNET_CHAIN, "signatures": signatures}
    (folder / "drand.json").write_text(documents.json_text(drand), encoding="utf-8")
    if any(outages.values()):
        (folder / "outages.json").write_text(documents.json_text(outages), encoding="utf-8")
    full = facts.molecule_database()
    CombinatorialDatabase(full).close()
    _copy_subset(full, folder / DATABASE_FILE, set(_building_blocks(facts, rules, judged)))
    return notes


def _export_figures(facts: EpochFacts, submissions: Iterable[SubmissionRecord], folder: Path) -> None:
    """What programs found out of nanobodies, here or where the epoch was recorded."""
    figures = Figures.of_files([facts.file(name) for name in FILES])
    for submission in submissions:
        for track in submission.tracks.values():
            figures.update(Figures.of_tables(track.figures))
    for name, text in figures.tables().items():
        (folder / name).write_text(text, encoding="utf-8")


def _export_sequences(facts: EpochFacts, folder: Path) -> None:
    pool = dict(documents.parse_fasta(documents.read_text(folder / POOL_FILE, POOL_FILE), POOL_FILE))
    captured = facts.of_kind(FactKind.SEQUENCE)
    found = [(code, fact.value.decode()) for code, fact in captured.items() if fact.value]
    others = [(code, sequence) for code, sequence in found if sequence != pool.get(code)]
    if others:
        (folder / "sequences.fasta").write_text(documents.fasta(others), encoding="utf-8")


def _export_contents(
    facts: EpochFacts, judged: Iterable[Commitment], folder: Path, outages: dict[str, str], notes: list[str]
) -> None:
    """Files and push times as they were served, outages as they were suffered."""
    contents, push_times = facts.of_kind(FactKind.CONTENT), facts.of_kind(FactKind.PUSH_TIME)
    root = folder / "github" / "contents"
    root.mkdir(parents=True, exist_ok=True)
    times: dict[str, str] = {}
    for path in well_formed_paths(judged):
        key = str(path)
        fact = contents.get(key)
        if fact is None or fact.state is FactState.UNAVAILABLE:
            outages[key] = (fact.detail if fact else None) or "it was not fetched"
        elif fact.state is not FactState.ABSENT:
            try:
                (root / key).parent.mkdir(parents=True, exist_ok=True)
                # of a file that is too large only that is kept
                kept = b"\0" * (MAX_SUBMISSION_BYTES + 1) if fact.state is FactState.TOO_LARGE else fact.value or b""
                (root / key).write_bytes(kept)
            except OSError as error:
                notes.append(f"{quoted(key, 120)} cannot be a file here: {error.strerror}")
        if key in push_times and push_times[key].value:
            times[key] = (push_times[key].value or b"").decode()
    (folder / "github" / "push_times.json").write_text(documents.json_text(times), encoding="utf-8")


def _building_blocks(facts: EpochFacts, rules: RuleSet, judged: Iterable[tuple[int, Commitment]]) -> Iterator[int]:
    """The building blocks that the submissions name."""
    for uid, commitment in judged:
        try:
            sealed = parse_submission(facts.content(parse_github_path(commitment.data)))
            items = rules.parse(open_submission(facts, uid, sealed))
            yield from (number for number in rules.reactants(items) if number <= _LARGEST_ID)
        # whatever cannot be opened names no molecule; examining it says why
        except (SubmissionRejected, ValidatorError, ContentNotFound, ContentTooLarge):
            continue
        except Exception:
            log.exception("the submission of UID %s could not be opened", uid)


def _export_scores(epoch: OpenEpoch, folder: Path) -> int:
    """``scores/*.csv`` as the models gave them; how many rows."""
    folder.mkdir(exist_ok=True)
    found = {model: _pair_scores(epoch, model) for model in rules_of(epoch).models}
    for model, pairs in found.items():
        metrics = sorted({name for pair in pairs for name in pair.metrics}) or [_USUAL_METRICS[model]]
        keys = [*(["protein"] if names_protein(model) else []), item_column(model)]
        _write_csv(
            folder / SCORE_FILES[model],
            [*keys, *metrics],
            (
                [
                    *([pair.protein] if names_protein(model) else []),
                    pair.smiles,
                    *(repr(pair.metrics[name]) if name in pair.metrics else "" for name in metrics),
                ]
                for pair in pairs
                if pair.metrics
            ),
        )
    failed = [
        [model.value, pair.protein, pair.smiles, pair.error]
        for model, pairs in found.items()
        for pair in pairs
        if pair.error
    ]
    if failed:
        _write_csv(folder / FAILURES_FILE, FAILURES_COLUMNS, failed)
    return sum(map(len, found.values()))


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def _pair_scores(epoch: OpenEpoch, model: ScoringModel) -> list[PairScore]:
    """Every score of a model that the store has for this epoch."""
    proteins = rules_of(epoch).proteins(epoch, model)
    if epoch.scores == RECORDED:
        proteins = recorded_proteins(model, proteins)
    found: dict[tuple[str, str], PairScore] = {}
    with get_store().reading() as session:
        for batch in Epochs(session).batches(epoch.id, model):
            found |= Scores(session).known(batch.model_digest or "", proteins, batch.smiles)
    return list(found.values())


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
