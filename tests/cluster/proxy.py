"""A TCP proxy before Redis or PostgreSQL that can slow, freeze and cut what passes through it."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from contextlib import suppress


class Proxy:
    """Forwards ``port`` of this machine, on which it may speak TLS, to ``target``; connections share its faults.

    ``target``: a port of this machine, or the path of a socket.
    """

    def __init__(self, target: int | str, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._tls = tls
        self.latency = 0.0
        self.cut_chance = 0.0
        self.pieces: int | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Forward nothing until :meth:`thaw`; connections stay open and new ones are accepted."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again."""
        self.pieces = None
        self._flowing.set()

    def freeze_after(self, size: int) -> None:
        """Forward ``size`` more bytes of Redis' answers, then freeze."""
        self.pieces = size

    def cut(self) -> None:
        """End every connection that is open now."""
        sockets, self._sockets = self._sockets, []
        for end in sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.thaw()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._tls:
                    client = self._tls.wrap_socket(client, server_side=True)
                if isinstance(self.target, str):
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(self.target)
                else:
                    server = socket.create_connection(("127.0.0.1", self.target), timeout=2)
                    server.settimeout(None)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink, sink is client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.latency:
                    time.sleep(self.latency * random.random() * 2)
                self._flowing.wait()
                if self.cut_chance and random.random() < self.cut_chance:
                    sink.sendall(data[: len(data) // 2])
                    break
                if answers and self.pieces is not None and self.pieces < len(data):
                    first, data = data[: self.pieces], data[self.pieces :]
                    sink.sendall(first)
                    self.freeze()
                    self._flowing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
