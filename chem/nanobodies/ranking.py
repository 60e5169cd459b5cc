"""BoltzGen's metrics of all competing designs, ranked against each other: a score depends on every competitor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Metrics = Mapping[str, float | None]
"""A design's figures by name; None or a missing name where BoltzGen gave none."""

Components = Mapping[int, Mapping[str, Mapping[str, Metrics]]]
"""UID → sequence → target → metrics."""

Category = Literal["confidence", "physical_interaction", "developability"]

METRICS: Final[Mapping[Category, Mapping[str, Literal["max", "min"]]]] = {
    "confidence": {
        "design_iiptm": "max",
        "design_ptm": "max",
        "design_to_target_iptm": "max",
        "min_design_to_target_pae": "min",
        "interaction_pae": "min",
    },
    "physical_interaction": {
        "plip_hbonds_refolded": "max",
        "plip_saltbridge_refolded": "max",
        "delta_sasa_refolded": "max",
    },
    "developability": {"liability_score": "min", "liability_num_violations": "min"},
}
"""Each metric's category and which end of it is better."""

METRIC_NAMES: Final = tuple(name for metrics in METRICS.values() for name in metrics)


@dataclass(frozen=True, slots=True)
class RankSummary:
    """Sum and worst of some of a design's ranks (1 is best); ``worst_rank`` is None where it has none."""

    rank_sum: float
    worst_rank: float | None


@dataclass(frozen=True, slots=True)
class DesignRanks:
    """One design's place among all: overall and by category."""

    overall: RankSummary
    categories: Mapping[Category, RankSummary]


def rank_designs(
    components: Components, targets: Sequence[str], *, missing_adds_zero: bool = True
) -> dict[tuple[str, str], DesignRanks]:
    """Rank every (sequence, target) in one table: dense ranks per metric, summed.

    A sequence that several UIDs submitted is one row, with the first UID's metrics. Quirk ``missing_adds_zero``: a
    missing metric has no rank and so adds nothing, an advantage; without it the missing share the rank after the last.
    """
    rows: dict[tuple[str, str], Metrics] = {}
    for designs in components.values():
        for sequence, by_target in designs.items():
            for target in targets:
                rows.setdefault((sequence, target), by_target.get(target, {}))
    ranks: dict[str, dict[tuple[str, str], float]] = {
        name: _dense_ranks({key: row.get(name) for key, row in rows.items()}, better, missing_adds_zero)
        for metrics in METRICS.values()
        for name, better in metrics.items()
    }
    return {
        key: DesignRanks(
            _summary([ranks[name].get(key) for name in METRIC_NAMES]),
            {category: _summary([ranks[name].get(key) for name in metrics]) for category, metrics in METRICS.items()},
        )
        for key in rows
    }


def _dense_ranks(
    values: Mapping[tuple[str, str], float | None], better: Literal["max", "min"], missing_adds_zero: bool
) -> dict[tuple[str, str], float]:
    known = {key: value for key, value in values.items() if value is not None and not math.isnan(value)}
    place = {
        value: float(rank) for rank, value in enumerate(sorted(set(known.values()), reverse=better == "max"), start=1)
    }
    last = 0.0 if missing_adds_zero else len(place) + 1.0
    return {key: place[known[key]] if key in known else last for key in values if key in known or last}


def _summary(ranks: Sequence[float | None]) -> RankSummary:
    known = [rank for rank in ranks if rank is not None]
    return RankSummary(math.fsum(known), max(known, default=None))
