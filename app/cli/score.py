"""`python -m app score …`: score molecules at the desk with the validator's own models."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.domain import PSICHIC_METRIC, Protein, ValidatorError

if TYPE_CHECKING:
    from gpu.psichic.scorer import PsichicScorer

score_app = typer.Typer(help="Score molecules with the validator's own models.", no_args_is_help=True)

# On a GPU several tasks at a time, so that it works while the next ligands are read.
_LIGANDS_AT_ONCE: Final = {"cpu": 32, "cuda": 256}


@score_app.callback()
def group() -> None:
    """Score molecules with the validator's own models."""


class ScoreInputError(ValidatorError):
    """A FASTA, CSV or option from which nothing can be scored."""


def read_fasta(path: Path) -> list[Protein]:
    """The proteins of a FASTA file, named by the first word of each header.

    Letters are kept as written: PSICHIC reads lower case, gaps and stops as unknown residues. Raises
    :class:`ScoreInputError` where the file is empty, a record has no amino acid or shares its name with another, or a
    line holds what no sequence line may.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreInputError(f"{path} cannot be read as a FASTA file: {error}.") from error
    records: list[tuple[str, list[str]]] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line:
            continue
        if line.startswith(">"):
            words = line[1:].split(maxsplit=1)
            records.append((words[0] if words else f"protein_{len(records) + 1}", []))
            continue
        if not re.fullmatch(r"[A-Za-z*.\-]+", line):
            raise ScoreInputError(
                f"{path}, line {number}: {line[:40]!r} is not an amino acid sequence; "
                "use one-letter residue codes, one record after each '>' header."
            )
        if not records:
            records.append((path.stem, []))
        records[-1][1].append(line)
    if not records:
        raise ScoreInputError(f"{path} holds no sequence; give at least one record.")
    for name, parts in records:
        if not re.search(r"[ACDEFGHIKLMNPQRSTVWY]", "".join(parts)):
            raise ScoreInputError(f"{path}: the record {name!r} has no amino acid in one-letter code (upper case).")
    names = [name for name, _ in records]
    if len(set(names)) < len(names):
        raise ScoreInputError(f"{path}: two records share a name; name each protein once.")
    return [Protein(name, "".join(parts)) for name, parts in records]


def read_smiles(path: Path, limit: int | None = None) -> list[str]:
    """The column ``smiles`` of a CSV file, at most ``limit`` rows. Raises :class:`ScoreInputError`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "smiles" not in (reader.fieldnames or ()):
                raise ScoreInputError(f"{path} has no column 'smiles'; its header is {reader.fieldnames}.")
            smiles = [row["smiles"] or "" for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise ScoreInputError(f"{path} cannot be read as a CSV file: {error}.") from error
    if not smiles:
        raise ScoreInputError(f"{path} has a header but no molecule; add one SMILES per line.")
    return smiles if limit is None else smiles[:limit]


@score_app.command("psichic")
def psichic(
    smiles: Annotated[Path, typer.Option("--smiles", help="CSV with a column 'smiles'.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write: protein, smiles, score, error.")],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder with config.json, degree.pt, model.pt; without it, the untrained demo."),
    ] = None,
    fasta: Annotated[Path | None, typer.Option("--fasta", help="Proteins to score against.")] = None,
    esm: Annotated[Path | None, typer.Option("--esm", help="ESM-2 checkpoint, for --fasta.")] = None,
    protein_features: Annotated[
        Path | None, typer.Option("--protein-features", help="Features made before, instead of --fasta and --esm.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; by default cuda where there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 (the validator's) or float64.")] = "float32",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first N molecules.")] = None,
    feature_cache: Annotated[
        Path | None, typer.Option("--feature-cache", help="Where protein features are kept between runs.")
    ] = None,
) -> None:
    """Predict binding affinities with PSICHIC, exactly as the validator does."""
    from gpu.psichic.scorer import PsichicScorer, chosen_device

    kind = chosen_device(device).type
    molecules = read_smiles(smiles, limit)
    cache = feature_cache or default_feature_cache()
    if weights is None:
        from gpu.psichic.demo import ensure_demo

        demo = ensure_demo(cache.parent / "psichic-demo")
        weights = demo.weights
        esm = esm or (demo.esm if protein_features is None else None)
    scorer = PsichicScorer.from_directory(
        weights=weights,
        esm=esm,
        device=device,
        dtype=dtype,
        feature_cache=cache,
        protein_features=protein_features,
    )
    if scorer.untrained:
        typer.secho(
            "warning: these weights are the untrained demo; the scores mean nothing. "
            "Get the trained ones with `python -m app checkpoints fetch psichic`.",
            err=True,
            fg=typer.colors.YELLOW,
        )
    proteins = _proteins(fasta, protein_features)
    try:
        failed = _score_to(out, scorer, proteins, molecules, _LIGANDS_AT_ONCE[kind])
    finally:
        scorer.close()
    total = len(proteins) * len(molecules)
    typer.echo(f"{total - failed} of {total} pairs scored, written to {out}", err=True)


def default_feature_cache() -> Path:
    """``$XDG_CACHE_HOME/celery-validator/proteins``, under ``~/.cache`` where that is unset."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "celery-validator" / "proteins"


def _proteins(fasta: Path | None, protein_features: Path | None) -> list[Protein]:
    if fasta is not None:
        return read_fasta(fasta)
    if protein_features is not None:
        from gpu.psichic.protein import read_feature_file

        return [Protein(name, features.sequence) for name, features in read_feature_file(protein_features).items()]
    raise ScoreInputError("no protein given: name a --fasta file (with --esm), or --protein-features.")


def _score_to(out: Path, scorer: PsichicScorer, proteins: list[Protein], smiles: list[str], at_once: int) -> int:
    """Write every pair's row, proteins outermost; returns how many have an error. The file appears whole."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.cli.terminal import Console

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("molecules"), TimeRemainingColumn())
    rows: list[list[tuple[str, str]]] = [[] for _ in proteins]
    failed = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("scoring", total=len(smiles))
        for start in range(0, len(smiles), at_once):
            batch = smiles[start : start + at_once]
            for position, pair in enumerate(scorer.pair_scores(proteins, batch)):
                score = pair.metrics.get(PSICHIC_METRIC)
                rows[position // len(batch)].append(("" if score is None else repr(score), pair.error or ""))
                failed += pair.error is not None
            progress.advance(bar, len(batch))
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("protein", "smiles", PSICHIC_METRIC, "error"))
            for protein, scored in zip(proteins, rows, strict=True):
                writer.writerows((protein.code, text, *row) for text, row in zip(smiles, scored, strict=True))
        partial.replace(out)
    except OSError as error:
        raise ScoreInputError(f"the scores cannot be written to {out}: {error}.") from error
    return failed
