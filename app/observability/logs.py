"""Logs: one line per event, saying when, how bad, which process, which task on which epoch and UID (docs/logs.md).

Human by default, JSON by ``LOG_FORMAT=json``. Untrusted text cannot begin a line of its own, and no secret gets out:
both are done where the line is made, so that no caller has to think of it.
"""

from __future__ import annotations

import logging
import logging.config
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

from app.observability.redaction import redaction
from app.settings import Settings, get_settings

# A worker's children learn from it what they belong to.
PROCESS_VARIABLE: Final = "CELERY_VALIDATOR_PROCESS"

_LONGEST_MESSAGE: Final = 8_000
_LONGEST_TRACEBACK: Final = 60_000

# Where a text is cut before redaction, half a secret may stand; so much of its end is dropped.
_CUT_EDGE: Final = 1_000

# What could move the cursor, begin a line, or turn the reading direction.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

_COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m", "DEBUG": "\x1b[2m"}
_PLAIN: Final = "\x1b[0m"

# Fields that a human line shows in a place of their own, or not at all.
_SHOWN_ELSEWHERE: Final = frozenset({"task", "task_id", "epoch_id", "node"})

# Libraries that talk much. The second level is for LOG_LEVEL=DEBUG: headers of requests are nobody's business.
_LIBRARIES: Final[Mapping[str, tuple[str, str]]] = {
    # our task lines say the same, with epoch and UID
    "celery.app.trace": ("CRITICAL", "CRITICAL"),
    "celery.worker.strategy": ("WARNING", "INFO"),
    "celery.beat": ("WARNING", "DEBUG"),
    "redbeat": ("WARNING", "INFO"),
    "kombu": ("WARNING", "INFO"),
    "amqp": ("WARNING", "INFO"),
    "flower": ("WARNING", "INFO"),
    # says that a worker did not answer yet, four times at every start
    "flower.inspector": ("ERROR", "INFO"),
    "tornado": ("WARNING", "INFO"),
    "sqlalchemy": ("WARNING", "WARNING"),
    "alembic": ("WARNING", "INFO"),
    # each retry is counted where it is decided (chain.web)
    "urllib3": ("ERROR", "INFO"),
    "requests": ("WARNING", "INFO"),
    "httpx": ("WARNING", "INFO"),
    "httpcore": ("WARNING", "INFO"),
    "hpack": ("WARNING", "WARNING"),
    "websockets": ("WARNING", "INFO"),
    "asyncio": ("WARNING", "INFO"),
    "bittensor": ("WARNING", "INFO"),
    "async_substrate_interface": ("WARNING", "INFO"),
    "huggingface_hub": ("WARNING", "INFO"),
    "filelock": ("WARNING", "INFO"),
    "docker": ("WARNING", "INFO"),
    "openai": ("WARNING", "INFO"),
    "datasets": ("WARNING", "INFO"),
    "matplotlib": ("WARNING", "INFO"),
    "numba": ("WARNING", "WARNING"),
    "rdkit": ("WARNING", "INFO"),
    "pytorch_lightning": ("WARNING", "INFO"),
    "lightning": ("WARNING", "INFO"),
    "torch": ("WARNING", "INFO"),
    "uvicorn.error": ("INFO", "INFO"),
}

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context")

# What the threads that a task starts belong to: a pool process runs one task at a time.
_of_process: Mapping[str, object] = {}


@contextmanager
def logged_with(fields: Mapping[str, object], *, whole_process: bool = False) -> Iterator[None]:
    """Every line inside carries these fields; with ``whole_process`` also those of threads that know no better."""
    global _of_process  # noqa: PLW0603  (one task at a time is a fact of the process)
    token, before = _context.set({**_context.get({}), **fields}), _of_process
    if whole_process:
        _of_process = {**before, **fields}
    try:
        yield
    finally:
        _context.reset(token)
        _of_process = before


def log_context() -> Mapping[str, object]:
    """The fields of the line that would be written here."""
    return _context.get(_of_process)


def configure(
    process: str, *, level: str | None = None, file: str | None = None, settings: Settings | None = None
) -> None:
    """Set up this process's logs; ``process`` names it in every line (``cpu``, ``beat``, ``api``).

    ``level`` overrides LOG_LEVEL; ``file`` takes the place of standard error.
    """
    logging.config.dictConfig(configuration(process, level=level, file=file, settings=settings))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def configuration(
    process: str, *, level: str | None = None, file: str | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """The same as :func:`logging.config.dictConfig` takes it, for servers that configure their processes themselves."""
    settings = settings or get_settings()
    level = level or settings.log_level
    debug = level == "DEBUG"
    where: dict[str, Any] = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    if file:
        where = {"class": "logging.handlers.WatchedFileHandler", "filename": file, "encoding": "utf-8"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "event": {
                "()": JsonLines if settings.log_format == "json" else HumanLines,
                "process": process,
                **({} if settings.log_format == "json" else {"colour": not file and sys.stderr.isatty()}),
            }
        },
        "handlers": {"events": {**where, "formatter": "event"}},
        "root": {"level": level, "handlers": ["events"]},
        # a level of its own for every library, and never a handler
        "loggers": {
            name: {"level": _quieter(level, levels[1] if debug else levels[0]), "handlers": [], "propagate": True}
            for name, levels in _LIBRARIES.items()
        }
        # billiard, which reports killed children, stops propagation itself
        | {"multiprocessing": {"level": _quieter(level, "WARNING"), "handlers": ["events"], "propagate": False}},
    }


def process_name() -> str:
    """What a worker's child belongs to; ``celery`` where nobody said."""
    return os.environ.get(PROCESS_VARIABLE, "celery")


class HumanLines(logging.Formatter):
    """``time LEVEL process/pid  task epoch=… uid=… message  task=…``; an exception's lines are indented."""

    def __init__(self, process: str, *, colour: bool = False) -> None:
        super().__init__()
        self._process = process
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        fields = log_context()
        about = [str(fields["task"])] if "task" in fields else []
        about += [f"{name}={value}" for name, value in fields.items() if name not in _SHOWN_ELSEWHERE]
        if "epoch" not in fields and "epoch_id" in fields:
            about.append(f"epoch_id={fields['epoch_id']}")
        message = _one_line(redaction()(" ".join([*about, _message(record)])))
        at = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")[:-6]
        level = f"{record.levelname:<8}"
        if self._colour and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_PLAIN}"
        line = f"{at} {level} {f'{self._process}/{record.process}':<13} {message}"
        if "task_id" in fields:
            line += f"  task={_one_line(str(fields['task_id']))[:8]}"
        for text in (_exception(record), _shown(record.stack_info or "", _LONGEST_TRACEBACK)):
            if text:
                line += "".join(f"\n    {_one_line(part)}" for part in text.split("\n"))
        return line


class JsonLines(JsonFormatter):
    """One JSON object per line: time, level, logger, process, pid, message, the context's fields, exception."""

    def __init__(self, process: str) -> None:
        super().__init__(json_ensure_ascii=True)
        self._process = process

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """What a line holds."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname.lower()
        log_data["process"] = self._process
        log_data["pid"] = record.process
        log_data["logger"] = record.name
        log_data.update(log_context())
        log_data["message"] = _message(record)
        if record.exc_info and record.exc_info[0] is not None:
            log_data["exception"] = record.exc_info[0].__name__
        if text := _exception(record):
            log_data["traceback"] = text
        if record.stack_info:
            log_data["stack"] = record.stack_info

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Secrets go before the text is escaped for JSON."""
        return {name: redaction()(value) if isinstance(value, str) else value for name, value in log_data.items()}


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError) as error:
        # a library's mistake in its arguments must not cost the line
        text = f"{record.msg} {record.args!r} ({error})"
    return _shown(text, _LONGEST_MESSAGE)


def _exception(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        return _shown(logging.Formatter().formatException(record.exc_info), _LONGEST_TRACEBACK)
    return _shown(record.exc_text or "", _LONGEST_TRACEBACK)


def _shown(text: str, longest: int) -> str:
    """Without secrets, and not longer than a reader's patience."""
    if len(text) <= longest:
        return redaction()(text)
    return f"{redaction()(text[: longest + _CUT_EDGE])[:-_CUT_EDGE]}… ({len(text)} characters)"


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode(), text)


def _quieter(one: str, other: str) -> str:
    levels = logging.getLevelNamesMapping()
    return max(one, other, key=levels.__getitem__)


def _log_uncaught(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is None or error is None or issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return
    logging.getLogger("celery_validator").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
