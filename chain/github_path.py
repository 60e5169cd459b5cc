"""A commitment's GitHub path: ``owner/repo/branch/path…/<h>.txt``, as a miner wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from app.domain import RejectionCode, rejected
from app.untrusted import quoted

_OWNER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38})\Z")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")
_FORBIDDEN: Final = frozenset('?#%\\:*"<>|')
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class GitHubPath:
    """A checked path. ``file`` is what follows the branch, slashes included."""

    owner: str
    repository: str
    branch: str
    file: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.repository}/{self.branch}/{self.file}"

    @property
    def content_hash(self) -> str:
        """What the file's name claims: the first 20 hex digits of the SHA-256 of its bytes."""
        return PurePosixPath(self.file).name.removesuffix(".txt")


def parse_github_path(data: str) -> GitHubPath:
    """Check a committed path.

    Raises:
        SubmissionRejected: ``path_malformed``, saying what is wrong with it.
    """
    if problem := _problem(data):
        raise rejected(
            RejectionCode.PATH_MALFORMED,
            f"the committed path {quoted(data)} {problem}; commit owner/repo/branch/path/<hash>.txt",
        )
    owner, repository, branch, file = data.split("/", 3)
    return GitHubPath(owner, repository, branch, file)


def _problem(data: str) -> str | None:
    if len(data) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    if not data.isprintable():
        return "has control characters"
    if "://" in data:
        return "is an address with a scheme"
    if found := _FORBIDDEN.intersection(data):
        return f"has the character {quoted(min(found))}"
    segments = data.split("/")
    if len(segments) < 4:
        return "has fewer than four parts"
    if any(not segment.strip() for segment in segments):
        return "has an empty part"
    if any(segment in {".", ".."} for segment in segments):
        return "has a '.' or '..' part"
    if not _OWNER.match(segments[0]):
        return "does not begin with a GitHub owner"
    if not _REPOSITORY.match(segments[1]):
        return "does not name a GitHub repository"
    if not segments[-1].endswith(".txt"):
        return "does not end in .txt"
    return None
