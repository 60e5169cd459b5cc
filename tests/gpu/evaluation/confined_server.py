"""What the Docker test runs as an untrusted model: healthy, and at ``/probe`` what it can see and do in there."""

import http.server
import json
import os
import socket
from pathlib import Path


def attempt(what):
    try:
        return str(what())
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}".strip()


def reach(host, port):
    with socket.create_connection((host, port), timeout=2):
        return "reached"


def write(path):
    Path(path).write_text("x")
    return "written"


def fill(path, megabytes):
    with Path(path).open("wb") as file:
        for _ in range(megabytes):
            file.write(b"x" * 2**20)
    return "written"


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))


def probe(query):
    mounts = {line.split()[1]: line.split()[3] for line in Path("/proc/mounts").read_text().splitlines()}
    addresses = Path("/proc/net/if_inet6")
    return {
        "uid": os.getuid(),
        "groups": sorted({os.getgid(), *os.getgroups()}),
        "capabilities": [status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privileges": status("NoNewPrivs"),
        "seccomp": status("Seccomp"),
        "root": attempt(lambda: write("/written")),
        "own_code": attempt(lambda: write(__file__)),
        "volume": attempt(lambda: write("/keep/written")),
        "volume_too_much": attempt(lambda: fill("/keep/filled", 40)),
        "scratch": attempt(lambda: write("/tmp/written")),
        "scratch_too_much": attempt(lambda: fill("/tmp/filled", 40)),
        "mounts": mounts,
        "beyond": attempt(lambda: reach("198.51.100.1", 80)),
        "name": attempt(lambda: socket.getaddrinfo("huggingface.example", 443)),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "addresses": addresses.read_text() if addresses.exists() else "",
        "environment": dict(os.environ),
        "hostname": socket.gethostname(),
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
    }


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {"status": "healthy"} if self.path == "/api/v1/health" else probe(self.path)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    print("listening", flush=True)
    http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
