"""Ciphertexts that other implementations sealed: the subnet's own library, its builds from npm, and its rewrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain import Commitment, RejectionCode, SubmissionRejected
from chain.submission import Sealed, fetch_submission, open_submission, parse_submission
from chain.timelock import TimelockError, open_sealed, verified_signature
from tests.chain.test_submission import Source

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "timelock.json").read_text())
OPEN = [vector for vector in VECTORS if "0.3.0" not in vector["library"]]
REWRITTEN = [vector for vector in VECTORS if "0.3.0" in vector["library"]]
FILES = [vector for vector in VECTORS if "nova_file" in vector]


def named(vector: dict[str, Any]) -> str:
    return f"{vector['library'].split()[-1]}-{vector['round']}"


@pytest.mark.parametrize("vector", OPEN, ids=named)
def test_the_subnets_own_library_seals_what_opens_here(vector: dict[str, Any]) -> None:
    signature = verified_signature(vector["round"], vector["signature"])
    opened = open_sealed(bytes.fromhex(vector["ciphertext"]), vector["round"], signature)
    assert opened.decode() == vector["plaintext"]


@pytest.mark.parametrize("vector", REWRITTEN, ids=named)
def test_the_rewrite_is_refused_and_named(vector: dict[str, Any]) -> None:
    signature = verified_signature(vector["round"], vector["signature"])
    with pytest.raises(TimelockError, match=r"timelock 0\.3\.0 or later"):
        open_sealed(bytes.fromhex(vector["ciphertext"]), vector["round"], signature)


def test_an_altered_ciphertext_is_not_taken_for_the_rewrite() -> None:
    vector = OPEN[0]
    signature = verified_signature(vector["round"], vector["signature"])
    sealed = bytes.fromhex(vector["ciphertext"])
    for altered in (sealed[:-5], sealed[:120] + bytes([sealed[120] ^ 1]) + sealed[121:], bytes(200)):
        with pytest.raises(TimelockError) as refused:
            open_sealed(altered, vector["round"], signature)
        assert "0.3.0" not in str(refused.value)


@pytest.mark.parametrize("vector", FILES, ids=named)
def test_a_miners_file_from_commitment_to_names(vector: dict[str, Any]) -> None:
    """Fetched, its hash checked, parsed and opened, as it was written by the subnet's miner."""
    source = Source(vector["nova_file"].encode(), {vector["round"]: vector["signature"]})
    commitment = Commitment("hotkey", 100, f"miner/subs/main/d/{vector['nova_file_name']}")
    sealed = parse_submission(fetch_submission(source, commitment))  # type: ignore[arg-type]
    assert sealed.drand_round == vector["round"]
    assert sealed.ciphertext == bytes.fromhex(vector["ciphertext"])
    uid, names = vector["plaintext"].split(":", 1)
    found = open_submission(source, int(uid), sealed)  # type: ignore[arg-type]
    assert found == names


def test_a_miner_with_the_rewrite_learns_what_to_change() -> None:
    vector = REWRITTEN[1]
    source = Source(b"", {vector["round"]: vector["signature"]})
    with pytest.raises(SubmissionRejected) as refused:
        open_submission(source, 0, Sealed(vector["round"], bytes.fromhex(vector["ciphertext"])))  # type: ignore[arg-type]
    assert refused.value.rejection.code is RejectionCode.DECRYPTION_FAILED
    assert "seal with timelock 0.0.2" in refused.value.rejection.message
