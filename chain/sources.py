"""What can be wrong with a fact from outside: with the host that was asked, or with what it was asked for."""

from __future__ import annotations

from app.domain import ValidatorError


class SourceError(ValidatorError):
    """A fact that the epoch needs is malformed or unavailable; the message names the file or the host."""


class SourceUnavailable(SourceError):
    """A host does not answer, or not truthfully: no fault but the network's, and worth another try later."""


class ArchiveUnavailable(SourceUnavailable):
    """The archive was unavailable when the epoch opened; the rules say what follows."""


class Outage(SourceError):
    """A fact that was waited for and did not come; settled for this epoch, and not the miner's fault."""


class ContentNotFound(Exception):
    """No file at a committed path."""


class ContentTooLarge(Exception):
    """The file at a committed path is larger than a submission may be."""


class RoundNotReached(Exception):
    """The drand round has not been published."""


class SignatureUnverified(Exception):
    """No endpoint gave a signature of the round that verifies."""
