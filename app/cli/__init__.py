"""The command line: ``python -m app …``, one module per verb."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from app import __version__
from app.cli.help_style import in_one_style, style
from app.cli.log_setup import set_up_logs
from app.cli.shared_options import with_shared_options
from app.domain import ValidatorError

EXIT_BAD_INPUT = 2

# Set by the shell that asks how a line may go on.
_COMPLETING: Final = "_CELERY_VALIDATOR_COMPLETE"

# verb → its command or group of commands, "module:name"; imported when it is the one that was typed
VERBS: Final[dict[str, str]] = {
    "run": "app.cli.run:run",
    "up": "app.cli.up:up",
    "epoch": "app.cli.epoch_history:epoch_app",
    "submission": "app.cli.submission:submission_app",
    "score": "app.cli.score_boltz:score_app",
    "rules": "app.cli.rules:rules_app",
    "checkpoints": "app.cli.checkpoints:checkpoints_app",
    "competition": "app.cli.competition:competition_app",
    "weights": "app.cli.weights:weights_app",
    "api": "app.cli.api:api",
    "scoring-api": "app.cli.scoring_api:scoring_api",
    "flower": "app.cli.flower:flower",
    "doctor": "app.cli.doctor:doctor",
    "settings": "app.cli.settings:settings",
    "migrate": "app.cli.migrate:migrate",
    "healthcheck": "app.cli.healthcheck:healthcheck",
}


class _Verbs(Mapping[str, Any]):
    """The commands by name. A command that is typed costs its own imports, not those of the other verbs."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, attribute = VERBS[name].partition(":")
            found = getattr(import_module(module), attribute)
            holder = typer.Typer(add_completion=False)
            # a group around it, so that a group with one command stays a group
            holder.callback()(lambda: None)
            if isinstance(found, typer.Typer):
                holder.add_typer(found, name=name)
            else:
                holder.command(name)(found)
            self._made[name] = in_one_style(with_shared_options(get_command(holder).commands[name]))  # type: ignore[attr-defined]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class _LazyGroup(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Verbs()  # type: ignore[assignment]

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        parameters = super().get_params(ctx)
        style(parameters)
        return parameters


# the spellings of earlier versions
_FORMER: Final = {"percentage": "share"}


def _option_name(typed: str) -> str:
    """How names are compared: ``wallet_name`` and ``wallet-name`` are ``wallet.name``; the help shows one spelling."""
    name = typed.replace("_", "-").replace(".", "-")
    return _FORMER.get(name, name)


cli = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    help="A Bittensor validator as a Celery cluster.",
    context_settings={"token_normalize_func": _option_name},
)


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


def main() -> None:
    """Run the command line; an error for the person who typed is a sentence, not a traceback."""
    # someone waits for the Tab key
    if _COMPLETING not in os.environ:
        set_up_logs()
    try:
        _require_name()
        cli()
    except ValidatorError as error:
        _refuse(str(error))
    # a fault of this program: its traceback goes through the log, which lets no secret out
    except Exception as error:
        from app.cli.surroundings import said_of

        if sentence := said_of(error):
            logging.getLogger("celery_validator").debug("%s", sentence, exc_info=True)
            _refuse(sentence)
        logging.getLogger("celery_validator").critical("%s: %s", type(error).__name__, error, exc_info=True)
        sys.exit(1)


def _require_name() -> None:
    """A shell completes commands by their name, and what it would complete here is Python."""
    asked = {"--install-completion", "--show-completion"} & set(sys.argv[1:2])
    if asked and Path(sys.argv[0]).name == "__main__.py":
        raise ValidatorError(
            f"a shell completes commands by their name, and 'python -m app' has none; put celery-validator into PATH "
            f"with 'pip install --no-deps -e .', then run: celery-validator {asked.pop()}"
        )


def _refuse(sentence: str) -> NoReturn:
    from rich.markup import escape

    from app.cli.terminal import Console
    from app.observability.redaction import redaction

    shown = escape(redaction()(sentence))
    Console(stderr=True).print(f"[bold red]error:[/] {shown}", highlight=False, markup=True, soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)
