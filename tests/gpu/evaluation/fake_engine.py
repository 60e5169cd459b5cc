"""A small Docker Engine on a unix socket: the part of API 1.41 that the container runner uses, answered as by dockerd.

In one process with the test (handlers are threads)::

    with FakeEngine(tmp_path / "docker.sock") as engine:
        client = docker.APIClient(base_url=engine.address)      # the real SDK
        engine.requests            # what reached the Engine, in order: Request(method, path, query, body)
        engine.containers          # what is there now, by id; likewise engine.images, engine.networks, engine.volumes

As a process of its own, so that a killed client does not take it along (same names, read over the socket)::

    with FakeEngineProcess(tmp_path / "docker.sock", step_seconds=0.05) as engine:
        engine.state()             # plain JSON: containers, images, networks, volumes, requests ([method, path])

Starting a container really starts what its image's ``CMD ["python", "server.py"]`` names (exec form; ``python`` is this
interpreter), as a child process in a folder that holds the build context, with the container's environment and with
``FAKE_HOST`` and ``FAKE_PORT``: the address on which it must listen. :data:`HEALTHY_SERVER` is such a ``server.py``.
Its exit code, output (multiplexed) and end show up as a container's do. What it writes into its folder is forgotten.

``publish``: ``True`` answers as a daemon that publishes ports (binding on 127.0.0.1 in inspect); ``False`` as a real
one does for a container that is on nothing but an internal network: no binding, only the container's own address, here
``127.18.x.y``, port 8000.

``faults`` maps ``"METHOD /path prefix"`` (without ``/v1.41``) to what goes wrong there, first match wins:
``{"status": 500, "message": "…"}``, ``{"hang": seconds}``, ``{"drop": True}``; ``"times": n`` limits it to the first n,
``"after": True`` does the work first and then fails. ``alterations`` maps a dotted path into a container's inspect
document (``"HostConfig.PidsLimit"``) to the value that this daemon made of it instead.

A build understands FROM, LABEL, RUN, COPY, VOLUME, ENV, CMD, HEALTHCHECK; ``RUN false`` fails, ``RUN spam N`` writes
N kB, ``RUN sleep S`` sleeps; any other RUN succeeds. ``step_seconds`` is how long each instruction takes. A client that
disconnects cancels it: intermediate containers go, intermediate images stay. ``registry`` names what can be pulled:
``{"docker.io/library/python:3.11": {"OnBuild": None}}``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

HEALTHY_SERVER = """\
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": "healthy"}).encode()
        self.send_response(200 if self.path == "/api/v1/health" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

address = (os.environ.get("FAKE_HOST", "0.0.0.0"), int(os.environ.get("FAKE_PORT", "8000")))
print("listening", flush=True)
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""

_LOG_LIMIT = 1 << 20


@dataclass(frozen=True)
class Request:
    """One request as it reached the Engine; ``body`` is the parsed JSON, or the names in a build's tar."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class _Image:
    id: str
    parent: str
    labels: dict[str, str]
    config: dict[str, Any]
    tags: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    context: Path | None = None
    created: int = 0


@dataclass
class _Container:
    id: str
    name: str
    image: str
    document: dict[str, Any]
    host: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    status: str = "created"
    exit_code: int = 0
    oom: bool = False
    process: subprocess.Popen[bytes] | None = None
    log: bytearray = field(default_factory=bytearray)
    folder: Path | None = None
    port: int = 0
    address: str = ""


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class FakeEngine:
    """The Engine; see the module's docstring."""

    def __init__(
        self,
        path: Path,
        *,
        publish: bool = True,
        step_seconds: float = 0.0,
        registry: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self.publish = publish
        self.step_seconds = step_seconds
        self.registry = dict(registry or {})
        self.requests: list[Request] = []
        self.images: dict[str, _Image] = {}
        self.containers: dict[str, _Container] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, dict[str, Any]] = {}
        self.alterations: dict[str, Any] = {}
        self.info: dict[str, Any] = {
            "ServerVersion": "20.10.24",
            "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
            "DockerRootDir": str(path.parent),
            "OSType": "linux",
            "NCPU": 8,
            "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
        }
        self.lock = threading.RLock()
        self._counter = itertools.count(1)
        self._folder = Path(tempfile.mkdtemp(prefix="fake-engine-"))

    @property
    def address(self) -> str:
        """What goes into DOCKER_HOST."""
        return f"unix://{self.path}"

    def __enter__(self) -> FakeEngine:
        engine = self

        class Handler(_Handler):
            pass

        Handler.engine = engine
        self.path.unlink(missing_ok=True)
        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        for container in list(self.containers.values()):
            self.end(container)
        shutil.rmtree(self._folder, ignore_errors=True)
        self.path.unlink(missing_ok=True)

    # bystanders

    def add_image(
        self, *tags: str, labels: dict[str, str] | None = None, parent: str = "", digests: tuple[str, ...] = ()
    ) -> str:
        """An image that is simply there."""
        image = _Image(self._id("sha256:"), parent, dict(labels or {}), {}, list(tags), list(digests))
        image.created = int(time.time())
        self.images[image.id] = image
        return image.id

    def add_container(self, name: str, labels: dict[str, str] | None = None, image: str = "") -> str:
        """A container that simply runs."""
        container = _Container(self._id(), name, image, {"Labels": dict(labels or {})}, {}, {}, status="running")
        self.containers[container.id] = container
        return container.id

    def add_network(self, name: str, labels: dict[str, str] | None = None) -> str:
        """A network that is simply there."""
        identity = self._id()
        self.networks[identity] = {
            "Name": name, "Id": identity, "Driver": "bridge", "Internal": False, "Labels": dict(labels or {}),
            "Options": {}, "EnableIPv6": False, "IPAM": {"Config": []}, "Scope": "local", "Attachable": False,
        }  # fmt: skip
        return identity

    def count(self, method: str, beginning: str) -> int:
        """Requests whose path begins so."""
        return sum(r.method == method and r.path.startswith(beginning) for r in self.requests)

    def bodies(self, method: str, beginning: str) -> list[Any]:
        """What was sent to such paths."""
        return [r.body for r in self.requests if r.method == method and r.path.startswith(beginning)]

    def state(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        with self.lock:
            return {
                "containers": [
                    {"Id": c.id, "Name": c.name, "Labels": c.document.get("Labels") or {}, "Status": c.status}
                    for c in self.containers.values()
                ],
                "images": [{"Id": i.id, "Labels": i.labels, "Tags": i.tags} for i in self.images.values()],
                "networks": [{"Id": n["Id"], "Name": n["Name"], "Labels": n["Labels"]} for n in self.networks.values()],
                "volumes": sorted(self.volumes),
                "requests": [[r.method, r.path] for r in self.requests],
            }

    # the daemon's own work

    def _id(self, prefix: str = "") -> str:
        return prefix + hashlib.sha256(f"{self.path}{next(self._counter)}{secrets.token_hex(8)}".encode()).hexdigest()

    def image(self, name: str) -> _Image:
        for image in self.images.values():
            known = {image.id, image.id.removeprefix("sha256:"), image.id[7:19], *image.tags, *image.digests}
            if known & {name, f"{name}:latest", _familiar(name)}:
                return image
        raise _Refused(404, f"No such image: {name}")

    def container(self, name: str) -> _Container:
        for container in self.containers.values():
            if name in {container.id, container.id[:12], container.name}:
                return container
        raise _Refused(404, f"No such container: {name}")

    def network(self, name: str) -> dict[str, Any]:
        for network in self.networks.values():
            if name in {network["Id"], network["Name"]}:
                return network
        raise _Refused(404, f"network {name} not found")

    def endpoints(self, network: dict[str, Any]) -> list[_Container]:
        return [c for c in self.containers.values() if c.status == "running" and network["Name"] in c.networks]

    def create(self, name: str | None, document: dict[str, Any]) -> str:
        document = dict(document)
        with self.lock:
            if name and any(c.name == name for c in self.containers.values()):
                raise _Refused(409, f'Conflict. The container name "/{name}" is already in use')
            image = self.image(document["Image"])
            host = document.pop("HostConfig", {}) or {}
            network = host.get("NetworkMode") or "default"
            networks = {network: {}} if network not in {"default", "none", "host", "bridge"} else {}
            document["Labels"] = image.labels | (document.get("Labels") or {})
            container = _Container(self._id(), name or self._id()[:12], image.id, document, host, networks)
            for folder in image.config.get("Volumes") or {}:
                if folder not in (host.get("Tmpfs") or {}):
                    volume = self._id()
                    self.volumes[volume] = {"container": container.id}
            self.containers[container.id] = container
            return container.id

    def start(self, container: _Container) -> None:
        with self.lock:
            if container.status == "running":
                return
            for name in container.networks:
                self.network(name)
            image = self.images[container.image]
            number = next(self._counter)
            container.address = f"127.18.{number // 250}.{number % 250 + 2}"
            command = container.document.get("Cmd") or image.config.get("Cmd") or []
            container.folder = Path(tempfile.mkdtemp(dir=self._folder))
            if image.context is not None:
                shutil.copytree(image.context, container.folder, dirs_exist_ok=True)
            listen_on, port = ("127.0.0.1", _free_port()) if self.publish else (container.address, 8000)
            container.port = port
            environment = dict(os.environ)
            environment |= dict(item.split("=", 1) for item in container.document.get("Env") or [])
            environment |= {"FAKE_HOST": listen_on, "FAKE_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
            program = [sys.executable, *command[1:]] if command[:1] == ["python"] else list(command)
            if not program:
                raise _Refused(400, "No command specified")
            try:
                container.process = subprocess.Popen(
                    program,
                    cwd=container.folder,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
            except OSError as error:
                raise _Refused(400, f"failed to create shim task: {error}") from None
            container.status = "running"
        threading.Thread(target=self._watch, args=(container,), daemon=True).start()

    def _watch(self, container: _Container) -> None:
        process = container.process
        assert process is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(process.stdout.fileno(), 1 << 16):
                if len(container.log) < _LOG_LIMIT:
                    container.log += chunk
        code = process.wait()
        process.stdout.close()
        container.exit_code = code if code >= 0 else 128 - code
        container.status = "exited"

    def end(self, container: _Container) -> None:
        if container.process is not None and container.process.poll() is None:
            container.process.kill()
            container.process.wait(5)
        if container.folder is not None:
            shutil.rmtree(container.folder, ignore_errors=True)

    def remove(self, container: _Container, *, force: bool, volumes: bool) -> None:
        with self.lock:
            if container.status == "running" and not force:
                raise _Refused(409, "You cannot remove a running container. Stop the container before removing")
        self.end(container)
        with self.lock:
            self.containers.pop(container.id, None)
            if volumes:
                self.volumes = {k: v for k, v in self.volumes.items() if v["container"] != container.id}

    def remove_image(self, name: str, *, force: bool, noprune: bool) -> list[dict[str, str]]:
        with self.lock:
            image = self.image(name)
            names = {name, f"{name}:latest", _familiar(name)}
            if names & {*image.tags, *image.digests} and len(image.tags) + len(image.digests) > 1:
                image.tags = [tag for tag in image.tags if tag not in names]
                image.digests = [digest for digest in image.digests if digest not in names]
                return [{"Untagged": name}]
            if any(child.parent == image.id for child in self.images.values()):
                raise _Refused(409, f"conflict: unable to delete {name} - image has dependent child images")
            users = [c for c in self.containers.values() if c.image == image.id]
            if any(c.status == "running" for c in users) or (users and not force):
                raise _Refused(409, f"conflict: unable to delete {name} - image is being used by a container")
            if len(image.tags) > 1 and not force:
                raise _Refused(409, f"conflict: unable to delete {name} - image is referenced in multiple repositories")
            deleted = [{"Deleted": image.id}]
            del self.images[image.id]
            parent = self.images.get(image.parent)
            if not noprune and parent and not parent.tags and not parent.digests:
                with contextlib.suppress(_Refused):
                    deleted += self.remove_image(parent.id, force=False, noprune=False)
            return deleted

    def inspect(self, container: _Container) -> dict[str, Any]:
        ports: dict[str, Any] = {}
        if self.publish and container.status == "running":
            ports = {p: [{"HostIp": "127.0.0.1", "HostPort": str(container.port)}]
                     for p in container.host.get("PortBindings") or {}}  # fmt: skip
        networks = {
            name: {
                "NetworkID": next((n["Id"] for n in self.networks.values() if n["Name"] == name), ""),
                "IPAddress": container.address if container.status == "running" else "",
                "Gateway": "127.18.0.1",
            }
            for name in container.networks
        }
        host = {
            "Binds": None, "Privileged": False, "PortBindings": {}, "RestartPolicy": {"Name": "no"}, "CapAdd": None,
            "PidMode": "", "UTSMode": "", "UsernsMode": "", "Devices": [], "DeviceRequests": None, "Mounts": None,
            "VolumesFrom": None, "Tmpfs": None, "Ulimits": [], "Init": None, "PublishAllPorts": False,
        } | container.host  # fmt: skip
        image = self.images.get(container.image)
        document: dict[str, Any] = {
            "Id": container.id,
            "Name": f"/{container.name}",
            "Image": container.image,
            "Config": {
                key: container.document.get(key)
                for key in ("User", "Env", "Cmd", "Labels", "Hostname", "Healthcheck", "Volumes", "ExposedPorts")
            },
            "HostConfig": host,
            "NetworkSettings": {"Ports": ports, "Networks": networks, "IPAddress": ""},
            "Mounts": [
                {"Type": "volume", "Name": name} for name, v in self.volumes.items() if v["container"] == container.id
            ],
            "State": {
                "Status": container.status,
                "Running": container.status == "running",
                "ExitCode": container.exit_code,
                "OOMKilled": container.oom,
                "Error": "",
            },
            "AppArmorProfile": "docker-default",
        }
        document["Config"]["Tty"] = False
        if image is not None:
            document["Config"]["Volumes"] = image.config.get("Volumes")
        for path, value in self.alterations.items():
            *parents, last = path.split(".")
            place = document
            for part in parents:
                place = place[part]
            place[last] = value
        return json.loads(json.dumps(document))  # type: ignore[no-any-return]

    def build(self, tar: bytes, query: dict[str, str], say: Callable[[dict[str, Any]], None]) -> None:
        """Runs a build; ``say`` raises OSError once the client has gone."""
        context = Path(tempfile.mkdtemp(dir=self._folder))
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(context, filter="data")
        dockerfile = context / query.get("dockerfile", "Dockerfile")
        if not dockerfile.is_file():
            raise _Refused(500, f"Cannot locate specified Dockerfile: {dockerfile.name}")
        text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
        lines = [line.strip() for line in re.sub(r"\\[ \t]*\n", "", text).splitlines() if line.strip()]
        image = _Image("", "", {}, {})
        stages: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            word, _, rest = line.partition(" ")
            say({"stream": f"Step {number}/{len(lines)} : {line}\n"})
            image = self._step(word.upper(), rest.strip(), image, stages, say)
        labels = image.labels | json.loads(query.get("labels") or "{}")
        final = _Image(self._id("sha256:"), image.id, labels, image.config, context=context, created=int(time.time()))
        with self.lock:
            if tag := query.get("t"):
                for other in self.images.values():
                    other.tags = [name for name in other.tags if name != tag]
                final.tags = [tag if ":" in tag else f"{tag}:latest"]
            self.images[final.id] = final
        say({"aux": {"ID": final.id}})
        say({"stream": f"Successfully built {final.id[7:19]}\n"})

    def _step(
        self, word: str, rest: str, image: _Image, stages: dict[str, str], say: Callable[[dict[str, Any]], None]
    ) -> _Image:
        if word == "FROM":
            parts = [part for part in rest.split() if not part.startswith("--")]
            base = self._base(parts[0], stages, say)
            if len(parts) == 3:
                stages[parts[2].lower()] = ""
            return _Image(base.id, base.id, dict(base.labels), dict(base.config))
        if word == "ARG" and not stages and not image.id:
            return image
        labels, config = dict(image.labels), dict(image.config)
        if word == "LABEL":
            labels |= dict(part.split("=", 1) for part in rest.replace('"', "").split())
        elif word in {"CMD", "ENTRYPOINT"}:
            config["Cmd"] = json.loads(rest)
        elif word == "VOLUME":
            names = json.loads(rest) if rest.startswith("[") else rest.split()
            config["Volumes"] = (config.get("Volumes") or {}) | {name: {} for name in names}
        elif word == "ENV":
            config["Env"] = [*(config.get("Env") or []), rest]
        elif word == "RUN":
            self._run(rest, image, labels, say)
        if self.step_seconds and word != "RUN":
            self._wait(self.step_seconds, say)
        made = _Image(self._id("sha256:"), image.id, labels, config, created=int(time.time()))
        with self.lock:
            self.images[made.id] = made
        stages |= {name: made.id for name, known in stages.items() if not known}
        return made

    def _base(self, name: str, stages: dict[str, str], say: Callable[[dict[str, Any]], None]) -> _Image:
        if name == "scratch":
            return _Image("", "", {}, {})
        if stages.get(name.lower()):
            return self.images[stages[name.lower()]]
        try:
            return self.image(name)
        except _Refused:
            say({"stream": f"{name}: Pulling from elsewhere\n"})
            return self.images[self.pull(name)]

    def pull(self, name: str) -> str:
        name = _familiar(name)
        for known, facts in self.registry.items():
            repository = known.rsplit(":", 1)[0]
            digest = f"{repository}@sha256:{hashlib.sha256(known.encode()).hexdigest()}"
            if name in {known, digest}:
                for image in self.images.values():
                    if digest in image.digests:
                        return image.id
                identity = self.add_image(digests=(digest,))
                self.images[identity].config = {"OnBuild": facts.get("OnBuild"), "Volumes": facts.get("Volumes")}
                if name == known:
                    self.images[identity].tags.append(known)
                return identity
        raise _Refused(404, f"pull access denied for {name}, repository does not exist")

    def _run(self, rest: str, image: _Image, labels: dict[str, str], say: Callable[[dict[str, Any]], None]) -> None:
        container = _Container(self._id(), self._id()[:12], image.id, {"Labels": dict(labels)}, {}, {}, "running")
        with self.lock:
            self.containers[container.id] = container
        try:
            say({"stream": f" ---> Running in {container.id[:12]}\n"})
            if found := re.fullmatch(r"spam (\d+)", rest):
                for number in range(int(found[1])):
                    say({"stream": f"{number:09d}" + "x" * 1014 + "\n"})
            found = re.fullmatch(r"sleep ([0-9.]+)", rest)
            self._wait(float(found[1]) if found else self.step_seconds, say)
            if rest == "false":
                message = f"The command '/bin/sh -c {rest}' returned a non-zero code: 1"
                raise _BuildFailed(message)
        finally:
            with self.lock:
                self.containers.pop(container.id, None)

    @staticmethod
    def _wait(seconds: float, say: Callable[[dict[str, Any]], None]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.02, left))
            say({})


class _BuildFailed(Exception):
    pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that disconnected is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: FakeEngine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/v1\.\d+", "", unquote(parts.path))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        fault = self._fault(f"{self.command} {path}")
        if fault.get("hang") and not fault.get("after"):
            time.sleep(float(fault["hang"]))
            self.close_connection = True
            return
        if fault.get("drop") and not fault.get("after"):
            self.close_connection = True
            return
        if "status" in fault and not fault.get("after"):
            self.close_connection = True
            self._record(path, query, None)
            self._json(int(fault["status"]), {"message": fault.get("message", "the daemon had a fault")})
            return
        body = self._body()
        if path != "/build":
            body = json.loads(body) if body else None
        else:
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                dockerfile = archive.extractfile(query.get("dockerfile", "Dockerfile"))
                assert dockerfile is not None
                names = {"names": archive.getnames(), "Dockerfile": dockerfile.read().decode()}
        self._record(path, query, body if path != "/build" else names)
        try:
            if fault.get("after"):
                self._answer_nothing(path, query, body)
                if "status" in fault:
                    self._json(int(fault["status"]), {"message": fault.get("message", "the daemon had a fault")})
                self.close_connection = True
                return
            self._route(path, query, body)
        except _Refused as refusal:
            self._json(refusal.status, {"message": refusal.message})
        except OSError:
            self.close_connection = True

    def _answer_nothing(self, path: str, query: dict[str, str], body: Any) -> None:
        real, self.wfile = self.wfile, io.BytesIO()
        try:
            self._route(path, query, body)
        finally:
            self.wfile = real

    def _record(self, path: str, query: dict[str, str], body: Any) -> None:
        if not path.startswith("/_fake"):
            self.engine.requests.append(Request(self.command, path, query, body, dict(self.headers)))

    def _fault(self, request: str) -> dict[str, Any]:
        with self.engine.lock:
            for beginning, fault in self.engine.faults.items():
                if request.startswith(beginning):
                    if fault.get("times") == 0:
                        continue
                    if "times" in fault:
                        fault["times"] -= 1
                    return fault
        return {}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(body)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, status: int, document: Any) -> None:
        body = b"" if status == 204 else json.dumps(document).encode()
        self._bytes(status, body, "application/json")

    def _bytes(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Api-Version", "1.41")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, path: str, query: dict[str, str], body: Any) -> None:
        for method, pattern, name in _ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                getattr(self, name)(query, body, *found.groups())
                return
        raise _Refused(404, f"page not found: {self.command} {path}")

    def ping(self, query: dict[str, str], body: Any) -> None:
        self._bytes(200, b"OK", "text/plain")

    def version(self, query: dict[str, str], body: Any) -> None:
        self._json(200, {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"})

    def system_info(self, query: dict[str, str], body: Any) -> None:
        self._json(200, self.engine.info)

    def fake_state(self, query: dict[str, str], body: Any) -> None:
        self._json(200, self.engine.state())

    def fake_set(self, query: dict[str, str], body: Any) -> None:
        for name in ("faults", "alterations", "registry", "step_seconds", "publish"):
            if name in body:
                setattr(self.engine, name, body[name])
        self._json(200, {})

    def fake_add(self, query: dict[str, str], body: Any) -> None:
        engine = self.engine
        made = {
            "container": lambda: engine.add_container(body["name"], body.get("labels")),
            "image": lambda: engine.add_image(body["name"], labels=body.get("labels")),
            "network": lambda: engine.add_network(body["name"], body.get("labels")),
        }[body["kind"]]()
        self._json(200, made)

    def build(self, query: dict[str, str], body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Api-Version", "1.41")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def say(line: dict[str, Any]) -> None:
            if not line:
                # the client's side of the connection tells a cancelled build at once
                ready = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) if _readable(self) else b"x"
                if not ready:
                    raise BrokenPipeError
                return
            data = json.dumps(line).encode() + b"\r\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        try:
            self.engine.build(body, query, say)
        except (_BuildFailed, _Refused) as error:
            say({"errorDetail": {"code": 1, "message": str(error)}, "error": str(error)})
        self.wfile.write(b"0\r\n\r\n")

    def pull(self, query: dict[str, str], body: Any) -> None:
        tag = query.get("tag", "latest")
        separator = "@" if tag.startswith("sha256:") else ":"
        try:
            self.engine.pull(f"{query['fromImage']}{separator}{tag}")
            line: dict[str, Any] = {"status": "Status: Downloaded newer image"}
        except _Refused as refusal:
            if not self.engine.registry:
                raise
            line = {"errorDetail": {"message": refusal.message}, "error": refusal.message}
        self._json(200, line)

    def distribution(self, query: dict[str, str], body: Any, name: str) -> None:
        wanted = _familiar(name)
        for known in self.engine.registry:
            digest = "sha256:" + hashlib.sha256(known.encode()).hexdigest()
            if wanted in {known, f"{known.rsplit(':', 1)[0]}@{digest}"}:
                self._json(200, {"Descriptor": {"digest": digest, "size": 1}, "Platforms": []})
                return
        raise _Refused(403, f"pull access denied for {name}, repository does not exist or may require login")

    def images(self, query: dict[str, str], body: Any) -> None:
        wanted = json.loads(query.get("filters") or "{}")
        with self.engine.lock:
            parents = {image.parent for image in self.engine.images.values()}
            found = [
                {
                    "Id": image.id,
                    "ParentId": image.parent,
                    "RepoTags": image.tags,
                    "RepoDigests": image.digests,
                    "Labels": image.labels,
                    "Created": image.created,
                }
                for image in self.engine.images.values()
                if _labelled(image.labels, wanted)
                and (query.get("all") in {"1", "true", "True"} or image.tags or image.id not in parents)
            ]
        self._json(200, found)

    def image(self, query: dict[str, str], body: Any, name: str) -> None:
        image = self.engine.image(name)
        config = {"Labels": image.labels, "Volumes": None, "Env": None, "Cmd": None, "OnBuild": None} | image.config
        self._json(
            200,
            {"Id": image.id, "RepoTags": image.tags, "RepoDigests": image.digests, "Parent": image.parent,
             "Config": config, "Size": 1000},
        )  # fmt: skip

    def remove_image(self, query: dict[str, str], body: Any, name: str) -> None:
        force, noprune = (query.get(key) in {"1", "true", "True"} for key in ("force", "noprune"))
        self._json(200, self.engine.remove_image(name, force=force, noprune=noprune))

    def create_network(self, query: dict[str, str], body: Any) -> None:
        if any(network["Name"] == body["Name"] for network in self.engine.networks.values()):
            raise _Refused(409, f"network with name {body['Name']} already exists")
        identity = self.engine.add_network(body["Name"], body.get("Labels"))
        network = self.engine.networks[identity]
        network |= {key: body[key] for key in ("Driver", "Internal", "Options", "EnableIPv6") if key in body}
        self._json(201, {"Id": identity, "Warning": ""})

    def list_networks(self, query: dict[str, str], body: Any) -> None:
        wanted = json.loads(query.get("filters") or "{}")
        found = [network for network in self.engine.networks.values() if _labelled(network["Labels"], wanted)]
        self._json(200, found)

    def inspect_network(self, query: dict[str, str], body: Any, name: str) -> None:
        network = self.engine.network(name)
        containers = {c.id: {"Name": c.name, "IPv4Address": c.address} for c in self.engine.endpoints(network)}
        self._json(200, network | {"Containers": containers})

    def remove_network(self, query: dict[str, str], body: Any, name: str) -> None:
        network = self.engine.network(name)
        if self.engine.endpoints(network):
            raise _Refused(403, f"error while removing network: network {name} id {network['Id']} has active endpoints")
        del self.engine.networks[network["Id"]]
        self._json(204, None)

    def disconnect(self, query: dict[str, str], body: Any, name: str) -> None:
        network = self.engine.network(name)
        self.engine.container(body["Container"]).networks.pop(network["Name"], None)
        self._json(200, None)

    def create_container(self, query: dict[str, str], body: Any) -> None:
        self._json(201, {"Id": self.engine.create(query.get("name"), body), "Warnings": []})

    def list_containers(self, query: dict[str, str], body: Any) -> None:
        wanted = json.loads(query.get("filters") or "{}")
        everything = query.get("all") in {"1", "true", "True"}
        found = [
            {
                "Id": c.id,
                "Names": [f"/{c.name}"],
                "Image": c.image,
                "Labels": c.document.get("Labels") or {},
                "State": c.status,
            }
            for c in list(self.engine.containers.values())
            if _labelled(c.document.get("Labels") or {}, wanted) and (everything or c.status == "running")
        ]
        self._json(200, found)

    def start(self, query: dict[str, str], body: Any, name: str) -> None:
        self.engine.start(self.engine.container(name))
        self._json(204, None)

    def inspect_container(self, query: dict[str, str], body: Any, name: str) -> None:
        self._json(200, self.engine.inspect(self.engine.container(name)))

    def kill(self, query: dict[str, str], body: Any, name: str) -> None:
        container = self.engine.container(name)
        if container.status != "running":
            raise _Refused(409, f"Cannot kill container: {name}: Container {name} is not running")
        if container.process is not None:
            container.process.kill()
        else:
            container.status = "exited"
        self._json(204, None)

    def stop(self, query: dict[str, str], body: Any, name: str) -> None:
        container = self.engine.container(name)
        if container.process is not None:
            container.process.terminate()
        container.status = "exited"
        self._json(204, None)

    def remove_container(self, query: dict[str, str], body: Any, name: str) -> None:
        force, volumes = (query.get(key) in {"1", "true", "True"} for key in ("force", "v"))
        self.engine.remove(self.engine.container(name), force=force, volumes=volumes)
        self._json(204, None)

    def logs(self, query: dict[str, str], body: Any, name: str) -> None:
        log = bytes(self.engine.container(name).log)
        tail = query.get("tail", "all")
        if tail.isdigit():
            log = b"".join(log.splitlines(keepends=True)[-int(tail) :])
        frames = b"".join(
            struct.pack(">BxxxL", 1, len(piece)) + piece
            for piece in (log[start : start + 16384] for start in range(0, len(log), 16384))
        )
        self._bytes(200, frames, "application/vnd.docker.raw-stream")


_ROUTES = [
    ("GET", "/_ping", "ping"),
    ("HEAD", "/_ping", "ping"),
    ("GET", "/version", "version"),
    ("GET", "/info", "system_info"),
    ("GET", "/_fake/state", "fake_state"),
    ("POST", "/_fake/set", "fake_set"),
    ("POST", "/_fake/add", "fake_add"),
    ("POST", "/build", "build"),
    ("POST", "/images/create", "pull"),
    ("GET", "/distribution/(.+)/json", "distribution"),
    ("GET", "/images/json", "images"),
    ("GET", "/images/(.+)/json", "image"),
    ("DELETE", "/images/(.+)", "remove_image"),
    ("POST", "/networks/create", "create_network"),
    ("GET", "/networks", "list_networks"),
    ("POST", "/networks/([^/]+)/disconnect", "disconnect"),
    ("GET", "/networks/([^/]+)", "inspect_network"),
    ("DELETE", "/networks/([^/]+)", "remove_network"),
    ("POST", "/containers/create", "create_container"),
    ("GET", "/containers/json", "list_containers"),
    ("POST", "/containers/([^/]+)/start", "start"),
    ("POST", "/containers/([^/]+)/kill", "kill"),
    ("POST", "/containers/([^/]+)/stop", "stop"),
    ("GET", "/containers/([^/]+)/json", "inspect_container"),
    ("GET", "/containers/([^/]+)/logs", "logs"),
    ("DELETE", "/containers/([^/]+)", "remove_container"),
]


def _readable(handler: _Handler) -> bool:
    import select

    return bool(select.select([handler.connection], [], [], 0)[0])


def _labelled(labels: dict[str, str], filters: dict[str, Any]) -> bool:
    """``filters`` as the daemon takes them: {"label": ["a", "b=c"]} or {"label": {"a": true}}."""
    for wanted in filters.get("label") or ():
        key, _, value = wanted.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True


def _familiar(name: str) -> str:
    """``python:3.11`` → ``docker.io/library/python:3.11``."""
    first, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    if "@" not in name and ":" not in name.rsplit("/", 1)[-1]:
        name += ":latest"
    return name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class FakeEngineProcess:
    """The same Engine in a process of its own; ends with ``with``, and with the process that started it."""

    def __init__(
        self,
        path: Path,
        *,
        publish: bool = True,
        step_seconds: float = 0.0,
        registry: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self._options = {"publish": publish, "step_seconds": step_seconds, "registry": registry or {}}

    @property
    def address(self) -> str:
        """What goes into DOCKER_HOST."""
        return f"unix://{self.path}"

    def __enter__(self) -> FakeEngineProcess:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(self.path), "--parent", str(os.getpid())]
        )
        for _ in range(500):
            if self._process.poll() is not None:
                raise RuntimeError(f"the fake engine ended with {self._process.returncode}")
            with contextlib.suppress(OSError):
                self.set(**self._options)
                return self
            time.sleep(0.02)
        raise RuntimeError("the fake engine did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = _Connection(self.path)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """What is there, and what was asked."""
        return self._ask("GET", "/_fake/state")  # type: ignore[no-any-return]

    def set(self, **attributes: Any) -> None:
        """``faults``, ``alterations``, ``registry``, ``step_seconds`` or ``publish`` from now on."""
        self._ask("POST", "/_fake/set", attributes)

    def add(self, kind: str, name: str, labels: dict[str, str] | None = None) -> str:
        """A bystander: kind ``container``, ``image`` or ``network``."""
        return str(self._ask("POST", "/_fake/add", {"kind": kind, "name": name, "labels": labels}))


@contextlib.contextmanager
def _ends_with(parent: int) -> Iterator[threading.Event]:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    yield over


def _main() -> None:
    parser = argparse.ArgumentParser(description="the fake engine as a process of its own")
    parser.add_argument("path", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    with _ends_with(arguments.parent) as over, FakeEngine(arguments.path):
        over.wait()


if __name__ == "__main__":
    _main()
