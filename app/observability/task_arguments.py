"""What a task is about, in the words an operator searches for: epoch number, UID, batch (docs/logs.md, Flower)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

# What each task does for its epoch, so that Flower shows how far the epoch is.
STAGES: Final[Mapping[str, str]] = {
    "watch_epoch": "announcing",
    "open_epoch": "opening",
    "fetch_submissions": "fetching",
    "examine_submission": "examining",
    "plan_scoring": "planning",
    "score_psichic": "scoring",
    "score_boltz": "scoring",
    "score_boltzgen": "scoring",
    "close_epoch": "closing",
    "submit_weights": "weights",
    "deliver_report": "reporting",
}

_LONGEST_VALUE: Final = 80


def short_name(task: str) -> str:
    """``workers.submissions.examine_submission`` → ``examine_submission``."""
    return task.rpartition(".")[2]


def subject(
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    epoch_number: Callable[[int], int | None] = lambda _: None,
) -> dict[str, object]:
    """A task's arguments by name; an epoch by its number, where that is known, beside its id. Never raises."""
    try:
        bound = inspect.signature(run).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return {}
    fields: dict[str, object] = {}
    for name, value in bound.items():
        if name == "epoch_id" and isinstance(value, int):
            fields["epoch"] = epoch_number(value)
            fields["epoch_id"] = value
        elif name == "kwargs" and isinstance(value, Mapping):
            fields.update((str(key), _short(part)) for key, part in value.items())
        elif value is not None:
            fields[name.removesuffix("_id")] = _short(value)
    return {name: value for name, value in fields.items() if value is not None}


def written(fields: Mapping[str, object]) -> str:
    """``epoch=21455 uid=17``."""
    return " ".join(f"{name}={value}" for name, value in fields.items() if name != "epoch_id" or "epoch" not in fields)


def _short(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
