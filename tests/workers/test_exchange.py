"""The exchange of scores: ours are posted, everybody's averages waited for and taken, and both kept and shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import Retry
from sqlalchemy import update

from app.cli.epoch_history import winners_of
from app.demo import RECORDING_2026
from app.domain import Challenge
from app.epochs.exchange import POSTED_FILE, SHARED_FILE
from app.epochs.facts import EpochFacts
from app.epochs.opening import opening_of
from app.epochs.recording import Recording
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.tables.epochs import EpochRow
from tests.chain.test_score_sharing import Api
from tests.workers.bad_world import report_of
from tests.workers.live_scene import delivered, eager_validator
from workers.epochs import close_epoch, open_epoch
from workers.scoring import forget_scorers
from workers.submissions import _examiner


class Averages(dict[str, Any]):
    """Everybody's averages of whatever is asked for."""

    def __init__(self, challenge: Challenge) -> None:
        super().__init__()
        self._challenge = challenge

    def get(self, route: str, default: Any = None) -> Any:
        if route.startswith("/molecule-targets/"):
            return {"target_averages": {key: {"score": 0.125, "ptm": None} for key in self._challenge.targets}}
        return {"target_averages": {key: {"design_ptm": 0.75} for key in self._challenge.nanobody_targets}}


class Chain:
    """The newest block, 100 further each time it is asked for."""

    def __init__(self, first: int) -> None:
        self.block = first - 100

    def current_block(self) -> int:
        self.block += 100
        return self.block


@pytest.fixture
def recording() -> Recording:
    return Recording(RECORDING_2026)


@pytest.fixture
def api(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    server = Api()
    server.answers = Averages(opening_of(recording.facts).challenge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SCORE_SHARE_API_URL", server.url)
    monkeypatch.setenv("VALIDATOR_API_KEY", "secret")
    for pause in ("_PAUSE", "_LOOK_EVERY"):
        monkeypatch.setattr(f"app.epochs.exchange.{pause}", timedelta(0))
    with eager_validator():
        yield server
    # kept by the epoch's id, which another test's store gives again
    _examiner.cache_clear()
    forget_scorers()
    server.shutdown()
    server.server_close()
    thread.join()


def concluded(recording: Recording, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    """The bundled epoch as if it were judged live; its id and result.json."""
    get_settings.cache_clear()
    monkeypatch.setattr("workers.epochs.process_subtensor", lambda _: chain)
    with get_store().writing() as session:
        epoch_id = recording.announce(session, "recorded", get_settings().cluster_name)
        session.execute(update(EpochRow).where(EpochRow.id == epoch_id).values(publishes=True))
    with suppress(Retry):
        open_epoch.delay(epoch_id)
    delivered(close_epoch, epoch_id)
    with get_store().reading() as session:
        # its weights have no wallet here; the epoch was judged
        assert Epochs(session).summary(epoch_id).stage is Stage.DONE
    return epoch_id, report_of(epoch_id)


def items_of(report: dict[str, Any], track: str) -> list[dict[str, Any]]:
    standings = [entry["tracks"].get(track, {}).get("standing") for entry in report["submissions"]]
    return [item for standing in standings if standing for item in standing["items"]]


def test_ours_are_posted_once_and_everybodys_averages_stand_beside_them(
    api: Api, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(recording.header.end_block + 20)
    epoch_id, report = concluded(recording, chain, monkeypatch)
    # 261 blocks after the end
    assert chain.block == recording.header.end_block + 320
    (posted,) = api.posted
    assert api.keys == {"secret"}
    ours = EpochFacts(epoch_id).document(POSTED_FILE)
    assert ours is not None
    assert ours["document"] == posted
    assert ours["receipt"]["job"] == 7
    rows = {(row["name"], row["target_protein"]) for row in posted["molecules"]}
    assert len(rows) == len(posted["molecules"])
    assert all(row["score"] is not None for row in posted["molecules"])
    molecule = items_of(report, "molecule")[0]
    assert molecule["score"] == 0.125
    ((target, beside),) = molecule["exchange"].items()
    assert beside["average"] == {"score": 0.125}
    assert beside["own"] == {name: value for name, value in molecule["boltz"][target].items() if name != "score"}
    for pair in items_of(report, "nanobody")[0]["exchange"].values():
        assert pair["average"] == {"design_ptm": 0.75}
        assert "design_iiptm" in pair["own"]
    assert not [sentence for sentence in report["warnings"] if "exchanged" in sentence]


def test_an_api_that_refuses_leaves_our_own_scores_and_says_why(
    api: Api, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.status = 403
    epoch_id, report = concluded(recording, Chain(0), monkeypatch)
    assert EpochFacts(epoch_id).document(POSTED_FILE) is None
    (sentence,) = [sentence for sentence in report["warnings"] if "not exchanged" in sentence]
    assert "status 403" in sentence
    assert "exchange" not in items_of(report, "molecule")[0]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("VALIDATOR_API_KEY", None, "VALIDATOR_API_KEY is not set"), ("DONT_SET_WEIGHTS", "1", "sets no weights")],
)
def test_without_a_key_or_weights_nothing_is_asked_and_the_report_says_so(
    api: Api, recording: Recording, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, why: str
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    epoch_id, report = concluded(recording, Chain(0), monkeypatch)
    assert api.posted == []
    assert any(why in sentence for sentence in report["warnings"])
    shared = EpochFacts(epoch_id).document(SHARED_FILE)
    assert shared is not None
    assert shared["molecules"] is None
    with get_store().reading() as session:
        summary = Epochs(session).summary(epoch_id)
    # as 'epoch list' shows the winners of any era
    assert winners_of(summary) == "molecule: UID 1, nanobody: UID 1"
    assert winners_of(replace(summary, ranked={"psichic": None, "boltz": None})) == "–"
    left = replace(summary, ranked={"molecule": 3, "nanobody": None}, unjudged={"nanobody": "no BoltzGen"})
    assert winners_of(left) == "molecule: UID 3, nanobody: unjudged"
