"""Many ask for a result at once when an epoch closes: it is written once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from starlette.requests import Request

from app.api.pages.downloads import file_response
from app.settings import get_settings

CALLERS = 24


def test_a_result_that_many_ask_for_at_once_is_written_once() -> None:
    built: list[int] = []
    together = Barrier(CALLERS)

    def pieces(number: int) -> Iterator[str]:
        built.append(number)
        time.sleep(0.05)
        yield "{}"

    def ask(number: int) -> int:
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
        together.wait(10)
        return file_response(request, "result.json", ("store", 1), pieces(number)).status_code

    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(ask, range(CALLERS))) == {200}
    assert len(built) == 1
    assert len(list((get_settings().data_dir / "results").glob("*.json"))) == 1
