"""`python -m app score boltz …`: score molecules at the desk with the validator's own Boltz-2."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.score import ScoreInputError, read_fasta, read_smiles, score_app
from app.domain import PairScore, Protein

if TYPE_CHECKING:
    from gpu.boltz import BoltzScorer

_FIRST_COLUMNS: Final = ("affinity_probability_binary", "affinity_pred_value", "confidence_score")


@score_app.command("boltz")
def boltz(
    smiles: Annotated[Path, typer.Option("--smiles", help="CSV with a column 'smiles'.")],
    out: Annotated[Path | None, typer.Option("--out", help="CSV to write: protein, smiles, metrics, error.")] = None,
    sequence: Annotated[str | None, typer.Option("--sequence", help="Protein in one-letter residue codes.")] = None,
    fasta: Annotated[Path | None, typer.Option("--fasta", help="Proteins to score against.")] = None,
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="live: the subnet's float32; live-2026: its bf16 since 2026; fast: other numbers, for screening.",
        ),
    ] = "live",
    alignment: Annotated[
        Path | None, typer.Option("--alignment", help="The protein's alignment in A3M, its sequence first.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first N molecules.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder with the Boltz-2 files; BOLTZ_CACHE by default.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; by default cuda where there is one.")
    ] = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove-independence",
            help="Score each molecule alone and in company of others, and compare every bit; exit 1 where one differs.",
        ),
    ] = False,
    company: Annotated[
        Path | None,
        typer.Option("--company", help="CSV with a column 'smiles': the others; well-known molecules by default."),
    ] = None,
) -> None:
    """Predict affinities with Boltz-2, exactly as the validator does: one protein, one ligand."""
    if out is None and not prove:
        raise ScoreInputError("name the CSV file to write by --out, or ask for --prove-independence.")
    proteins = _aligned(_proteins(sequence, fasta), alignment)
    molecules = read_smiles(smiles, limit)
    with _scorer(profile, cache, device) as scorer:
        if prove:
            scores = _proof(scorer, proteins, molecules, read_smiles(company) if company else None)
        else:
            with _progress(len(proteins) * len(set(molecules))) as advance:
                scores = scorer.pair_scores(proteins, molecules, advance)
    if out is None:
        return
    _write(out, scores)
    failed = sum(score.error is not None for score in scores)
    typer.echo(f"{len(scores) - failed} of {len(scores)} pairs scored, written to {out}", err=True)


def _proteins(sequence: str | None, fasta: Path | None) -> list[Protein]:
    if (sequence is None) == (fasta is None):
        raise ScoreInputError("name the protein once: by --sequence or by --fasta.")
    if fasta is not None:
        return read_fasta(fasta)
    assert sequence is not None
    residues = "".join(sequence.split()).upper()
    if not residues or not residues.isascii() or not residues.isalpha():
        raise ScoreInputError(f"--sequence {sequence[:40]!r} is not a protein; use one-letter residue codes.")
    return [Protein("sequence", residues)]


def _aligned(proteins: list[Protein], alignment: Path | None) -> list[Protein]:
    if alignment is None:
        return proteins
    if len(proteins) > 1:
        raise ScoreInputError(f"--alignment is one protein's, but there are {len(proteins)}; score them one by one.")
    try:
        text = alignment.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreInputError(f"{alignment} cannot be read as an A3M file: {error}.") from error
    return [replace(proteins[0], alignment=text)]


@contextlib.contextmanager
def _scorer(profile: str, cache: Path | None, device: str | None) -> Iterator[BoltzScorer]:
    from gpu.boltz import PROFILES
    from gpu.boltz.files import scorer_from_cache

    if profile not in PROFILES:
        raise ScoreInputError(f"there is no profile {profile!r}; choose one of {', '.join(PROFILES)}.")
    scorer = scorer_from_cache(cache, PROFILES[profile], device)
    try:
        yield scorer
    finally:
        scorer.close()


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[PairScore], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.cli.terminal import Console

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("scoring", total=total)
        yield lambda _: progress.advance(bar)


def _proof(
    scorer: BoltzScorer, proteins: list[Protein], molecules: list[str], company: Sequence[str] | None
) -> list[PairScore]:
    """Print the table, one row per pair; returns the scores alone.

    Raises:
        typer.Exit: with 1 where a bit differs.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from app.cli.terminal import Console
    from gpu.boltz.independence import COMPANY, prove_independence, scorings

    others = COMPANY if company is None else company
    table = Table(box=box.SIMPLE)
    for title in ("protein", "molecule", *_FIRST_COLUMNS, "in company", "largest difference"):
        table.add_column(title, overflow="fold")
    found = []
    with _progress(len(proteins) * scorings(molecules, others)) as advance:
        for protein in proteins:
            found += prove_independence(scorer, protein, molecules, others, advance, scorer.close)
    for proof in found:
        alone, differing = proof.alone, proof.differing
        table.add_row(
            escape(alone.protein),
            escape(alone.smiles),
            *(_cells(alone.metrics, _FIRST_COLUMNS) if alone.error is None else (escape(alone.error), "", "")),
            f"differs {' and '.join(differing)}" if differing else "the same bits",
            repr(max(proof.largest_difference(name) for name in _FIRST_COLUMNS)),
        )
    Console().print(table)
    changed = sum(bool(proof.differing) for proof in found)
    typer.echo(f"{changed} of {len(found)} pairs change in company of other molecules; model {scorer.digest[:16]}")
    if changed:
        raise typer.Exit(1)
    return [proof.alone for proof in found]


def _write(out: Path, scores: list[PairScore]) -> None:
    """One row per pair; the file appears whole."""
    names = sorted({name for score in scores for name in score.metrics} - set(_FIRST_COLUMNS))
    columns = (*_FIRST_COLUMNS, *names)
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("protein", "smiles", *columns, "error"))
            for score in scores:
                writer.writerow((score.protein, score.smiles, *_cells(score.metrics, columns), score.error or ""))
        partial.replace(out)
    except OSError as error:
        raise ScoreInputError(f"the scores cannot be written to {out}: {error}.") from error


def _cells(metrics: Mapping[str, float], columns: tuple[str, ...]) -> list[str]:
    return [repr(metrics[name]) if name in metrics else "" for name in columns]
