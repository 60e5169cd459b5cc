"""The pages of an epoch with tracks: boards, verdicts of items, and a track that could not be judged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.celery import app as celery_app
from app.demo import RECORDING_2026
from app.epochs.recording import Recording
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import Stage
from tests.app.api.pages.page_reader import BROWSER
from workers import scoring
from workers.epochs import open_epoch
from workers.submissions import _examiner


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    celery_app.loader.import_default_modules()
    celery_app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    celery_app.conf.update(task_always_eager=False, task_eager_propagates=False)


def run(store: Store, folder: Path) -> int:
    with store.writing() as session:
        epoch_id = Recording(folder).announce(session, "recorded", "c")
    open_epoch.delay(epoch_id)
    _examiner.cache_clear()
    scoring.forget_scorers()
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is Stage.DONE
    return epoch_id


def page(path: str) -> str:
    with TestClient(create_app()) as client:
        answer = client.get(path, headers=BROWSER)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_tracks_have_boards_and_items_have_verdicts(store: Store) -> None:
    epoch_id = run(store, RECORDING_2026)
    epoch = page(f"/epochs/{epoch_id}")
    for text in ("Molecule track", "Nanobody track", "physical interaction", f"/epochs/{epoch_id}/submissions/1"):
        assert text in epoch
    assert "PSICHIC leaderboard" not in epoch
    similar = page(f"/epochs/{epoch_id}/submissions/8")
    for text in ("too_similar", "Nearest archived molecule", "(Q9UQM7)", "accepted", "rank sum"):
        assert text in similar.replace('<bdi class="foreign">', "").replace("</bdi>", "")
    half = page(f"/epochs/{epoch_id}/submissions/6")
    assert "reaction_not_allowed" in half
    assert "rank 8" in half
    assert page("/epochs")
    assert page("/")


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_track_that_was_not_judged_says_why(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING_2026, folder)
    (folder / "igblast.csv").unlink()
    epoch = page(f"/epochs/{run(store, folder)}")
    assert "Not judged." in epoch
    assert "cannot be judged here" in epoch
    assert "IgBLAST" in epoch or "igblast" in epoch
