"""All scores of an epoch in memory, as compact as 25,600 molecules × 9 proteins ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.domain import MINUS_INFINITY, PSICHIC_METRIC, PairScore, ScoringModel

# In an epoch's report: its weights are nobody's earning, and never go to the chain.
UNTRAINED: Final = "PSICHIC scores come from the untrained demo checkpoint and mean nothing"


@dataclass(slots=True)
class EpochScores:
    """Affinities by protein and SMILES; the other models' metrics by model, protein and item; failures by cause."""

    affinities: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[tuple[ScoringModel, str], dict[str, Mapping[str, float]]] = field(default_factory=dict)
    failures: dict[tuple[ScoringModel, str], set[str]] = field(default_factory=dict)

    def add(self, model: ScoringModel, pairs: Iterable[PairScore]) -> None:
        """Take up a batch's scores."""
        for pair in pairs:
            if pair.error:
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

    def warnings(self) -> list[str]:
        """One sentence per cause, so that a thousand failed pairs do not drown the report."""
        return [
            f"{model.value}: {len(items)} molecule(s) without a score ({cause}), for example {min(items)[:120]}"
            for (model, cause), items in sorted(self.failures.items())
        ]
