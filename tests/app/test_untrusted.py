"""Untrusted values in messages, and untrusted JSON: nothing that is sent raises, hides, or grows."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.untrusted import NotJson, quoted, read_json, shown, visible

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]))

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=14_000, max_value=16_000).map(lambda bits: -(1 << bits))
    | st.floats()
    | st.complex_numbers()
    | ANY_TEXT
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@given(VALUES, st.integers(min_value=1, max_value=200))
def test_any_value_is_shown_on_one_bounded_line(value: Any, longest: int) -> None:
    text = shown(value, longest)
    assert len(text) <= longest
    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("\x1b[2J", "⟨U+001B⟩[2J"),
        (b"caf\xc3\xa9\xff", "café\\xff"),
        (-5, "-5"),
        (-(1 << 20_000), "an integer of 20001 bits"),
        ([1 << 20_000], "[an integer of 20001 bits]"),
        ("x" * 100, "x" * 79 + "…"),
        (b"x" * 100, "x" * 79 + "…"),
        (Hostile(), "<Hostile instance at 0x"),
        (None, "None"),
    ],
    # pytest itself cannot write the large integer
    ids=["text", "escape", "bytes", "small", "large", "list", "long text", "long bytes", "repr fails", "none"],
)
def test_what_a_reader_sees(value: object, expected: str) -> None:
    assert shown(value).startswith(expected)


def test_a_value_whose_type_has_no_name_to_show() -> None:
    class Worse(int):
        def bit_length(self) -> int:
            raise RuntimeError("no")

    assert shown(Worse(3)) in {"a value of type Worse", "<Worse instance at", "3"}
    assert quoted("a\nb") == "'a⟨U+000A⟩b'"


@given(ANY_TEXT)
def test_nothing_unseen_is_left(text: str) -> None:
    found = visible(text)
    found.encode()
    assert found.isprintable()
    assert not set(found) & set("\u034f\u115f\u1160\u17b4\u3164\ufe0f\uffa0\U000e0101")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CC(=O)Nc1ccc(O)cc1", "CC(=O)Nc1ccc(O)cc1"),
        ("Grüße, 北京 😀 −∞", "Grüße, 北京 😀 −∞"),
        ("abc\u202edcba", "abc⟨U+202E⟩dcba"),
        ("a\x00b\nc", "a⟨U+0000⟩b⟨U+000A⟩c"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
    ],
)
def test_what_hides_is_shown(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible(f"{text}\n\t", keep="\n\t").endswith("\n\t")


@given(VALUES)
def test_json_is_read_or_refused(value: Any) -> None:
    try:
        document = json.dumps(value)
    except (TypeError, ValueError):
        return
    with suppress(NotJson):
        assert json.dumps(read_json(document), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"1" * 5000, "digits"),
        (b'{"uid": ' + b"9" * 5000 + b"}", "digits"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff", "decode"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b'"\\ud800"', "surrogate"),
        ('"\ud800"', "surrogate"),
        (b'"\xed\xa0\x80"', "surrogate"),
        ('"\\ud800"'.encode("utf-16"), "surrogate"),
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
    ],
)
def test_a_document_that_is_refused(document: bytes | str, why: str) -> None:
    with pytest.raises(NotJson, match=why):
        read_json(document)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert read_json(b'"\\ud83d\\ude00"') == "😀"


def test_a_lenient_reader_leaves_nan_and_half_a_pair_to_its_caller() -> None:
    number, text = read_json(b'[NaN, "\\ud83d"]', lenient=True)
    assert number != number
    assert text == "\ud83d"
    with pytest.raises(NotJson):
        read_json(b"9" * 5_000, lenient=True)
