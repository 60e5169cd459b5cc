"""One task evaluates one model: every outcome in the store, nothing left, and no zero for what is our fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

import beat_schedule
from app.celery import configuration
from app.clock import now
from app.competitions.benchmarks import capabilities
from app.competitions.commitments import CommitmentLookup
from app.domain import Commitment, ModelCommitment, Neuron
from app.settings import Settings, get_settings
from app.store.capabilities import Capabilities
from app.store.claims import Claims, Work
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.evaluations import EVALUATE, EvaluationInputs, EvaluationPhase, EvaluationRecord, Evaluations
from app.store.model_queue import ModelQueue, ScoreHistory
from app.store.scorings import Scorings, ScoringState
from app.store.tables.evaluations import EvaluationRow
from app.store.tables.work import WorkRow
from app.task import Step
from chain.hotkey import KeypairSigner
from chain.model_chain import ChainMetagraph
from chain.scoring_api import EvaluationRequest
from chain.subtensor import ChainUnavailable
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode, ModelSource, Score
from gpu.evaluation.evaluation import Evaluator
from gpu.evaluation.leftovers import EvaluationsFolder
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, miner
from tests.app.store.evaluation_claims import begun
from tests.workers.evaluation_scene import Scene, committed, evaluation_scene, write_voicebench
from tests.workers.killed import killed_at
from tests.workers.live_scene import eager_validator
from workers import competitions as competition_jobs
from workers import evaluations as jobs
from workers.upkeep import reconcile

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

# as OMEGA's validators read it; the seed's rules know six fields
SEVEN_FIELDS = "maker:model2:1:c0ffee:h:voicebench:more"

Setting = Callable[..., None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, store: Store) -> Setting:
    """Changes settings by their environment variables."""

    def change(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))
        get_settings.cache_clear()

    change(netuid=NETUID, offline="true")
    return change


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Iterator[Scene]:
    """Hub, Docker Engine and judge; the data set where a test asks for it."""
    with evaluation_scene(tmp_path_factory.mktemp("s"), Path("no-data-set")) as found:
        setting(**found.environment)
        yield found


def accept(store: Store, commitment: ModelCommitment) -> str:
    """Accept a model's evaluation; its id."""
    with store.writing() as session:
        found = Evaluations(session).accept(EvaluationInputs(**asdict(EvaluationRequest.of(commitment))), ("0",))
        assert found is not None
        Claims(session).add([Work(EVALUATE, (found,))], get_settings().cluster_name)
    return found


def deliver(evaluation_id: str) -> Any:
    """Run the task as a worker would; what it returns."""
    return jobs.evaluate_model.apply((evaluation_id,), throw=False).result


def evaluate(store: Store, commitment: ModelCommitment) -> EvaluationRecord:
    """Accept and evaluate a model; the evaluation afterwards."""
    evaluation_id = accept(store, commitment)
    deliver(evaluation_id)
    return get(store, evaluation_id)


def get(store: Store, evaluation_id: str) -> EvaluationRecord:
    with store.reading() as session:
        record = Evaluations(session).get(evaluation_id)
    assert record is not None
    return record


def change(store: Store, **values: Any) -> None:
    with store.writing() as session:
        session.execute(update(EvaluationRow).values(**values))


def silent(store: Store) -> None:
    """Nobody was heard of for a minute."""
    with store.writing() as session:
        session.execute(update(WorkRow).values(held_until=now()))
    change(store, heartbeat_at=now() - timedelta(seconds=61))


# -- with the real parts ----------------------------------------------------------------------------------------------


@on_sqlite
def test_a_model_is_fetched_built_asked_scored_and_removed(
    scene: Scene, store: Store, tmp_path: Path, setting: Setting
) -> None:
    write_voicebench(tmp_path / "voicebench", ("commoneval", "advbench"), count=2)
    setting(voicebench_dataset=tmp_path / "voicebench")
    commitment = scene.publish(2)
    committed(store, commitment)
    record = evaluate(store, commitment)
    assert (record.phase, record.error) == (EvaluationPhase.COMPLETED, None)
    assert record.score is not None
    assert 0.5 < record.score <= 1
    assert record.revision == commitment.model.commit
    assert record.metric_scores is not None
    assert "advbench" in str(record.metric_scores)
    with store.reading() as session:
        assert len(Evaluations(session).samples(record.id)) == 4
    assert scene.engine.count("POST", "/containers/") > 0
    assert scene.left() == []
    assert scene.folders(tmp_path / "data") == []
    assert record.slot is None


# -- with a sandbox and a benchmark in memory -------------------------------------------------------------------------


class Parts:
    """A sandbox without containers and a benchmark without questions; ``step`` is what happens between them."""

    def __init__(self) -> None:
        self.step: Callable[[int], Score] = lambda _: Score(0.6, {"ifeval": 0.5}, ({"prompt": "a"}, {"prompt": "b"}))
        self.models: list[ModelSource] = []
        self.limits: list[float] = []
        self.prepared = 0
        self.open = 0

    @contextmanager
    def _running(self, model: ModelSource) -> Iterator[str]:
        self.models.append(model)
        self.open += 1
        try:
            yield "http://127.0.0.1:1"
        finally:
            self.open -= 1

    def running(self, model: ModelSource, deadline: Deadline) -> AbstractContextManager[str]:
        self.limits.append(deadline.remaining())
        return self._running(model)

    def prepare(self) -> None:
        self.prepared += 1

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        return self.step(len(self.models))


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> Parts:
    found = Parts()

    def evaluator(*asked: Any) -> Evaluator:
        real = real_evaluator(*asked)
        return Evaluator(real.read_proof, found, found, real.penalty)

    real_evaluator = jobs.evaluator_for
    monkeypatch.setattr(jobs, "evaluator_for", evaluator)
    return found


def raising(error: BaseException, tries: int = 99) -> Callable[[int], Score]:
    """A step that fails in its first tries."""

    def step(number: int) -> Score:
        if number <= tries:
            raise error
        return Score(0.6, {})

    return step


def test_the_score_its_metrics_and_its_samples_are_kept(scene: Scene, store: Store, parts: Parts) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    record = evaluate(store, commitment)
    assert (record.phase, record.score, record.error, record.tries) == (EvaluationPhase.COMPLETED, 0.6, None, 1)
    assert record.metric_scores == {"ifeval": 0.5}
    with store.reading() as session:
        assert Evaluations(session).samples(record.id) == [{"prompt": "a"}, {"prompt": "b"}]
    (model,) = parts.models
    assert model == ModelSource(
        f"{record.id}-1", "maker/model2", commitment.model.commit, commitment.hotkey, "voicebench"
    )
    assert 7070 < parts.limits[0] < 7081
    # a message that comes once more finds that out
    assert deliver(record.id) == {"status": "done before"}
    assert len(parts.models) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("given", "remark"),
    [
        ({"made": timedelta(hours=1)}, "was created at"),
        ({"proof": b""}, "there is no hotkey.txt of maker/model2 at revision"),
        ({"proof": miner(3).encode()}, f"not the hotkey {miner(2)}"),
        ({"proof": b"\xff\x00" * 9000}, f"not the hotkey {miner(2)}"),
    ],
)
def test_a_model_that_is_not_genuine_gets_the_penalty(
    scene: Scene, store: Store, parts: Parts, given: dict[str, Any], remark: str
) -> None:
    commitment = scene.publish(2, **given)
    committed(store, commitment)
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (EvaluationPhase.COMPLETED, 0.001)
    assert remark in (record.error or "")
    assert "penalty" in (record.error or "")
    assert parts.models == []
    assert parts.prepared == 0


@on_sqlite
def test_blanks_around_the_hotkey_are_let_pass(scene: Scene, store: Store, parts: Parts) -> None:
    commitment = scene.publish(2, proof=b"\xef\xbb\xbf  " + miner(2).encode() + b"\r\n\n")
    committed(store, commitment)
    assert evaluate(store, commitment).score == 0.6


@on_sqlite
@pytest.mark.parametrize("code", [ModelFaultCode.BUILD_FAILED, ModelFaultCode.TIME_LIMIT])
def test_what_is_the_model_s_fault_is_a_zero_with_its_reason(
    scene: Scene, store: Store, parts: Parts, code: ModelFaultCode
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    parts.step = raising(ModelFault(code, "it did not work"))
    record = evaluate(store, commitment)
    expected = EvaluationPhase.TIMEOUT if code is ModelFaultCode.TIME_LIMIT else EvaluationPhase.FAILED
    assert (record.phase, record.score, record.error, record.tries) == (expected, 0.0, "it did not work", 1)
    assert record.slot is None
    assert parts.open == 0


@on_sqlite
def test_a_repository_that_is_not_there_is_the_model_s_fault(scene: Scene, store: Store, parts: Parts) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    del scene.hub.repositories["maker/model2"]
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (EvaluationPhase.FAILED, 0.0)
    assert "no repository maker/model2" in (record.error or "")


@on_sqlite
@pytest.mark.parametrize("error", [EvaluationImpossible("the judge is unavailable"), KeyError("a fault of ours")])
def test_what_is_our_fault_frees_the_place_at_once_and_is_nobody_s_score(
    scene: Scene, store: Store, parts: Parts, error: Exception
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    parts.step = raising(error)
    record = evaluate(store, commitment)
    assert (record.phase, record.score, record.tries) == (EvaluationPhase.RELEASED, None, 1)
    assert str(error) in (record.error or "")
    assert record.slot is None
    assert parts.open == 0


@on_sqlite
def test_a_hub_that_is_away_is_nobody_s_score(
    scene: Scene, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)

    def broken(handler: Any) -> bool:
        handler.send_response(500)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    scene.hub.faults["/api/models/"] = broken
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (EvaluationPhase.RELEASED, None)
    assert "Hugging Face" in (record.error or "")


@on_sqlite
def test_a_docker_engine_that_is_away_is_nobody_s_score(
    scene: Scene, store: Store, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    setting(docker_host="tcp://127.0.0.1:1")
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (EvaluationPhase.RELEASED, None)
    assert "Docker" in (record.error or "")
    assert jobs.sweep_evaluations() == {"removed": []}


@on_sqlite
def test_the_soft_limit_is_a_timeout(scene: Scene, store: Store, parts: Parts) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    parts.step = raising(SoftTimeLimitExceeded())
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (EvaluationPhase.TIMEOUT, 0.0)
    assert record.error == "the evaluation was not over within 2:00:00"
    assert parts.open == 0


@on_sqlite
def test_a_second_try_has_the_time_that_is_left_and_its_limit_is_nobody_s_zero(
    scene: Scene, store: Store, parts: Parts
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    one = accept(store, commitment)
    with store.writing() as session:
        begun(session, one)
    assert deliver(one) == {"status": "in progress elsewhere"}
    assert parts.models == []
    change(store, begun_at=now() - timedelta(minutes=90))
    silent(store)
    parts.step = raising(SoftTimeLimitExceeded())
    deliver(one)
    assert 1600 < parts.limits[0] < 1681
    record = get(store, one)
    assert (record.phase, record.score, record.tries) == (EvaluationPhase.RELEASED, None, 2)


@on_sqlite
def test_a_try_that_was_given_up_for_dead_writes_nothing(scene: Scene, store: Store, parts: Parts) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)

    def overtaken(_: int) -> Score:
        silent(store)
        with store.writing() as session:
            begun(session, one, "gpu@b/2")
        raise ModelFault(ModelFaultCode.UNHEALTHY, "its container was removed")

    parts.step = overtaken
    one = accept(store, commitment)
    assert deliver(one) == {"status": "done before"}
    record = get(store, one)
    assert (record.phase, record.tries, record.score) == (EvaluationPhase.SCORING, 2, None)


@on_sqlite
def test_a_redelivery_beside_a_living_try_takes_nothing_over(scene: Scene, store: Store, parts: Parts) -> None:
    """Redis hands over again what a broken connection left, with the same id: hours of work are not for that."""
    commitment = scene.publish(2)
    committed(store, commitment)
    found: list[Any] = []

    def twice(_: int) -> Score:
        found.append(jobs.evaluate_model.apply((one,), task_id="the message").result)
        return Score(0.6, {})

    parts.step = twice
    one = accept(store, commitment)
    jobs.evaluate_model.apply((one,), task_id="the message")
    assert found == [{"status": "in progress elsewhere"}]
    assert (get(store, one).score, get(store, one).tries) == (0.6, 1)


@on_sqlite
def test_a_store_that_is_away_for_a_moment_costs_no_result(
    scene: Scene, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment = scene.publish(2)
    committed(store, commitment)
    finish, pauses = Evaluations.finish, list[float]()

    def away_twice(self: Evaluations, *arguments: Any) -> None:
        if len(pauses) < 2:
            raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))
        finish(self, *arguments)

    monkeypatch.setattr(Evaluations, "finish", away_twice)
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    assert evaluate(store, commitment).score == 0.6
    assert pauses == [1, 2]
    assert len(parts.models) == 1


@on_sqlite
def test_a_message_that_the_store_knows_nothing_of_does_nothing(scene: Scene, store: Store, parts: Parts) -> None:
    assert deliver("nobody's") == {"status": "done before"}
    # its evaluation went while its message was on the way
    with store.writing() as session:
        Claims(session).add([Work(EVALUATE, ("deleted",))], get_settings().cluster_name)
    assert deliver("deleted") == {"evaluation": "deleted", "status": "gone"}
    assert deliver("deleted") == {"status": "done before"}
    assert parts.models == []


@on_sqlite
def test_the_molecules_models_make_room(
    scene: Scene, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu.scorers
    from gpu.residency import Residency

    class Model:
        held = 100

        def close(self) -> None:
            self.held = 0

        def resident_bytes(self) -> int:
            return self.held

    model = Model()
    residency = Residency.of_device("cpu", budget_bytes=1000)
    residency.admit(model, 100)
    monkeypatch.setattr(gpu.scorers, "_residencies", {"cpu": residency})
    commitment = scene.publish(2)
    committed(store, commitment)
    held: list[int] = []
    parts.step = lambda _: held.append(model.held) or Score(0.6, {})  # type: ignore[func-returns-value]
    assert evaluate(store, commitment).score == 0.6
    assert held == [0]


# -- which revision ---------------------------------------------------------------------------------------------------


class Chain:
    """A chain in memory that knows commitments."""

    def __init__(self, *commitments: Commitment, head: int = 10_000) -> None:
        self.found = commitments
        self.head = head

    def current_block(self) -> int:
        return self.head

    def commitments(self, netuid: int) -> tuple[Commitment, ...]:
        assert netuid == NETUID
        return self.found

    def metagraph(self, netuid: int) -> ChainMetagraph:
        return ChainMetagraph(self.head, (Neuron(2, miner(2), "cold", 0.0, False),))

    def set_weights(self, netuid: int, weights: Any) -> Any:
        raise AssertionError("an evaluation sets no weights")


def on_chain(monkeypatch: pytest.MonkeyPatch, setting: Setting, *commitments: Commitment, head: int = 10_000) -> None:
    setting(offline="false")
    chain = Chain(*commitments, head=head)
    monkeypatch.setattr(jobs, "open_chain", lambda: chain)


@on_sqlite
def test_a_node_without_the_commitment_reads_it_from_the_chain(
    scene: Scene, store: Store, parts: Parts, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment = scene.publish(2)
    on_chain(monkeypatch, setting, Commitment(miner(2), 102, commitment.model.text))
    record = evaluate(store, commitment)
    assert (record.score, record.revision) == (0.6, commitment.model.commit)
    assert parts.models[0].revision == commitment.model.commit
    # committed some 33 hours ago, by its block
    late = scene.publish(2, made=timedelta(hours=20))
    assert evaluate(store, late).score == 0.001


@on_sqlite
@pytest.mark.parametrize(
    ("text", "block", "head", "phase", "words"),
    [
        (SEVEN_FIELDS, 102, 10_000, EvaluationPhase.RELEASED, "COMPETITION_PROFILE"),
        (None, 102, 10_000, EvaluationPhase.FAILED, "no commitment on subnet 21"),
        ("hello", 102, 10_000, EvaluationPhase.FAILED, "is no model"),
        ("maker:other:1:c0ffee:h:voicebench", 102, 10_000, EvaluationPhase.FAILED, "has committed maker/other"),
        ("maker:model2:1:c0ffee:h:o1", 102, 10_000, EvaluationPhase.RELEASED, "for competition o1, not for voicebench"),
        ("maker:model2:1:c0ffee:h:voicebench", 150, 10_000, EvaluationPhase.RELEASED, "again at block 150"),
        ("maker:model2:1:c0ffee:h:voicebench", 102, 90, EvaluationPhase.RELEASED, "is at block 90"),
    ],
)
def test_another_commitment_than_was_asked_for_is_never_evaluated(
    scene: Scene,
    store: Store,
    parts: Parts,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    block: int,
    head: int,
    phase: EvaluationPhase,
    words: str,
) -> None:
    commitment = scene.publish(2)
    found = [] if text is None else [Commitment(miner(2), block, text)]
    on_chain(monkeypatch, setting, *found, head=head)
    record = evaluate(store, commitment)
    assert (record.phase, record.score) == (phase, 0.0 if phase is EvaluationPhase.FAILED else None)
    assert words in (record.error or "")
    assert parts.models == []


@on_sqlite
@pytest.mark.parametrize(
    ("profile", "text", "phase"),
    [
        ("omega-v4", "maker:model2:None:c0ffee:h:voicebench", EvaluationPhase.RELEASED),
        ("omega-v4", SEVEN_FIELDS, EvaluationPhase.COMPLETED),
        ("omega-v4", "maker:model2:None:c0ffee:h:voicebench:7", EvaluationPhase.FAILED),
        ("seed", "maker:model2:None:c0ffee:h:voicebench", EvaluationPhase.COMPLETED),
    ],
)
def test_a_commitment_that_another_profile_reads_is_nobody_s_zero(
    scene: Scene,
    store: Store,
    parts: Parts,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    text: str,
    phase: EvaluationPhase,
) -> None:
    setting(competition_profile=profile)
    commitment = scene.publish(2)
    text = text.replace("c0ffee", str(commitment.model.commit))
    on_chain(monkeypatch, setting, Commitment(miner(2), 102, text))
    record = evaluate(store, commitment)
    assert record.phase is phase
    assert record.score == {EvaluationPhase.COMPLETED: 0.6, EvaluationPhase.FAILED: 0.0}.get(phase)


@on_sqlite
def test_offline_without_knowledge_says_so(scene: Scene, store: Store, parts: Parts) -> None:
    record = evaluate(store, scene.publish(2))
    assert record.phase is EvaluationPhase.RELEASED
    assert "OFFLINE forbids asking the chain" in (record.error or "")


@on_sqlite
def test_a_chain_that_is_away_is_nobody_s_score(
    scene: Scene, store: Store, parts: Parts, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting(offline="false")

    def unavailable() -> Any:
        raise ChainUnavailable("no endpoint answers")

    monkeypatch.setattr(jobs, "open_chain", unavailable)
    record = evaluate(store, scene.publish(2))
    assert record.phase is EvaluationPhase.RELEASED
    assert "no endpoint answers" in (record.error or "")


@on_sqlite
def test_a_miner_that_commits_again_meanwhile_is_judged_by_what_was_taken(
    scene: Scene, store: Store, parts: Parts
) -> None:
    old = scene.publish(2)
    committed(store, old)
    with store.writing() as session:
        taken = ModelQueue(session, NETUID).take("voicebench", "validator")
        assert taken is not None
    newer = scene.publish(2, setup="# another version")
    committed(store, ModelCommitment(newer.hotkey, 500, newer.model), days_ago=0)
    scene.publish(2)
    record = evaluate(store, old)
    assert (record.revision, record.score) == (old.model.commit, 0.6)


# -- what keeps them moving -------------------------------------------------------------------------------------------


@on_sqlite
def test_a_killed_evaluation_s_things_are_swept_and_a_live_one_s_stay(
    scene: Scene, store: Store, tmp_path: Path
) -> None:
    folder = EvaluationsFolder(tmp_path / "data" / "evaluations")
    node = folder.node()
    for name in ("dead-1", "alive-1"):
        scene.engine.add_container(name, {"celery-validator.node": node, "celery-validator.evaluation": name})
    unrelated = scene.engine.add_container("somebody-else")
    with folder.held("alive-1"):
        assert len(jobs.sweep_evaluations()["removed"]) == 1
        assert sorted(found.name for found in scene.engine.containers.values()) == ["alive-1", "somebody-else"]
    assert len(jobs.sweep_evaluations()["removed"]) == 1
    assert list(scene.engine.containers) == [unrelated]


@on_sqlite
def test_what_is_overdue_ends_with_what_is_stale(
    scene: Scene, store: Store, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(Step, "deliver", lambda step: sent.extend(one.task for one in step._messages))
    one = accept(store, scene.publish(2))
    assert competition_jobs.release_stale()["ended"] == []
    change(store, accepted_at=now() - timedelta(hours=3))
    assert competition_jobs.release_stale()["ended"] == [one]
    assert sent == ["workers.evaluations.sweep_evaluations"]
    assert deliver(one) == {"status": "done before"}


@on_sqlite
def test_a_worker_that_stops_interrupts_its_evaluation_and_it_begins_again(
    scene: Scene, store: Store, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *arguments: interrupted.append(arguments))
    commitment = scene.publish(2)
    committed(store, commitment)

    def stopped(number: int) -> Score:
        if number == 1:
            with store.reading() as session:
                (holder,) = Claims(session).holders(get_settings().cluster_name)
            assert jobs.interrupt_evaluations(holder.partition("/")[0]) == [holder]
            raise SoftTimeLimitExceeded
        return Score(0.6, {})

    parts.step = stopped
    one = accept(store, commitment)
    deliver(one)
    assert interrupted == [(os.getpid(), signal.SIGUSR1)]
    assert (get(store, one).phase, get(store, one).slot) == (EvaluationPhase.WAITING, "0")
    sent: list[Any] = []
    monkeypatch.setattr(Step, "deliver", lambda step: sent.extend((one.task, one.args) for one in step._messages))
    assert reconcile()["sent"] == 1
    assert sent == [(EVALUATE, (one,))]
    deliver(one)
    assert (get(store, one).score, get(store, one).tries) == (0.6, 2)


KILLED: dict[str, tuple[Any, str, str]] = {
    "while it is accepted": (Evaluations, "accept", "after"),
    "before its message is sent": (Step, "deliver", "before"),
    "before it is claimed": (Claims, "take", "before"),
    "while it is claimed": (Claims, "take", "after"),
    "once it is claimed": (Evaluations, "begin", "before"),
    "while its beginning is written": (Evaluations, "begin", "after"),
    "before its revision is looked up": (CommitmentLookup, "find", "before"),
    "while its revision is written": (Evaluations, "note_revision", "after"),
    "while the node is swept": (jobs, "sweep_node", "after"),
    "while the model answers": (Parts, "evaluate", "before"),
    "once it is scored": (Parts, "evaluate", "after"),
    "before its end is written": (Claims, "finish", "before"),
    "while its end is written": (Evaluations, "finish", "after"),
    "while its score is posted": (Scorings, "settle", "after"),
    "once all is written": (jobs, "_told", "before"),
}


def test_an_evaluation_whose_process_is_killed_ends_once_all_the_same(
    scene: Scene, store: Store, parts: Parts, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any point from the queue to the history; a look of the reconciler later its score is there, once."""
    monkeypatch.setattr(competition_jobs, "own_signer", lambda: KeypairSigner(VALIDATOR))
    monkeypatch.setattr("workers.upkeep.living_processes", lambda: {"gpu@elsewhere/1": now()})
    # the molecules' models, of which there are none here
    monkeypatch.setattr(jobs, "_free_device", lambda: None)
    setting(reconcile_after=0.001)
    models = {point: scene.publish(uid) for uid, point in enumerate(KILLED, start=2)}
    with eager_validator():
        for point, commitment in models.items():
            committed(store, commitment)
            killed_at(*KILLED[point], competition_jobs.score_next_models)
            silent(store)
            reconcile()
            with store.reading() as session:
                is_accepted = bool(Evaluations(session).recent(hotkey=commitment.hotkey))
            assert is_accepted == (point != "while it is accepted"), point
            if not is_accepted:
                competition_jobs.score_next_models()
            with store.reading() as session:
                (record,) = Evaluations(session).recent(hotkey=commitment.hotkey)
                (scoring,) = Scorings(session).of_miner(commitment.hotkey)
                scores = [kept.score for kept in ScoreHistory(session).of_miner(commitment.hotkey, 5)]
                assert (record.phase, record.slot, scores) == (EvaluationPhase.COMPLETED, None, [0.6]), point
                assert len(Evaluations(session).samples(record.id)) == 2, point
                assert scoring.state is ScoringState.SCORED, point
                assert Scorings(session).idle(["local:0"]) == ["local:0"], point
                assert Claims(session).holders(get_settings().cluster_name) == set(), point
                assert not any(model.is_being_scored_by for model in ModelQueue(session, NETUID).models()), point
            # the dead one's message comes again
            assert deliver(record.id) == {"status": "done before"}, point
            assert get(store, record.id) == record, point


@on_sqlite
def test_a_worker_notes_what_its_machine_lacks(scene: Scene, store: Store, setting: Setting, tmp_path: Path) -> None:
    write_voicebench(tmp_path / "voicebench", ("commoneval", "advbench"), count=2)
    setting(voicebench_dataset=tmp_path / "voicebench", asr_model=tmp_path / "no-whisper")
    committed(store)
    with store.writing() as session:
        Competitions(session).add("mine", 1.0, "test")

    def objections() -> dict[str, str | None]:
        jobs.note_capabilities()
        with store.reading() as session:
            return {found.competition_id: found.objection for found in capabilities(session, get_settings())}

    found = objections()
    assert found["voicebench"] is None
    assert "ASR_MODEL" in (found["v2v"] or "")
    assert "IMAGEBIND_WEIGHTS" in (found["o1"] or "")
    assert "has no benchmark here" in (found["mine"] or "")
    setting(docker_host="tcp://127.0.0.1:1")
    assert "Docker" in (objections()["voicebench"] or "")
    setting(docker_host=scene.engine.address, container_runtime="runsc")
    assert "CONTAINER_RUNTIME: this Docker Engine knows no runtime runsc" in (objections()["voicebench"] or "")
    scene.engine.info["Runtimes"]["runsc"] = {}
    assert objections()["voicebench"] is None
    setting(judge_url="", judge_model="")
    assert "JUDGE_URL" in (objections()["voicebench"] or "")


@on_sqlite
def test_what_cannot_be_evaluated_takes_no_place_and_the_others_go_on(
    scene: Scene, store: Store, setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The queue holds a model of v2v, without Whisper here, and one of voicebench."""
    write_voicebench(tmp_path / "voicebench", ("commoneval", "advbench"), count=2)
    setting(voicebench_dataset=tmp_path / "voicebench")
    both = [scene.publish(2), scene.publish(3)]
    spoken = replace(both[0], model=replace(both[0].model, competition_id="v2v"))
    committed(store, spoken, both[1])
    with store.writing() as session:
        Competitions(session).add("v2v", 1.0, "test")
        Capabilities(session).note("v2v", "v2v", "ASR_MODEL: there is none")
    sent: list[str] = []
    monkeypatch.setattr(Step, "deliver", lambda step: sent.extend(one.args[0] for one in step._messages))
    monkeypatch.setattr(competition_jobs, "own_signer", lambda: KeypairSigner(VALIDATOR))
    competition_jobs.score_next_models()
    with store.reading() as session:
        (scoring,) = Scorings(session).recent()
    assert (scoring.competition_id, scoring.uid) == ("voicebench", 3)
    # and it ends with its score in the history, without anybody asking how it goes
    deliver(sent[0])
    with store.reading() as session:
        (record,) = ScoreHistory(session).of_miner(miner(3), 5)
        (scoring,) = Scorings(session).recent()
    assert record.score == scoring.score
    assert record.score > 0.5


def test_a_cluster_that_evaluates_keeps_its_evaluations_moving() -> None:
    def ours(**values: Any) -> set[str]:
        entries = beat_schedule.timetable(Settings(_env_file=None, **values)).values()
        return {entry["task"] for entry in entries if entry["task"].startswith("workers.evaluations.")}

    assert ours(netuid=21) == {
        "workers.evaluations.note_capabilities",
        "workers.evaluations.sweep_evaluations",
    }
    assert ours(netuid=21, run_api=True) == set()
    assert ours(netuid=68) == set()


def test_the_task_has_the_evaluation_s_limit_and_a_minute_to_clear_up() -> None:
    assert configuration(Settings(_env_file=None, evaluation_limit=timedelta(hours=1)))["task_annotations"][
        "workers.evaluations.evaluate_model"
    ] == {"soft_time_limit": 3600.0, "time_limit": 3660.0}
    with pytest.raises(ValueError, match="VISIBILITY_TIMEOUT"):
        Settings(_env_file=None, evaluation_limit=timedelta(hours=3))
