"""With whose rules this validator agrees where validators of the subnet differ: ``COMPETITION_PROFILE``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.settings import Settings
from gpu.evaluation.plan import BenchmarkPlan

_NAMED_AS_THEY_ARE: Final = {name: BenchmarkPlan(name) for name in ("voicebench", "v2v", "o1")}


@dataclass(frozen=True, slots=True)
class Profile:
    """What differs.

    ``alpha`` is the EMA's factor where ``ALPHA`` is not set; ``latest_report_counts``: of a model's reports the latest
    above 0, instead of the stake-weighted mean; ``needs_baseline``: while a competition has no baseline above 0, or
    nothing is scored, the last weights are sent again, and ``get-all-model-scores`` says that there is nothing;
    ``open_reads``: ``get-top-model`` and ``get-eval-metrics`` need no signature, and the latter tells each metric over
    time; ``idle_is_null``: a scoring node without any evaluation answers null, not 404; ``seven_fields``: a commitment
    may have further fields, and must name an epoch; ``benchmarks`` by competition id, for competitions to which the
    operator gave none.
    """

    name: str
    alpha: float
    latest_report_counts: bool
    needs_baseline: bool
    open_reads: bool
    idle_is_null: bool
    seven_fields: bool
    benchmarks: Mapping[str, BenchmarkPlan]


SEED: Final = Profile(
    name="seed",
    alpha=0.9,
    latest_report_counts=False,
    needs_baseline=False,
    open_reads=False,
    idle_is_null=False,
    seven_fields=False,
    benchmarks=_NAMED_AS_THEY_ARE,
)

# OMEGA's validators as of November 2025
OMEGA_V4: Final = Profile(
    name="omega-v4",
    alpha=0.0,
    latest_report_counts=True,
    needs_baseline=True,
    open_reads=True,
    idle_is_null=True,
    seven_fields=True,
    benchmarks={
        **_NAMED_AS_THEY_ARE,
        "v4": BenchmarkPlan(
            "voicebench+mos",
            {
                "sets": "commoneval:50,wildvoice:100,advbench:100,ifeval:50",
                "set_weights": {"commoneval": 2, "wildvoice": 2, "ifeval": 1.5, "advbench": 1},
                "voice_share": 0.3,
                "spoken_samples": 2,
                "answer_limit": 80,
                "speech_answer_limit": 200,
            },
        ),
    },
)

PROFILES: Final = {profile.name: profile for profile in (SEED, OMEGA_V4)}


def profile_of(settings: Settings) -> Profile:
    """The profile that the settings name."""
    return PROFILES[settings.competition_profile]


def alpha_of(settings: Settings) -> float:
    """The EMA's factor: ``ALPHA`` where it is set, else the profile's."""
    return settings.alpha if "alpha" in settings.model_fields_set else profile_of(settings).alpha
