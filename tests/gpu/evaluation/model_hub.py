"""A Hugging Face hub on loopback that holds models: their files at a commit, resumable, with digests."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from tests.chain.internet import Host, Reply


class ModelRepositories(Host):
    """``repositories`` maps ``owner/name`` to its files; ``large`` names the suffixes that are kept as LFS files.

    ``served`` replaces what a file's download gives, and ``listed`` a repository's listing of it (a dict of the API's
    entry), for a hub that lies. ``hidden`` repositories answer as private ones do, ``gated`` ones as gated.
    """

    def __init__(self, latency: float = 0.0) -> None:
        super().__init__(latency)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.served: dict[str, bytes] = {}
        self.listed: dict[str, dict[str, Any]] = {}
        self.hidden: set[str] = set()
        self.gated: set[str] = set()
        self.large = (".safetensors",)

    def __enter__(self) -> ModelRepositories:
        from huggingface_hub import constants

        # the other tests of this folder keep the client offline; it reads that once, when it is imported
        self._offline = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = False
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = self._offline
        super().__exit__()

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1(repository.encode(), usedforsecurity=False)
        for name, body in sorted(self.repositories[repository].items()):
            digest.update(name.encode("utf-8", "surrogatepass") + body)
        return digest.hexdigest()

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(found[1], found[2])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3], headers)
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _info(self, repository: str, revision: str | None) -> Reply:
        if repository in self.hidden:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}"
        if repository not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if revision not in {None, "main", self.commit(repository), self.commit(repository)[:8]}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        siblings = []
        for name, body in sorted(self.repositories[repository].items()):
            entry: dict[str, Any] = {"rfilename": name, "size": len(body)}
            entry["blobId"] = hashlib.sha1(f"blob {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()
            if name.endswith(self.large):
                entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
            siblings.append(entry | self.listed.get(name, {}))
        document = {
            "id": repository,
            "sha": self.commit(repository),
            "siblings": siblings,
            "private": False,
            "tags": [],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    def _file(self, repository: str, revision: str, name: str, headers: dict[str, str]) -> Reply:
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repository not in self.repositories or revision != self.commit(repository):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        body = self.served.get(name, self.repositories[repository].get(name))
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if asked := re.fullmatch(r"bytes=(\d+)-", headers.get("range", headers.get("Range", ""))):
            start = int(asked[1])
            return 206, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]
        return 200, {}, body
