"""The pages of an epoch with tracks: boards, verdicts of items, and a track that could not be judged."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.pages.epochs.epochs import miner_path
from app.demo import RECORDING_2026
from app.store.database import Store
from tests.app.api.pages.page_reader import BROWSER, read
from tests.app.page_stores import hotkey_of, tracked_epoch


def page(path: str) -> str:
    with TestClient(create_app()) as client:
        answer = client.get(path, headers=BROWSER)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_tracks_have_boards_and_items_have_verdicts(store: Store) -> None:
    epoch_id = tracked_epoch(store)
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
    epoch = page(f"/epochs/{tracked_epoch(store, folder)}")
    assert "Not judged." in epoch
    assert "cannot be judged here" in epoch
    assert "IgBLAST" in epoch or "igblast" in epoch


@pytest.fixture
def tracked(store: Store) -> Iterator[tuple[TestClient, Store, int]]:
    epoch_id = tracked_epoch(store)
    with TestClient(create_app()) as client:
        yield client, store, epoch_id


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_refusals_of_tracks_and_items_reach_the_miner(tracked: tuple[TestClient, Store, int]) -> None:
    client, store, epoch_id = tracked
    for uid, code, whole, drawn in ((6, "reaction_not_allowed", True, False), (8, "too_similar", False, True)):
        path = miner_path(hotkey_of(store, epoch_id, uid))
        shown = read(client, path).text("//main")
        assert code in shown
        assert "What to do:" in shown
        feed = client.get(f"{path}/verdicts.atom").text
        assert f"refused ({code})" in feed
        assert "What to do:" in feed
        (entry,) = client.get(f"{path}/verdicts.json").json()["verdicts"]
        (refusal,) = entry["refusals"]
        assert (refusal["code"], refusal["track"], refusal["whole_track"]) == (code, "molecule", whole)
        assert all((refusal["remedy"], refusal["message"], refusal["molecule"].startswith("rxn:")))
        assert code in client.get(f"{path}/verdicts.csv").text
        submission = client.get(f"/epochs/{epoch_id}/submissions/{uid}", headers=BROWSER).text
        assert "What to do:" in submission
        drawing = f"/epochs/{epoch_id}/submissions/{uid}/tracks/molecule/0.svg"
        assert (drawing in submission) == (drawing in client.get(path, headers=BROWSER).text) == drawn
        answer = client.get(drawing)
        assert answer.status_code == (200 if drawn else 404)
        assert (b"<path" in answer.content) == drawn


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_the_epochs_boards_are_in_its_table_plots_and_files(tracked: tuple[TestClient, Store, int]) -> None:
    client, _, epoch_id = tracked
    epoch = read(client, f"/epochs/{epoch_id}")
    header = epoch.text("//table[@id='all-submissions']/thead")
    assert all(text in header for text in ("Molecule rank", "Nanobody score"))
    assert "PSICHIC" not in epoch.text("//main")
    first = epoch.text("//table[@id='all-submissions']/tbody/tr[1]")
    assert all(text in first for text in ("winner of molecule and nanobody", "0.1851", "23.0000"))
    plots = epoch.text("//main")
    assert all(text in plots for text in ("Molecule track scores", "Nanobody track scores", "winner UID 1"))
    by_nanobody = read(client, f"/epochs/{epoch_id}?by=nanobody").root.xpath("//table[@id='all-submissions']//tr/th/a")
    assert [one.text for one in by_nanobody][:3] == ["1", "15", "8"]

    rows = {row["uid"]: row for row in csv.DictReader(io.StringIO(client.get(f"/epochs/{epoch_id}.csv").text))}
    assert (rows["1"]["molecule_rank"], rows["1"]["nanobody_score"]) == ("1", "23.0")
    assert rows["6"]["molecule_rank"] == ""
    assert rows["6"]["track_refusals"].startswith("molecule: reaction_not_allowed: ")
    document = client.get(f"/epochs/{epoch_id}.json").json()
    assert document["winners"] == {"molecule": 1, "nanobody": 1}
    assert [board["track"] for board in document["boards"]] == ["molecule", "nanobody"]
    assert document["boards"][0]["places"][0] == {"uid": 1, "rank": 1, "score": 0.18508, "rank_sums": {}}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_lists_of_epochs_name_the_tracks_winners(tracked: tuple[TestClient, Store, int]) -> None:
    client, _, epoch_id = tracked
    for path in ("/", "/epochs"):
        links = read(client, path).root.xpath(f"//table//td/a[@href='/epochs/{epoch_id}/submissions/1']")
        assert len(links) == 2, path
    assert "UID 1 won Molecule track" in client.get("/epochs", headers=BROWSER).text
    assert client.get("/epochs.json").json()["epochs"][0]["winners"] == {"molecule": 1, "nanobody": 1}
    assert client.get("/now.json").json()["epoch"]["winners"] == {"molecule": 1, "nanobody": 1}
