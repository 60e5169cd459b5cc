"""Competition ``v4`` beside OMEGA's validators, from what miners commit to the vector of weights, in numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.evaluations import Evaluations
from app.store.model_queue import ModelQueue, ScoreHistory
from chain.hotkey import KeypairSigner
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, miner, neurons
from tests.workers.evaluation_scene import Scene, evaluation_scene, write_voicebench
from tests.workers.live_scene import eager_validator
from tests.workers.test_competition_tasks import MemoryChain
from workers import competitions as jobs


@pytest.fixture
def scene(
    store: Store, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    """Hub, Docker Engine and judge; the four sets with six questions each; a voice rater; the profile."""
    dataset = write_voicebench(tmp_path / "voicebench")
    with evaluation_scene(tmp_path_factory.mktemp("s"), dataset) as found:
        # they import one another by their bare names, which the scene's module made possible
        from loudness import Loudness, written
        from tiny_voicebench import write_punkt

        settings = {
            "COMPETITION_PROFILE": "omega-v4",
            "OFFLINE": "false",
            "NLTK_DATA": str(write_punkt(tmp_path / "nltk_data")),
            "MOS_WEIGHTS": str(written(Loudness(), tmp_path / "loudness.jit")),
            "WEIGHTS_FILE": str(tmp_path / "weights.json"),
        }
        for name, value in (found.environment | settings).items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        monkeypatch.setattr(jobs, "own_signer", lambda: KeypairSigner(VALIDATOR))
        with eager_validator():
            yield found


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_v4_from_the_commitment_to_the_weights(
    scene: Scene, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.judge.rate = lambda messages: "5" if "commoneval" in messages[1]["content"] else "3"
    published = {
        2: scene.publish(2),
        # with a comma, which two thirds of ifeval's questions forbid
        3: scene.publish(3, answer="I can't, sorry."),
        4: scene.publish(4, proof=miner(5).encode()),
        5: scene.publish(5),
    }
    texts = {uid: f"{replace(one.model, competition_id='v4').text}:seventh" for uid, one in published.items()}
    # OMEGA's validators read no commitment without an epoch
    texts[5] = re.sub(":1:", ":None:", texts[5], count=1)
    chain = MemoryChain(neurons(4), {uid: (100 + uid, text) for uid, text in texts.items()})
    monkeypatch.setattr(jobs, "open_chain", lambda: chain)
    with store.writing() as session:
        Competitions(session).add("v4", 1.0, "test")
        Competitions(session).set_baseline("v4", 0.65, "test")

    jobs.sync_metagraph()
    assert jobs.update_models() == {"status": "updated", "block": 1000, "new": 3, "known": 0, "refused": 1}
    with store.reading() as session:
        (refusal,) = ModelQueue(session, NETUID).refusals()
    assert (refusal.uid, "names no epoch" in refusal.reason) == (5, True)

    for _ in range(3):
        assert len(jobs.score_next_models()["opened"]) == 1
    with store.reading() as session:
        records = {int(one.inputs.hf_repo_id.removeprefix("maker/model")): one for one in Evaluations(session).recent()}
        kept = {uid: [one.score for one in ScoreHistory(session).of_miner(miner(uid), 5)] for uid in (2, 3, 4)}
    # commoneval is rated 5 of 5, wildvoice 3 of 5, every answer refuses; the voice is a tone of 0.3: 1 + 4 · 0.3 of 5.
    # ifeval is the mean of prompts and of instructions that are followed: 4 of 6 and 6 of 8, with the comma 2 and 2
    voice = 0.3 * 2.2 / 5
    first = 0.7 * (2 * 1.0 + 2 * 0.6 + 1.5 * (4 / 6 + 6 / 8) / 2 + 1 * 1.0) / 6.5 + voice
    second = 0.7 * (2 * 1.0 + 2 * 0.6 + 1.5 * (2 / 6 + 2 / 8) / 2 + 1 * 1.0) / 6.5 + voice
    assert (first, second) == (pytest.approx(0.698731, abs=1e-6), pytest.approx(0.631423, abs=1e-6))
    assert kept == {2: [pytest.approx(first, abs=1e-4)], 3: [pytest.approx(second, abs=1e-4)], 4: [0.001]}
    metrics = records[2].metric_scores
    assert metrics is not None
    assert {name: round(found["score"], 4) for name, found in metrics["sets"].items()} == {
        "commoneval": 1.0,
        "wildvoice": 0.6,
        "advbench": 1.0,
        "ifeval": 0.7083,
    }
    assert (metrics["spoken_samples"], metrics["spoken_usable"]) == (8, 8)
    assert "not the hotkey" in (records[4].error or "")
    assert scene.left() == []

    # UID 2 alone is above the baseline of 0.65; the two others, without a reputation yet, share the quarter
    jobs.set_model_weights("2026-11-27T05:00")
    weights = json.loads((tmp_path / "weights.json").read_text())
    third_part = 1 / (1 + math.exp(0.3 * (second - 0.001)))
    assert third_part == pytest.approx(0.452859, abs=1e-6)
    assert weights == {
        "netuid": 21,
        "epoch": None,
        "mark": "2026-11-27T05:00",
        "weights": pytest.approx({"2": 0.75, "3": 0.25 * (1 - third_part), "4": 0.25 * third_part}, abs=1e-5),
    }
