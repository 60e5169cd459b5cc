"""Boltz-2 on a GPU worker: resident, reproducible, one molecule's failure costs no other.

``BoltzScorer`` is imported on first use: naming a profile or an error needs neither torch nor boltz.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpu.boltz.failure import BoltzInstallationError, DeviceOutOfMemory, FailureCode, MoleculeFailure
from gpu.boltz.profile import FAST, LIVE, LIVE_2026, PROFILES, PocketConstraint, Profile

if TYPE_CHECKING:
    from gpu.boltz.scorer import BoltzScorer

__all__ = [
    "FAST",
    "LIVE",
    "LIVE_2026",
    "PROFILES",
    "BoltzInstallationError",
    "BoltzScorer",
    "DeviceOutOfMemory",
    "FailureCode",
    "MoleculeFailure",
    "PocketConstraint",
    "Profile",
]


def __getattr__(name: str) -> Any:
    if name == "BoltzScorer":
        from gpu.boltz.scorer import BoltzScorer

        return BoltzScorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
