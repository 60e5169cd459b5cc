"""The description of both APIs: readable without a network, with examples that are what is described."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.scoring import create_scoring_app
from app.store.database import Store

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@on_sqlite
def test_the_page_asks_nothing_of_others(store: Store) -> None:
    client = TestClient(create_app())
    page = client.get("/docs")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<script>" not in page.text
    named = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(named) == 3
    for path in named:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200
        assert len(answer.content) > 50
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs/redoc.standalone.js").status_code == 404
    assert client.get("/docs/..%2f__init__.py").status_code == 404


@on_sqlite
def test_health_robots_and_icon(store: Store) -> None:
    client = TestClient(create_app())
    assert client.get("/healthz", headers={"Accept": "text/html"}).json()["status"] == "ok"
    assert "Disallow: /" in client.get("/robots.txt").text
    assert client.get("/favicon.ico").text.startswith("<svg")


@on_sqlite
@pytest.mark.parametrize("create", [create_app, create_scoring_app])
def test_every_body_has_an_example_that_fits(store: Store, create: Any) -> None:
    document = create().openapi()
    assert len(document["paths"]) >= 5
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path not in {"/", "/healthz"}:
                assert {"401", "403", "422", "429", "503"} <= set(operation["responses"]), path
            bodies = {**operation["responses"], "request": operation.get("requestBody", {})}
            for name, body in bodies.items():
                for media in body.get("content", {}).values():
                    found = examples(media, document)
                    assert found, f"{method} {path} {name}"
                    for example in found:
                        jsonschema_rs.validate(media["schema"] | {"components": document["components"]}, example)


def examples(media: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """A body's own example, or those of the schema it names: its own, an item's, or an alternative's."""
    if "example" in media:
        return [media["example"]]

    def of(schema: dict[str, Any]) -> list[Any]:
        if "$ref" in schema:
            return of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if schema.get("type") == "array":
            return [[one] for one in of(schema["items"])]
        if isinstance(schema.get("additionalProperties"), dict):
            return [{"key": one} for one in of(schema["additionalProperties"])]
        return schema.get("examples") or [one for part in schema.get("anyOf", ()) for one in of(part)]

    return of(media["schema"])


@on_sqlite
@pytest.mark.parametrize("path", ["/healthz", "/docs", "/docs/start.js", "/favicon.ico", "/robots.txt"])
def test_what_monitors_ask_for_answers_head(path: str, store: Store) -> None:
    client = TestClient(create_app())
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == client.get(path).headers["content-type"]
    assert "head" not in client.get("/openapi.json").json()["paths"].get(path, {})
