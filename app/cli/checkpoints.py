"""`python -m app checkpoints …`: the published weights, fetched and checked; the demo, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from app.domain import ValidatorError

checkpoints_app = typer.Typer(help="Fetch published weights, or make the untrained demo.", no_args_is_help=True)

_DEFAULT_ROOT: Final = Path("data/checkpoints")


@checkpoints_app.command("fetch")
def fetch_checkpoint(
    name: Annotated[str, typer.Argument(help="psichic (TREAT-2, 24 MB), esm2 (650M, 2.6 GB) or boltz2 (6 GB).")],
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
    from gpu.checkpoints import PUBLISHED, fetch

    checkpoint = PUBLISHED.get(name)
    if checkpoint is None:
        raise ValidatorError(f"there is no checkpoint {name!r}; choose one of {', '.join(PUBLISHED)}, boltz2.")
    folder = out or _DEFAULT_ROOT / name
    for file in fetch(checkpoint, folder, lambda text: typer.echo(text, err=True)):
        typer.echo(f"{file.sha256}  {file.path}")


def _fetch_boltz2(out: Path | None) -> None:
    from gpu.boltz.files import fetch_files

    for file in fetch_files(out, lambda text: typer.echo(text, err=True)):
        typer.echo(f"{file.sha256}  {file.path}")


@checkpoints_app.command("demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = _DEFAULT_ROOT / "psichic-demo",
) -> None:
    """Make the small untrained PSICHIC checkpoint with a matching ESM-2: right in form, scores without meaning."""
    from gpu.psichic.demo import make_demo

    made = make_demo(out)
    typer.echo(f"{made.weights}: untrained demo, its scores mean nothing; ESM-2 in {made.esm}")
