"""Competitions, their baselines, and the log of who changed what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, nulls_first, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import ValidatorError, percent
from app.store.tables.competitions import BaselineRow, CompetitionChangeRow, CompetitionRow


class UnknownCompetition(ValidatorError):
    """No competition with this id is in the store."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A competition's latest baseline."""

    competition_id: str
    score: float
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class GivenBenchmark:
    """The benchmark that the operator gave a competition, with its parameters as plain JSON."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CompetitionRecord:
    """A competition and its latest baseline, None where none was set; ``benchmark`` None: the profile's by its id."""

    id: str
    reward_percentage: float
    added_at: datetime
    archived_at: datetime | None
    baseline: Baseline | None
    benchmark: GivenBenchmark | None = None


@dataclass(frozen=True, slots=True)
class CompetitionChange:
    """One line of the log."""

    competition_id: str
    action: str
    detail: str
    changed_by: str
    changed_at: datetime


def shares_of(records: Sequence[CompetitionRecord]) -> dict[str, float | None]:
    """Each competition's fraction of all rewards, 0 to 1; None for one that does not run."""
    running = {record.id: record.reward_percentage for record in records if record.archived_at is None}
    total = sum(running.values())
    return {record.id: running[record.id] / total if total and record.id in running else None for record in records}


class Competitions:
    """Reads and writes competitions inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self, *, archived: bool = False) -> list[CompetitionRecord]:
        """Competitions by id; archived ones only where asked for."""
        query = select(CompetitionRow).order_by(CompetitionRow.id)
        if not archived:
            query = query.where(CompetitionRow.archived_at.is_(None))
        baselines = self._baselines()
        return [_competition(row, baselines) for row in self._session.execute(query).scalars()]

    def get(self, competition_id: str) -> CompetitionRecord:
        """One competition, archived or not.

        Raises:
            UnknownCompetition: there never was one of this id.
        """
        row = self._session.get(CompetitionRow, competition_id)
        if row is None:
            raise UnknownCompetition(f"no competition {competition_id!r} in the store")
        return _competition(row, self._baselines(competition_id))

    def baselines(self, competition_id: str) -> list[Baseline]:
        """Every baseline that a competition had, oldest first."""
        rows = self._session.execute(
            select(BaselineRow).where(BaselineRow.competition_id == competition_id).order_by(BaselineRow.id)
        ).scalars()
        return [Baseline(row.competition_id, row.score, row.set_by, row.set_at) for row in rows]

    def baseline(self, competition_id: str) -> Baseline | None:
        """The latest baseline of a competition; None where none was set or there is no such competition."""
        return self._baselines(competition_id).get(competition_id)

    def add(self, competition_id: str, reward_percentage: float, by: str) -> None:
        """Add a competition; an archived one comes back, with this percentage and its baselines.

        Raises:
            ValidatorError: a competition of this id runs already.
        """
        row = self._session.get(CompetitionRow, competition_id)
        if row is not None and row.archived_at is None:
            raise ValidatorError(f"competition {competition_id!r} runs already; archive it first to change it")
        if row is None:
            self._session.add(CompetitionRow(id=competition_id, reward_percentage=reward_percentage, added_at=now()))
        else:
            row.reward_percentage, row.archived_at = reward_percentage, None
        self._session.flush()
        share = percent(shares_of(self.all())[competition_id])
        self._log(competition_id, "add", f"share {reward_percentage:g}, {share} of all rewards", by)

    def set_benchmark(self, competition_id: str, benchmark: GivenBenchmark | None, by: str) -> None:
        """Judge a running competition by this benchmark from now on; None: by the profile's."""
        row = self._running(competition_id)
        row.benchmark = None if benchmark is None else benchmark.name
        row.parameters = None if benchmark is None else dict(benchmark.parameters)
        detail = "the profile's" if benchmark is None else f"{benchmark.name} {json.dumps(dict(benchmark.parameters))}"
        self._log(competition_id, "benchmark", detail, by)

    def benchmark(self, competition_id: str) -> GivenBenchmark | None:
        """The benchmark that the operator gave a competition; None where none was, or there is no such competition."""
        row = self._session.get(CompetitionRow, competition_id)
        return None if row is None else _benchmark(row)

    def set_baseline(self, competition_id: str, score: float, by: str) -> None:
        """Set the baseline that counts from now on."""
        self._running(competition_id)
        self._session.add(BaselineRow(competition_id=competition_id, score=score, set_by=by, set_at=now()))
        self._log(competition_id, "set-baseline", f"{score!r}", by)

    def archive(self, competition_id: str, by: str) -> None:
        """End a competition: nothing of it is scored or rewarded any more; its history stays."""
        self._running(competition_id).archived_at = now()
        self._log(competition_id, "archive", "", by)

    def changes(self, limit: int = 50) -> list[CompetitionChange]:
        """The latest changes, newest first."""
        rows = self._session.execute(
            select(CompetitionChangeRow).order_by(CompetitionChangeRow.id.desc()).limit(limit)
        ).scalars()
        return [CompetitionChange(r.competition_id, r.action, r.detail, r.changed_by, r.changed_at) for r in rows]

    def by_turn(self) -> list[str]:
        """Running competitions, the one served longest ago first."""
        return list(
            self._session.execute(
                select(CompetitionRow.id)
                .where(CompetitionRow.archived_at.is_(None))
                .order_by(nulls_first(CompetitionRow.served_at), CompetitionRow.id)
            ).scalars()
        )

    def served(self, competition_id: str) -> None:
        """Note that a competition had its turn."""
        self._session.execute(update(CompetitionRow).where(CompetitionRow.id == competition_id).values(served_at=now()))

    def _baselines(self, competition_id: str | None = None) -> Mapping[str, Baseline]:
        latest = select(func.max(BaselineRow.id)).group_by(BaselineRow.competition_id)
        query = select(BaselineRow).where(BaselineRow.id.in_(latest))
        if competition_id is not None:
            query = query.where(BaselineRow.competition_id == competition_id)
        rows = self._session.execute(query).scalars()
        return {row.competition_id: Baseline(row.competition_id, row.score, row.set_by, row.set_at) for row in rows}

    def _running(self, competition_id: str) -> Any:
        row = self._session.get(CompetitionRow, competition_id)
        if row is None or row.archived_at is not None:
            known = ", ".join(self.by_turn()) or "none"
            raise UnknownCompetition(f"no competition {competition_id!r} runs; running: {known}")
        return row

    def _log(self, competition_id: str, action: str, detail: str, by: str) -> None:
        self._session.add(
            CompetitionChangeRow(
                competition_id=competition_id, action=action, detail=detail, changed_by=by, changed_at=now()
            )
        )


def _competition(row: Any, baselines: Mapping[str, Baseline]) -> CompetitionRecord:
    return CompetitionRecord(
        row.id, row.reward_percentage, row.added_at, row.archived_at, baselines.get(row.id), _benchmark(row)
    )


def _benchmark(row: Any) -> GivenBenchmark | None:
    return None if row.benchmark is None else GivenBenchmark(row.benchmark, row.parameters or {})
