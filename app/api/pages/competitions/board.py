"""What the pages of the model competitions show, read from the store. No HTML here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.clock import now
from app.competitions.profile import Profile
from app.competitions.standings import ModelStanding, model_standings
from app.domain import MODELS_NETUID, ModelId, ValidatorError
from app.store.competitions import Baseline, CompetitionChange, CompetitionRecord, Competitions, shares_of
from app.store.evaluations import EvaluationRecord, Evaluations
from app.store.metagraph import Metagraph, SyncedMetagraph
from app.store.model_priority import Priority, priority
from app.store.model_queue import ModelQueue, QueuedModel, Refusal, ScoreHistory, ScoreRecord
from app.store.reputations import Reputations, ReputationStep, WeightRound, WeightRounds
from app.store.scorings import Scoring, Scorings
from chain.incentive.models import UNKNOWN_REPUTATION

_CHANGES: Final = 20
_RECENT_SCORES: Final = 2000
_RECENT_DAYS: Final = 14
_MINER_SCORES: Final = 500
_MINER_EVALUATIONS: Final = 20
# A day of 20-minute marks.
ROUNDS_SHOWN: Final = 72


class UnknownMiner(ValidatorError):
    """The store knows nothing of a hotkey."""


class UnknownEvaluation(ValidatorError):
    """No evaluation of this id is in the store."""


class UnknownRound(ValidatorError):
    """No weights were computed for a mark."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a miner got of one competition in a round: its pool, and its part of the round's new vector."""

    pool: str
    share: float


@dataclass(frozen=True, slots=True)
class Report:
    """One validator's report of a model. ``share`` is its part of the mean, None where it does not count."""

    validator: str
    validator_uid: int | None
    score: float
    scored_at: datetime | None
    share: float | None


@dataclass(frozen=True, slots=True)
class BoardRow:
    """One model of a competition's leaderboard; ``place`` counts those with a score."""

    place: int | None
    uid: int
    hotkey: str
    model: ModelId
    score: float | None
    validators_score: float | None
    is_above: bool | None
    is_copy: bool
    is_penalised: bool
    got: Place | None
    weight: float
    reputation: float
    is_known_reputation: bool
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class CompetitionLine:
    """One competition of the overview. ``above`` and ``below`` are the last weight round's pools, best first."""

    record: CompetitionRecord
    share: float | None
    models: int
    scored: int
    under_scoring: int
    above: tuple[int, ...]
    below: tuple[int, ...]
    leader: BoardRow | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All competitions. ``hotkeys`` names the UIDs of ``round``, the latest round of weights."""

    lines: tuple[CompetitionLine, ...]
    baselines: Mapping[str, Sequence[Baseline]]
    round: WeightRound | None
    changes: tuple[CompetitionChange, ...]
    refusals: tuple[Refusal, ...]
    metagraph: SyncedMetagraph

    @property
    def pools(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The last round's pools of the running competitions."""
        return {
            line.record.id: {"above": line.above, "below": line.below}
            for line in self.lines
            if line.record.archived_at is None
        }


@dataclass(frozen=True, slots=True)
class QueueLine:
    """One waiting model and why it stands where it does."""

    uid: int
    hotkey: str
    model: ModelId
    tier: Priority
    scores: int
    best_score: float | None
    last_scored_at: datetime | None


@dataclass(frozen=True, slots=True)
class Board:
    """One competition: leaderboard, queue, refusals, and its scores of the last days, newest first."""

    record: CompetitionRecord
    share: float | None
    baselines: tuple[Baseline, ...]
    round: WeightRound | None
    rows: tuple[BoardRow, ...]
    under_scoring: tuple[QueuedModel, ...]
    queue: tuple[QueueLine, ...]
    refusals: tuple[Refusal, ...]
    recent: tuple[ScoreRecord, ...]
    changes: tuple[CompetitionChange, ...]
    uids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MinerView:
    """One miner: its model and how it stands, every score, its reputation, its weights, and what was refused."""

    hotkey: str
    uid: int | None
    row: BoardRow | None
    queued: QueuedModel | None
    competition: CompetitionRecord | None
    scores: tuple[ScoreRecord, ...]
    scorings: tuple[Scoring, ...]
    evaluations: tuple[EvaluationRecord, ...]
    refusal: Refusal | None
    reputation: float
    reputation_updated_at: datetime | None
    steps: tuple[ReputationStep, ...]
    rounds: tuple[WeightRound, ...]
    baselines: tuple[Baseline, ...]
    uids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation of this node and what was kept of each sample, as plain JSON."""

    record: EvaluationRecord
    samples: tuple[Mapping[str, Any], ...]

    @property
    def sample_fields(self) -> tuple[str, ...]:
        """The samples' fields, in the order in which they first appear."""
        return tuple(dict.fromkeys(str(name) for sample in self.samples for name in sample))


@dataclass(frozen=True, slots=True)
class MinerLine:
    """One line of the list of miners."""

    hotkey: str
    uid: int | None
    reputation: float
    updated_at: datetime | None
    model: ModelId | None
    competition_id: str | None
    score: float | None
    weight: float


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One UID of a round: its weight, its part of the new vector before the EMA, and why."""

    uid: int
    hotkey: str | None
    weight: float
    new: float
    reasons: tuple[Mapping[str, object], ...]


def overview(session: Session, profile: Profile, *, archived: bool = True) -> Overview:
    """All competitions, running ones first."""
    metagraph = Metagraph(session, MODELS_NETUID).read()
    round_ = _latest(session)
    standings = model_standings(session, profile)
    rows = _rows(session, standings, metagraph, round_)
    lines = []
    records = Competitions(session).all(archived=archived)
    shares = shares_of(records)
    for record in sorted(records, key=lambda item: (item.archived_at is not None, item.id)):
        own = [standing for standing in standings if standing.model.competition_id == record.id]
        ranked = rows.get(record.id, ())
        pools = (round_.pools if round_ else {}).get(record.id, {})
        lines.append(
            CompetitionLine(
                record=record,
                share=shares[record.id],
                models=len(own),
                scored=sum(row.score is not None for row in ranked),
                under_scoring=sum(standing.model.is_being_scored_by is not None for standing in own),
                above=tuple(pools.get("above", ())),
                below=tuple(pools.get("below", ())),
                leader=ranked[0] if ranked and ranked[0].score else None,
            )
        )
    return Overview(
        lines=tuple(lines),
        baselines={record.id: Competitions(session).baselines(record.id) for record in records},
        round=round_,
        changes=tuple(Competitions(session).changes(_CHANGES)),
        refusals=tuple(ModelQueue(session, MODELS_NETUID).refusals()),
        metagraph=metagraph,
    )


def board(session: Session, profile: Profile, competition_id: str) -> Board:
    """One competition.

    Raises:
        UnknownCompetition: there never was one of this id.
    """
    record = Competitions(session).get(competition_id)
    metagraph = Metagraph(session, MODELS_NETUID).read()
    round_ = _latest(session)
    standings = [s for s in model_standings(session, profile) if s.model.competition_id == competition_id]
    models = {standing.model.hotkey: standing.model for standing in standings}
    queue = ModelQueue(session, MODELS_NETUID)
    at = now()
    waiting = [
        QueueLine(
            models[candidate.hotkey].uid,
            candidate.hotkey,
            models[candidate.hotkey].commitment.model,
            priority(candidate, at),
            candidate.scores,
            candidate.best_score,
            candidate.last_scored_at,
        )
        for candidate in queue.candidates(competition_id)
        if candidate.hotkey in models
    ]
    return Board(
        record=record,
        share=shares_of(Competitions(session).all()).get(competition_id),
        baselines=tuple(Competitions(session).baselines(competition_id)),
        round=round_,
        rows=_rows(session, standings, metagraph, round_).get(competition_id, ()),
        under_scoring=tuple(model for model in models.values() if model.is_being_scored_by is not None),
        queue=tuple(sorted(waiting, key=lambda line: (line.tier, -(line.best_score or 0.0), line.uid))),
        refusals=tuple(r for r in queue.refusals() if r.text.rpartition(":")[2] == competition_id),
        recent=tuple(
            ScoreHistory(session).of_competition(competition_id, at - timedelta(days=_RECENT_DAYS), _RECENT_SCORES)
        ),
        changes=tuple(c for c in Competitions(session).changes(10 * _CHANGES) if c.competition_id == competition_id),
        uids=_uids(metagraph),
    )


def miner(session: Session, profile: Profile, hotkey: str) -> MinerView:
    """One miner.

    Raises:
        UnknownMiner: neither registered, nor queued, nor refused, nor ever scored.
    """
    metagraph = Metagraph(session, MODELS_NETUID).read()
    uids = _uids(metagraph)
    standings = model_standings(session, profile)
    rounds = WeightRounds(session).latest(ROUNDS_SHOWN)
    ranked = _rows(session, standings, metagraph, rounds[0] if rounds else None)
    row = next((row for rows in ranked.values() for row in rows if row.hotkey == hotkey), None)
    queued = next((standing.model for standing in standings if standing.model.hotkey == hotkey), None)
    scores = ScoreHistory(session).of_miner(hotkey, _MINER_SCORES)
    refusal = next((r for r in ModelQueue(session, MODELS_NETUID).refusals() if r.hotkey == hotkey), None)
    reputation = Reputations(session).all().get(hotkey)
    if hotkey not in uids and queued is None and refusal is None and not scores and reputation is None:
        raise UnknownMiner("no miner of this hotkey is in the store")
    competition_id = queued.competition_id if queued else scores[0].competition_id if scores else None
    known = {record.id: record for record in Competitions(session).all(archived=True)}
    return MinerView(
        hotkey=hotkey,
        uid=uids.get(hotkey),
        row=row,
        queued=queued,
        competition=known.get(competition_id or ""),
        scores=tuple(scores),
        scorings=tuple(Scorings(session).of_miner(hotkey)),
        evaluations=tuple(Evaluations(session).recent(_MINER_EVALUATIONS, hotkey)),
        refusal=refusal,
        reputation=reputation.reputation if reputation else UNKNOWN_REPUTATION,
        reputation_updated_at=reputation.updated_at if reputation else None,
        steps=tuple(Reputations(session).history(hotkey)),
        rounds=tuple(rounds),
        baselines=tuple(Competitions(session).baselines(competition_id)) if competition_id in known else (),
        uids=uids,
    )


def evaluation(session: Session, evaluation_id: str) -> EvaluationView:
    """One evaluation of this node.

    Raises:
        UnknownEvaluation: there is none of this id (any more).
    """
    record = Evaluations(session).get(evaluation_id)
    if record is None:
        raise UnknownEvaluation("no evaluation of this id is in the store")
    kept = Evaluations(session).samples(evaluation_id)
    return EvaluationView(record, tuple(one if isinstance(one, dict) else {"sample": one} for one in kept))


def metric_values(metrics: Mapping[str, Any] | None, prefix: str = "") -> dict[str, float]:
    """The numbers of a report's metrics by name; a set's score bears the set's name, its other numbers ``set.name``."""
    found: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            found[prefix.removesuffix(".") if name == "score" and prefix else f"{prefix}{name}"] = value
        elif isinstance(value, dict) and prefix.count(".") < 2:
            found |= metric_values(value, "" if name == "sets" else f"{prefix}{name}.")
    return found


def miners(session: Session, profile: Profile) -> tuple[MinerLine, ...]:
    """Every hotkey with a model or a reputation, best reputation first."""
    metagraph = Metagraph(session, MODELS_NETUID).read()
    uids = _uids(metagraph)
    round_ = _latest(session)
    by_hotkey = round_.by_hotkey if round_ else {}
    reputations = Reputations(session).all()
    standings = {standing.model.hotkey: standing for standing in model_standings(session, profile)}
    lines = []
    for hotkey in reputations.keys() | standings.keys():
        standing, reputation = standings.get(hotkey), reputations.get(hotkey)
        lines.append(
            MinerLine(
                hotkey=hotkey,
                uid=uids.get(hotkey),
                reputation=reputation.reputation if reputation else UNKNOWN_REPUTATION,
                updated_at=reputation.updated_at if reputation else None,
                model=standing.model.commitment.model if standing else None,
                competition_id=standing.model.competition_id if standing else None,
                score=standing.score if standing else None,
                weight=by_hotkey.get(hotkey, 0.0),
            )
        )
    return tuple(sorted(lines, key=lambda line: (-line.reputation, line.uid is None, line.uid or 0, line.hotkey)))


def round_at(session: Session, mark: str) -> WeightRound:
    """The round of weights of one mark.

    Raises:
        UnknownRound: none was computed, or it is older than RETENTION.
    """
    found = WeightRounds(session).at(mark)
    if found is None:
        raise UnknownRound("no weights were computed for this mark, or they are older than RETENTION")
    return found


def round_rows(found: WeightRound) -> tuple[RoundRow, ...]:
    """The UIDs of a round that have a weight or a share, heaviest first."""
    hotkeys = found.hotkeys
    reasons: dict[int, list[Mapping[str, object]]] = defaultdict(list)
    new: dict[int, float] = defaultdict(float)
    for share in found.shares:
        reasons[share["uid"]].append(share)
        new[share["uid"]] += share["weight"]
    uids = {uid for uid, weight in found.weights.items() if weight > 0} | reasons.keys()
    rows = [
        RoundRow(uid, hotkeys.get(uid), found.weights.get(uid, 0.0), new.get(uid, 0.0), tuple(reasons.get(uid, ())))
        for uid in uids
    ]
    return tuple(sorted(rows, key=lambda row: (-row.weight, row.uid)))


def _latest(session: Session) -> WeightRound | None:
    return next(iter(WeightRounds(session).latest()), None)


def _uids(metagraph: SyncedMetagraph) -> dict[str, int]:
    return {hotkey: uid for uid, hotkey in metagraph.hotkeys.items()}


def _rows(
    session: Session, standings: Iterable[ModelStanding], metagraph: SyncedMetagraph, round_: WeightRound | None
) -> dict[str, tuple[BoardRow, ...]]:
    """Each competition's leaderboard: best score first, models without one last."""
    uids = _uids(metagraph)
    reputations = Reputations(session).all()
    baselines = {record.id: record.baseline for record in Competitions(session).all(archived=True)}
    got = _places(round_)
    by_competition: dict[str, list[ModelStanding]] = defaultdict(list)
    for standing in standings:
        by_competition[standing.model.competition_id].append(standing)
    found = {}
    for competition_id, own in by_competition.items():
        baseline = baselines.get(competition_id)
        own.sort(key=lambda s: (s.score is None, -(s.score or 0.0), s.model.uid))
        rows = []
        for place, standing in enumerate(own, 1):
            hotkey, known = standing.model.hotkey, reputations.get(standing.model.hotkey)
            above = None if baseline is None or standing.score is None else standing.score > baseline.score
            rows.append(
                BoardRow(
                    place=None if standing.score is None else place,
                    uid=standing.model.uid,
                    hotkey=hotkey,
                    model=standing.model.commitment.model,
                    score=standing.score,
                    validators_score=standing.validators_score.score,
                    is_above=above,
                    is_copy=standing.is_copy,
                    is_penalised=standing.is_penalised,
                    got=got.get((competition_id, hotkey)),
                    weight=round_.by_hotkey.get(hotkey, 0.0) if round_ else 0.0,
                    reputation=known.reputation if known else UNKNOWN_REPUTATION,
                    is_known_reputation=known is not None,
                    reports=_reports(standing, uids),
                )
            )
        found[competition_id] = tuple(rows)
    return found


def _places(round_: WeightRound | None) -> dict[tuple[str, str], Place]:
    """What each hotkey got of each competition. By hotkey: a UID may have changed hands since the round."""
    if round_ is None:
        return {}
    hotkeys = round_.hotkeys
    return {
        (share["competition"], hotkeys[share["uid"]]): Place(share["pool"], share["weight"])
        for share in round_.shares
        if share["uid"] in hotkeys
    }


def _reports(standing: ModelStanding, uids: Mapping[str, int]) -> tuple[Report, ...]:
    shares = {id(item.report): item.share for item in standing.validators_score.reports}
    return tuple(
        Report(
            validator=report.scorer,
            validator_uid=uids.get(report.scorer),
            score=report.score,
            scored_at=report.scored_at,
            share=shares.get(id(report)),
        )
        for report in standing.reports
    )
