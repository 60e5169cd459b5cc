"""Every download that grows with the history or with the miners is written, and read, piece by piece."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from typing import Any

import pytest
from sqlalchemy import Engine

from app.api.application import create_app
from app.api.pages import page_routers, paging
from app.api.pages.epochs import epochs
from app.api.pages.epochs.miners import miner_path
from app.competitions.profile import profile_of
from app.settings import get_settings
from app.store.database import Store
from tests.app.api.pages.page_reader import counted
from tests.app.competitions.competition_fixtures import miner as model_miner
from tests.app.page_stores import full_epoch, hotkey, lively_competitions

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

# Files of one thing whose size nothing but that thing decides: what is now, the codes, the molecules of one submission.
BOUNDED = {
    "/now.csv",
    "/now.json",
    "/rejections.csv",
    "/rejections.json",
    "/search.csv",
    "/search.json",
    "/epochs/{epoch_id:int}/submissions/{uid:int}.csv",
    "/epochs/{epoch_id:int}/submissions/{uid:int}.json",
}

# Written to a file once and sent from there.
FILES = {"/epochs/{epoch_id:int}/result.json"}

# What is read from the store a few rows at a time. The rest are tables of at most 256 UIDs, or pages of a list.
PAGED = {
    "/epochs.csv": "/epochs.csv",
    "/epochs.json": "/epochs.json",
    "/epochs/{epoch_id:int}.csv": "/epochs/1.csv",
    "/epochs/{epoch_id:int}.json": "/epochs/1.json",
    "/weights.csv": "/weights.csv",
    "/weights.json": "/weights.json",
    "/hotkeys/{hotkey:path}/verdicts.csv": miner_path(hotkey(1)) + "/verdicts.csv",
    "/hotkeys/{hotkey:path}/verdicts.json": miner_path(hotkey(1)) + "/verdicts.json",
}

TABLES = {
    "/competitions.{form}": "/competitions",
    "/competition-changes.{form}": "/competition-changes",
    "/refused-commitments.{form}": "/refused-commitments",
    "/competitions/{competition_id:path}/{table}.{form}": "/competitions/voicebench/leaderboard",
    "/miners.{form}": "/miners",
    "/miners/{hotkey:path}/{table}.{form}": f"/miners/{model_miner(3)}/scores",
    "/rounds.{form}": "/rounds",
    "/rounds/{mark:path}/weights.{form}": "/rounds/{mark}/weights",
    "/evaluations/{evaluation_id}/samples.{form}": "/evaluations/{evaluation}/samples",
}


def pieces(path: str, engine: Engine) -> tuple[list[bytes], list[int]]:
    """The pieces in which the application sends a file, and the statements that were executed before each."""
    sent: list[bytes] = []
    asked: list[int] = []
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
        "root_path": "",
    }  # fmt: skip
    with counted(engine) as statements:

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200, path
            elif message["body"]:
                sent.append(message["body"])
                asked.append(len(statements))

        asyncio.run(create_app()(scope, receive, send))
    return sent, asked


def test_no_download_is_forgotten(store: Store) -> None:
    routes = {getattr(route, "path", "") for router in page_routers() for route in router.routes}
    downloads = {path for path in routes if re.search(r"\.(csv|json|\{form\})$", path)}
    assert downloads == BOUNDED | FILES | set(PAGED) | set(TABLES)


def test_what_grows_with_history_is_read_while_it_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (paging, epochs):
        monkeypatch.setattr(module, "READ_TOGETHER", 3)
    for number in range(10):
        full_epoch(store, submissions=10, molecules=1, number=number)
    for path in PAGED.values():
        sent, asked = pieces(path, store.engine)
        assert len(sent) >= 10, path
        assert max(map(len, sent)) < 6_000, path
        assert asked[-1] - asked[0] >= 3, (path, "everything was read before the first piece was written")
        text = b"".join(sent).decode()
        if path.endswith(".json"):
            found = json.loads(text)
            assert len(next(found[key] for key in ("submission_list", "epochs", "weights", "verdicts") if
                            isinstance(found.get(key), list))) == 10  # fmt: skip
        else:
            rows = list(csv.reader(io.StringIO(text)))
            assert len(rows) == (21 if path == "/weights.csv" else 11), path


def test_the_tables_of_competitions_are_written_row_by_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.store.reputations import WeightRounds
    from app.store.tables.evaluations import EvaluationRow

    lively_competitions(store)
    assert profile_of(get_settings())
    with store.reading() as session:
        mark = WeightRounds(session).latest(1)[0].mark
        evaluation = session.query(EvaluationRow.id).order_by(EvaluationRow.id).first()
    for path in TABLES.values():
        for form in ("csv", "json"):
            address = path.format(mark=mark, evaluation=evaluation[0] if evaluation else "") + f".{form}"
            sent, _ = pieces(address, store.engine)
            body = b"".join(sent)
            rows = len(json.loads(body)) if form == "json" else len(list(csv.reader(io.StringIO(body.decode())))) - 1
            assert len(sent) > rows, (address, "fewer pieces than rows")
