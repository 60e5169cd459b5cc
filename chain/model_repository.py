"""When a model's Hugging Face repository was created: one made after its commitment was committed unseen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from app.domain import ValidatorError

_SECONDS: Final = 20.0


class RepositoryUnknown(ValidatorError):
    """Hugging Face could not be asked."""


def repository_created_at(repository: str, endpoint: str) -> datetime | None:
    """When ``namespace/name`` was created, by the hub at ``endpoint``; None where it shows no such repository.

    Raises:
        RepositoryUnknown: Hugging Face does not answer, or answers without a date.
    """
    # the client that huggingface_hub itself is built on
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        found = HfApi(endpoint).model_info(repository, timeout=_SECONDS, expand=["createdAt"]).created_at
    except (RepositoryNotFoundError, HFValidationError):
        return None
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        raise RepositoryUnknown(f"Hugging Face did not say when {repository} was created: {error}") from None
    if found is None:
        raise RepositoryUnknown(f"Hugging Face gave no creation date for {repository}")
    return found if found.tzinfo else found.replace(tzinfo=UTC)
