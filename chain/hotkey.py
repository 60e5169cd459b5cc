"""Hotkey signatures on HTTP requests: what is signed, and how it travels."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chain.subtensor import load_wallet

_SIGNATURE_BYTES = 64


class Signer(Protocol):
    """A hotkey that can sign."""

    @property
    def address(self) -> str:
        """SS58 address."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class KeypairSigner:
    """A hotkey whose private key is in memory."""

    keypair: Any

    @property
    def address(self) -> str:
        """SS58 address."""
        return str(self.keypair.ss58_address)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes."""
        return bytes(self.keypair.sign(message))


def wallet_signer(path: Path, name: str, hotkey: str) -> KeypairSigner:
    """The wallet's hotkey.

    Raises:
        WalletError: naming the file.
    """
    return KeypairSigner(load_wallet(name, hotkey, path).hotkey)


def signature_bytes(text: str) -> bytes | None:
    """A signature written as ``0x`` and 128 hex digits; None where it is not."""
    digits = text.removeprefix("0x")
    if len(digits) != 2 * _SIGNATURE_BYTES or not digits.isalnum() or not digits.isascii():
        return None
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


def request_message(hotkey: str, timestamp: str, method: str, path: str, body: bytes) -> bytes:
    """What a caller signs: ``{hotkey}:{unix_time}:{method}:{path}:{sha256(body)}``."""
    digest = hashlib.sha256(body).hexdigest()
    return f"{hotkey}:{timestamp}:{method.upper()}:{path}:{digest}".encode()


def signed_headers(signer: Signer, method: str, path: str, body: bytes, at: float | None = None) -> dict[str, str]:
    """The headers of a request that can be used once: ``X-Hotkey``, ``X-Timestamp``, ``X-Signature``."""
    timestamp = str(int(time.time() if at is None else at))
    signature = signer.sign(request_message(signer.address, timestamp, method, path, body))
    return {"X-Hotkey": signer.address, "X-Timestamp": timestamp, "X-Signature": f"0x{signature.hex()}"}


def basic_credentials(signer: Signer) -> tuple[str, str]:
    """User and password of HTTP Basic: the hotkey, and its signature of itself. It can be replayed for ever."""
    return signer.address, f"0x{signer.sign(signer.address.encode()).hex()}"
