"""A commitment's text as a model's identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import ModelId
from chain.model_metadata import UnreadableMetadata, is_old_enough, parse_model_id


def test_a_full_commitment_is_read_and_written_back() -> None:
    text = "omega-labs:voice_1.5:3:0a1b2c:h4sh=:voicebench"
    model = parse_model_id(text)
    assert model == ModelId("omega-labs", "voice_1.5", "3", "0a1b2c", "h4sh=", "voicebench")
    assert (model.text, model.repository) == (text, "omega-labs/voice_1.5")


def test_none_stands_for_an_absent_field() -> None:
    model = parse_model_id("a:b:None:None:None:v1")
    assert (model.epoch, model.commit, model.hash) == (None, None, None)
    assert model.text == "a:b:None:None:None:v1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:b:c:d:e", "5 fields"),
        ("a:b:c:d:e:f:g", "7 fields"),
        ("", "1 fields"),
        ("a:b:1:2:3:None", "no competition"),
        ("None:b:1:2:3:v1", "no repository"),
        ("../x:b:1:2:3:v1", "namespace"),
        ("a:..:1:2:3:v1", "model name"),
        ("a:b--c:1:2:3:v1", "model name"),
        ("a:b/c:1:2:3:v1", "model name"),
        ("a:b:1:-rf:3:v1", "revision"),
        ("a:b:1:../..:3:v1", "revision"),
        ("a:b:1:2:3:v 1", "competition"),
        ("a:b\x00:1:2:3:v1", "model name"),
        ("a:" + "b" * 130 + ":1:2:3:v1", "128"),
        ("é" * 70 + ":b:1:2:3:v1", "128"),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    with pytest.raises(UnreadableMetadata, match=problem):
        parse_model_id(text)


@given(st.text(max_size=140))
def test_any_text_is_a_model_or_a_sentence(text: str) -> None:
    outcome: ModelId | str
    try:
        outcome = parse_model_id(text)
    except UnreadableMetadata as error:
        outcome = str(error)
    assert outcome.text == text.replace("::", ":None:") if isinstance(outcome, ModelId) else outcome.isprintable()


def test_a_model_must_be_older_than_the_minimum() -> None:
    assert not is_old_enough(100, 110, 120)
    assert is_old_enough(100, 111, 120)
    assert not is_old_enough(100, 100, 0)
