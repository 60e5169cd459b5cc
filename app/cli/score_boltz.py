"""`python -m app score boltz …`: score molecules at the desk with the validator's own Boltz-2."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.score import ScoreInputError, read_fasta, read_smiles, score_app
from app.domain import PairScore, Protein

_FIRST_COLUMNS: Final = ("affinity_probability_binary", "affinity_pred_value", "confidence_score")


@score_app.command("boltz")
def boltz(
    smiles: Annotated[Path, typer.Option("--smiles", help="CSV with a column 'smiles'.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write: protein, smiles, metrics, error.")],
    sequence: Annotated[str | None, typer.Option("--sequence", help="Protein in one-letter residue codes.")] = None,
    fasta: Annotated[Path | None, typer.Option("--fasta", help="Proteins to score against.")] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="live: the subnet's float32; fast: bf16, other numbers, for screening.")
    ] = "live",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first N molecules.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder with the Boltz-2 files; BOLTZ_CACHE by default.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; by default cuda where there is one.")
    ] = None,
) -> None:
    """Predict affinities with Boltz-2, exactly as the validator does: one protein, one ligand, no MSA."""
    proteins = _proteins(sequence, fasta)
    molecules = read_smiles(smiles, limit)
    scores = _scores(proteins, molecules, profile, cache, device)
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


def _scores(
    proteins: list[Protein], molecules: list[str], profile: str, cache: Path | None, device: str | None
) -> list[PairScore]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.cli.terminal import Console
    from gpu.boltz import PROFILES
    from gpu.boltz.files import scorer_from_cache

    if profile not in PROFILES:
        raise ScoreInputError(f"there is no profile {profile!r}; choose one of {', '.join(PROFILES)}.")
    scorer = scorer_from_cache(cache, PROFILES[profile], device)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs"), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("scoring", total=len(proteins) * len(set(molecules)))
            return scorer.pair_scores(proteins, molecules, lambda _: progress.advance(bar))
    finally:
        scorer.close()


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
