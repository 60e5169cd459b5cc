"""From a committed path to molecule names, with an untrusted miner at the other end."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Commitment, RejectionCode, SubmissionRejected
from app.epochs.rules import parse_rules
from chain.github_path import GitHubPath, parse_github_path
from chain.sources import ContentNotFound, ContentTooLarge, RoundNotReached, SignatureUnverified
from chain.submission import Sealed, fetch_submission, open_submission, parse_submission
from chain.timelock import TimelockError, open_sealed, round_at, round_time, seal, verified_signature

ROUND = 1000
SIGNATURE = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
OTHER = "b75c69d0b72a5d906e854e808ba7e2accb1542ac355ae486d591aa9d43765482e26cd02df835d3546d23c4b13e0dfc92"


class Source:
    """Serves one file and the signatures given; nothing else is asked."""

    def __init__(self, content: bytes | Exception = b"", signatures: dict[int, str] | None = None) -> None:
        self._content = content
        self._signatures = signatures if signatures is not None else {ROUND: SIGNATURE}

    def content(self, path: GitHubPath) -> bytes:
        if isinstance(self._content, Exception):
            raise self._content
        return self._content

    def signature(self, drand_round: int) -> str:
        if drand_round not in self._signatures:
            raise RoundNotReached(drand_round)
        try:
            return verified_signature(drand_round, self._signatures[drand_round])
        except TimelockError as error:
            raise SignatureUnverified(str(error)) from None


def code_of(call: object, *args: object) -> RejectionCode:
    with pytest.raises(SubmissionRejected) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.rejection.message
    return caught.value.rejection.code


# -- the path ---------------------------------------------------------------------------------------------------------


def test_a_path_and_its_parts() -> None:
    path = parse_github_path("owner/repo/main/a/b/0123456789abcdef0123.txt")
    assert (path.owner, path.repository, path.branch) == ("owner", "repo", "main")
    assert path.content_hash == "0123456789abcdef0123"
    assert str(path) == "owner/repo/main/a/b/0123456789abcdef0123.txt"


@pytest.mark.parametrize(
    "data",
    ["", "h.txt", "owner/repo/h.txt", "owner/repo/main/", "owner/repo/main/../../x.txt", "owner//main/h.txt",
     "/owner/repo/main/h.txt", "https://evil.example/owner/repo/main/h.txt", "owner/repo/main/h.txt?x=1",
     "owner/repo/main/h.txt#x", "owner/repo/main/%2e%2e/h.txt", "owner/repo/main\\..\\h.txt", "own er/repo/main/h.txt",
     "owner/re po/main/h.txt", "owner/repo/main/h\n.txt", "owner/repo/main/h\x00.txt", "owner/repo/./h.txt",
     "owner/repo/main/h.zip", "owner@evil:80/repo/main/h.txt", "o/r/main/" + "x" * 2000 + ".txt",
     "owner/repo/main/\ud800.txt"],
)  # fmt: skip
def test_a_path_that_leaves_its_host_or_its_form_is_refused(data: str) -> None:
    assert code_of(parse_github_path, data) is RejectionCode.PATH_MALFORMED


@given(st.text(max_size=80))
def test_no_path_gets_out(data: str) -> None:
    try:
        path = parse_github_path(data)
    except SubmissionRejected:
        return
    root = Path("/srv/contents")
    assert (root / str(path)).resolve().is_relative_to(root)


# -- the file ---------------------------------------------------------------------------------------------------------


def committed(content: bytes) -> Commitment:
    return Commitment("hotkey", 5, f"o/r/main/{hashlib.sha256(content).hexdigest()[:20]}.txt")


def test_fetch_checks_the_hash_in_the_name() -> None:
    assert fetch_submission(Source(b"abc"), committed(b"abc")) == b"abc"  # type: ignore[arg-type]
    assert code_of(fetch_submission, Source(b"abd"), committed(b"abc")) is RejectionCode.HASH_MISMATCH


def test_fetch_refuses_what_is_not_there_or_too_large() -> None:
    full = bytes(20 * 1024)
    assert fetch_submission(Source(full), committed(full)) == full  # type: ignore[arg-type]
    large = bytes(20 * 1024 + 1)
    assert code_of(fetch_submission, Source(large), committed(large)) is RejectionCode.CONTENT_TOO_LARGE
    assert code_of(fetch_submission, Source(ContentTooLarge()), committed(b"")) is RejectionCode.CONTENT_TOO_LARGE
    assert code_of(fetch_submission, Source(ContentNotFound()), committed(b"")) is RejectionCode.CONTENT_NOT_FOUND


def test_the_literal() -> None:
    assert parse_submission(b"(7, b'ab')") == Sealed(7, b"ab")
    assert parse_submission(b" (7, b'ab')\n") == Sealed(7, b"ab")


@pytest.mark.parametrize(
    "content",
    [b"", b"(True, b'x')", b"(1, 'x')", b"[1, b'x']", b"(1, b'x', 2)", b"(1.0, b'x')", b"(0, b'x')", b"(-5, b'x')",
     b"7", b"(1, bytes(3))", b"__import__('os')", b"\xff\xfe", b"(1, b'x'", b"\x00", b"(1, {b'x'})",
     b"(" * 10_000, b"[" * 10_000 + b"]" * 10_000, b"-" * 20_000 + b"1", b"1+" * 10_000 + b"1", b"9" * 20_000,
     b"(0x" + b"f" * 3_600 + b", b'')", b"(-0x" + b"f" * 3_600 + b", b'')", b"(0b1" + b"0" * 64 + b", b'')",
     b"(1," * 6_000, b"{" * 20_000, b"not " * 5_000 + b"1", b"(" + b"9" * 5_000 + b", b'x')"],
)  # fmt: skip
def test_anything_else_is_refused_in_no_time(content: bytes) -> None:
    begun = time.monotonic()
    assert code_of(parse_submission, content) is RejectionCode.FORMAT_INVALID
    assert time.monotonic() - begun < 2


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(content: bytes) -> None:
    with suppress(SubmissionRejected):
        parse_submission(content)


@given(st.integers(), st.booleans())
def test_a_round_is_a_positive_u64(drand_round: int, as_hex: bool) -> None:
    content = f"({drand_round:#x}, b'')" if as_hex else f"({drand_round}, b'')"
    if 0 < drand_round < 1 << 64:
        assert parse_submission(content.encode()) == Sealed(drand_round, b"")
    else:
        assert code_of(parse_submission, content.encode()) is RejectionCode.FORMAT_INVALID


# -- the time-lock ----------------------------------------------------------------------------------------------------


def opened(plaintext: bytes, uid: int = 5, count: int = 2, source: Source | None = None) -> tuple[str, ...]:
    text = open_submission(source or Source(), uid, Sealed(ROUND, seal(plaintext, ROUND)))
    return parse_rules(f"molecule_validation: {{num_molecules: {count}}}").parse(text)["molecule"]


def test_a_sealed_submission_opens_with_the_real_signature() -> None:
    assert opened(b"5:a,b") == ("a", "b")


@pytest.mark.parametrize(
    ("plaintext", "code"),
    [
        (b"6:a,b", RejectionCode.UID_MISMATCH),
        (b"05:a,b", RejectionCode.UID_MISMATCH),
        (b"a,b", RejectionCode.UID_MISMATCH),
        (b"5:a", RejectionCode.WRONG_MOLECULE_COUNT),
        (b"5:a,b,", RejectionCode.WRONG_MOLECULE_COUNT),
        (b"5:", RejectionCode.WRONG_MOLECULE_COUNT),
        (b"\xff\xfe", RejectionCode.DECRYPTION_FAILED),
    ],
)
def test_what_is_inside_is_checked(plaintext: bytes, code: RejectionCode) -> None:
    assert code_of(opened, plaintext) is code


@pytest.mark.parametrize("drand_round", [ROUND + 1, 99_999_999_999, 1 << 63, 1 << 80])
def test_a_round_to_come_is_not_reached(drand_round: int) -> None:
    sealed = Sealed(drand_round, seal(b"5:a", ROUND))
    assert code_of(open_submission, Source(), 5, sealed) is RejectionCode.ROUND_NOT_REACHED


def test_a_damaged_ciphertext_fails_to_open() -> None:
    whole = seal(b"5:a", ROUND)
    for broken in (b"", b"x", whole[:-1], whole[1:], bytes([whole[0] ^ 1]) + whole[1:], bytes(5000)):
        assert code_of(open_submission, Source(), 5, Sealed(ROUND, broken)) is RejectionCode.DECRYPTION_FAILED


def test_a_ciphertext_on_which_the_library_panics_fails_to_open() -> None:
    """A field of 36 bytes where 32 are meant: pyo3's PanicException is a BaseException, not an Exception."""
    whole, field = seal(b"5:a", ROUND), 96
    longer = whole[:field] + (36).to_bytes(8, "little") + whole[field + 8 : field + 40] + bytes(4) + whole[field + 40 :]
    with pytest.raises(TimelockError, match="damaged"):
        open_sealed(longer, ROUND, SIGNATURE)


def test_one_lying_signature_costs_only_its_own_round() -> None:
    source = Source(signatures={ROUND: OTHER, 123: OTHER})
    assert code_of(opened, b"5:a,b", 5, 2, source) is RejectionCode.DECRYPTION_FAILED
    good = Sealed(123, seal(b"5:a", 123))
    assert open_submission(source, 5, good) == "a"


@pytest.mark.parametrize(
    ("drand_round", "signature"),
    [
        (1000, SIGNATURE),
        (123, OTHER),
        (657413, "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b"),
        (12040883, "929906c959032ab363c9f26570d215d66f5c06cb0c44fe508c12bb5839f04ec895bb6868e5b9ff13ab289bdb5266b394"),
        (32281667, "b0f5ae301358ff87a9d3dd539ed4a07c0148b1ab4f7b61a8ca43c7e9ca7ca9553e4faae9188deb30b2cd1a7f447e3e5b"),
    ],
)
def test_real_quicknet_signatures_verify(drand_round: int, signature: str) -> None:
    assert verified_signature(drand_round, "0x" + signature.upper()) == signature
    with pytest.raises(TimelockError, match="does not verify"):
        verified_signature(drand_round + 1, signature)


@pytest.mark.parametrize("signature", ["", "b4", "z" * 96, SIGNATURE + "00", SIGNATURE[:-2]])
def test_a_signature_has_exactly_96_hex_digits(signature: str) -> None:
    with pytest.raises(TimelockError, match="96 hex digits"):
        verified_signature(ROUND, signature)


def test_plaintexts_of_every_length_open() -> None:
    # the SCALE length prefix has one, two or four bytes
    for length in (0, 1, 63, 300, 16_000, 17_000):
        assert open_sealed(seal(bytes(length), ROUND), ROUND, SIGNATURE) == bytes(length)


def test_rounds_and_times() -> None:
    assert round_time(1) == 1_692_803_367
    assert round_at(round_time(1000)) == 1000
    assert round_at(round_time(1000) + 2.9) == 1000
    assert round_at(0) == 1
