"""A miner's commitment as a model's identity."""

from __future__ import annotations

import re
from typing import Final

from app.domain import BLOCK, ModelId, ValidatorError
from app.untrusted import quoted

LONGEST_COMMITMENT: Final = 128
BLOCK_SECONDS: Final = int(BLOCK.total_seconds())

_ABSENT: Final = "None"
_FIELDS: Final = 6
_OWNER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\Z")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
_WORD: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,128}\Z")
COMPETITION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")


class UnreadableMetadata(ValidatorError):
    """A commitment is no model metadata; the message says why."""


def parse_model_id(text: str, *, open_ended: bool = False) -> ModelId:
    """``namespace:name:epoch:commit:hash:competition_id`` as a :class:`ModelId`.

    ``open_ended``: further fields are ignored, and the epoch must be named.

    Raises:
        UnreadableMetadata: naming the field that is wrong.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > LONGEST_COMMITMENT:
        raise _unreadable(text, f"has {size} bytes; {LONGEST_COMMITMENT} are allowed")
    fields = text.split(":")
    if len(fields) < _FIELDS or (len(fields) > _FIELDS and not open_ended):
        raise _unreadable(text, f"has {len(fields)} fields, not {_FIELDS}")
    namespace, name, *rest = fields[:_FIELDS]
    epoch, commit, digest, competition = (None if value in {_ABSENT, ""} else value for value in rest)
    for value, pattern, what in (
        (namespace, _OWNER, "a Hugging Face namespace"),
        (name, _NAME, "a Hugging Face model name"),
        (epoch, _WORD, "an epoch"),
        (commit, _REVISION, "a Hugging Face revision"),
        (digest, _WORD, "a hash"),
        (competition, COMPETITION_ID, "a competition"),
    ):
        if value is not None and (
            not pattern.match(value) or ".." in value or ("--" in value and pattern in (_OWNER, _NAME))
        ):
            raise _unreadable(text, f"names {quoted(value)}, which is not {what}")
    if _ABSENT in {namespace, name}:
        raise _unreadable(text, "names no repository")
    if epoch is None and open_ended:
        raise _unreadable(text, "names no epoch")
    if competition is None:
        raise _unreadable(text, "names no competition")
    return ModelId(namespace, name, epoch, commit, digest, competition)


def is_readable(text: str, *, open_ended: bool) -> bool:
    """Whether :func:`parse_model_id` reads a commitment."""
    try:
        parse_model_id(text, open_ended=open_ended)
    except UnreadableMetadata:
        return False
    return True


def is_repository(text: str) -> bool:
    """Whether a text is ``namespace/name``, as a commitment could name it."""
    namespace, _, name = text.partition("/")
    return all(
        pattern.match(part) is not None and ".." not in part and "--" not in part and part != _ABSENT
        for part, pattern in ((namespace, _OWNER), (name, _NAME))
    )


def is_old_enough(block: int, block_now: int, min_age_seconds: float) -> bool:
    """Whether a model committed at ``block`` may be queued: ``(block_now − block) · 12 s > min_age``."""
    return (block_now - block) * BLOCK_SECONDS > min_age_seconds


def _unreadable(text: str, problem: str) -> UnreadableMetadata:
    return UnreadableMetadata(
        f"the commitment {quoted(text)} {problem}; commit namespace:name:epoch:commit:hash:competition_id"
    )
