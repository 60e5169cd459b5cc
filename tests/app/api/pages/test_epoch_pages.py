"""The pages of the molecule epochs, over an epoch that the pipeline ran, on both databases."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lxml.etree
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.pages import page_routers
from app.api.pages.epochs.rejection_codes import EXPLANATIONS
from app.celery import app as celery_app
from app.clock import now
from app.domain import PairScore, Protein, RejectionCode
from app.epochs.recording import Recording
from app.epochs.result import report_text
from app.epochs.rules import build_report
from app.settings import get_settings
from app.store import database
from app.store.database import Store, get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.scores import Scores
from app.store.tables.epochs import BatchRow, EpochRow, SubmissionRow
from app.store.tables.weights import WeightSubmissionRow
from tests.app.api.pages.page_reader import BROWSER, PageReader, counted, folded, read
from tests.app.page_stores import HOSTILE, full_epoch, hostile_epoch
from tests.conftest import DATA
from tests.stores import migrated

EXAMPLE = DATA / "example"

# What every page's header is read with.
HEADER = 3
EXPECTED: dict[str, Any] = json.loads((DATA / "example.expected.json").read_text())


@dataclass(frozen=True)
class Ran:
    """A store with the example recording's epoch in it, done."""

    url: str
    epoch_id: int


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The example, run once per database through the eager pipeline; the tests only read it."""
    folder = tmp_path_factory.mktemp("ran")
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'store.sqlite'}"
    else:
        import psycopg

        maintenance = request.getfixturevalue("postgresql_server")
        name = f"pages_{uuid.uuid4().hex}"
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        url = maintenance.replace("/postgres?", f"/{name}?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.setenv("DATA_DIR", str(folder))
        get_settings.cache_clear()
        celery_app.loader.import_default_modules()
        celery_app.conf.update(task_always_eager=True, task_eager_propagates=True)
        try:
            epoch_id = _run(get_store())
        finally:
            celery_app.conf.update(task_always_eager=False, task_eager_propagates=False)
            database.close_stores()
    get_settings.cache_clear()
    return Ran(url, epoch_id)


def _run(store: Store) -> int:
    from workers import scoring
    from workers.epochs import open_epoch
    from workers.submissions import _examiner

    migrated(store)
    with store.writing() as session:
        epoch_id = Recording(EXAMPLE).announce(session, "recorded", "c")
    open_epoch.delay(epoch_id)
    _examiner.cache_clear()
    scoring.forget_scorers()
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is Stage.DONE
    return epoch_id


@pytest.fixture
def pages(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application over the store in which the example ran."""
    monkeypatch.setenv("DATABASE_URL", ran.url)
    get_settings.cache_clear()
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def own(store: Store) -> Iterator[TestClient]:
    """The application over a store that the test fills."""
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def crawled(client: TestClient, start: str = "/") -> dict[str, PageReader]:
    """Every page that can be reached, by its path; links into a page are checked to exist."""
    found: dict[str, PageReader] = {}
    waiting, inside = [start], set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        page = found[path] = read(client, path)
        for link in page.links():
            target, _, anchor = link.partition("#")
            if not target.startswith("/") or target.startswith("/competitions"):
                continue
            # the test client takes the percent sign of a hotkey for another escape, which no server does
            if re.search(r"\.(csv|json|atom)$", target) or "%25" in target:
                continue
            inside.add((target, anchor))
            # one order of a table is as good as another, and one submission in eight
            if "?by=" not in target:
                waiting.append(target)
    for target, anchor in inside:
        if anchor and target in found:
            assert found[target].root.xpath(f"//*[@id='{anchor}']"), (target, anchor)
    return found


# -- what the pages say -----------------------------------------------------------------------------------------------


def test_the_epoch_page_says_who_won_and_who_was_refused(pages: TestClient, ran: Ran) -> None:
    page = read(pages, f"/epochs/{ran.epoch_id}")
    assert page.text("//h1") == f"Epoch {EXPECTED['epoch']}"
    weights = page.facts("weights")
    assert weights["PSICHIC"] == f"UID {EXPECTED['winners']['psichic']}"
    assert weights["Boltz-2"] == f"UID {EXPECTED['winners']['boltz']}"
    assert weights["Weights"] == ", ".join(
        f"UID\xa0{uid}: {share:.1%}".replace("%", " %").replace("\xa0", " ")
        for uid, share in EXPECTED["weights"].items()
    )
    challenge = page.facts("challenge")
    assert challenge["Target"] == "O15379"
    assert challenge["Antitargets"].split(", ") == EXPECTED["challenge"]["antitargets"]
    assert f"https://www.uniprot.org/uniprotkb/{EXPECTED['challenge']['antitargets'][0]}/entry" in page.links()

    result = pages.get(f"/epochs/{ran.epoch_id}/result.json").json()
    valid = {str(one["uid"]): one for one in result["submissions"] if one["status"] == "valid"}
    for name, model in (("PSICHIC", "psichic"), ("Boltz-2", "boltz")):
        order = sorted(valid, key=lambda uid: valid[uid][f"{model}_rank"])
        assert page.table(f"by {name} score") == [
            [
                str(place),
                f"UID {uid}",
                f"{EXPECTED['valid'][uid][f'{model}_score']:,.4f}",
                "–" if model == "boltz" else f"{EXPECTED['valid'][uid]['entropy']:.4f}",
                f"{EXPECTED['weights'][uid]:.1%}".replace("%", " %") if uid in EXPECTED["weights"] else "–",
            ]
            for place, uid in enumerate(order, 1)
        ]

    reasons = {row[0]: int(row[1]) for row in page.table("How often each rule")}
    assert reasons == dict(Counter(EXPECTED["rejections"].values()))
    everybody = page.table("All submissions of epoch")
    assert len(everybody) == len(EXPECTED["valid"]) + len(EXPECTED["rejections"])
    refused = {row[0]: row[2] for row in everybody if row[1] == "rejected"}
    assert {uid: text.split()[0] for uid, text in refused.items()} == EXPECTED["rejections"]
    assert all(len(text.split()) > 3 for text in refused.values()), "each with its sentence"


@pytest.mark.parametrize("by", ["psichic", "boltz", "uid"])
def test_the_table_of_submissions_is_ordered_without_a_script(pages: TestClient, ran: Ran, by: str) -> None:
    rows = read(pages, f"/epochs/{ran.epoch_id}?by={by}").table("All submissions of epoch")
    column = {"uid": 0, "psichic": 4, "boltz": 6}[by]
    ranks = [int(row[column]) for row in rows if row[column] != "–"]
    assert ranks == sorted(ranks)
    if by != "uid":
        assert [row[column] == "–" for row in rows] == sorted(row[column] == "–" for row in rows)


def test_a_refused_miner_reads_the_rule_the_molecule_and_the_sentence(pages: TestClient, ran: Ran) -> None:
    for uid, code in EXPECTED["rejections"].items():
        stored = pages.get(f"/epochs/{ran.epoch_id}/submissions/{uid}.json").json()
        page = read(pages, f"/epochs/{ran.epoch_id}/submissions/{uid}")
        text = page.text("//main")
        assert stored["rejection"]["code"] == code
        assert folded(stored["rejection"]["message"])[:380] in text
        assert f"/rejections#{code}" in page.links()
        found = next(one for one in EXPLANATIONS if one.code == code)
        assert found.meaning in text
        assert found.remedy in text
        facts = {folded(dt.text_content()): folded(dt.getnext().text_content()) for dt in page.root.xpath("//dt")}
        if stored["rejection"]["molecule"] is not None:
            assert facts["Molecule"] == stored["rejection"]["molecule"]
        if stored["rejection"]["index"] is not None:
            assert facts["Index"].startswith(f"{stored['rejection']['index']} (")
        assert facts["Hotkey"] == stored["commitment"]["hotkey"]
        assert facts["Path"] == stored["commitment"]["data"]
        assert facts["Block"] == str(stored["commitment"]["block"])


def test_a_valid_submission_shows_each_molecule_as_the_result_has_it(pages: TestClient, ran: Ran) -> None:
    result = pages.get(f"/epochs/{ran.epoch_id}/result.json").json()
    entry = next(one for one in result["submissions"] if one["uid"] == EXPECTED["winners"]["boltz"])
    path = f"/epochs/{ran.epoch_id}/submissions/{entry['uid']}"
    page = read(pages, path)
    rows = page.rows("The molecules of UID")
    assert len(rows) == len(entry["molecules"]) == 100
    for index, (row, molecule) in enumerate(zip(rows, entry["molecules"], strict=True)):
        cells = [folded(cell.text_content()) for cell in row.xpath("./td|./th")]
        assert cells[0] == str(index)
        assert cells[2].startswith(f"{molecule['name']}{molecule['smiles']}")
        numbers = [molecule["score"], *molecule["target_scores"]]
        assert cells[3:5] == [f"{value:,.4f}" for value in numbers]
        assert cells[-8:] == [f"{value:,.4f}" for value in molecule["antitarget_scores"]]
        assert row.xpath(".//img/@src") == [f"{path}/molecules/{index}.svg"]
        assert row.xpath(".//img/@loading") == ["lazy"]
    facts = page.facts("scores")
    assert facts["PSICHIC"].startswith(f"{entry['psichic_score']:,.4f}, rank {entry['psichic_rank']} of ")
    assert facts["Boltz-2"].startswith(f"{entry['boltz_score']:,.4f}, rank 1 of ")
    assert facts["Entropy"] == f"{entry['entropy']:.4f}"


def test_every_page_that_links_lead_to_is_sound(pages: TestClient) -> None:
    found = crawled(pages)
    kinds = {re.sub(r"\d+", "0", path) for path in found}
    assert kinds >= {"/", "/epochs", "/epochs/0", "/epochs/0/submissions/0", "/weights", "/rejections"}
    for path, page in found.items():
        root = page.root
        assert len(root.xpath("//h1")) == 1, path
        assert root.get("lang") == "en"
        assert root.xpath("//title")[0].text.endswith(" · celery-validator")
        assert root.xpath("//main[@id='content']")
        assert root.xpath("//a[@class='skip' and @href='#content']")
        assert not root.xpath("//*[@style]"), path
        assert not root.xpath("//style")
        assert [script.get("src") is not None and not script.text for script in root.xpath("//script")] == [True]
        assert not root.xpath("//table[not(caption)]"), path
        assert not root.xpath("//thead//th[not(@scope)] | //tbody//th[not(@scope)]"), path
        for row in root.xpath("//table[@class='stacked']/tbody/tr"):
            # on a phone each cell names its column
            named = [head.text_content() for head in row.xpath("../../thead/tr/th")]
            assert [cell.get("data-label", head) for cell, head in zip(row, named, strict=True)] == named, path
            assert not row.xpath("td[not(@data-label)]"), path
        assert not root.xpath("//img[not(@alt) or @alt='']")
        assert not root.xpath("//*[contains(@class,'scroll')][not(@tabindex='0' and @role='region' and @aria-label)]")
        assert not root.xpath(
            "//svg[not(@aria-hidden='true') and not(@role='img' and @aria-labelledby and title and desc)]"
        )
        ids = root.xpath("//@id")
        assert len(ids) == len(set(ids)), path
        for named in root.xpath("//@aria-labelledby"):
            assert all(root.xpath(f"//*[@id='{one}']") for one in named.split()), (path, named)
        outside = {link for link in page.links() if not link.startswith(("/", "#"))}
        assert all(link.startswith(("https://www.uniprot.org/uniprotkb/", "http://127.0.0.1:5555")) for link in outside)


def test_the_home_page_tells_of_the_epoch_queues_and_weights(pages: TestClient, ran: Ran) -> None:
    page = read(pages, "/")
    assert f"Last epoch: {EXPECTED['epoch']}" in page.text("//main")
    stages = [folded(bar.text_content()) for bar in page.root.xpath("//li[contains(@class,'stage')]")]
    assert [stage.split(" done")[0] for stage in stages] == [
        "Open", "Examine", "Score with PSICHIC", "Score with Boltz-2", "Rank and weigh", "Submit weights",
    ]  # fmt: skip
    assert "22 of 22 submissions" in stages[1]
    # no broker runs in this test
    assert [row[1:] for row in page.table("Messages and workers")] == [["unknown"] * 3] * 3
    assert "The broker does not answer" in page.text("//main")
    assert "UID 3: 25.0 %" in page.text("//section[@aria-labelledby='cluster']")
    assert [row[0] for row in page.table("The latest epochs")] == [str(EXPECTED["epoch"])]


def test_weights_are_shown_per_epoch(pages: TestClient, ran: Ran) -> None:
    page = read(pages, "/weights")
    (row,) = page.table("One per epoch")
    assert row[0] == str(EXPECTED["epoch"])
    assert row[3] == "UID 0: 50.0 %, UID 3: 25.0 %, UID 7: 25.0 %"
    marks = page.root.xpath("//svg//*[contains(@class,'mark')]/title")
    assert [mark.text for mark in marks] == ["UID 0: 50.0 %", "UID 3: 25.0 %", "UID 7: 25.0 %"]


def test_every_code_is_explained() -> None:
    assert [one.code for one in EXPLANATIONS] == list(RejectionCode), "in the order in which they are looked at"
    assert all(one.meaning.endswith(".") and one.remedy.endswith(".") for one in EXPLANATIONS)


# -- files ------------------------------------------------------------------------------------------------------------


def table(client: TestClient, path: str) -> list[dict[str, str]]:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment;")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_every_page_links_the_files_of_what_it_shows(pages: TestClient) -> None:
    for path, page in crawled(pages).items():
        if path.startswith(("/miners", "/rounds")):
            continue
        files = [link for link in page.links() if link.endswith((".csv", ".json"))]
        assert {link.rsplit(".", 1)[1] for link in files} == {"csv", "json"}, path
        for link in files:
            answer = pages.get(link, headers=BROWSER)
            assert answer.status_code == 200, link
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            if link.endswith(".json"):
                answer.json(parse_constant=pytest.fail)
            else:
                rows = list(csv.reader(io.StringIO(answer.text)))
                assert len({len(row) for row in rows}) == 1, link


def test_the_files_of_an_epoch_hold_its_numbers(pages: TestClient, ran: Ran) -> None:
    rows = {row["uid"]: row for row in table(pages, f"/epochs/{ran.epoch_id}.csv")}
    document = pages.get(f"/epochs/{ran.epoch_id}.json").json()
    for uid, entry in EXPECTED["valid"].items():
        assert float(rows[uid]["psichic_score"]) == pytest.approx(float(entry["psichic_score"]), abs=1e-9)
        listed = next(one for one in document["submission_list"] if one["uid"] == int(uid))
        assert listed["boltz_score"] == pytest.approx(float(entry["boltz_score"]), abs=1e-9)
    assert {uid: row["code"] for uid, row in rows.items() if row["code"]} == EXPECTED["rejections"]
    assert {uid: float(row["weight"]) for uid, row in rows.items() if row["weight"]} == EXPECTED["weights"]
    assert document["psichic_winner"] == EXPECTED["winners"]["psichic"]
    assert document["challenge"]["antitargets"] == EXPECTED["challenge"]["antitargets"]


def test_the_files_of_a_submission_hold_every_score(pages: TestClient, ran: Ran) -> None:
    uid = EXPECTED["winners"]["psichic"]
    rows = table(pages, f"/epochs/{ran.epoch_id}/submissions/{uid}.csv")
    document = pages.get(f"/epochs/{ran.epoch_id}/submissions/{uid}.json").json()
    result = pages.get(f"/epochs/{ran.epoch_id}/result.json").json()
    entry = next(one for one in result["submissions"] if one["uid"] == uid)
    for row, listed, molecule in zip(rows, document["molecules"], entry["molecules"], strict=True):
        assert row["smiles"] == listed["molecule"]["smiles"] == molecule["smiles"]
        assert float(row["score"]) == listed["score"] == molecule["score"]
        assert [float(row[f"antitarget {code}"]) for code in EXPECTED["challenge"]["antitargets"]] == molecule[
            "antitarget_scores"
        ]
        assert listed["boltz"] == (molecule["boltz"] or {})


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_a_molecule_is_drawn_from_the_store_alone(pages: TestClient, ran: Ran) -> None:
    base = f"/epochs/{ran.epoch_id}/submissions/{EXPECTED['winners']['psichic']}/molecules"
    answer = pages.get(f"{base}/0.svg")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "max-age=86400" in answer.headers["cache-control"]
    assert "script-src" not in answer.headers["content-security-policy"]
    root = lxml.etree.fromstring(answer.content)
    assert len(root) > 10
    assert pages.get(f"{base}/100.svg").status_code == 404
    assert pages.get(f"/epochs/{ran.epoch_id}/submissions/8/molecules/0.svg").status_code == 404, "it was refused"
    assert pages.get(f"/epochs/{ran.epoch_id + 9}/submissions/0/molecules/0.svg").status_code == 404


# -- who gets what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER["Accept"], True),
        ("text/html", True),
        ("text/*;q=0.5, application/json;q=0.4", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("text/html;q=0.4, application/json", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=nonsense, */*;q=0.1", False),
        ("TEXT/HTML;q=0.9,*/*;q=0.8", True),
    ],
)
def test_the_root_is_health_unless_html_is_preferred(pages: TestClient, accept: str, html: bool) -> None:
    answer = pages.get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["vary"] == "Accept"
    if html:
        assert "<h1>Now</h1>" in answer.text
    else:
        assert answer.json()["status"] == "ok"


def test_pages_can_be_turned_off(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", ran.url)
    monkeypatch.setenv("PAGES", "false")
    get_settings.cache_clear()
    with TestClient(create_app()) as client:
        assert client.get("/", headers=BROWSER).json()["status"] == "ok"
        assert client.get("/epochs", headers=BROWSER).status_code == 404


def test_headers_keep_the_pages_to_themselves(pages: TestClient, ran: Ran) -> None:
    for path, status in (("/", 200), ("/epochs", 200), (f"/epochs/{ran.epoch_id}", 200), ("/nothing", 404)):
        answer = pages.get(path, headers=BROWSER)
        assert answer.status_code == status
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "unsafe" not in answer.headers["content-security-policy"]


@on_sqlite
def test_an_unchanged_page_is_not_sent_again(own: TestClient, store: Store) -> None:
    path = f"/epochs/{full_epoch(store, submissions=2, molecules=4)}"
    with store.writing() as session:
        # long ago, so that "400 d ago" stays true while the test runs
        past = now() - timedelta(days=400, hours=5)
        session.execute(update(EpochRow).values(created_at=past, closed_at=past))
        session.execute(update(WeightSubmissionRow).values(updated_at=past))
    first = own.get(path, headers=BROWSER)
    again = own.get(path, headers={**BROWSER, "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert own.head(path, headers=BROWSER).status_code == 200
    with store.writing() as session:
        Epochs(session).warn(1, "something new")
    assert own.get(path, headers={**BROWSER, "If-None-Match": first.headers["etag"]}).status_code == 200


def test_static_files_are_named_by_their_content(pages: TestClient) -> None:
    page = read(pages, "/rejections")
    paths = [*page.root.xpath("//link/@href"), *page.root.xpath("//script/@src")]
    assert len(paths) == 3
    for path in paths:
        assert re.fullmatch(r"/static/\w+\.[0-9a-f]{12}\.(css|js|svg)", path)
        answer = pages.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert pages.get(re.sub(r"[0-9a-f]{12}", "0" * 12, path)).status_code == 404
    assert pages.get("/static/..%2fpage.py").status_code == 404
    css = pages.get(paths[0]).text
    assert "url(" not in css
    assert "@import" not in css


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/epochs/99999",
        "/epochs/99999999999999999999",
        "/epochs/99999.csv",
        "/epochs/99999.json",
        "/epochs/99999/result.json",
        "/epochs/99999/submissions/1",
        "/epochs/1/submissions/99999999999999999999",
        "/epochs/1/submissions/200.csv",
        "/fragments/epochs/99999",
        "/epochs?page=0",
        "/epochs?page=9",
        "/epochs?page=x",
        "/epochs?page=²",
        "/epochs/-1",
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(pages: TestClient, path: str) -> None:
    page = read(pages, path, 404)
    assert page.text("//h1") == "Not found"
    assert "/epochs" in page.links()
    assert pages.get(path).json()["detail"], "and as JSON to a client of the API"


def test_a_store_that_is_away_is_said_in_a_sentence(own: TestClient, store: Store) -> None:
    # as after a lost disk: the tables are gone
    EpochRow.metadata.drop_all(store.engine)
    answer = own.get("/epochs", headers=BROWSER)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "The database does not answer" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert own.get("/epochs").json() == {"detail": "the store does not answer; try again"}


def test_a_page_that_cannot_be_made_says_nothing_of_why(own: TestClient, store: Store) -> None:
    epoch_id = full_epoch(store, submissions=2, molecules=4)
    with store.writing() as session:
        session.execute(update(EpochRow).values(header={"unclosed": 1}))
    answer = own.get(f"/epochs/{epoch_id}", headers=BROWSER)
    assert answer.status_code == 500
    assert "Something went wrong" in answer.text
    assert "unclosed" not in answer.text
    assert own.get(f"/epochs/{epoch_id}").text == "Internal Server Error"


@on_sqlite
def test_an_epoch_of_another_version_s_rules_is_shown_without_them(own: TestClient, store: Store) -> None:
    epoch_id = full_epoch(store, submissions=2, molecules=4)
    with store.writing() as session:
        session.execute(update(EpochRow).values(rules="a_section_of_tomorrow: {}"))
    page = read(own, f"/epochs/{epoch_id}")
    assert page.facts("challenge")["Entropy weight"] == "–"
    assert "a_section_of_tomorrow" in page.text("//pre")
    assert "UID 0" in page.facts("weights")["PSICHIC"]
    assert len(read(own, f"/epochs/{epoch_id}/submissions/0").rows("The molecules of UID")) == 4


def test_a_broker_that_never_answers_holds_no_page_up(
    own: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        get_settings.cache_clear()
        page = read(own, "/")
    assert [row[1:] for row in page.table("Messages and workers")] == [["unknown"] * 3] * 3


# -- epochs that are on their way ------------------------------------------------------------------------------------


def test_an_empty_store_has_pages_too(own: TestClient) -> None:
    found = crawled(own)
    assert {"/", "/epochs", "/weights", "/rejections"} <= set(found)
    assert "No epoch is in the store yet" in found["/"].text("//main")
    assert own.get("/epochs.csv").text.startswith("id")
    assert own.get("/now.json").json()["epoch"] is None


def test_a_running_epoch_shows_how_far_it_is(own: TestClient, store: Store) -> None:
    epoch_id = full_epoch(store, submissions=16, molecules=8)
    at = now()
    with store.writing() as session:
        session.execute(
            update(EpochRow).values(
                stage="scoring",
                closed_at=None,
                psichic_winner=None,
                boltz_winner=None,
                stage_times={
                    "announced": (at - timedelta(minutes=3)).isoformat(),
                    "examining": (at - timedelta(minutes=2)).isoformat(),
                    "scoring": (at - timedelta(minutes=1)).isoformat(),
                },
            )
        )
        session.execute(update(SubmissionRow).values(psichic_rank=None, psichic_score=None, scored=None))
        session.execute(update(BatchRow).values(began_at=at - timedelta(seconds=60), finished_at=at))
        session.execute(
            update(BatchRow)
            .where(BatchRow.model == "psichic", BatchRow.number >= 1)
            .values(state="pending", finished_at=None)
        )
    page = read(own, f"/epochs/{epoch_id}")
    (fresh,) = page.root.xpath("//*[@data-refresh]")
    assert fresh.get("data-refresh") == f"/fragments/epochs/{epoch_id}?shown=scoring"
    bars = {folded(bar.xpath("./span[1]")[0].text): bar for bar in page.root.xpath("//li[contains(@class,'stage')]")}
    psichic = bars["Score with PSICHIC"]
    assert (psichic.xpath("./progress/@value"), psichic.xpath("./progress/@max")) == (["1"], ["4"])
    assert "running" in psichic.text_content()
    assert "1 of 4 batches, about 3 min left" in folded(psichic.text_content())
    assert "waiting" in bars["Rank and weigh"].text_content()
    assert "1 min" in bars["Examine"].text_content()
    assert "Not ranked yet." in page.text("//main")

    same = own.get(f"/fragments/epochs/{epoch_id}?shown=scoring", headers=BROWSER)
    assert "x-refresh" not in same.headers
    assert "<html" not in same.text
    assert own.get(f"/fragments/epochs/{epoch_id}?shown=examining", headers=BROWSER).headers["x-refresh"] == "reload"
    home = read(own, "/")
    (fresh,) = home.root.xpath("//*[@data-refresh]")
    assert "x-refresh" not in own.get(fresh.get("data-refresh"), headers=BROWSER).headers
    assert "Current epoch: 18999" in home.text("//main")
    valid = read(own, f"/epochs/{epoch_id}/submissions/0")
    assert "its scores follow" in valid.text("//main")
    assert len(valid.rows("The molecules of UID")[0].xpath("./td|./th")) == 3


def test_failed_and_missed_epochs_ask_for_attention(own: TestClient, store: Store) -> None:
    full_epoch(store, submissions=2, molecules=4)
    with store.writing() as session:
        epochs = Epochs(session)
        header = epochs.get(1).header
        failed = epochs.announce("68:1", header, "model", "c", publishes=True)
        epochs.fail(failed, "the hub was unavailable for 30 min")
        epochs.announce_missed("68:2", header, "c")
    text = read(own, "/").text("//main")
    assert "Needs attention" in text
    assert "failed: the hub was unavailable for 30 min" in text
    assert "was missed: no validator watched when this epoch ended" in text
    page = read(own, f"/epochs/{failed}")
    assert "The epoch is not open yet." in page.text("//main")
    assert [folded(bar.text_content()).split()[1] for bar in page.root.xpath("//li[@class='stage failed']")] == []
    assert own.get(f"/epochs/{failed}.json").json()["error"] == "the hub was unavailable for 30 min"


def test_a_missing_score_has_its_reason_beside_it(own: TestClient, store: Store) -> None:
    epoch_id = full_epoch(store, submissions=2, molecules=8)
    with store.writing() as session:
        one = Epochs(session).submission(epoch_id, 0)
        proteins = Epochs(session).get(epoch_id).proteins
        session.execute(update(BatchRow).where(BatchRow.model == "boltz").values(model_digest="ef" * 32))
        failed = one.molecules[3].smiles
        target = proteins[0]
        antitarget = Protein(proteins[1].code, proteins[1].sequence)
        Scores(session).keep(
            "cd" * 32, [antitarget], [PairScore(antitarget.code, failed, {}, "too_large: 300 atoms are too many")]
        )
        # another model's trouble with the same molecule is not this one's
        Scores(session).keep("ef" * 32, [target], [PairScore(target.code, failed, {}, "long_atom_name: C1000")])
        first = [dict(entry) for entry in one.scored]
        first[0]["boltz"] = None
        first[4]["antitarget_scores"] = ["-inf", *first[4]["antitarget_scores"][1:]]
        first[4]["score"] = "-inf"
        Scores(session).keep(
            "ef" * 32, [antitarget], [PairScore(antitarget.code, one.molecules[4].smiles, {}, "another model's")]
        )
        session.execute(update(SubmissionRow).where(SubmissionRow.uid == 0).values(scored=first))
        Scores(session).keep(
            "ef" * 32, [target], [PairScore(target.code, one.molecules[0].smiles, {}, "long_atom_name: CL1000")]
        )
    rows = read(own, f"/epochs/{epoch_id}/submissions/0").table("The molecules of UID")
    # the antitargets of this epoch have one sequence, so one score
    assert "PSICHIC, ANTI0, ANTI1" in rows[3][2]
    assert rows[3][2].endswith("too_large: 300 atoms are too many")
    assert rows[3][3] == "−∞"
    assert rows[0][2].endswith("Boltz-2: long_atom_name: CL1000")
    assert rows[4][2].endswith("PSICHIC, ANTI0: no score, and no reason was kept")
    document = own.get(f"/epochs/{epoch_id}/submissions/0.json").json()
    assert document["molecules"][3]["score"] == "-inf"
    assert len(document["molecules"][3]["reasons"]) == 1
    assert document["molecules"][1]["reasons"] == []
    assert not math.isfinite(float(table(own, f"/epochs/{epoch_id}/submissions/0.csv")[3]["score"]))


def test_long_lists_come_in_pages(own: TestClient, store: Store) -> None:
    with store.writing() as session:
        epochs = Epochs(session)
        header = Recording(EXAMPLE).header
        for number in range(65):
            epochs.announce(f"r{number}", header, "recorded", "c")
    first, last = read(own, "/epochs"), read(own, "/epochs?page=3")
    assert len(first.rows("Newest first")) == 30
    assert len(last.rows("Newest first")) == 5
    assert first.root.xpath("//a[@rel='next']/@href") == ["/epochs?page=2"]
    assert not first.root.xpath("//a[@rel='prev']")
    assert not last.root.xpath("//a[@rel='next']")
    assert len(table(own, "/epochs.csv")) == 65


# -- how often the store is asked -------------------------------------------------------------------------------------


def test_no_page_asks_the_store_more_for_more_submissions(own: TestClient, store: Store) -> None:
    small = full_epoch(store, submissions=3, molecules=4, number=0)
    large = full_epoch(store, submissions=40, molecules=12, number=1)
    asked: dict[str, list[int]] = {}
    for epoch_id in (small, large):
        for path in ("/epochs/{}", "/epochs/{}/submissions/0", "/epochs/{}.csv", "/epochs/{}/submissions/0.json"):
            with counted(store.engine) as statements:
                assert own.get(path.format(epoch_id), headers=BROWSER).status_code == 200
            asked.setdefault(path, []).append(len(statements))
            if path == "/epochs/{}":
                listed = [text for text in statements if "FROM submissions" in text]
                assert not any("submissions.molecules" in text.split("FROM")[0] for text in listed)
                assert not any("submissions.scored" in text for text in listed)
                assert not any("epochs.neurons" in text for text in statements)
    assert all(few == many for few, many in asked.values()), asked
    assert max(few for few, _ in asked.values()) <= 11 + HEADER, asked
    with counted(store.engine) as statements:
        read(own, "/epochs")
    assert len(statements) <= 3 + HEADER
    with counted(store.engine) as statements:
        read(own, "/")
    assert len(statements) <= 16 + HEADER


# -- hostile text ----------------------------------------------------------------------------------------------------


@on_sqlite
def test_untrusted_text_stays_text(own: TestClient, store: Store) -> None:
    epoch_id = hostile_epoch(store)
    found = crawled(own)
    assert len([path for path in found if "/submissions/" in path]) == 2 * len(HOSTILE)
    seen = "".join(page.text("//html") for page in found.values())
    for text in HOSTILE[:10]:
        assert folded(text).replace("\t", "⟨U+0009⟩") in seen or text.replace("\t", "⟨U+0009⟩") in seen, text
    for path, page in found.items():
        if path.startswith(("/miners", "/rounds", "/competitions")):
            continue
        root = page.root
        elements = {str(element.tag) for element in root.iter() if isinstance(element.tag, str)}
        assert not elements & {"evil", "base", "meta-refresh", "iframe", "object", "embed", "style"}, path
        assert not root.xpath("//meta[@http-equiv]")
        assert len(root.xpath("//script")) == 1
        assert len(list(root.iter(lxml.etree.Comment))) == 0
        for element in root.iter():
            for name, value in element.attrib.items():
                assert not name.startswith("on"), (path, name)
                assert name not in {"evil", "style", "autofocus"}, (path, name)
                if name in {"href", "src"}:
                    assert value.startswith(("/", "#", "https://www.uniprot.org/uniprotkb/", "http://127.0.0.1:5555"))
                    assert not value.startswith("//")
                    # a miner's own address, escaped
                    assert "evil" not in value or re.fullmatch(r"/hotkeys/[\w.~%-]+(/verdicts\.\w+)?", value)
        text = root.text_content()
        assert "1234000" not in text
        unseen = re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", text)
        assert not unseen, (path, unseen)
    assert "⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+200B⟩" in seen
    assert own.get(f"/epochs/{epoch_id}/submissions/{len(HOSTILE)}/molecules/0.svg").status_code == 200


@on_sqlite
def test_a_spreadsheet_takes_nothing_for_a_formula(own: TestClient, store: Store) -> None:
    epoch_id = hostile_epoch(store)
    uid = len(HOSTILE)
    for path in (
        f"/epochs/{epoch_id}.csv",
        f"/epochs/{epoch_id}/submissions/{uid}.csv",
        "/epochs.csv",
        "/weights.csv",
        "/now.csv",
    ):
        for row in csv.reader(io.StringIO(own.get(path).text)):
            for cell in row:
                if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
                    assert re.fullmatch(r"-(inf|\d+(\.\d+)?(e-?\d+)?)", cell), (path, cell[:80])
    for path in (f"/epochs/{epoch_id}.json", f"/epochs/{epoch_id}/submissions/{uid}.json", "/now.json"):
        own.get(path).json(parse_constant=pytest.fail)


def test_no_template_and_no_page_switches_escaping_off() -> None:
    folder = Path(page_routers.__code__.co_filename).parent
    for path in folder.rglob("*.html"):
        text = path.read_text()
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text
        assert "<script" not in text.replace('<script type="module" src="{{ asset(\'site.js\') }}">', "")
        assert not re.search(r"\s(on\w+|style)=", text), path
        # an attribute without quotes is an open door
        assert not re.search(r"[\w-]=\{\{", re.sub(r'"[^"]*"', "", text)), path
    for path in folder.rglob("*.py"):
        # Markup is made from literals alone; what is put into it goes through format(), which escapes
        assert not re.search(r"Markup\((?!\s*\"|\s*'|\s*\n)", path.read_text()), path


def test_a_result_is_written_once_and_known_by_its_tag(pages: TestClient, ran: Ran) -> None:
    address = f"/epochs/{ran.epoch_id}/result.json"
    first = pages.get(address)
    (file,) = (get_settings().data_dir / "results").glob("*.json")
    assert file.read_bytes() == first.content
    written = file.stat().st_mtime_ns
    assert pages.get(address).content == first.content
    assert file.stat().st_mtime_ns == written
    again = pages.get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    with get_store().reading() as session:
        stored = Epochs(session)
        report = build_report(
            stored.get(ran.epoch_id),
            stored.summary(ran.epoch_id),
            stored.submissions(ran.epoch_id),
            stored.warnings(ran.epoch_id),
        )
    assert first.text == report_text(report)
