"""Proof, by doing it, that a molecule's scores do not depend on the molecules scored beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.domain import PairScore, Protein, Scorer

COMPANY: Final = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OC(=O)c1ccccc1O",
    "c1ccc2[nH]ccc2c1",
    "NC(=O)c1cccnc1",
    "C1CC(",
)
"""Well-known small molecules, and a last one that cannot be parsed: a failure beside a molecule is company, too."""


@dataclass(frozen=True, slots=True)
class Independence:
    """One pair's score alone, and in each company by its name."""

    alone: PairScore
    in_company: Mapping[str, PairScore]

    @property
    def differing(self) -> tuple[str, ...]:
        """The companies in which some bit of some metric is another."""
        own = _bits(self.alone)
        return tuple(name for name, score in self.in_company.items() if _bits(score) != own)

    def largest_difference(self, metric: str) -> float:
        """Of one metric over all companies; 0 where the pair failed everywhere."""
        own = self.alone.metrics.get(metric, 0.0)
        return max((abs(score.metrics.get(metric, 0.0) - own) for score in self.in_company.values()), default=0.0)


def prove_independence(
    scorer: Scorer,
    protein: Protein,
    molecules: Sequence[str],
    company: Sequence[str] = COMPANY,
    on_score: Callable[[PairScore], None] | None = None,
    forget: Callable[[], None] = lambda: None,
) -> list[Independence]:
    """Score each molecule in a call of its own, then with all others in two orders.

    ``forget`` is called between: it should make the scorer load again, so that nothing is carried over.
    """
    molecules = list(dict.fromkeys(molecules))
    others = [smiles for smiles in company if smiles not in molecules]
    half = len(others) // 2
    orders = {
        "after others": [*others, *molecules],
        "among others, reversed": [*others[:half], *reversed(molecules), *others[half:]],
    }
    alone = [scorer.pair_scores([protein], [smiles], on_score)[0] for smiles in molecules]
    together: dict[str, dict[str, PairScore]] = {}
    for name, order in orders.items():
        forget()
        together[name] = {score.smiles: score for score in scorer.pair_scores([protein], order, on_score)}
    return [Independence(own, {name: scores[own.smiles] for name, scores in together.items()}) for own in alone]


def scorings(molecules: Sequence[str], company: Sequence[str] = COMPANY) -> int:
    """How many scores a proof computes."""
    unique = set(molecules)
    return 3 * len(unique) + 2 * len(set(company) - unique)


def _bits(score: PairScore) -> tuple[str | None, dict[str, str]]:
    return score.error, {name: value.hex() for name, value in score.metrics.items()}
