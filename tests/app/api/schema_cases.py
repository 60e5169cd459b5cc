"""Requests made from an API's own description, their answers held against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import schemathesis
from bittensor_core import Keypair
from fastapi import FastAPI
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.python.asgi import shutdown_lifespans

from tests.app.api.conftest import basic
from tests.app.competitions.competition_fixtures import VALIDATOR

_CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@contextmanager
def described(application: FastAPI) -> Iterator[Any]:
    """The description that an application serves; what the application runs beside its requests ends here too."""
    try:
        yield schemathesis.openapi.from_asgi("/openapi.json", application)
    finally:
        shutdown_lifespans()


def can_be_wrong(operation: Any, mode: GenerationMode) -> bool:
    """Whether there are requests of this kind: an operation without parameters cannot be called wrongly."""
    return bool(mode is GenerationMode.POSITIVE or operation.body or operation.path_parameters)


def any_case(schema: Any) -> st.SearchStrategy[Any]:
    """Whatever the description allows, and whatever it does not, of any operation."""
    operations = [found.ok() for found in schema.get_all_operations()]
    return st.one_of(
        operation.as_strategy(generation_mode=mode)
        for operation in operations
        for mode in GenerationMode
        if can_be_wrong(operation, mode)
    )


def held_to_schema(case: Any, key: Keypair = VALIDATOR) -> Any:
    """Send a case, signed by ``key`` so that it gets past the door; its answer, which is one that the API describes."""
    for name in ("X-Hotkey", "X-Timestamp", "X-Signature"):
        case.headers.pop(name, None)
    response = case.call(headers=basic(key))
    case.validate_response(response, checks=CHECKS.get_by_names(list(_CHECKS)))
    return response
