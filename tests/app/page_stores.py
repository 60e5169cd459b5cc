"""Stores for the tests of the pages: a full epoch, lively competitions, and one filled with hostile text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.celery import app as celery_app
from app.clock import now
from app.competitions.standings import mark_of, weight_round
from app.demo import RECORDING_2026
from app.demo.make_recording import SUBSTITUENTS, TARGET, TARGET_SEQUENCE
from app.domain import (
    MINUS_INFINITY,
    Challenge,
    Commitment,
    EpochHeader,
    ModelCommitment,
    ModelId,
    Molecule,
    Neuron,
    Protein,
    Rejection,
    RejectionCode,
    ScoringModel,
)
from app.epochs.recording import Recording
from app.epochs.result import json_number
from app.epochs.rules.october_2025 import Parameters
from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.evaluations import EvaluationEnd, EvaluationInputs, EvaluationPhase, Evaluations
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, Refusal
from app.store.records import Examination, Stage, Standing, Verdict
from app.store.reputations import WeightRounds
from app.store.services import keep_block
from app.store.tables.competitions import (
    BaselineRow,
    CompetitionChangeRow,
    CompetitionRow,
    ModelRow,
    ModelScoreRow,
    ModelScoringRow,
    NeuronRow,
    ReputationRow,
    ReputationStepRow,
    WeightRoundRow,
)
from app.store.tables.epochs import BatchRow, EpochRow, SubmissionRow, WarningRow
from app.store.tables.weights import WeightSubmissionRow
from app.store.weight_submissions import WeightsState, WeightSubmissions
from app.weights import keep_verdict
from chain.incentive.models import Competition, incentive
from chain.weights import WeightsParameters, verdict
from tests.app.competitions.competition_fixtures import NETUID, SECOND, VALIDATOR, miner
from tests.app.store import evaluation_claims

EPOCH_LENGTH: Final = 361


def settle_weights(session: Session, epoch_id: int, state: str, detail: str) -> None:
    """What became of a closed epoch's weights, and the epoch's end."""
    vector = session.execute(select(EpochRow.weights).where(EpochRow.id == epoch_id)).scalar_one()
    submissions = WeightSubmissions(session)
    begun = submissions.begin(68, epoch_id=epoch_id)
    shares = None if vector is None else {int(uid): share for uid, share in vector.items()}
    submissions.settle(begun.id, WeightsState(state), detail, vector=shares)
    Epochs(session).finish(epoch_id)


END_BLOCK: Final = EPOCH_LENGTH * 19_000
ANTITARGETS: Final = tuple(f"ANTI{number}" for number in range(8))

_SCAFFOLDS: Final = (
    "{0}c1ccc(cc1)c1ccc({1})cc1", "{0}c1cccc(c1)c1ccc({1})cc1", "{0}c1ccc(cc1)c1cccc({1})c1",
    "{0}c1ccc(nc1)c1ccc({1})cc1", "{0}c1ccc(cc1)C(=O)Nc1ccc({1})cc1", "{0}c1ccc(cc1)NC(=O)c1ccc({1})nc1",
    "{0}c1ccc(cc1)COc1ccc({1})cc1", "{0}c1ccc(cc1)CNc1ccc({1})cc1", "{0}c1ccc(cc1)OCCOc1ccc({1})cc1",
    "{0}c1ccc(cc1)S(=O)(=O)Nc1ccc({1})cc1", "{0}c1ccc(cc1)C1CCN(CC1)c1ccc({1})cc1", "{0}c1cnc(nc1)c1ccc({1})cc1",
    "{0}c1ccc2cc(ccc2c1)c1ccc({1})cc1", "{0}c1ccc(cc1)c1cnn(c1)c1ccc({1})cc1", "{0}c1ccc(cc1)CCc1ccc({1})cc1",
    "{0}c1ccc(cc1)N1CCN(CC1)c1ccc({1})cc1", "{0}c1ccc(cc1)c1nc2ccc({1})cc2[nH]1", "{0}c1ccc(s1)c1ccc({1})cc1",
    "{0}c1ccc(o1)c1ccc({1})cc1", "{0}c1ccc(cc1)C=Cc1ccc({1})cc1", "{0}c1ccc(cc1)C#Cc1ccc({1})cc1",
    "{0}c1ccc(cc1)Oc1ccc({1})cc1", "{0}c1ccc(cc1)Sc1ccc({1})cc1", "{0}c1ccc(cc1)C(=O)c1ccc({1})cc1",
    "{0}c1ccc(cc1)c1ccc(c2ccc({1})cc2)cc1", "{0}c1ccc(cc1)CN1CCN(CC1)c1ccc({1})cc1", "{0}c1ccc(cn1)c1ccc({1})nc1",
    "{0}c1ccc(cc1)NC(=O)Nc1ccc({1})cc1", "{0}c1ccc(cc1)C1CC1c1ccc({1})cc1", "{0}c1ccc(cc1)CC(=O)Nc1ccc({1})cc1",
)  # fmt: skip


# Substituents as they are written before their ring.
_BEFORE: Final = (
    "C", "CC", "CCC", "CO", "CCO", "N#C", "F", "Cl", "Br", "FC(F)(F)", "CN", "CNC", "CS", "CC(C)", "CC(=O)", "CC(=O)N",
    "NC(=O)", "CS(=O)(=O)", "OC", "O", "N", "CCN", "CCCO", "COC", "CSC", "NS(=O)(=O)", "C=C", "C#C", "CC=C", "OCC",
)  # fmt: skip


def smiles(count: int) -> list[str]:
    """That many distinct, drawable SMILES."""
    places = itertools.product(SUBSTITUENTS, _SCAFFOLDS, _BEFORE)
    found = [form.format(before, after) for after, form, before in itertools.islice(places, count)]
    assert len(set(found)) == count
    return found


def tracked_epoch(store: Store, folder: Path = RECORDING_2026) -> int:
    """A recording with tracks, replayed to its end; its id. Tasks run in this process."""
    # tasks bring the whole of the workers with them
    from workers import scoring
    from workers.epochs import open_epoch
    from workers.submissions import _examiner

    celery_app.loader.import_default_modules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", store.engine.url.render_as_string(hide_password=False))
        get_settings.cache_clear()
        celery_app.conf.update(task_always_eager=True, task_eager_propagates=True)
        try:
            with store.writing() as session:
                epoch_id = Recording(folder).announce(session, "recorded", "c")
            open_epoch.delay(epoch_id)
        finally:
            celery_app.conf.update(task_always_eager=False, task_eager_propagates=False)
            _examiner.cache_clear()
            scoring.forget_scorers()
    get_settings.cache_clear()
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is Stage.DONE
    return epoch_id


def hotkey_of(store: Store, epoch_id: int, uid: int) -> str:
    """Who submitted under a UID."""
    with store.reading() as session:
        return Epochs(session).submission(epoch_id, uid).commitment.hotkey


def hotkey(uid: int) -> str:
    """A made-up address, as long as a real one."""
    letters = random.Random(uid).choices("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", k=47)
    return "5" + "".join(letters)


def full_epoch(store: Store, submissions: int = 256, molecules: int = 100, number: int = 0) -> int:
    """A finished epoch with so many submissions, one in eight of them refused. Its id."""
    chance = random.Random(number)
    header = EpochHeader(
        68, "test", EPOCH_LENGTH, END_BLOCK - EPOCH_LENGTH, END_BLOCK + number * EPOCH_LENGTH, "0x01", "0x02"
    )
    challenge = Challenge((TARGET,), ANTITARGETS, (4, 5))
    proteins = [Protein(TARGET, TARGET_SEQUENCE), *(Protein(code, "MKV" * 40) for code in ANTITARGETS)]
    texts = smiles(submissions * molecules)
    codes = list(RejectionCode)
    refused = {uid for uid in range(submissions) if uid % 8 == 7}
    order = [uid for uid in range(submissions) if uid not in refused]
    with store.writing() as session:
        epochs = Epochs(session)
        epoch_id = epochs.announce(f"68:{header.epoch}", header, "model", "default", publishes=True)
        epochs.open(
            epoch_id,
            header=header,
            neurons=[Neuron(uid, hotkey(uid), hotkey(1000 + uid), 10.0 * uid, uid == 0) for uid in range(submissions)],
            rules=_rules_text(),
            rules_sha256="ab" * 32,
            challenge=challenge,
            proteins=proteins,
            commitments=[
                (uid, Commitment(hotkey(uid), END_BLOCK - 200 + uid % 90, f"miner{uid}/nova/main/s/{uid:020x}.txt"))
                for uid in range(submissions)
            ],
            warnings=["protein ANTI3 has no known sequence; every molecule scores -inf against it"],
        )
        for uid in range(submissions):
            own = texts[uid * molecules : (uid + 1) * molecules]
            if uid in refused:
                code = codes[uid // 8 % len(codes)]
                rejection = Rejection(code, f"the rule {code.value} refuses molecule 4", f"rxn:4:{uid}:7", 4)
                found = Examination("2025-10-28T14:05:00Z", rejection=rejection)
            else:
                parts = tuple(
                    Molecule(f"rxn:4:{uid}:{index}", text, f"{uid:014d}-{index:010d}-N")
                    for index, text in enumerate(own)
                )
                found = Examination("2025-10-28T14:05:00Z", parts, entropy=1.0 + chance.random())
            epochs.record_examination(epoch_id, uid, found)
        valid = [texts[uid * molecules + index] for uid in order for index in range(molecules)]
        batches = {
            ScoringModel.PSICHIC: [valid[start : start + 32] for start in range(0, len(valid), 32)],
            ScoringModel.BOLTZ: [[texts[uid * molecules] for uid in order]],
        }
        epochs.plan(epoch_id, batches)
        session.execute(
            update(BatchRow)
            .where(BatchRow.epoch_id == epoch_id)
            .values(state="scored", model_digest="cd" * 32, finished_at=now())
        )
        verdicts = [_verdict(uid, rank, molecules, chance) for rank, uid in enumerate(order, 1)]
        epochs.close(
            epoch_id,
            verdicts,
            {"psichic": order[0], "boltz": order[-1]},
            {order[0]: 0.25, order[-1]: 0.25, 0: 0.5},
            ["psichic: 3 molecule(s) without a score (too_large), for example C"],
        )
        settle_weights(session, epoch_id, "set", f"block {END_BLOCK}")
    return epoch_id


def known_validator(store: Store, uid: int = 12, epochs: int = 0) -> None:
    """A validator whose registration was read and whose weights would be accepted, after so many small epochs."""
    for number in range(epochs):
        full_epoch(store, submissions=8, molecules=4, number=number)
    block = END_BLOCK + max(epochs, 1) * EPOCH_LENGTH
    parameters = WeightsParameters(
        68, hotkey(uid), block, uid, last_update=block - 400, rate_limit=100, version_key=0, min_allowed=1,
        max_limit=65_535, permit=True, stake=31_204.5 + uid, stake_threshold=1_000.0, commit_reveal=False,
        commit_reveal_version=4, mechanisms=1,
    )  # fmt: skip
    with store.writing() as session:
        keep_block(session, 68, block + 39)
        keep_verdict(session, verdict(parameters))


def running_epoch(store: Store, submissions: int = 4) -> int:
    """An epoch whose submissions wait to be examined. Its id."""
    end = END_BLOCK + 50 * EPOCH_LENGTH
    header = EpochHeader(68, "test", EPOCH_LENGTH, end - EPOCH_LENGTH, end, "0x01", "0x02")
    with store.writing() as session:
        epochs = Epochs(session)
        epoch_id = epochs.announce(f"68:{header.epoch}", header, "model", "default", publishes=True)
        epochs.open(
            epoch_id,
            header=header,
            neurons=[Neuron(uid, hotkey(uid), hotkey(1000 + uid), 10.0, False) for uid in range(submissions)],
            rules=_rules_text(),
            rules_sha256="ab" * 32,
            challenge=Challenge((TARGET,), ANTITARGETS, (4, 5)),
            proteins=[Protein(TARGET, TARGET_SEQUENCE), *(Protein(code, "MKV" * 40) for code in ANTITARGETS)],
            commitments=[
                (uid, Commitment(hotkey(uid), end - 100, f"miner{uid}/nova/main/s/{uid:020x}.txt"))
                for uid in range(submissions)
            ],
            warnings=[],
        )
    return epoch_id


def refuse(store: Store, epoch_id: int, *uids: int) -> None:
    """Examine submissions of a running epoch, and refuse them."""
    with store.writing() as session:
        for uid in uids:
            rejection = Rejection(RejectionCode.FORMAT_INVALID, "the decrypted text is not 'UID:names'")
            Epochs(session).record_examination(epoch_id, uid, Examination("", rejection=rejection))


def _rules_text() -> str:
    import yaml

    return str(yaml.safe_dump(Parameters().model_dump(), sort_keys=False))


def _verdict(uid: int, rank: int, molecules: int, chance: random.Random) -> Verdict:
    scored: list[dict[str, Any]] = []
    for index in range(molecules):
        score = MINUS_INFINITY if index == 3 else chance.uniform(2.0, 6.0)
        scored.append(
            {
                "target_scores": [json_number(chance.uniform(5.0, 9.0))],
                "antitarget_scores": [
                    json_number(MINUS_INFINITY if index == 3 else chance.uniform(4.0, 7.0)) for _ in ANTITARGETS
                ],
                "score": json_number(score),
                "boltz": {"affinity_probability_binary": chance.random(), "affinity_pred_value": -1.5}
                if index == 0
                else None,
            }
        )
    return Verdict(uid, scored, {"psichic": Standing(9.0 - rank / 50, rank), "boltz": Standing(0.9 - rank / 400, rank)})


# -- the model competitions -------------------------------------------------------------------------------------------

_METRICS: Final = ("commoneval", "wildvoice", "advbench", "ifeval")


def lively_competitions(store: Store, miners: int = 24, days: int = 10) -> None:
    """Three running competitions (one without a baseline) and one that ended, with everything that happens in them."""
    chance = random.Random(21)
    at = now()
    third = hotkey(9003)
    neurons = [
        Neuron(0, VALIDATOR.ss58_address, "cold", 30_000.0, True),
        Neuron(1, SECOND.ss58_address, "cold", 90_000.0, True),
        Neuron(2, third, "cold", 50_000.0, True),
        *(Neuron(uid, miner(uid), "cold", 10.0, False) for uid in range(3, 3 + miners)),
        Neuron(111, hotkey(111), "cold", 1.0, False),
    ]
    validators = (VALIDATOR.ss58_address, SECOND.ss58_address, third)
    uids = range(3, 3 + miners)
    in_competition = {uid: ("voicebench", "voicebench", "o1", "voicebench", "v2v")[uid % 5] for uid in uids}
    skill = {uid: chance.uniform(0.35, 0.66) for uid in uids}
    with store.writing() as session:
        Metagraph(session, NETUID).sync(7_000_000, neurons)
        competitions = Competitions(session)
        for name, share in (("voicebench", 0.7), ("o1", 0.3), ("v2v", 0.2), ("retired", 0.1)):
            competitions.add(name, share, "ann@validator")
        for number, score in enumerate((0.42, 0.47, 0.52)):
            competitions.set_baseline("voicebench", score, "ann@validator")
            row = session.query(BaselineRow).order_by(BaselineRow.id.desc()).first()
            assert row is not None
            row.set_at = at - timedelta(days=days - 3 * number)
        competitions.set_baseline("o1", 0.9, "ben@validator")
        competitions.archive("retired", "ann@validator")
        queue = ModelQueue(session, NETUID)
        for uid in uids:
            age = timedelta(days=chance.uniform(1, days))
            digest = "5c0ffee5" if uid in {6, 8} else f"{uid:08x}"
            identity = ModelId("maker", f"any-voice-{uid}b", "3", f"{uid:040x}", digest, in_competition[uid])
            queue.register(uid, ModelCommitment(miner(uid), 6_900_000 + uid, identity), at - age)
            if uid != 9:
                created = at - age + timedelta(days=2 if uid == 11 else -20)
                queue.note_repository(miner(uid), identity, created)
        for uid, text, reason in (
            (3, "maker:old-thing", "the commitment has 2 fields; 6 are expected (namespace:name:epoch:commit:hash:id)"),
            (5, "a:b:1:c:d:voicebench", "the model is 3 min old; it is queued from MIN_AGE, 10 min, on"),
            (7, "a:b:1:c:d:chess", "no competition 'chess' runs; running: o1, v2v, voicebench"),
        ):
            queue.refuse(Refusal(miner(uid), uid, 6_999_000 + uid, text, reason))
        scores = []
        for uid in uids:
            if uid % 7 == 3:
                continue
            row = session.get(ModelRow, miner(uid))
            assert row is not None
            for number in range(14 if uid == 15 else 8):
                scores.append(_model_score(row, uid, validators[number % 3], skill[uid], number, at, days, chance))
            row.is_new = False
        session.execute(insert(ModelScoreRow), sorted(scores, key=lambda item: item["scored_at"]))
        for uid, who in ((5, VALIDATOR.ss58_address), (12, SECOND.ss58_address)):
            session.execute(
                update(ModelRow)
                .where(ModelRow.hotkey == miner(uid))
                .values(
                    is_being_scored_by=who,
                    taken_at=at - timedelta(minutes=uid),
                    taken_model=ModelRow.model,
                    taken_block=ModelRow.block,
                )
            )
        _scorings(session, uids, at)
        for uid in uids:
            if uid in {13, 22}:
                _evaluations(session, miner(uid), f"maker/any-voice-{uid}b")
        reputations = _reputations(session, uids, skill, in_competition, at)
        _rounds(session, neurons, in_competition, skill, reputations, at, chance)


def _model_score(
    row: Any, uid: int, validator: str, skill: float, number: int, at: datetime, days: int, chance: random.Random
) -> dict[str, Any]:
    fails = uid == 15 or (uid == 13 and number % 4 == 1)
    score = 0.0 if fails else round(max(0.0, skill + chance.uniform(-0.02, 0.02)), 4)
    return {
        "hotkey": row.hotkey,
        "uid": uid,
        "competition_id": row.competition_id,
        "model": row.model,
        "block": row.block,
        "model_hash": f"{uid:08x}",
        "scorer_hotkey": validator,
        "score": score,
        "metric_scores": None
        if fails
        else {name: round(chance.uniform(0.2, 0.95), 3) for name in _METRICS} | {"sets": {"commoneval": {"n": 50}}},
        "error": "the image does not build: Dockerfile:7: pip: no module named torch" if fails else None,
        "scored_at": at - timedelta(days=days * 0.9) + timedelta(hours=number * 24 * days / 16, minutes=uid),
    }


def _scorings(session: Any, uids: Sequence[int], at: datetime) -> None:
    rows = []
    for number, uid in enumerate(uids):
        model = session.get(ModelRow, miner(uid))
        is_open = uid == 5
        state = "scoring" if is_open else ("scored", "failed", "released")[number % 3]
        rows.append(
            {
                "scorer": f"http://gpu-{number % 2}:8003",
                "busy_scorer": f"http://gpu-{number % 2}:8003" if is_open else None,
                "hotkey": miner(uid),
                "uid": uid,
                "competition_id": model.competition_id,
                "model": model.model,
                "block": model.block,
                "scorer_hotkey": VALIDATOR.ss58_address,
                "state": state,
                "task_id": f"task-{uid}",
                "score": 0.5 if state == "scored" else None,
                "error": None if state in {"scored", "scoring"} else "the scoring API does not answer: timed out",
                "taken_at": at - timedelta(hours=uid, minutes=30),
                "started_at": at - timedelta(hours=uid, minutes=29),
                "looked_at": at - timedelta(hours=uid),
                "finished_at": None if is_open else at - timedelta(hours=uid),
            }
        )
    session.execute(insert(ModelScoringRow), rows)


def _evaluations(session: Any, hotkey_: str, repository: str) -> None:
    """One evaluation that ended with a score and its samples, one that failed, one that waits."""
    evaluations = Evaluations(session)
    inputs = EvaluationInputs(repository, "voicebench", hotkey_, 6_900_013)
    sets = {name: {"score": 0.3 + number / 10, "samples": 5, "usable": 5} for number, name in enumerate(_METRICS)}
    samples = [
        {
            "id": f"{name}-{number}",
            "set": name,
            "prompt": "How do I keep bread fresh for longer? " * (1 + number),
            "answer": "Keep it in a cloth bag, cut side down, away from the light." if number else None,
            "verdict": {"rating": number, "judge": "primary"},
            "error": None if number else "the model answered 500",
            "latency": 0.7 + number,
        }
        for name in _METRICS
        for number in range(5)
    ]
    ends = (
        EvaluationEnd(EvaluationPhase.COMPLETED, 0.45, None, {"voicebench": 0.45, "sets": sets}, samples),
        EvaluationEnd(EvaluationPhase.FAILED, 0.0, "build_failed: Dockerfile:7: pip: no module named torch"),
        None,
    )
    for number, end in enumerate(ends):
        identity = evaluations.accept(inputs, (f"{hotkey_}-{number}",))
        assert identity is not None
        if end is not None:
            piece = evaluation_claims.begun(session, identity, device="cuda:0")
            evaluations.note_revision(identity, "c0ffee" * 6)
            evaluation_claims.finished(session, identity, piece, end)


def _reputations(
    session: Any, uids: Sequence[int], skill: dict[int, float], in_competition: dict[int, str], at: datetime
) -> dict[str, float]:
    reputations = {}
    baselines = {"voicebench": 0.52, "o1": 0.9}
    for uid in uids:
        if in_competition[uid] not in baselines or uid % 7 == 3:
            continue
        value, steps = 0.5, []
        for day in range(60, 0, -1):
            baseline = baselines[in_competition[uid]]
            score = skill[uid] + 0.05 * ((day % 9) / 9 - 0.5)
            value = (1 - 0.005) * value + 0.005 * (score > baseline)
            instant = at - timedelta(days=day)
            steps.append(
                {
                    "hotkey": miner(uid),
                    "competition_id": in_competition[uid],
                    "day": f"{instant:%Y-%m-%d}",
                    "score": score,
                    "baseline": baseline,
                    "reputation": value,
                    "stepped_at": instant,
                }
            )
        session.execute(insert(ReputationStepRow), steps)
        session.add(ReputationRow(hotkey=miner(uid), reputation=value, updated_at=at, registered_at=at))
        reputations[miner(uid)] = value
    return reputations


def _rounds(
    session: Any,
    neurons: Sequence[Neuron],
    in_competition: dict[int, str],
    skill: dict[int, float],
    reputations: dict[str, float],
    at: datetime,
    chance: random.Random,
) -> None:
    hotkeys = {neuron.uid: neuron.hotkey for neuron in neurons}
    previous: dict[str, float] = {}
    rounds = WeightRounds(session)
    for number in range(90, 0, -1):
        instant = at - timedelta(minutes=20 * number)
        competitions = [
            Competition(
                name,
                share,
                baseline,
                {
                    uid: {8: 0.0, 11: 0.001, 15: 0.0}.get(uid, skill[uid] + chance.uniform(-0.005, 0.005))
                    for uid in in_competition
                    if in_competition[uid] == name and uid % 7 != 3
                },
            )
            for name, share, baseline in (("o1", 0.3, 0.9), ("v2v", 0.2, None), ("voicebench", 0.7, 0.52))
        ]
        found = incentive(hotkeys, competitions, reputations, previous=previous, alpha=0.9)
        previous = dict(found.by_hotkey)
        mark = mark_of(instant)
        rounds.keep(weight_round(mark, found))
        if number == 40:
            _settle_round(session, mark, WeightsState.FAILED, "given up after 10 tries: SettingWeightsTooFast")
        elif number % 10:
            _settle_round(session, mark, WeightsState.SET, f"in block {7_000_000 - 100 * number}")
        session.execute(update(WeightRoundRow).where(WeightRoundRow.mark == mark).values(computed_at=instant))


def _settle_round(session: Session, mark: str, state: WeightsState, detail: str) -> None:
    submissions = WeightSubmissions(session)
    submissions.settle(submissions.begin(NETUID, mark=mark).id, state, detail)


# -- hostile text ----------------------------------------------------------------------------------------------------

# Whatever gets through shows as an element or attribute called evil, a dialog, a request to evil.example, or 1234000.
HOSTILE: Final = (
    "<script>alert('evil')</script>",
    "</script><script src=https://evil.example/a.js></script>",
    '"><evil onmouseover=alert(1) evil="1">',
    "'><img src=x onerror=alert('evil')>",
    '" onfocus=alert(1) autofocus evil="',
    "' style='position:fixed;inset:0' evil='",
    "javascript:alert('evil')",
    "JaVaScRiPt\t:alert(1)//https://evil.example",
    "data:text/html,<script>alert(1)</script>",
    "https://evil.example/steal?x=<evil>",
    "//evil.example/x",
    "</title></style></textarea></svg></script><evil>",
    "<svg onload=alert(1)><evil/></svg>",
    "<!-- <evil> --!><evil>",
    "]]><evil>",
    "{{ 1234 * 1000 }}{% for x in range(9) %}evil{% endfor %}${1234*1000}<%= 1234*1000 %>",
    "\u202egnp.exe\u2066\u200b\u0000\u0007\u2028\x1b[31m",
    "=HYPERLINK(\"https://evil.example\")",
    "&lt;evil&gt;&#x3c;evil&#x3e;&quot;",
    "../../../etc/passwd%00%2e%2e%2f?evil=1#evil",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "x" * 20_000,
    "😀" * 500 + "\ufeff" + "a\u0301" * 500,
)  # fmt: skip

BENIGN: Final = tuple(f"harmless {number}" for number in range(len(HOSTILE)))


def hostile_epoch(store: Store, texts: Sequence[str] = HOSTILE) -> int:
    """Every text that somebody else may write, in every place, in an epoch and in the competitions. The epoch's id."""
    chosen = itertools.cycle(texts)

    def one() -> str:
        return next(chosen)

    with store.writing() as session:
        epoch_id = _strange_epoch(session, texts, one)
        _strange_competitions(session, texts, one)
    return epoch_id


def _strange_epoch(session: Any, texts: Sequence[str], one: Callable[[], str]) -> int:
    at, count = now(), len(texts)
    header = EpochHeader(68, one(), EPOCH_LENGTH, END_BLOCK - EPOCH_LENGTH, END_BLOCK, one(), one())
    epochs = Epochs(session)
    epoch_id = epochs.announce("strange", header, "recorded", "default")
    neurons = [Neuron(uid, text, one(), 1.0, False) for uid, text in enumerate(texts)]
    neurons += [Neuron(count + uid, one(), one(), 1.0, False) for uid in range(count)]
    codes = tuple(one()[:40] + str(number) for number in range(9))
    epochs.open(
        epoch_id,
        header=header,
        neurons=neurons,
        rules=_rules_text(),
        rules_sha256=one()[:64],
        challenge=Challenge(codes[:1], codes[1:], (4, one()[:40])),
        proteins=[Protein(code, None) for code in codes],
        commitments=[(neuron.uid, Commitment(neuron.hotkey, END_BLOCK - 50, one())) for neuron in neurons],
        warnings=[f"warning {number}: {text}" for number, text in enumerate(texts)],
    )
    for uid, text in enumerate(texts):
        rejection = Rejection(list(RejectionCode)[uid % len(RejectionCode)], text, one(), uid)
        epochs.record_examination(epoch_id, uid, Examination(one(), rejection=rejection))
        strange = [Molecule(one(), one(), one()) for _ in range(3)]
        parts = (*strange, Molecule(text, "CCO", one()))
        epochs.record_examination(epoch_id, count + uid, Examination(one(), parts, entropy=1.0))
    epochs.plan(epoch_id, {ScoringModel.PSICHIC: [[one() for _ in range(4)]], ScoringModel.BOLTZ: [[one()]]})
    scored = [
        {"target_scores": [5.0], "antitarget_scores": [4.0] * 8, "score": 1.0, "boltz": {text[:60]: 0.5}}
        for text in texts[:4]
    ]
    verdicts = [
        Verdict(count + uid, scored, {"psichic": Standing(1.0, uid + 1), "boltz": Standing(0.5, uid + 1)})
        for uid in range(count)
    ]
    epochs.close(epoch_id, verdicts, {"psichic": count, "boltz": count + 1}, {count: 0.5, count + 1: 0.5}, [one()])
    settle_weights(session, epoch_id, "not_set", one())
    session.execute(update(WeightSubmissionRow).values(failures=list(texts), extrinsic=one(), block_hash=one()))
    session.execute(update(BatchRow).values(model_digest=one(), worker=one()))
    session.execute(update(SubmissionRow).values(worker=one()))
    for number, text in enumerate(texts):
        failed = epochs.announce(f"failed {number}", header, text, "default")
        epochs.fail(failed, text)
        session.add(WarningRow(epoch_id=failed, text=f"{text[:400]} {number}"))
    session.execute(update(EpochRow).where(EpochRow.id == epoch_id).values(touched_at=at))
    return epoch_id


def _strange_competitions(session: Any, texts: Sequence[str], one: Callable[[], str]) -> None:
    at, count = now(), len(texts)
    evaluations = Evaluations(session)
    for number, text in enumerate(texts):
        inputs = EvaluationInputs(one(), one(), text, number)
        identity = evaluations.accept(inputs, ("0",), f"{number:08d}")
        assert identity is not None
        piece = evaluation_claims.begun(session, identity, device=one())
        evaluations.note_revision(identity, one())
        samples = [{"prompt": one(), text[:300]: one(), "verdict": {one()[:99]: [one()]}}, {"answer": text}]
        end = EvaluationEnd(EvaluationPhase.FAILED, 0.0, one(), {one()[:99]: 0.5, "sets": {one()[:99]: 0.1}}, samples)
        evaluation_claims.finished(session, identity, piece, end)
    session.execute(
        insert(NeuronRow),
        [
            {
                "netuid": NETUID,
                "uid": uid,
                "hotkey": texts[uid % count] + ("" if uid < count else "2"),
                "coldkey": one(),
                "stake": 100.0,
                "validator_permit": True,
                "block": 1,
                "synced_at": at,
            }
            for uid in range(2 * count)
        ],
    )
    # a commitment's fields cannot hold a colon, so neither can what they are kept in
    plain = [text.replace(":", "") for text in texts]
    for text, competition in zip(texts, plain, strict=True):
        session.add(CompetitionRow(id=competition, reward_percentage=1.0, added_at=at, archived_at=None))
        session.flush()
        session.add(BaselineRow(competition_id=competition, score=0.5, set_by=one(), set_at=at))
        session.add(
            CompetitionChangeRow(competition_id=competition, action=one(), detail=one(), changed_by=text, changed_at=at)
        )
    for uid, text in enumerate(texts):
        model = ":".join((plain[uid], plain[-1 - uid][:60], "1", plain[uid - 3], plain[uid - 2], plain[0]))
        session.add(
            ModelRow(
                hotkey=text,
                uid=uid,
                competition_id=plain[0],
                model=model,
                block=uid,
                committed_at=at - timedelta(days=1),
                is_new=False,
                is_being_scored_by=one() if uid % 3 == 0 else None,
                taken_at=at if uid % 3 == 0 else None,
                taken_model=model if uid % 3 == 0 else None,
                taken_block=uid if uid % 3 == 0 else None,
                repository_created_at=at,
                repository_checked_at=at,
                updated_at=at,
            )
        )
        ModelQueue(session, NETUID).refuse(Refusal(text + "2", count + uid, uid, f"{one()}:{plain[0]}", one()))
        for number in range(4):
            session.add(
                ModelScoreRow(
                    hotkey=text,
                    uid=uid,
                    competition_id=plain[0],
                    model=model,
                    block=uid,
                    model_hash=one(),
                    scorer_hotkey=texts[(uid + number) % count],
                    score=0.5 + uid / 100,
                    metric_scores={one()[:200]: 0.5, one()[:100] + "!": {one()[:100]: [one(), 1, None]}},
                    error=one(),
                    scored_at=at - timedelta(hours=number),
                )
            )
        session.add(
            ModelScoringRow(
                scorer=one(),
                busy_scorer=None,
                hotkey=text,
                uid=uid,
                competition_id=plain[0],
                model=model,
                block=uid,
                scorer_hotkey=one(),
                state="failed",
                task_id=one(),
                score=None,
                error=one(),
                taken_at=at,
                started_at=at,
                looked_at=at,
                finished_at=at,
            )
        )
        session.add(ReputationRow(hotkey=text, reputation=0.5, updated_at=at, registered_at=at))
        session.add(
            ReputationStepRow(
                hotkey=text,
                competition_id=plain[0],
                day=one()[:20] + str(uid),
                score=0.5,
                baseline=0.4,
                reputation=0.6,
                stepped_at=at,
            )
        )
    session.flush()
    for number in range(3):
        mark = mark_of(at - timedelta(minutes=20 * number)) if number else one()[:60]
        session.add(
            WeightRoundRow(
                mark=mark,
                weights={str(uid): 1 / count for uid in range(count)},
                by_hotkey=dict.fromkeys(texts, 1 / count),
                pools={text: {"above": [0], "below": [1, 2]} for text in plain},
                shares=[
                    {
                        "uid": uid,
                        "competition": plain[0],
                        "pool": one(),
                        "score": 0.5,
                        "reputation": None,
                        "weight": 1 / count,
                    }
                    for uid in range(count)
                ],
                warnings=list(texts),
                computed_at=at - timedelta(minutes=20 * number),
            )
        )
        session.flush()
        _settle_round(session, mark, WeightsState.FAILED, one())
