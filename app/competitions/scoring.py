"""One step of scoring a model: begin, look, end. Free of Celery; workers/competitions.py keeps the time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.clock import now
from app.store.database import Store
from app.store.scorings import Scoring, ScoringEnd, Scorings, ScoringState
from chain.scoring_api import (
    Evaluation,
    EvaluationRequest,
    EvaluationState,
    ModelScorer,
    ScorerBusy,
    ScorerGaveUp,
    ScorerUnavailable,
)

# A scorer that does not take a model this often in a row gives it back, so that another may have it.
_MOST_START_TROUBLE: Final = 4

# An evaluation that will come to an end by itself.
_UNDER_WAY: Final = frozenset({EvaluationState.WAITING, EvaluationState.SCORING})

# A scorer may need this long until it knows of what it accepted.
_SETTLING: Final = timedelta(seconds=60)

# The last look comes this much before the time limit, when the queue would take the model back.
_LONGEST_MARGIN: Final = timedelta(seconds=60)
_MARGIN_PART: Final = 20

# Looks grow rarer, up to so many times the first pause.
_RARER: Final = 6
# Failures are waited out from half a pause up to thirty of them.
_SHORTEST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 30.0


@dataclass(frozen=True, slots=True)
class Later:
    """Look again after ``countdown`` seconds. ``trouble`` counts the failures in a row."""

    countdown: float
    trouble: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The scoring is over, however it ended."""


@dataclass(frozen=True, slots=True)
class ScoringStep:
    """Moves one scoring on by one step; every step may be repeated, or lost, without harm."""

    store: Store
    limit: timedelta
    poll: timedelta = timedelta(seconds=10)

    def advance(self, scorer: ModelScorer, scoring: Scoring, trouble: int = 0) -> Later | Ended:
        """Do what is due; when to come back, or that it has ended."""
        if scoring.finished_at is not None:
            return Ended()
        try:
            if scoring.state is ScoringState.STARTING:
                return self._start(scorer, scoring)
            return self._look(scorer, scoring)
        except (ScorerBusy, ScorerGaveUp) as error:
            return self._give_back(scoring, str(error))
        except ScorerUnavailable as error:
            return self._wait_out(scoring, trouble + 1, str(error))

    def _start(self, scorer: ModelScorer, scoring: Scoring) -> Later | Ended:
        request = EvaluationRequest.of(scoring.commitment)
        try:
            task_id = scorer.start(request)
        except ScorerBusy:
            # perhaps with this very model: its answer to our first call may have been lost
            if scorer.look(request, None).state not in _UNDER_WAY:
                raise
            task_id = None
        with self.store.writing() as session:
            Scorings(session).started(scoring.id, task_id)
        return Later(_jittered(self.poll.total_seconds()))

    def _look(self, scorer: ModelScorer, scoring: Scoring) -> Later | Ended:
        evaluation = scorer.look(EvaluationRequest.of(scoring.commitment), scoring.task_id)
        match evaluation.state:
            case EvaluationState.COMPLETED:
                return self._post(scoring, evaluation, evaluation.error)
            case EvaluationState.FAILED | EvaluationState.TIMEOUT:
                error = evaluation.error or f"the scorer reports: {evaluation.state.value}"
                return self._post(scoring, evaluation, error)
            case EvaluationState.UNKNOWN if self._settled(scoring):
                with self.store.writing() as session:
                    Scorings(session).start_again(scoring.id, f"{scoring.scorer} had forgotten the model; begun again")
                return self._unless_over(scoring, Later(_jittered(self.poll.total_seconds())))
        with self.store.writing() as session:
            Scorings(session).looked(scoring.id, evaluation.error)
        if now() >= self._deadline(scoring.taken_at):
            if evaluation.state is EvaluationState.WAITING:
                return self._give_back(scoring, evaluation.error or "the scorer did not come to it")
            if self._began_late(scoring, evaluation):
                return self._give_back(scoring, f"not scored within {self.limit}, for the scorer began late")
            return self._post(scoring, evaluation, f"not scored within {self.limit}")
        pause = min(_RARER * self.poll, self.poll + (now() - scoring.taken_at) / 10)
        return Later(_jittered(pause.total_seconds()))

    def _post(self, scoring: Scoring, evaluation: Evaluation, error: str | None) -> Ended:
        """Keep the score, 0 where there is none, and free scorer and model: all of it or nothing."""
        completed = evaluation.state is EvaluationState.COMPLETED and evaluation.score is not None
        score = evaluation.score if completed and evaluation.score is not None else 0.0
        return self._settle(
            scoring, ScoringEnd(score, completed, error, evaluation.metric_scores, evaluation.model_hash)
        )

    def _give_back(self, scoring: Scoring, why: str) -> Ended:
        return self._settle(scoring, ScoringEnd(None, False, why))

    def _settle(self, scoring: Scoring, end: ScoringEnd) -> Ended:
        with self.store.writing() as session:
            Scorings(session).settle(scoring, end)
        return Ended()

    def _wait_out(self, scoring: Scoring, trouble: int, why: str) -> Later | Ended:
        """Our scorer's outage is not the model's fault: wait, and at the end give the model back without a score."""
        if scoring.state is ScoringState.STARTING and trouble > _MOST_START_TROUBLE:
            return self._give_back(scoring, why)
        with self.store.writing() as session:
            Scorings(session).looked(scoring.id, why)
        return self._unless_over(scoring, Later(backoff(trouble, self.poll), trouble), why)

    def _unless_over(self, scoring: Scoring, later: Later, why: str = "the scorer forgot the model") -> Later | Ended:
        if now() >= self._deadline(scoring.taken_at):
            return self._give_back(scoring, f"not scored within {self.limit}: {why}")
        return later

    def _began_late(self, scoring: Scoring, evaluation: Evaluation) -> bool:
        """Whether the scorer's queue, or an interruption of its own, took much of the model's time."""
        late = max(_SETTLING, self.limit / _MARGIN_PART)
        return evaluation.started_at is not None and evaluation.started_at - scoring.taken_at > late

    def _deadline(self, taken_at: datetime) -> datetime:
        return taken_at + self.limit - min(_LONGEST_MARGIN, self.limit / _MARGIN_PART)

    def _settled(self, scoring: Scoring) -> bool:
        return scoring.started_at is None or now() - scoring.started_at > _SETTLING


def backoff(trouble: int, poll: timedelta) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter; by default from 5 s to 5 minutes."""
    pauses = min(_LONGEST_BACKOFF, _SHORTEST_BACKOFF * 2.0 ** min(trouble - 1, 10))
    return pauses * poll.total_seconds() * random.uniform(0.5, 1.0)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)
