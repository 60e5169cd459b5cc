"""Whatever the OpenAPI schema allows, and whatever it does not, is never answered with a fault of ours."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from app.api.application import create_app
from app.settings import get_settings
from app.store.database import Store
from tests.app.api.conftest import basic
from tests.app.competitions.competition_fixtures import fill, scored

_CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.fixture
def schema(store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The API's schema, over a store with models and scores."""
    monkeypatch.setenv("NETUID", "21")
    monkeypatch.setenv("API_RATE_LIMIT", "1000000")
    get_settings.cache_clear()
    fill(store, 5)
    scored(store, 2, 0.5, 0.6)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app())


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("examples", [20, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_no_request_finds_a_fault(schema: Any, mode: GenerationMode, examples: int) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 10
    tried: set[str] = set()
    for operation in operations:

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def fuzz(case: Any) -> None:
            tried.add(case.operation.label)
            # signed, so that it gets past the door
            for name in ("X-Hotkey", "X-Timestamp", "X-Signature"):
                case.headers.pop(name, None)
            response = case.call(headers=basic())
            case.validate_response(response, checks=CHECKS.get_by_names(list(_CHECKS)))

        # an operation without parameters cannot be called wrongly
        if mode is GenerationMode.POSITIVE or operation.body or operation.path_parameters:
            fuzz()
    assert len(tried) >= 3
