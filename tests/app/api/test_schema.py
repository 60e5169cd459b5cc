"""Whatever the OpenAPI schema allows, and whatever it does not, is never answered with a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from app.api.application import create_app
from app.settings import get_settings
from app.store.database import Store
from tests.app.api.schema_cases import can_be_wrong, described, held_to_schema
from tests.app.competitions.competition_fixtures import fill, scored


@pytest.fixture
def schema(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The API's schema, over a store with models and scores."""
    monkeypatch.setenv("NETUID", "21")
    monkeypatch.setenv("API_RATE_LIMIT", "1000000")
    get_settings.cache_clear()
    fill(store, 5)
    scored(store, 2, 0.5, 0.6)
    with described(create_app()) as found:
        yield found


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
            held_to_schema(case)

        if can_be_wrong(operation, mode):
            fuzz()
    assert len(tried) >= 3
