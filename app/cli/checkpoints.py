"""`python -m app checkpoints …`: the published weights, fetched and checked; the demo, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from app.domain import ValidatorError
from gpu.checkpoints import PublishedCheckpoint, fetch

checkpoints_app = typer.Typer(help="Fetch published weights, or make the untrained demo.", no_args_is_help=True)

PUBLISHED: Final = {
    checkpoint.name: checkpoint
    for checkpoint in (
        PublishedCheckpoint(
            name="psichic",
            repository="Metanova/TREAT-2",
            files=("config.json", "degree.pt", "model.pt"),
            about="PSICHIC's TREAT-2 weights, 24 MB",
        ),
        PublishedCheckpoint(
            name="esm2",
            repository="facebook/esm2_t33_650M_UR50D",
            files=("config.json", "pytorch_model.bin"),
            about="ESM-2 650M, contact head included, 2.6 GB",
        ),
    )
}

BOLTZ2: Final = "Boltz-2's two networks and the CCD components, 6 GB"

_DEFAULT_ROOT: Final = Path("data/checkpoints")


@checkpoints_app.command("fetch")
def fetch_checkpoint(
    name: Annotated[
        str,
        typer.Argument(
            help="One of: " + ", ".join(f"{c.name} ({c.about})" for c in PUBLISHED.values()) + f", boltz2 ({BOLTZ2})"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder; data/checkpoints/NAME by default, BOLTZ_CACHE or ~/.boltz for boltz2."),
    ] = None,
) -> None:
    """Download a checkpoint from the Hugging Face hub (HF_ENDPOINT is honoured) and record its checksums.

    boltz2 comes by boltz's own download function.
    """
    if name == "boltz2":
        _fetch_boltz2(out)
        return
    checkpoint = PUBLISHED.get(name)
    if checkpoint is None:
        _fail(f"there is no checkpoint {name!r}; choose one of {', '.join(PUBLISHED)}, boltz2.")
    folder = out or _DEFAULT_ROOT / name
    try:
        files = fetch(checkpoint, folder, lambda text: typer.echo(text, err=True))
    except ValidatorError as error:
        _fail(str(error))
    for file in files:
        typer.echo(f"{file.sha256}  {file.path}")


def _fetch_boltz2(out: Path | None) -> None:
    from gpu.boltz.files import fetch_files

    try:
        files = fetch_files(out, lambda text: typer.echo(text, err=True))
    except ValidatorError as error:
        _fail(str(error))
    for file in files:
        typer.echo(f"{file.sha256}  {file.path}")


@checkpoints_app.command("demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = _DEFAULT_ROOT / "psichic-demo",
) -> None:
    """Make the small untrained PSICHIC checkpoint with a matching ESM-2: right in form, scores without meaning."""
    from gpu.psichic.demo import make_demo

    made = make_demo(out)
    typer.echo(f"{made.weights}: untrained demo, its scores mean nothing; ESM-2 in {made.esm}")


def _fail(sentence: str) -> NoReturn:
    typer.secho(f"error: {sentence}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


if __name__ == "__main__":
    checkpoints_app()
