"""The pages as they are really served: by ``up`` after a replay, and by ``api`` over a store."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from app.settings import Settings
from app.store.database import Store
from app.store.schema import migrate

PROJECT = Path(__file__).parents[2]
RECORDING = PROJECT / "app" / "demo" / "recording"

_START_SECONDS = 240.0
_HTML = {"Accept": "text/html"}
_LINK = re.compile(r'(?:<a\b[^>]*?\bhref|<img\b[^>]*?\bsrc)="([^"]*)"')


@dataclass(frozen=True)
class Site:
    """A running server and the store behind it."""

    url: str
    store_url: str
    folder: Path
    flower: str = ""

    @property
    def host(self) -> str:
        """``127.0.0.1:port``, the only host that a page may ask."""
        return urlsplit(self.url).netloc

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A page or a file, as a browser would ask for it."""
        return httpx.get(self.url + path, headers=_HTML | headers, timeout=60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path, port: int, **more: str) -> dict[str, str]:
    """An operator's environment without the developer's settings."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    return kept | {
        "DATA_DIR": str(folder),
        "API_PORT": str(port),
        "PYTHONPATH": str(PROJECT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        **more,
    }


@contextmanager
def _running(words: list[str], environment: dict[str, str], folder: Path, url: str) -> Iterator[None]:
    """``python -m app …`` until the block ends; its children end with it."""
    log = folder / f"{words[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *words], env=environment, cwd=folder, stdout=output, stderr=output
        )
    try:
        _await(lambda: _answers(url), process, log)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(happens: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not happens():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(log.read_text(errors="replace"))
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def store_site(folder: Path, fill: Callable[[Store], object] | None = None, workers: int = 1) -> Iterator[Site]:
    """``python -m app api`` over a store of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    store_url = f"sqlite:///{folder / 'validator.sqlite'}"
    store = Store(store_url)
    migrate(store)
    if fill is not None:
        fill(store)
    store.close()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _running(["api", "--workers", str(workers)], _environment(folder, port), folder, url):
        yield Site(url, store_url, folder)


@contextmanager
def cluster_site(folder: Path) -> Iterator[Site]:
    """``python -m app up`` with Flower, and the bundled epoch replayed on it."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    flower_port = free_port()
    environment = _environment(folder, port, FLOWER_PORT=str(flower_port), CPU_CONCURRENCY="1")
    url = f"http://127.0.0.1:{port}"
    with _running(["up"], environment, folder, url):
        command = [sys.executable, "-m", "app", "epoch", "replay", str(RECORDING)]
        command += ["--cluster", "embedded", "--out", str(folder / "result.json")]
        log = (folder / "up.log").read_text
        deadline = time.monotonic() + _START_SECONDS
        while "Ctrl-C stops everything" not in log(errors="replace"):
            assert time.monotonic() < deadline, log(errors="replace")
            time.sleep(0.2)
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Site(url, f"sqlite:///{folder / 'validator.sqlite'}", folder, f"http://127.0.0.1:{flower_port}")


# -- what there is to see ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crawl:
    """What links lead to from the home page: some addresses of each kind of page, and of each kind of file."""

    pages: dict[str, list[str]]
    files: dict[str, list[str]]

    @property
    def paths(self) -> list[str]:
        """The addresses of all pages."""
        return [path for paths in self.pages.values() for path in paths]


def crawl(site: Site, per_kind: int = 2, *, strict: bool = True) -> Crawl:
    """Follow links from the home page and from a search; of each kind of address at most ``per_kind``."""
    kind_of = _kinds()
    pages: dict[str, list[str]] = defaultdict(list)
    files: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    pending = deque(["/"])
    with httpx.Client(base_url=site.url, headers=_HTML, timeout=60, follow_redirects=True) as client:
        while pending:
            path = pending.popleft()
            if path in seen:
                continue
            seen.add(path)
            kind = kind_of(path)
            if len(pages[kind]) + len(files[kind]) >= per_kind:
                continue
            answer = client.get(path)
            # no route bears a competition that is called a.b/c.d; such ids are refused when they are committed
            assert answer.status_code == 200 or not strict, (path, answer.status_code)
            if answer.status_code != 200:
                continue
            if not answer.headers["content-type"].startswith("text/html"):
                files[kind].append(path)
                continue
            pages[kind].append(path)
            for link in _LINK.findall(answer.text):
                found = urlsplit(urljoin(site.url + path, unescape(link)))
                if found.netloc == site.host:
                    if hotkey := re.match(r"/hotkeys/(\w\w)", found.path):
                        pending.append(f"/search?q={hotkey[1]}")
                    pending.append(found.path + (f"?{found.query}" if found.query else ""))
    return Crawl({k: v for k, v in pages.items() if v}, {k: v for k, v in files.items() if v})


def _kinds() -> Callable[[str], str]:
    """Tells an address's kind: the route that answers it, and whether it has a query."""
    from starlette.routing import Match

    from app.api.pages import page_routers

    routes = [route for router in page_routers() for route in router.routes]

    def kind(path: str) -> str:
        parts = urlsplit(path)
        scope = {
            "type": "http",
            "method": "GET",
            "path": httpx.URL(parts.path).path,
            "headers": [(b"accept", b"text/html")],
            "root_path": "",
        }
        for route in routes:
            if route.matches(scope)[0] is Match.FULL:
                return getattr(route, "path", "?") + ("?" if parts.query else "")
        return f"unknown {parts.path}"

    return kind
