"""All scores of an epoch in memory, as compact as 25,600 molecules × 9 proteins ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.domain import MINUS_INFINITY, PSICHIC_METRIC, PairScore, ScoringModel

# In an epoch's report: its weights are nobody's earning, and never go to the chain.
UNTRAINED: Final = "PSICHIC scores come from the untrained demo checkpoint and mean nothing"

# The code of a score that is missing because this validator has no such model.
MODEL_UNAVAILABLE: Final = "model_unavailable"
NOT_RECORDED: Final = "not_recorded"


@dataclass(slots=True)
class EpochScores:
    """Affinities by protein and SMILES; the other models' metrics by model, protein and item; failures by cause."""

    affinities: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[tuple[ScoringModel, str], dict[str, Mapping[str, float]]] = field(default_factory=dict)
    failures: dict[tuple[ScoringModel, str], set[str]] = field(default_factory=dict)
    unavailable: dict[ScoringModel, str] = field(default_factory=dict)
    """Why this validator has no score at all of a model, where it cannot run it."""
    averages: dict[tuple[ScoringModel, str, str], Mapping[str, float]] = field(default_factory=dict)
    """What the exchange gave, by model, protein and the item's name in the exchange; only what was averaged."""

    def add(self, model: ScoringModel, pairs: Iterable[PairScore]) -> None:
        """Take up a batch's scores."""
        for pair in pairs:
            if pair.error:
                if pair.error.startswith(MODEL_UNAVAILABLE):
                    self.unavailable[model] = pair.error.removeprefix(MODEL_UNAVAILABLE).lstrip(": ")
                self.failures.setdefault((model, pair.error.split(":", 1)[0]), set()).add(pair.smiles)
            elif model is not ScoringModel.PSICHIC:
                self.metrics.setdefault((model, pair.protein), {})[pair.smiles] = pair.metrics
            elif math.isfinite(affinity := pair.metrics.get(PSICHIC_METRIC, MINUS_INFINITY)):
                self.affinities.setdefault(pair.protein, {})[pair.smiles] = affinity

    def affinity(self, protein: str, smiles: str) -> float:
        """The PSICHIC score, −inf where there is none."""
        return self.affinities.get(protein, {}).get(smiles, MINUS_INFINITY)

    def of(self, model: ScoringModel, protein: str, item: str) -> Mapping[str, float] | None:
        """A model's metrics of an item against a protein; None where it has none."""
        return self.metrics.get((model, protein), {}).get(item)

    def take(self, model: ScoringModel, protein: str, name: str, average: Mapping[str, float | None]) -> None:
        """Take up the average of all validators' metrics of an item that the exchange knows by ``name``."""
        self.averages[model, protein, name] = _known(average)

    def average(self, model: ScoringModel, protein: str, name: str) -> Mapping[str, float]:
        """The validators' average of an item; empty where none was taken."""
        return self.averages.get((model, protein, name), {})

    def side_by_side(self, model: ScoringModel, proteins: Iterable[str], item: str, name: str) -> dict[str, Any]:
        """For a report: by protein, our own metrics of an item and everybody's average; empty where none was taken."""
        return {
            protein: {"own": dict(self.of(model, protein, item) or {}), "average": dict(average)}
            for protein in proteins
            if (average := self.averages.get((model, protein, name))) is not None
        }

    def all_missing(self, model: ScoringModel) -> str | None:
        """Why a model that was asked gave no score at all, through no fault of what it was asked about."""
        causes = {cause for of_model, cause in self.failures if of_model is model}
        known = {key[0] for key in (*self.metrics, *self.averages)}
        if model in known or not causes <= {MODEL_UNAVAILABLE, NOT_RECORDED}:
            return None
        return self.unavailable.get(model, f"no score of {model.value} is recorded")

    def warnings(self) -> list[str]:
        """One sentence per cause, so that a thousand failed pairs do not drown the report."""
        return [
            f"{model.value}: {len(items)} molecule(s) without a score ({cause}), for example {min(items)[:120]}"
            for (model, cause), items in sorted(self.failures.items())
        ]


def _known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
