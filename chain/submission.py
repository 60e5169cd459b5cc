"""From a commitment to the text in it: fetch, check the hash, parse, open the time-lock."""

from __future__ import annotations

import ast
import hashlib
import warnings
from dataclasses import dataclass
from typing import Final, Protocol

from app.domain import Commitment, RejectionCode, rejected
from app.untrusted import quoted, shown
from chain.github_path import GitHubPath, parse_github_path
from chain.sources import ContentNotFound, ContentTooLarge, RoundNotReached, SignatureUnverified
from chain.timelock import LAST_ROUND, TimelockError, open_sealed

MAX_SUBMISSION_BYTES: Final = 20 * 1024

# A drand round is a u64.
_LARGEST_ROUND: Final = (1 << 64) - 1


class SubmissionFacts(Protocol):
    """What opening a submission asks of the world."""

    def content(self, path: GitHubPath) -> bytes:
        """The committed file's bytes. Raises ContentNotFound or ContentTooLarge."""
        ...

    def signature(self, drand_round: int) -> str:
        """The round's verified signature (hex). Raises RoundNotReached or SignatureUnverified."""
        ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """A parsed submission file: the drand round it opens at, and the ciphertext."""

    drand_round: int
    ciphertext: bytes


def fetch_submission(facts: SubmissionFacts, commitment: Commitment) -> bytes:
    """The committed file's bytes, with their hash checked against the file's name.

    Raises:
        SubmissionRejected: ``path_malformed``, ``content_not_found``, ``content_too_large``, ``hash_mismatch``.
    """
    path = parse_github_path(commitment.data)
    try:
        content = facts.content(path)
    except ContentNotFound:
        raise rejected(
            RejectionCode.CONTENT_NOT_FOUND, f"no file could be fetched at {shown(str(path), 200)}"
        ) from None
    except ContentTooLarge:
        raise _too_large(path) from None
    if len(content) > MAX_SUBMISSION_BYTES:
        raise _too_large(path)
    found = hashlib.sha256(content).hexdigest()[:20]
    if found != path.content_hash:
        raise rejected(
            RejectionCode.HASH_MISMATCH,
            f"the file's SHA-256 begins with {found}, but it is named {shown(path.content_hash, 40)}",
        )
    return content


def _too_large(path: GitHubPath) -> Exception:
    return rejected(
        RejectionCode.CONTENT_TOO_LARGE,
        f"the file at {shown(str(path), 200)} is larger than {MAX_SUBMISSION_BYTES} bytes",
    )


def parse_submission(content: bytes) -> Sealed:
    """The ``(target_round, ciphertext)`` literal of a submission file.

    Raises:
        SubmissionRejected: ``format_invalid`` for anything else.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise rejected(RejectionCode.FORMAT_INVALID, "the file is not text in UTF-8") from None
    drand_round, ciphertext = file_literal(text.strip())
    if type(drand_round) is not int or not 0 < drand_round <= _LARGEST_ROUND:
        raise rejected(RejectionCode.FORMAT_INVALID, f"{shown(drand_round)} is not a drand round")
    return Sealed(drand_round, ciphertext)


def file_literal(text: str) -> tuple[int, bytes]:
    """The pair of a number (``True`` is one) and bytes that a text is the Python literal of.

    Raises:
        SubmissionRejected: ``format_invalid`` for anything else, and for a longer text than a submission's.
    """
    if len(text) > MAX_SUBMISSION_BYTES:
        raise rejected(RejectionCode.FORMAT_INVALID, f"the file has more than {MAX_SUBMISSION_BYTES} characters")
    try:
        with warnings.catch_warnings():
            # an invalid escape in a bytes literal is the miner's, not a warning of ours
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    # literal_eval raises any of these on hostile text; under the size limit none of them costs more than milliseconds
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise rejected(
            RejectionCode.FORMAT_INVALID, f"the file is not a (round, ciphertext) literal: {type(error).__name__}"
        ) from None
    match value:
        case (int() as drand_round, bytes() as ciphertext) if isinstance(value, tuple):
            return drand_round, ciphertext
    raise rejected(RejectionCode.FORMAT_INVALID, "the file must hold a tuple of one int and one bytes literal")


def open_submission(facts: SubmissionFacts, uid: int, sealed: Sealed) -> str:
    """Open the time-lock and return the text, its ``uid:`` taken off.

    Raises:
        SubmissionRejected: ``round_not_reached``, ``decryption_failed``, ``uid_mismatch``.
    """
    return text_of(open_text(facts, sealed), uid)


def text_of(plaintext: str, uid: int) -> str:
    """What follows ``<uid>:`` in an opened submission, exactly as it is written there.

    Raises:
        SubmissionRejected: ``uid_mismatch``.
    """
    prefix, separator, text = plaintext.partition(":")
    if not separator or prefix != str(uid):
        raise rejected(
            RejectionCode.UID_MISMATCH,
            f"the submission was sealed for UID {quoted(prefix, 20)}, but UID {uid} committed it",
        )
    return text


def open_text(facts: SubmissionFacts, sealed: Sealed) -> str:
    """Open the time-lock; the text, ``uid:`` and all.

    Raises:
        SubmissionRejected: ``round_not_reached``, ``decryption_failed``.
    """
    not_reached = rejected(
        RejectionCode.ROUND_NOT_REACHED,
        f"drand round {shown(sealed.drand_round)} was not published when the epoch closed; seal to an earlier round",
    )
    if sealed.drand_round > LAST_ROUND:
        raise not_reached
    try:
        signature = facts.signature(sealed.drand_round)
        return open_sealed(sealed.ciphertext, sealed.drand_round, signature).decode("utf-8")
    except RoundNotReached:
        raise not_reached from None
    except (SignatureUnverified, TimelockError) as error:
        raise rejected(
            RejectionCode.DECRYPTION_FAILED, f"the time-lock does not open: {shown(str(error), 200)}"
        ) from None
    except UnicodeDecodeError:
        raise rejected(RejectionCode.DECRYPTION_FAILED, "the opened text is not UTF-8") from None
