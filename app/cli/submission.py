"""``python -m app submission …``: what a miner needs before committing: would it be accepted, and the sealed file."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from app.cli.terminal import Console
from app.domain import BLOCK, Rejection, SubmissionRejected, ValidatorError
from app.settings import get_settings
from app.untrusted import quoted, shown

if TYPE_CHECKING:
    from rich.table import Table

    from app.domain import Challenge
    from app.epochs.facts import EpochFacts
    from app.epochs.rules import RuleSet

submission_app = typer.Typer(no_args_is_help=True, help="Check and seal a miner's submission.")

EXIT_REFUSED: Final = 1


# The file must open a little before the epoch ends, and not before the last chance to commit has passed.
_SAFETY_BLOCKS: Final = 2

_UID: Final = re.compile(r"[0-9]{1,9}")

# This much of the sealed text is shown.
_SHOWN_SEALED: Final = 160


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a validator would say of a submission.

    ``accepted`` is None where no track counts and one could not be judged on this machine. ``scores`` are per molecule,
    where the weights are there; ``sealed`` is the text that would be encrypted; ``tracks`` is what became of each track
    and of each item in it, in an era that has several.
    """

    accepted: bool | None
    rejection: Rejection | None
    molecules: int
    entropy: float | None
    scores: tuple[float | None, ...] | None
    note: str | None
    sealed: str = ""
    tracks: Mapping[str, Any] = field(default_factory=dict)


@submission_app.command()
def check(
    submission: Annotated[str, typer.Argument(metavar="FILE|NAMES", help="A file of names, or the names themselves.")],
    recording: Annotated[Path | None, typer.Option(help="Check against this recorded epoch.")] = None,
    database: Annotated[Path | None, typer.Option(help="molecules.sqlite; the live one by default.")] = None,
    archive: Annotated[
        Path | None, typer.Option(help="CSV of molecules already used; the live one by default.")
    ] = None,
    uid: Annotated[int | None, typer.Option(min=0, help="Your UID, where the file begins with one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Would this submission be accepted, and if not, why; exit 1 where it would not, or where that is not known."""
    text, notes = read_submission(submission)
    plaintext, uid = _plaintext(text, uid)
    for option, path in (("--database", database), ("--archive", archive)):
        if path is not None and not path.is_file():
            raise ValidatorError(f"{option} {path} is not a file")
    epoch, start_hash = _epoch(recording, needed=database is None or archive is None)
    rules = _rules(epoch)
    verdict = verdict_on(plaintext, uid, rules, _Facts(epoch, database, archive), start_hash)
    verdict = replace(verdict, sealed=plaintext, note="; ".join(filter(None, (*notes, verdict.note))) or None)
    if as_json:
        # escapes in names stay JSON's own
        typer.echo(json.dumps(asdict(verdict), indent=1))
    else:
        _print(verdict)
    if not verdict.accepted:
        raise typer.Exit(EXIT_REFUSED)


@submission_app.command()
def seal(
    submission: Annotated[str, typer.Argument(metavar="FILE|NAMES", help="A file of names, or the names themselves.")],
    uid: Annotated[int, typer.Option(min=0, help="Your UID: it is sealed in.")],
    where: Annotated[str, typer.Option("--to", metavar="OWNER/REPO/BRANCH/PATH", help="Folder you will push it to.")],
    drand_round: Annotated[
        int | None, typer.Option("--round", min=1, help="drand round; the running epoch's by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write the file into.")] = Path(),
) -> None:
    """Encrypt a submission for the epoch's drand round; prints the file and the path to commit."""
    from chain.github_path import parse_github_path
    from chain.submission import text_of
    from chain.timelock import round_time
    from chain.timelock import seal as seal_bytes

    rules = _rules(None)
    text, notes = read_submission(submission)
    plaintext, _ = _plaintext(text, uid)
    try:
        rules.parse(text_of(plaintext, uid))
    except SubmissionRejected as refusal:
        raise ValidatorError(refusal.rejection.message) from None
    chosen = drand_round if drand_round is not None else _round_of_running_epoch(rules)
    content = repr((chosen, seal_bytes(plaintext.encode(), chosen))).encode()
    name = f"{hashlib.sha256(content).hexdigest()[:20]}.txt"
    path = f"{where.strip('/')}/{name}"
    try:
        parse_github_path(path)
    except SubmissionRejected as refusal:
        raise ValidatorError(f"--to: {refusal.rejection.message}") from None
    _check_size(content, path)
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(content)
    console = Console()
    opens = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(round_time(chosen)))
    _print_sealed(plaintext, console)
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    console.print(f"Sealed for UID {uid} until drand round {chosen} ({opens}).")
    console.print(f"Push   {escape(str(out / name))}", highlight=False, soft_wrap=True)
    console.print(f"Commit {escape(path)}", highlight=False, soft_wrap=True)


def read_submission(submission: str) -> tuple[str, tuple[str, ...]]:
    """The names as they will be sealed, joined by commas (a leading ``uid:`` stays), and notes on how they were read.

    A text with line ends and no comma is a list, one name a line; of two tracks apart by ``|`` validators take off the
    blanks at both ends; any other text is taken exactly as it stands.

    Raises:
        ValidatorError: no such file, or not text.
    """
    notes: list[str] = []
    # unlike Path's: False also for what no file can be called
    if os.path.isfile(submission):  # noqa: PTH113
        text = _file_text(Path(submission), notes)
    elif any("\ud800" <= letter <= "\udfff" for letter in submission):
        raise ValidatorError(f"{quoted(submission)} is not text in UTF-8")
    elif any(mark in submission for mark in ":,|"):
        text = submission
    else:
        raise ValidatorError(
            f"{quoted(submission)} is neither a file nor a list of names such as rxn:4:123:456,rxn:5:…"
        )
    if "|" in text:
        return text.strip(), tuple(notes)
    if "\n" in text and "," not in text:
        text = ",".join(text.removesuffix("\n").split("\n"))
        notes.append("the file has one name a line; `submission seal` joins them with commas")
    if odd := next((name for name in text.split(",") if name != name.strip()), None):
        notes.append(
            f"a blank or line end is part of the name {quoted(odd)}: validators take every character as it stands"
        )
    return text, tuple(notes)


def _file_text(path: Path, notes: list[str]) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValidatorError(f"{path} cannot be read: {error.strerror}") from None
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    if encoding != "utf-8":
        found = "begins with a UTF-8 byte order mark" if encoding == "utf-8-sig" else "is UTF-16"
        notes.append(f"the file {found}; it is sealed as UTF-8 without the mark")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValidatorError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from None


def _plaintext(text: str, uid: int | None) -> tuple[str, int]:
    """What is sealed, ``uid:names``, and its UID: the one given, else the one that the text begins with, else 0."""
    prefix, separator, _ = text.partition(":")
    # not as it stands: of what strip takes for white space, int refuses some
    if separator and _UID.fullmatch(number := prefix.strip()):
        return text, int(number) if uid is None else uid
    return f"{uid or 0}:{text}", uid or 0


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts that the rules ask for: the files given, else those of an epoch."""

    epoch: EpochFacts | None
    database: Path | None
    archive: Path | None

    def molecule_database(self) -> Path:
        """The database given, else the epoch's."""
        if self.database is not None:
            return self.database
        assert self.epoch is not None
        return self.epoch.molecule_database()

    def file(self, name: str) -> Path | None:
        """The archive given stands for every target's."""
        if self.archive is not None and name.endswith("_molecules.csv"):
            return self.archive
        return None if self.epoch is None else self.epoch.file(name)


def verdict_on(plaintext: str, uid: int, rules: RuleSet, facts: _Facts, start_hash: str | None) -> Verdict:
    """What a validator says of the opened text and its items, and PSICHIC where it is one of the era's models.

    ``start_hash``: what the challenge is drawn from, where it is known.
    """
    from app.epochs.result import track_report
    from app.store.records import TrackStatus
    from chain.submission import text_of
    from chem.archive import read_archive

    if facts.archive is not None:
        read_archive(facts.archive)
    count = plaintext.count(",") + 1
    notes: list[str | None] = []
    try:
        items = rules.parse(text_of(plaintext, uid))
        count = sum(map(len, items.values()))
        challenge, drawn = _challenge(rules, facts, start_hash)
        notes = [drawn, *rules.fact_warnings(facts, challenge)]
        found = rules.inspection(facts, challenge)(uid, items)
    except SubmissionRejected as refused:
        return Verdict(False, refused.rejection, count, None, None, "; ".join(filter(None, notes)) or None)
    if found.tracks:
        counts = any(track.status is TrackStatus.VALID for track in found.tracks.values())
        accepted = counts or (None if found.rejection is None else False)
        return Verdict(
            accepted,
            found.rejection,
            len(found.molecules),
            found.entropy,
            None,
            "; ".join(filter(None, notes)) or None,
            tracks={name: track_report(track, "structure", "key") for name, track in found.tracks.items()},
        )
    scores, why = _scores([molecule.smiles for molecule in found.molecules], rules, challenge.targets[0], facts.epoch)
    notes.append(why)
    return Verdict(True, None, len(found.molecules), found.entropy, scores, "; ".join(filter(None, notes)) or None)


def _challenge(rules: RuleSet, facts: _Facts, start_hash: str | None) -> tuple[Challenge, str | None]:
    """The challenge in force: the recorded epoch's, else the running one's, else what does not depend on a draw."""
    from app.epochs.opening import drawn

    if (undrawn := rules.undrawn_challenge) is not None:
        return undrawn, None
    if facts.epoch is None or start_hash is None:
        raise ValidatorError("the rules draw a reaction for each epoch; give --recording, or let the chain be asked")
    challenge = drawn(rules, start_hash, facts.epoch.protein_pool(), facts.molecule_database())
    return challenge, f"this epoch's reaction: {challenge.allowed_reactions[0]}"


def _scores(
    smiles: list[str], rules: RuleSet, target: str, epoch: EpochFacts | None
) -> tuple[tuple[float | None, ...] | None, str | None]:
    """PSICHIC's score of each molecule against the weekly target, or why there is none."""
    from app.domain import PSICHIC_METRIC, Protein, ScoringModel

    settings = get_settings()
    if ScoringModel.PSICHIC not in rules.models:
        return None, None
    if settings.psichic_weights is None:
        return None, "no PSICHIC score: PSICHIC_WEIGHTS is not set"
    sequence = epoch.sequence(target) if epoch is not None else None
    if sequence is None:
        return None, f"no PSICHIC score: the sequence of {target} is unknown here"
    from gpu.scorers import build_scorer

    pairs = build_scorer(ScoringModel.PSICHIC, settings).pair_scores([Protein(target, sequence)], smiles)
    return tuple(pair.metrics.get(PSICHIC_METRIC) for pair in pairs), None


def _epoch(recording: Path | None, *, needed: bool) -> tuple[EpochFacts | None, str | None]:
    """The recorded epoch's facts, else those of the last that closed; and the hash that the challenge is drawn from.

    None where nothing outside is asked for.
    """
    from app.epochs.facts import EpochFacts, MemorySheet

    if recording is not None:
        from app.epochs.recording import Recording

        found = Recording(recording)
        return found.facts, found.header.start_block_hash
    if not needed:
        return None, None
    if get_settings().offline:
        raise ValidatorError("OFFLINE is set: give --recording, or --database and --archive")
    from app.epochs.capture import Capture, process_subtensor
    from app.store.database import get_store
    from app.store.schema import migrate
    from chain.epochs import last_closed_epoch

    migrate(get_store())
    closed, _ = last_closed_epoch(process_subtensor(), get_settings().netuid)
    # in memory, so that a check freezes nothing for the validator's own epoch
    sheet = MemorySheet()
    Capture(closed, sheet).opening()
    facts = EpochFacts(sheet)
    # the running epoch began where the last one ended
    return facts, facts.header().end_block_hash


def _rules(epoch: EpochFacts | None) -> RuleSet:
    from app.epochs.rules import parse_rules

    if epoch is not None:
        return parse_rules(epoch.rules_text())
    path = get_settings().rules_file
    try:
        return parse_rules("" if path is None else path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ValidatorError(f"RULES_FILE {path} cannot be read: {error.strerror}") from None


def _running_epoch() -> int:
    """The last block of the epoch that is running."""
    from app.epochs.capture import process_subtensor
    from chain.epochs import last_closed_epoch

    last, _ = last_closed_epoch(process_subtensor(), get_settings().netuid)
    return last.end_block + last.epoch_length


def _round_of_running_epoch(rules: RuleSet) -> int:
    """The drand round published between the last block that may commit and the epoch's end."""
    if get_settings().offline:
        raise ValidatorError("OFFLINE is set: give --round")
    from app.epochs.capture import process_subtensor
    from chain.timelock import round_at

    end = _running_epoch()
    chain = process_subtensor()
    head = chain.current_block()
    closes = end - rules.no_submission_blocks
    if head >= closes - 1:
        raise ValidatorError(
            f"block {head}: this epoch takes no more commitments (until {closes}); wait for block {end}"
        )
    opens = closes + min(_SAFETY_BLOCKS, rules.no_submission_blocks)
    return round_at(chain.block_time(head) + ((opens - head) * BLOCK).total_seconds())


def _check_size(content: bytes, path: str) -> None:
    from chain.submission import MAX_SUBMISSION_BYTES
    from chain.subtensor import MAX_COMMITMENT_BYTES

    if len(content) > MAX_SUBMISSION_BYTES:
        raise ValidatorError(f"the sealed file has {len(content)} bytes; validators read {MAX_SUBMISSION_BYTES}")
    if len(path.encode()) > MAX_COMMITMENT_BYTES:
        raise ValidatorError(f"the path has {len(path.encode())} bytes; a commitment holds {MAX_COMMITMENT_BYTES}")


def _print_sealed(plaintext: str, console: Console) -> None:
    size = len(plaintext.encode("utf-8", "replace"))
    console.print(f"sealed text ({size:,} bytes): {escape(shown(plaintext, _SHOWN_SEALED))}", highlight=False)


def _print(verdict: Verdict) -> None:
    console = Console()
    _print_sealed(verdict.sealed, console)
    if verdict.rejection is not None:
        refusal = verdict.rejection
        item = f" (molecule {refusal.index}: {shown(refusal.molecule)})"
        where = "" if refusal.index is None or verdict.tracks else item
        console.print(f"[bold red]refused:[/] {refusal.code.value}: {escape(refusal.message)}{escape(where)}")
    elif verdict.accepted is None:
        console.print("[bold yellow]not known:[/] what was entered cannot be judged on this machine")
    elif verdict.tracks:
        valid = [name for name, track in verdict.tracks.items() if track["status"] == "valid"]
        console.print(f"[bold green]accepted:[/] {' and '.join(valid)}")
    else:
        console.print(f"[bold green]accepted:[/] {verdict.molecules} molecules, entropy {verdict.entropy:.6f}")
    if verdict.tracks:
        console.print(_track_table(verdict.tracks))
    if verdict.scores is not None:
        known = [score for score in verdict.scores if score is not None]
        mean: Any = f"{sum(known) / len(known):.4f}" if known else "–"
        console.print(f"PSICHIC against the target: mean {mean} over {len(known)} of {len(verdict.scores)} molecules")
    if verdict.note:
        console.print(f"[yellow]note:[/] {escape(verdict.note)}")


def _track_table(tracks: Mapping[str, Any]) -> Table:
    """A row for each item: its verdict, why, and what of the archive it resembles most."""
    from rich.table import Table

    table = Table("track", "item", "verdict", "why, and what was measured")
    for name, track in tracks.items():
        refusal = track["rejection"]
        if refusal is not None and refusal not in [item["rejection"] for item in track["items"]]:
            table.add_row(name, "all", _verdict(track["status"], refusal), escape(refusal["message"]))
        elif not track["items"]:
            table.add_row(name, "–", "not entered", "")
        for item in track["items"]:
            refusal = item["rejection"]
            verdict = "" if refusal is None and track["rejection"] else _verdict("valid", refusal)
            table.add_row(name, escape(shown(item["name"], 60)), verdict, escape("; ".join(_measured(item))))
    return table


def _verdict(status: str, refusal: Mapping[str, Any] | None) -> str:
    if status == "unjudged":
        return "[yellow]not judged here[/]"
    return "[green]accepted[/]" if refusal is None else f"[red]{refusal['code']}[/]"


def _measured(item: Mapping[str, Any]) -> Iterator[str]:
    if item["rejection"] is not None:
        yield item["rejection"]["message"]
    if (nearest := item.get("nearest")) is not None:
        yield f"nearest archived: {nearest['smiles']} of {nearest['target']}, similarity {nearest['similarity']:.3f}"
    if (skipped := item.get("boltz_skips")) is not None:
        yield f"Boltz-2 does not score it: {skipped}"
    for figure in ("nativeness", "human_framework"):
        if item.get(figure) is not None:
            yield f"{figure.replace('_', ' ')} {item[figure]:.3f}"
