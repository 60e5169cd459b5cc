"""What the pages of the competitions say, and the files beside them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.api.application import create_app
from app.clock import now
from app.domain import ModelCommitment, Neuron
from app.settings import get_settings
from app.store.capabilities import Capabilities
from app.store.competitions import Competitions, GivenBenchmark
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue
from app.store.tables.competitions import WeightRoundRow
from tests.app.competitions.competition_fixtures import NETUID, SECOND, VALIDATOR, fill, miner, model, scored
from tests.app.page_stores import hotkey, lively_competitions
from tests.stores import migrated

HTML = {"Accept": "text/html"}


class Reader(HTMLParser):
    """A page as its reader sees it: the text, and the cells of each table under its region's label."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._label = ""
        self._cell: list[str] | None = None
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("role") == "region":
            self._label = given.get("aria-label") or ""
        elif tag == "table":
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in {"td", "th"}:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"} and self._cell is not None:
            self.tables[self._label][-1].append(re.sub(r"\s+", " ", "".join(self._cell)).strip())
            self._cell = None
        if tag in {"dt", "dd", "p", "li", "td", "th", "h1", "h2"}:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def rows(self, label: str) -> list[dict[str, str]]:
        """A table's rows by the names of its columns."""
        head, *rows = self.tables[label]
        return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with lively competitions, which these tests only read."""
    url = f"sqlite:///{tmp_path_factory.mktemp('competitions') / 'store.sqlite'}"
    store = Store(url)
    migrated(store)
    lively_competitions(store)
    store.close()
    return url


@pytest.fixture
def pages(filled: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser on the lively store."""
    yield from _browser(filled, monkeypatch)


@pytest.fixture
def own_pages(store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser on a store of its own, on each database."""
    yield from _browser(store_url, monkeypatch)


def _browser(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DATABASE_URL", url)
    get_settings.cache_clear()
    with TestClient(create_app(), headers=HTML) as client:
        yield client


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_the_page_says_which_competitions_are_scored_here(own_pages: TestClient, store: Store) -> None:
    fill(store, 1)
    with store.writing() as session:
        for name in ("v2v", "o1", "mine"):
            Competitions(session).add(name, 0.0, "test")
        Competitions(session).set_benchmark("o1", GivenBenchmark("o1", {"samples": 3}), "test")
        Capabilities(session).note("voicebench", "voicebench", None)
        Capabilities(session).note("v2v", "v2v", "ASR_MODEL: there is none")
        # found for other parameters, which says nothing of these
        Capabilities(session).note("o1", "o1", None)
    page = read(own_pages, "/competitions")
    told = {row["Competition"]: row["Scored here"] for row in page.rows("Competitions")}
    assert told == {"voicebench": "yes", "v2v": "no", "o1": "unknown", "mine": "no"}
    assert "v2v cannot be scored here: ASR_MODEL: there is none" in page.text
    assert "mine cannot be scored here: competition mine has no benchmark here" in page.text
    assert "voicebench cannot be scored here" not in page.text


def read(client: TestClient, path: str) -> Reader:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return Reader(answer.text)


def table(client: TestClient, path: str) -> list[dict[str, str]]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def document(client: TestClient, path: str) -> list[dict[str, Any]]:
    answer = client.get(path)
    assert answer.headers["content-type"].startswith("application/json")
    found: list[dict[str, Any]] = answer.json()
    return found


# -- the overview -----------------------------------------------------------------------------------------------------


# 0.7 of the 1.2 that run
SHARE = "58.3 %"


def test_the_overview_shows_baseline_share_pools_and_leader(pages: TestClient) -> None:
    page = read(pages, "/competitions")
    o1, v2v, voicebench, retired = page.rows("Competitions")
    best = document(pages, "/competitions/voicebench/leaderboard.json")[0]
    assert voicebench["Competition"] == "voicebench"
    assert voicebench["Share"] == SHARE
    assert f"{SHARE} of all rewards" in " ".join(read(pages, "/competitions/voicebench").text.split())
    assert voicebench["Baseline"] == "0.5200"
    assert "ann@validator" in voicebench["Set"]
    assert voicebench["Leader"].startswith(f"UID {best['uid']}")
    assert voicebench["Score"] == f"{best['score']:.4f}"
    assert int(voicebench["Models"]) > int(voicebench["Scored"]) > 0
    assert v2v["Baseline"] == "none"
    assert "archived" in retired["Competition"]
    pools = {row["Competition"]: row for row in page.rows("Pools of the last round")}
    above, below = (pools["voicebench"][head] for head in ("Above the baseline (75 %)", "Below (25 %)"))
    assert len(above.split(",")) == 3
    assert len(below.split(",")) >= 3
    assert pools["o1"]["Above the baseline (75 %)"] == "nobody"
    assert o1["Competition"] == "o1"
    assert "competition v2v has no baseline" in page.text
    numbers = [row["baseline"] for row in page.rows("Baselines, numbers") if row["series"] == "voicebench"]
    assert numbers == ["0.420000", "0.420000", "0.470000", "0.470000", "0.520000", "0.520000"]
    assert any("add" in row["What"] for row in page.rows("Changes to competitions"))


def test_refused_commitments_are_shown_with_their_reasons(pages: TestClient) -> None:
    rows = read(pages, "/competitions").rows("Refused commitments")
    assert [row["UID"] for row in rows] == ["3", "5", "7"]
    assert rows[2]["Why it is not queued"] == "no competition 'chess' runs; running: o1, v2v, voicebench"
    assert rows[2]["What to change"] == "Commit again with the id of a competition that runs."
    assert rows[0]["What to change"].startswith("Commit again as namespace:name:")
    assert rows[0]["Commitment"] == "maker:old-thing"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", rows[0]["Refused"])
    assert [row["UID"] for row in read(pages, "/competitions/voicebench").rows("Refused commitments")] == ["5"]
    assert [row["reason"] for row in table(pages, "/refused-commitments.csv")] == [
        row["Why it is not queued"] for row in rows
    ]


def test_home_shows_the_last_round_on_subnet_21(pages: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETUID", "21")
    get_settings.cache_clear()
    text = read(pages, "/").text
    assert "No weights yet" not in text
    assert "Round " in text
    assert pages.get("/now.json").json()["last_weights"]["state"]


# -- one competition --------------------------------------------------------------------------------------------------


def test_the_leaderboard_is_in_order_and_says_what_counts(pages: TestClient) -> None:
    rows = read(pages, "/competitions/voicebench").rows("Leaderboard")
    scores = [float(row["Score"]) for row in rows if row["Score"] != "–"]
    assert scores == sorted(scores, reverse=True)
    by_uid = {row["UID"]: row for row in rows}
    assert [row["Place"] for row in rows[:3]] == ["1", "2", "3"]
    assert rows[0]["Baseline"] == "above"
    assert rows[0]["Pool, share"].startswith("above, ")
    # 15 fails always; 8 copies 6; 11's repository is younger than its commitment; 3 has no report
    assert by_uid["15"]["Score"] == "0.0000"
    assert by_uid["15"]["Reported"].startswith("10 of 10 count")
    assert by_uid["8"]["Baseline"] == "below copy"
    assert by_uid["8"]["Score"] == "0.0000"
    assert by_uid["11"]["Baseline"] == "below repository too young"
    assert by_uid["3"]["Score"] == "–"
    assert by_uid["3"]["Reported"] == "nothing yet"
    assert by_uid["3"]["Reputation"] == "0.5"
    reports = re.match(r"(\d+) of (\d+) count", rows[0]["Reported"])
    assert reports is not None
    assert int(reports[1]) <= int(reports[2]) == 8
    assert rows[0]["Reported"].count("UID ") == 8
    assert by_uid["13"]["Reported"].startswith("6 of 8 count")
    stray = [row for row in document(pages, "/competitions/voicebench/reports.json") if row["uid"] == 13]
    assert [row["counts"] for row in stray] == [row["score"] > 0 for row in stray]
    assert sum(row["share"] or 0 for row in stray) == pytest.approx(1.0)


def test_a_young_repository_is_named_on_its_miners_page(pages: TestClient) -> None:
    page = read(pages, f"/miners/{miner(11)}")
    assert "after the commitment: at most the penalty, 0.001" in page.text
    assert "Score 0.0010" in page.text
    assert "before the commitment" in read(pages, f"/miners/{miner(6)}").text
    assert "not looked up yet" in read(pages, f"/miners/{miner(9)}").text


def test_the_queue_goes_by_tier_without_what_is_under_scoring(pages: TestClient) -> None:
    page = read(pages, "/competitions/voicebench")
    queue, working = page.rows("Queue"), page.rows("Models under scoring")
    assert [row["Tier"] for row in queue] == sorted(row["Tier"] for row in queue)
    assert queue[0]["Why"] == "new"
    assert [row["UID"] for row in working] == ["5"]
    assert working[0]["Scored by"] == "UID 0"
    assert {row["UID"] for row in queue}.isdisjoint({"5"})
    assert len(queue) + len(working) == len(page.rows("Leaderboard"))


def test_a_competition_without_a_baseline_says_what_to_do(pages: TestClient) -> None:
    page = read(pages, "/competitions/v2v")
    assert "python -m app competition set-baseline v2v SCORE" in page.text
    assert {row["Baseline"] for row in page.rows("Leaderboard")} == {""}


def test_an_archived_competition_stays_to_be_seen(pages: TestClient) -> None:
    page = read(pages, "/competitions/retired")
    assert "This competition ended" in page.text
    assert "No registered miner has committed a model" in page.text


def test_a_uid_that_changed_hands_does_not_get_its_former_owners_place(own_pages: TestClient, store: Store) -> None:
    lively_competitions(store, miners=6, days=2)
    best = document(own_pages, "/competitions/voicebench/leaderboard.json")[0]
    assert best["pool"] is not None
    with store.writing() as session:
        metagraph = Metagraph(session, NETUID).read()
        Metagraph(session, NETUID).sync(
            7_000_001,
            [
                Neuron(n.uid, hotkey(500) if n.uid == best["uid"] else n.hotkey, "cold", n.stake, n.validator_permit)
                for n in metagraph.neurons
            ],
        )
        newcomer = ModelCommitment(hotkey(500), 6_999_999, model(best["uid"]).model)
        ModelQueue(session, NETUID).register(best["uid"], newcomer, now())
    rows = {row["hotkey"]: row for row in document(own_pages, "/competitions/voicebench/leaderboard.json")}
    assert best["hotkey"] not in rows
    assert rows[hotkey(500)]["uid"] == best["uid"]
    assert (rows[hotkey(500)]["pool"], rows[hotkey(500)]["weight"]) == (None, 0.0)
    rounds = own_pages.get("/rounds").text
    assert f"/miners/{best['hotkey']}" in rounds
    assert f"/miners/{hotkey(500)}" not in rounds


# -- one miner --------------------------------------------------------------------------------------------------------


def test_a_miner_sees_every_score_with_its_error_and_metrics(pages: TestClient) -> None:
    page = read(pages, f"/miners/{miner(13)}")
    rows = page.rows("Scores")
    assert len(rows) == 8
    assert {"commoneval", "wildvoice", "advbench", "ifeval"} <= rows[0].keys()
    failed = [row for row in rows if row["Score"] == "0.0000"]
    assert [row["Error"] for row in failed] == [
        "the image does not build: Dockerfile:7: pip: no module named torch"
    ] * 2
    assert all(re.fullmatch(r"0\.\d{3}", row["commoneval"]) for row in rows if row not in failed)
    assert {row["Validator"] for row in rows} == {"UID 0", "UID 1", "UID 2"}
    assert {row["series"] for row in page.rows("Reported scores, numbers")} == {"UID 0", "UID 1", "UID 2"}
    steps = table(pages, f"/miners/{miner(15)}/reputation.csv")
    assert len(steps) == 60
    assert float(steps[-1]["reputation"]) == pytest.approx(
        float(read(pages, f"/miners/{miner(15)}").rows("Reputation, numbers")[-1]["reputation"]), abs=1e-6
    )


def test_a_miners_refusal_and_state(pages: TestClient) -> None:
    page = read(pages, f"/miners/{miner(5)}")
    assert "The latest commitment, of block 6999005, is not queued: the model is 3 min old" in page.text
    assert "under scoring by UID 0" in page.text
    assert page.rows("Our own scorings")[0]["State"] == "scoring"


def test_who_is_registered_without_a_model_has_a_page_and_an_unknown_hotkey_has_none(pages: TestClient) -> None:
    assert "has no model in any competition" in read(pages, f"/miners/{VALIDATOR.ss58_address}").text
    assert pages.get(f"/miners/{hotkey(4711)}").status_code == 404
    assert pages.get("/miners/%00").status_code == 404
    assert pages.get("/competitions/nothing").status_code == 404


def test_the_list_of_miners_goes_by_reputation(pages: TestClient) -> None:
    rows = read(pages, "/miners").rows("Miners")
    reputations = [float(row["Reputation"]) for row in rows]
    assert reputations == sorted(reputations, reverse=True)
    assert reputations[0] > 0.5 > reputations[-1]
    assert len(rows) == 24


def test_an_evaluation_shows_its_sets_and_every_sample(pages: TestClient) -> None:
    page = read(pages, f"/miners/{miner(13)}")
    rows = page.rows("Evaluations on this node")
    assert sorted(row["Phase"] for row in rows) == ["completed", "failed", "waiting"]
    links = re.findall(r'href="(/evaluations/[^"]+)"', pages.get(f"/miners/{miner(13)}").text)
    found = {read(pages, link).text.split("State ")[1].split()[0]: link for link in links}
    page = read(pages, found["completed"])
    metrics = {row["Metric"]: row["Value"] for row in page.rows("Metrics")}
    assert metrics["voicebench"] == "0.4500"
    assert metrics["wildvoice"] == "0.4000"
    assert metrics["ifeval.usable"] == "5.0000"
    samples = page.rows("Samples")
    assert len(samples) == 20
    assert samples[0]["error"] == "the model answered 500"
    assert samples[1]["verdict"] == '{"rating": 1, "judge": "primary"}'
    assert [row["id"] for row in table(pages, f"{found['completed']}/samples.csv")] == [row["id"] for row in samples]
    assert document(pages, f"{found['completed']}/samples.json")[1]["verdict"] == {"rating": 1, "judge": "primary"}
    assert "build_failed: Dockerfile:7" in read(pages, found["failed"]).text
    assert "Nothing was kept of the samples" in read(pages, found["waiting"]).text
    assert pages.get("/evaluations/none").status_code == 404


# -- rounds -----------------------------------------------------------------------------------------------------------


def test_rounds_say_how_they_ended_and_go_back_in_time(pages: TestClient) -> None:
    first = read(pages, "/rounds")
    rows = first.rows("Rounds")
    assert len(rows) == 72
    assert [row["Round"] for row in rows] == sorted((row["Round"] for row in rows), reverse=True)
    refused = [row for row in rows if row["State"] == "failed"]
    assert [row["Why"] for row in refused] == ["given up after 10 tries: SettingWeightsTooFast"]
    assert all("competition v2v has no baseline" in row["Warnings"] for row in rows)
    older = re.search(r'href="(/rounds\?before=[^"]+)"', pages.get("/rounds").text)
    assert older is not None
    rest = read(pages, older[1]).rows("Rounds")
    assert len(rest) == 18
    assert {row["Round"] for row in rest}.isdisjoint(row["Round"] for row in rows)
    assert pages.get("/rounds?before=yesterday").status_code == 404
    assert pages.get("/rounds?before=0001-01-01T00:00:00%2B23:00").status_code in {200, 404}


def test_a_round_explains_each_weight(pages: TestClient) -> None:
    (mark, *_) = (row["Round"] for row in read(pages, "/rounds").rows("Rounds"))
    page = read(pages, f"/rounds/{quote(mark)}")
    rows = page.rows("Weights")
    weights = [float(row["Weight"].removesuffix(" %")) for row in rows]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(100, abs=0.2)
    assert any("o1 burn" in row["Why"] for row in rows)
    assert any(re.search(r"voicebench above, score 0\.\d+", row["Why"]) for row in rows)
    found = table(pages, f"/rounds/{quote(mark)}/weights.csv")
    assert sum(float(row["weight"]) for row in found) == pytest.approx(1.0)
    assert pages.get("/rounds/2001-01-01T00:00").status_code == 404


# -- files and both databases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/competitions",
        "/competition-changes",
        "/refused-commitments",
        *(
            f"/competitions/voicebench/{name}"
            for name in ("leaderboard", "reports", "baselines", "queue", "under-scoring", "refusals", "scores")
        ),
        *(f"/miners/{miner(5)}/{name}" for name in ("scores", "reputation", "weights", "scorings")),
        f"/miners/{miner(13)}/evaluations",
        "/miners",
        "/rounds",
    ],
)
def test_csv_and_json_hold_the_same(pages: TestClient, path: str) -> None:
    rows, objects = table(pages, f"{path}.csv"), document(pages, f"{path}.json")
    assert rows
    assert len(rows) == len(objects)
    assert list(rows[0]) == list(objects[0])
    for row, found in zip(rows, objects, strict=True):
        for name, value in found.items():
            if isinstance(value, float):
                assert float(row[name]) == value
            elif isinstance(value, str) and value[:1].isalnum():
                assert row[name] == value


def test_no_other_file(pages: TestClient) -> None:
    for path in ("/competitions.xlsx", "/competitions/voicebench/evil.csv", f"/miners/{miner(5)}/scores.html"):
        assert pages.get(path).status_code == 404


def test_every_page_on_both_databases(own_pages: TestClient, store: Store) -> None:
    fill(store, 3)
    scored(store, 2, 0.4, 0.6)
    scored(store, 2, 0.5, by=SECOND.ss58_address)
    for path in ("/competitions", "/competitions/voicebench", f"/miners/{miner(2)}", "/miners", "/rounds"):
        read(own_pages, path)
    assert own_pages.get("/miners/%00").status_code == 404
    assert own_pages.get("/rounds/%00").status_code == 404


def test_a_round_that_nothing_is_known_of_but_its_state(own_pages: TestClient, store: Store) -> None:
    lively_competitions(store, miners=3, days=1)
    with store.writing() as session:
        session.execute(
            update(WeightRoundRow).values(weights=None, by_hotkey=None, pools=None, shares=None, warnings=None)
        )
    assert "Nothing to draw yet" in read(own_pages, "/rounds").text
    mark = read(own_pages, "/rounds").rows("Rounds")[0]["Round"]
    assert "Nobody has a weight in this round" in read(own_pages, f"/rounds/{quote(mark)}").text
    read(own_pages, "/competitions")
