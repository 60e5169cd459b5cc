"""The Docker Engine as the container runner reaches it: one address, no registry account, errors in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

from app.untrusted import read_json, shown
from gpu.evaluation.contract import EvaluationImpossible

# Docker 20.10, the oldest that this was run on
_OLDEST: Final = "1.41"
_LONGEST_MESSAGE: Final = 1 << 20

# said outright, or the SDK looks up the operator's account: an untrusted image is pulled without one
ANONYMOUS: Final[Mapping[str, str]] = {"username": "", "password": ""}


@contextmanager
def engine(address: str | None, timeout: float = 60.0) -> Iterator[Any]:
    """The SDK's client of the Engine at ``address`` (``unix://…``; None: DOCKER_HOST, or the usual socket).

    Raises:
        EvaluationImpossible: nothing answers there.
    """
    from docker.api import APIClient
    from docker.utils import kwargs_from_env

    with speaking(f"connecting to Docker at {address or 'DOCKER_HOST or the usual socket'}"):
        environment = {**os.environ, "DOCKER_HOST": address} if address else dict(os.environ)
        arguments = kwargs_from_env(environment=environment)
        # the SDK's own version="auto" leaves a connection open where the Engine refuses
        with closing(APIClient(**arguments, version=_OLDEST, timeout=timeout)) as probe:
            version = probe.version(api_version=False)["ApiVersion"]
        client = APIClient(**arguments, version=version, timeout=timeout)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def speaking(doing: str) -> Iterator[None]:
    """Turns what the SDK raises while ``doing`` into an error for the operator.

    Raises:
        EvaluationImpossible: Docker refused, broke off or is unavailable; the message names the fix.
    """
    try:
        yield
    except EngineErrors.all() as error:
        raise EvaluationImpossible(
            f"Docker failed while {doing}: {explanation(error)}. Does 'docker info' work for this user? "
            "DOCKER_HOST names the Engine; the user must be in the group docker"
        ) from None


@contextmanager
def stream(client: Any, path: str, seconds: float, **request: Any) -> Iterator[Stream]:
    """POST to ``path`` and read what the Engine says for as long as it works, a message at a time.

    The SDK's own ``build`` sends every registry account of the operator's along, and its ``pull`` waits for ever.
    """
    url = f"{client.base_url}/v{client.api_version}{path}"
    response = client.post(url, stream=True, timeout=seconds, **request)
    try:
        yield Stream(response)
    finally:
        response.close()


class Stream:
    """The Engine's progress messages; :meth:`cut` ends them from another thread, and with them the Engine's work."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        from urllib3.exceptions import HTTPError

        held = b""
        try:
            for chunk in self._response.raw.stream(1 << 16, decode_content=True):
                *lines, held = (held + chunk).split(b"\n")
                yield from (message for line in lines if (message := _message(line)) is not None)
                if len(held) > _LONGEST_MESSAGE:
                    held = b""
        except (HTTPError, OSError, ValueError):
            # broken off or cut: the reader sees that the last message is missing
            return
        if (message := _message(held)) is not None:
            yield message

    def cut(self) -> None:
        """Close the connection under the reader."""
        from docker.types.daemon import CancellableStream

        with suppress(OSError, AttributeError):
            CancellableStream(iter(()), self._response).close()


def _message(line: bytes) -> Mapping[str, Any] | None:
    try:
        found = read_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class EngineErrors:
    """The exceptions of the SDK and of what it stands on, imported when they are needed."""

    @staticmethod
    def all() -> tuple[type[BaseException], ...]:
        """Everything that a call of the SDK raises when the Engine refuses, breaks off or is unavailable."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        return (DockerException, RequestException, HTTPError, OSError)

    @staticmethod
    def missing() -> type[BaseException]:
        """The Engine knows no such thing."""
        from docker.errors import NotFound

        return NotFound  # type: ignore[no-any-return]

    @staticmethod
    def refused() -> type[BaseException]:
        """The Engine answered, and not as hoped."""
        from docker.errors import APIError

        return APIError  # type: ignore[no-any-return]


def explanation(error: BaseException) -> str:
    """The Engine's own sentence, or the error's first line."""
    said = getattr(error, "explanation", None)
    text = (said.decode("utf-8", "replace") if isinstance(said, bytes) else said) or str(error) or type(error).__name__
    return shown(str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__, 400)
