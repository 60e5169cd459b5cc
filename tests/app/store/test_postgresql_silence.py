"""A connection to PostgreSQL whose network goes silent is given up by itself, and one that was cut is made again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.store.database import Store
from tests.cluster.proxy import Proxy


@pytest.fixture
def proxy(postgresql_server: str) -> Iterator[Proxy]:
    proxy = Proxy(f"{parse_qs(urlsplit(postgresql_server).query)['host'][0]}/.s.PGSQL.5432")
    yield proxy
    proxy.close()


def store_at(proxy: Proxy, query: str = "") -> Store:
    return Store(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres{query}")


def silence(store: Store) -> tuple[int, int, int]:
    """After how long (s) silence ends a connection: of what was sent, and of what is awaited."""
    with store.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        end = socket.socket(fileno=driver.fileno())
        try:
            options = socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
            tcp = [end.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            alive = end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        finally:
            end.detach()
    store.close()
    return tcp[0] // 1000, tcp[1] + tcp[2] * tcp[3], alive


def test_silence_ends_a_connection_within_half_a_minute(proxy: Proxy) -> None:
    sent, awaited, alive = silence(store_at(proxy))
    assert alive
    assert 0 < sent <= 30
    assert 0 < awaited <= 30
    # what the address says counts
    assert silence(store_at(proxy, "?tcp_user_timeout=90000"))[0] == 90


def test_a_connection_that_stalls_and_is_cut_ends_and_the_next_one_works(proxy: Proxy) -> None:
    store = store_at(proxy)
    with store.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        proxy.freeze()
        threading.Timer(0.5, lambda: (proxy.cut(), proxy.thaw())).start()
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 2"))
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT 3")).scalar() == 3
    store.close()
