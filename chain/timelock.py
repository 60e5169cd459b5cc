"""The drand quicknet time-lock, through ``bittensor_core``."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from typing import Final

import bittensor_core

from app.domain import ValidatorError
from app.untrusted import shown

QUICKNET_CHAIN: Final = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
QUICKNET_GENESIS: Final = 1_692_803_367
QUICKNET_PERIOD: Final = 3

# A round travels as u64; past this nothing can be sealed to it or opened.
LAST_ROUND: Final = (1 << 63) - 1

_SIGNATURE: Final = re.compile(r"[0-9a-f]{96}\Z")


class TimelockError(ValidatorError):
    """A ciphertext or a signature that the time-lock refuses."""


def round_time(drand_round: int) -> int:
    """Unix time (s) at which a quicknet round is published."""
    return QUICKNET_GENESIS + (drand_round - 1) * QUICKNET_PERIOD


def round_at(unix_time: float) -> int:
    """The last round published at ``unix_time`` (s); 1 at the earliest."""
    return max(1, int((unix_time - QUICKNET_GENESIS) // QUICKNET_PERIOD) + 1)


def seal(plaintext: bytes, drand_round: int) -> bytes:
    """A ``TLECiphertext`` that opens once ``drand_round`` is published: what a miner uploads."""
    return bytes(bittensor_core.inner_ciphertext(bittensor_core.encrypt_at_round(plaintext, drand_round)[0]))


@lru_cache(maxsize=256)
def verified_signature(drand_round: int, signature: str) -> str:
    """The round's signature as 96 hex digits, proven by opening a probe sealed to the round (5 ms).

    Raises:
        TimelockError: not 48 bytes of hex, or not the signature of this round.
    """
    text = signature.strip().lower().removeprefix("0x")
    if not _SIGNATURE.match(text):
        raise TimelockError(f"signature of round {drand_round} is not 96 hex digits")
    probe = secrets.token_bytes(16)
    try:
        opened = bytes(
            bittensor_core.decrypt_with_signature(bittensor_core.encrypt_at_round(probe, drand_round)[0], text)
        )
    except ValueError as error:
        raise TimelockError(f"signature of round {drand_round} does not verify: {error}") from None
    if opened != probe:
        raise TimelockError(f"signature of round {drand_round} does not verify: the probe opened to other bytes")
    return text


def open_sealed(ciphertext: bytes, drand_round: int, verified: str) -> bytes:
    """The plaintext of a miner's ``TLECiphertext``, given a signature from :func:`verified_signature`.

    Raises:
        TimelockError: empty, truncated or damaged ciphertext, or one sealed to another round.
    """
    if not ciphertext:
        raise TimelockError("the ciphertext is empty")
    wrapped = _scale_compact(len(ciphertext)) + ciphertext + drand_round.to_bytes(8, "little")
    try:
        return bytes(bittensor_core.decrypt_with_signature(wrapped, verified))
    except ValueError as error:
        if _is_rewritten_format(ciphertext):
            raise TimelockError(
                "sealed with timelock 0.3.0 or later (the rewrite of September 2025), whose format the subnet does not "
                "take; seal with timelock 0.0.2, or with 'submission seal'"
            ) from None
        raise TimelockError(shown(str(error), 200)) from None
    # the library panics on some damaged ciphertexts; a panic is no Exception, and would end more than this submission
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TimelockError(f"the ciphertext is damaged: {shown(str(error), 160)}") from None


def _is_rewritten_format(ciphertext: bytes) -> bool:
    """Whether the two 32-byte fields after the curve point have no length before them, as the rewrite writes them."""
    point, field, length = 96, 32, 8
    if ciphertext[point : point + length] == field.to_bytes(length, "little"):
        return False
    body = point + 2 * field
    return 0 < int.from_bytes(ciphertext[body : body + length], "little") <= len(ciphertext) - body - length


def _scale_compact(length: int) -> bytes:
    """SCALE's compact integer, two low bits naming the width."""
    if length < 1 << 6:
        return (length << 2).to_bytes(1, "little")
    if length < 1 << 14:
        return (length << 2 | 0b01).to_bytes(2, "little")
    return (length << 2 | 0b10).to_bytes(4, "little")
