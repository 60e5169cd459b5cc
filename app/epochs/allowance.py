"""What is left of GitHub's calls an hour, kept in the store for every process, the pages and ``doctor``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from app.clock import now
from app.store.services import ServiceStates
from chain.github import GitHubQuota

_NAME: Final = "github"


@dataclass(frozen=True, slots=True)
class ReadQuota:
    """GitHub's allowance as an epoch last left it, the hour that has passed since then taken into account."""

    quota: GitHubQuota
    read_at: datetime


def keep_quota(session: Session, quota: GitHubQuota) -> None:
    """Keep what is left in the place of what was."""
    ServiceStates(session).keep(_NAME, asdict(quota))


def last_quota(session: Session) -> ReadQuota | None:
    """What is left; None where GitHub was never asked by this validator."""
    state = ServiceStates(session).latest(_NAME)
    if state is None:
        return None
    return ReadQuota(GitHubQuota(**state.document).at(now().timestamp()), state.read_at)
