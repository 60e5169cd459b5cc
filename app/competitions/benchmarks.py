"""Which benchmark a competition is judged by, and which competitions this node can score at present."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.clock import now
from app.competitions.profile import profile_of
from app.domain import MODELS_NETUID
from app.settings import Settings
from app.store.capabilities import Capabilities
from app.store.competitions import Competitions
from app.store.model_queue import ModelQueue
from gpu.evaluation.contract import EvaluationImpossible
from gpu.evaluation.plan import BenchmarkPlan, UnknownBenchmark

# What a gpu worker found longer ago says nothing of the present.
_FOUND_FOR: Final = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether this node can score a competition: ``objection`` says why not.

    ``checked_at`` is when a gpu worker looked; None: none has yet, and what it needs is not known to be missing.
    """

    competition_id: str
    benchmark: str | None
    objection: str | None
    checked_at: datetime | None


def plan_of(session: Session, settings: Settings, competition_id: str) -> BenchmarkPlan | None:
    """The competition's benchmark: the operator's for it, else the profile's, else none."""
    given = Competitions(session).benchmark(competition_id)
    if given is not None:
        return BenchmarkPlan(given.name, given.parameters)
    return profile_of(settings).benchmarks.get(competition_id)


def plans(session: Session, settings: Settings) -> dict[str, BenchmarkPlan | None]:
    """The benchmarks of the running competitions and of the profile's, by competition id."""
    ids = {*(record.id for record in Competitions(session).all()), *profile_of(settings).benchmarks}
    return {competition_id: plan_of(session, settings, competition_id) for competition_id in sorted(ids)}


def capability(session: Session, settings: Settings, competition_id: str) -> Capability:
    """Whether this node can score one competition, whatever its id."""
    plan = plan_of(session, settings, competition_id)
    if plan is None:
        return Capability(competition_id, None, _without_benchmark(competition_id), None)
    try:
        plan.parameters()
    except UnknownBenchmark as error:
        return Capability(competition_id, plan.name, str(error), None)
    found = Capabilities(session).get(competition_id)
    if found is None or found.benchmark != plan.text or found.checked_at < now() - _FOUND_FOR:
        return Capability(competition_id, plan.name, None, None)
    return Capability(competition_id, plan.name, found.objection, found.checked_at)


def capabilities(session: Session, settings: Settings) -> list[Capability]:
    """Whether this node can score each competition that it knows, by id."""
    return [capability(session, settings, competition_id) for competition_id in plans(session, settings)]


def offline_capabilities(session: Session, settings: Settings) -> list[Capability]:
    """The same where the chain may be asked; else a competition of which the store has no model cannot be scored."""
    found = capabilities(session, settings)
    if not settings.offline:
        return found
    stored = {one.commitment.model.competition_id for one in ModelQueue(session, MODELS_NETUID).models()}
    return [
        one
        if one.objection is not None or one.competition_id in stored
        else replace(
            one,
            objection=f"OFFLINE forbids asking the chain, and this node's store has no model of {one.competition_id}; "
            "unset it, or share the validator's DATABASE_URL",
        )
        for one in found
    ]


def objection_here(plan: BenchmarkPlan | None, settings: Settings, competition_id: str) -> str | None:
    """What this process's machine lacks for a benchmark; None where it has all. Loads nothing large."""
    from gpu.evaluation.registry import benchmark_for

    if plan is None:
        return _without_benchmark(competition_id)
    try:
        benchmark_for(plan, settings).check()
    except EvaluationImpossible as error:
        return str(error)
    return None


def scorable(session: Session, settings: Settings, among: Collection[str]) -> set[str]:
    """Those of the competitions that this node is not known to be unable to score."""
    return {one for one in among if capability(session, settings, one).objection is None}


def _without_benchmark(competition_id: str) -> str:
    return (
        f"competition {competition_id} has no benchmark here; give it one with: "
        f"python -m app competition benchmark {competition_id} NAME"
    )
