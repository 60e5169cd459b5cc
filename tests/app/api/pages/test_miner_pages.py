"""A miner over the epochs: page, files, feed; and what the search box leads to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import lxml.etree
import lxml.html
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.metrics import ClusterState
from app.api.pages.epochs.miners import miner_path
from app.api.pages.epochs.rejection_codes import explanation_of
from app.domain import MODELS_NETUID, Neuron, Rejection, RejectionCode
from app.epochs.rules.molecules import enough_heavy_atoms, entries
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.metagraph import Metagraph
from app.store.records import Examination
from app.store.tables.epochs import SubmissionRow
from chem.properties import parse_smiles
from tests.app.api.pages.page_reader import BROWSER, folded, read
from tests.app.page_stores import full_epoch, hostile_epoch, hotkey, running_epoch, smiles

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

ATOM = {"a": "http://www.w3.org/2005/Atom"}


@pytest.fixture
def pages(store: Store) -> Iterator[TestClient]:
    """Three epochs of eight miners, of whom UID 7 is refused in each."""
    for number in range(3):
        full_epoch(store, submissions=8, molecules=4, number=number)
    with TestClient(create_app()) as client:
        yield client


def go(client: TestClient, wanted: str) -> str:
    """Where the search box leads."""
    answer = client.get("/search", params={"q": wanted}, headers=BROWSER, follow_redirects=False)
    return str(answer.headers["location"]) if answer.status_code == 303 else answer.text


@on_sqlite
def test_a_miner_is_seen_over_all_epochs(pages: TestClient) -> None:
    page = read(pages, miner_path(hotkey(0)))
    rows = page.table("Newest first")
    assert [row[0] for row in rows] == ["19001", "19000", "18999"]
    assert {row[2] for row in rows} == {"valid"}
    assert all("rank 1" in row[4] for row in rows)
    assert all(row[6] == "50.0 %" for row in rows)
    titles = [folded(one.text) for one in page.root.xpath("//figcaption")]
    assert titles == ["PSICHIC scores", "Boltz-2 scores", "Ranks (1 is the winner)"]


@on_sqlite
def test_a_refusal_says_what_to_change(pages: TestClient) -> None:
    (row, *_) = read(pages, miner_path(hotkey(7))).table("Newest first")
    code = row[3].split()[0]
    explained = explanation_of(code)
    assert explained is not None
    assert explained.remedy in row[3]


def test_the_search_box_leads_straight_to_one_thing(pages: TestClient) -> None:
    assert go(pages, "3") == miner_path(hotkey(3))
    assert go(pages, f"  {hotkey(5)} ") == miner_path(hotkey(5))
    assert go(pages, hotkey(5)[:9]) == miner_path(hotkey(5))


def test_a_molecule_is_found_by_name_smiles_and_key(pages: TestClient) -> None:
    for wanted in ("rxn:4:2:1", smiles(32)[9], "00000000000002-0000000001-N"):
        text = go(pages, wanted)
        assert text.count(">UID 2<") == 3, wanted
        assert "molecule 1" in text
    assert "the molecule that was refused" in go(pages, "rxn:4:7:7")


@on_sqlite
def test_what_was_found_is_there_as_files(pages: TestClient) -> None:
    page = lxml.html.fromstring(go(pages, "rxn:4:2:1"))
    table, document = (
        pages.get(page.xpath(f"//a[contains(@href, '/search.{form}')]/@href")[0]) for form in ("csv", "json")
    )
    assert [row["uid"] for row in csv.DictReader(io.StringIO(table.text))] == ["2"] * 3
    assert document.json()["kind"] == "molecule"
    assert [one["epoch"] for one in document.json()["found"]] == [19001, 19000, 18999]
    assert pages.get("/search.json").json()["found"] == []


@on_sqlite
def test_a_feed_reader_finds_the_feed_of_a_miners_page(pages: TestClient) -> None:
    (link,) = read(pages, miner_path(hotkey(7))).root.xpath("//link[@rel='alternate']")
    assert link.get("type") == "application/atom+xml"
    assert pages.get(link.get("href")).headers["content-type"].startswith("application/atom+xml")


@on_sqlite
@pytest.mark.parametrize("wanted", ["", "   ", "99", "9" * 400, "nobody", "\x00", "%", "'; DROP TABLE", "🧪" * 500])
def test_what_is_not_there_is_said(pages: TestClient, wanted: str) -> None:
    text = go(pages, wanted)
    assert ("Nothing was found" in text) == bool(wanted.strip())
    assert ("Enter a UID" in text) != bool(wanted.strip())


@on_sqlite
def test_an_unknown_hotkey_has_no_page(pages: TestClient) -> None:
    assert "submitted nothing" in read(pages, "/hotkeys/5Nobody", 404).text("//main")


def test_the_files_hold_every_verdict(pages: TestClient) -> None:
    path = miner_path(hotkey(7)) + "/verdicts"
    rows = list(csv.DictReader(io.StringIO(pages.get(f"{path}.csv").text)))
    document = pages.get(f"{path}.json").json()["verdicts"]
    assert [row["epoch"] for row in rows] == ["19001", "19000", "18999"]
    assert [entry["epoch"] for entry in document] == [19001, 19000, 18999]
    assert {row["status"] for row in rows} == {"rejected"}
    assert all(entry["remedy"] for entry in document)


@on_sqlite
def test_the_feed_is_atom(pages: TestClient) -> None:
    answer = pages.get(miner_path(hotkey(7)) + "/verdicts.atom")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    feed = lxml.etree.fromstring(answer.content)
    assert len(feed.xpath("a:entry", namespaces=ATOM)) == 3
    for entry in (feed, *feed.xpath("a:entry", namespaces=ATOM)):
        for needed in ("title", "id", "updated"):
            assert entry.xpath(f"a:{needed}/text()", namespaces=ATOM), needed
    (link, *_) = feed.xpath("a:entry/a:link/@href", namespaces=ATOM)
    assert read(pages, str(link).removeprefix("http://testserver"))
    assert "What to do:" in feed.xpath("a:entry/a:content/text()", namespaces=ATOM)[0]


@on_sqlite
def test_a_feed_of_attacks_is_well_formed(store: Store) -> None:
    hostile_epoch(store)
    with store.reading() as session:
        keys = set(session.query(SubmissionRow.hotkey).distinct())
    with TestClient(create_app()) as client:
        for (key,) in keys:
            answer = client.get(miner_path(key) + "/verdicts.atom")
            if "%" not in key:
                assert answer.status_code == 200, key
                assert lxml.etree.fromstring(answer.content).tag.endswith("feed")


@on_sqlite
def test_the_molecule_behind_a_refusal_is_drawn(store: Store) -> None:
    epoch_id = running_epoch(store, submissions=2)
    (entry,) = entries(["rxn:4:1:2"], lambda _: None)
    entry.smiles, entry.mol = "CCO", parse_smiles("CCO")
    refused = enough_heavy_atoms(20)(entry)
    assert refused is not None
    with store.writing() as session:
        Epochs(session).record_examination(epoch_id, 0, Examination("", rejection=refused))
        plain = Rejection(RejectionCode.NOT_IN_DATABASE, "cannot be made", "rxn:4:9:9", 0)
        Epochs(session).record_examination(epoch_id, 1, Examination("", rejection=plain))
    with TestClient(create_app()) as client:
        base = f"/epochs/{epoch_id}/submissions"
        assert f'src="{base}/0/refused.svg"' in client.get(f"{base}/0", headers=BROWSER).text
        assert f'src="{base}/0/refused.svg"' in client.get(miner_path(hotkey(0)), headers=BROWSER).text
        assert b"<path" in client.get(f"{base}/0/refused.svg").content
        assert "refused.svg" not in client.get(f"{base}/1", headers=BROWSER).text
        assert client.get(f"{base}/1/refused.svg").status_code == 404


@on_sqlite
def test_a_code_of_a_newer_version_is_shown_as_it_is(pages: TestClient, store: Store) -> None:
    with store.writing() as session:
        session.execute(update(SubmissionRow).where(SubmissionRow.uid == 7).values(code="not_invented_yet"))
    for path in ("/epochs/1", "/epochs/1/submissions/7", miner_path(hotkey(7)), "/"):
        read(pages, path)
    assert "not_invented_yet" in pages.get("/epochs/1/submissions/7", headers=BROWSER).text
    for path in ("/epochs/1.json", "/epochs/1.csv", "/epochs/1/submissions/7.json", "/epochs/1/result.json"):
        assert "not_invented_yet" in pages.get(path).text or path.endswith("result.json"), path
    assert pages.get("/epochs/1/result.json").status_code == 200
    registry = CollectorRegistry()
    registry.register(ClusterState())
    assert b"validator_store_up 1.0" in generate_latest(registry)
    with pytest.raises(ValueError, match="valid"):
        RejectionCode("Not A Code")


@on_sqlite
def test_miners_of_the_model_competitions_are_found_by_uid_and_beginning(store: Store) -> None:
    neurons = [Neuron(uid, hotkey(500 + uid), hotkey(900 + uid), 1.0, False) for uid in range(4)]
    with store.writing() as session:
        Metagraph(session, MODELS_NETUID).sync(10, neurons)
    with TestClient(create_app()) as client:
        for wanted in ("2", hotkey(502)[:8]):
            assert go(client, wanted) == f"/miners/{hotkey(502)}"
        assert "Nothing was found" in go(client, "99")
        found = client.get("/search.json", params={"q": "2"}).json()["found"]
        assert [(one["uid"], one["hotkey"], one["id"]) for one in found] == [(2, hotkey(502), None)]
        full_epoch(store, submissions=4, molecules=4)
        both = go(client, "2")
        assert f"/miners/{hotkey(502)}" in both
        assert miner_path(hotkey(2)) in both


@on_sqlite
def test_the_feed_and_the_page_write_percentages_alike(pages: TestClient) -> None:
    assert "Weight: 50.0 %" in pages.get(miner_path(hotkey(0)) + "/verdicts.atom").text
