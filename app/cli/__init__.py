"""The command line: ``python -m app …``, one module per verb."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from app import __version__
from app.cli import epoch_history as _epoch_history  # noqa: F401  (registers `epoch list`, `show` and `record`)
from app.cli.api import api
from app.cli.checkpoints import checkpoints_app
from app.cli.competition import competition_app
from app.cli.doctor import doctor
from app.cli.epoch import epoch_app
from app.cli.flower import flower
from app.cli.healthcheck import healthcheck
from app.cli.migrate import migrate
from app.cli.rules import rules_app
from app.cli.run import run
from app.cli.score import score_app
from app.cli.score_boltz import boltz as _score_boltz  # noqa: F401  (registers `score boltz`)
from app.cli.scoring_api import scoring_api
from app.cli.settings import settings
from app.cli.submission import submission_app
from app.cli.surroundings import said_of
from app.cli.terminal import Console
from app.cli.up import up
from app.cli.weights import weights_app
from app.domain import ValidatorError
from app.observability.logs import configure
from app.observability.redaction import redaction
from app.settings import Settings, SettingsError, get_settings

EXIT_BAD_INPUT = 2

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="A Bittensor validator as a Celery cluster.")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"celery-validator {__version__}")
        raise typer.Exit


@cli.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


cli.add_typer(epoch_app, name="epoch")
cli.add_typer(score_app, name="score")
cli.add_typer(rules_app, name="rules")
cli.add_typer(submission_app, name="submission")
cli.add_typer(checkpoints_app, name="checkpoints")
cli.add_typer(competition_app, name="competition")
cli.add_typer(weights_app, name="weights")
cli.command()(api)
cli.command()(scoring_api)
cli.command()(run)
cli.command()(up)
cli.command()(flower)
cli.command()(doctor)
cli.command()(settings)
cli.command()(migrate)
cli.command()(healthcheck)


def main() -> None:
    """Run the command line; an error for the person who typed is a sentence, not a traceback."""
    _set_up_logs()
    try:
        cli()
    except ValidatorError as error:
        _refuse(str(error))
    # a fault of this program: its traceback goes through the log, which lets no secret out
    except Exception as error:
        if sentence := said_of(error):
            logging.getLogger("celery_validator").debug("%s", sentence, exc_info=True)
            _refuse(sentence)
        logging.getLogger("celery_validator").critical("%s: %s", type(error).__name__, error, exc_info=True)
        sys.exit(1)


def _refuse(sentence: str) -> NoReturn:
    shown = escape(redaction()(sentence))
    Console(stderr=True).print(f"[bold red]error:[/] {shown}", highlight=False, markup=True, soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)


def _set_up_logs() -> None:
    """Whoever types a command sees warnings; more where LOG_LEVEL says so."""
    try:
        settings = get_settings()
    except SettingsError:
        # the verb says it, if it needs settings at all
        settings = Settings.model_construct()
    # `run` turns flags into settings first
    get_settings.cache_clear()
    configure("cli", level=None if "log_level" in settings.model_fields_set else "WARNING", settings=settings)
