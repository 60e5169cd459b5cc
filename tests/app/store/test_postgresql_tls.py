"""``sslmode`` in DATABASE_URL means what PostgreSQL says it means.

The server from pip is built without TLS, so a proxy of this test answers the request for it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.settings import Settings
from app.store.database import Store

# Length and code of the message with which a client asks for TLS.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


@dataclass
class Front:
    """The database over TCP, with TLS or without."""

    port: int
    authority: Path
    another_authority: Path

    def url(self, **query: object) -> str:
        """DATABASE_URL."""
        options = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://postgres@localhost:{self.port}/postgres?{options}"


@pytest.fixture(params=["tls", "plain"])
def front(request: pytest.FixtureRequest, postgresql_server: str, tmp_path: Path) -> Iterator[Front]:
    """A proxy that speaks TLS, or refuses to."""
    folder = parse_qs(urlsplit(postgresql_server).query)["host"][0]
    authority, another = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    paths = tmp_path / "ca.pem", tmp_path / "another.pem"
    authority.cert_pem.write_to_path(paths[0])
    another.cert_pem.write_to_path(paths[1])
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:
            stack.enter_context(client)
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.connect(f"{folder}/.s.PGSQL.5432")
            first = client.recv(8, socket.MSG_WAITALL)
            if first != _SSL_REQUEST:
                server.sendall(first)
            elif request.param == "plain":
                client.sendall(b"N")
            else:
                client.sendall(b"S")
                client = stack.enter_context(context.wrap_socket(client, server_side=True))
            threading.Thread(target=pump, args=(server, client), daemon=True).start()
            pump(client, server)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield Front(listener.getsockname()[1], *paths)
    listener.close()


def answer(url: str) -> int:
    """What the store that these settings name answers."""
    store = Store(Settings(database_url=url, _env_file=None).store_url)
    try:
        with store.engine.connect() as connection:
            return int(connection.execute(text("select 42")).scalar_one())
    finally:
        store.close()


def test_a_verified_server_is_used_and_another_refused(front: Front, request: pytest.FixtureRequest) -> None:
    verified = front.url(sslmode="verify-full", sslrootcert=front.authority)
    if request.node.callspec.params["front"] == "plain":
        with pytest.raises(OperationalError, match="server does not support SSL"):
            answer(verified)
        assert answer(front.url(sslmode="disable")) == 42
        return
    assert answer(verified) == 42
    with pytest.raises(OperationalError, match="certificate verify failed"):
        answer(front.url(sslmode="verify-full", sslrootcert=front.another_authority))
