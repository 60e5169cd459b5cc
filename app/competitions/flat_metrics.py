"""The numbers of an evaluation's nested metrics, each under one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_metrics(metrics: Mapping[str, Any], joint: str, prefix: str = "") -> dict[str, float]:
    """The numbers, under their names joined by ``joint``; everything else is left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat_metrics(value, joint, f"{prefix}{name}{joint}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found
