"""The rewritten Dockerfile: every stage labelled, every image pinned, nothing of the miner's to hide behind."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu.evaluation.contract import ModelFault, ModelFaultCode
from gpu.evaluation.dockerfile import LARGEST_DOCKERFILE, parse

LABELS = {"celery-validator.node": "n1", "celery-validator.evaluation": "e1"}
LABEL = 'LABEL celery-validator.node="n1" celery-validator.evaluation="e1"'


def rewritten(text: str | bytes, **pinned: str) -> list[str]:
    parsed = parse(text.encode() if isinstance(text, str) else text)
    known = {name: f"pinned/{number}" for number, name in enumerate(parsed.images)} | pinned
    return parsed.rewritten(LABELS, known).decode().removeprefix("# escape=`\n").splitlines()


def test_a_label_follows_every_from() -> None:
    text = "FROM a AS one\nRUN x\nfrom b\nCOPY --from=one /x /y\nFrom one\nCMD z\n"
    assert rewritten(text) == [
        "FROM pinned/0 AS one", LABEL, "RUN x",
        "FROM pinned/1", LABEL, "COPY --from=one /x /y",
        "FROM one", LABEL, "CMD z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a\nRUN x \\\n  y \\\n# a remark\n\n  z\n", ["RUN x   y   z"]),
        ("FROM a\r\nRUN x \\\r\n y\r\n", ["RUN x  y"]),
        ("FR\\\nOM a\nRUN x\n", ["RUN x"]),
        ("# escape=`\nFROM a\nRUN x `\n y\nRUN c:\\\\dir\n", ["RUN x  y", "RUN c:\\\\dir"]),
        ("# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN x `\n y\n", ["RUN x  y"]),
        ("# a remark\n# escape=`\nFROM a\nRUN x \\\n y\n", ["RUN x  y"]),
        ("\ufeffFROM a\nRUN x\n", ["RUN x"]),
        ("FROM\ta\nRUN\tx\n", ["RUN x"]),
        ("FROM a\n   RUN x  \n", ["RUN x"]),
        ("FROM a\nRUN x \\", ["RUN x"]),
        ("FROM a \\\n\n# FROM b\nRUN x\n", None),
        ('FROM a\nLABEL celery-validator.node=other "celery-validator.evaluation"=x\nRUN x\n', ["RUN x"]),
        ("FROM a\nlabel x=y\nRUN x <<<word\n", ["RUN x <<<word"]),
        ('FROM a\nCOPY --chown=1:1 ["a  b", "/c"]\n', ['COPY --chown=1:1 ["a  b", "/c"]']),
        ("FROM a\nADD --chown=1:1 model.tar /x\n", ["ADD --chown=1:1 model.tar /x"]),
    ],
)
def test_one_instruction_a_line_as_the_builder_reads_them(text: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ModelFault, match="neither 'FROM image'"):
            parse(text.encode())
        return
    assert rewritten(text) == ["FROM pinned/0", LABEL, *expected]


def test_the_escape_directive_is_kept() -> None:
    assert parse(b"# escape=`\nFROM a\n").rewritten(LABELS, {"a": "b"}).splitlines()[0] == b"# escape=`"
    assert parse(b"FROM a\n").rewritten(LABELS, {"a": "b"}).splitlines()[0] == b"FROM b"


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("FROM python:3.11-slim\n", ("python:3.11-slim",)),
        ("ARG TAG=3.11\nARG BASE=python:${TAG}\nFROM $BASE\n", ("python:3.11",)),
        ("ARG T\nFROM python:${T:-3.12}\n", ("python:3.12",)),
        ('ARG B="a/b:1"\nFROM --platform=linux/amd64 ${B} AS x\nFROM x\n', ("a/b:1",)),
        ("FROM scratch\nCOPY --from=nginx:latest /a /b\n", ("nginx:latest",)),
        ("FROM a AS One\nFROM scratch\nCOPY --from=one /a /b\nCOPY --from=0 /a /b\n", ("a",)),
        ("FROM scratch\nCOPY --from=7 /a /b\n", ("7",)),
        ("FROM a@sha256:" + "0" * 64 + "\n", ("a@sha256:" + "0" * 64,)),
    ],
)
def test_images_from_outside_are_named_and_replaced(text: str, images: tuple[str, ...]) -> None:
    assert parse(text.encode()).images == images
    lines = rewritten(text)
    for number, _ in enumerate(images):
        assert any(f"pinned/{number}" in line for line in lines)
    for image in images:
        assert not any(line.startswith("FROM") and image in line.split() for line in lines)
        assert not any(f"--from={image}" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM"),
        ("RUN x\nFROM a\n", "before the first FROM"),
        ("FROM $NOTHING\n", "has no value"),
        ("FROM a b c d\n", "neither"),
        ("FROM 'a b'\n", "neither"),
        ("FROM a;b\n", "no name of an image"),
        ("FROM a\nONBUILD ADD http://x /y\n", "ONBUILD"),
        ("FROM a\nRUN cat <<EOF > /x\nFROM b\nEOF\n", "here-documents"),
        ("FROM a\nRUN <<-'E'\nx\nE\n", "here-documents"),
        ("FROM a\nADD http://169.254.169.254/latest /x\n", "ADD"),
        ('FROM a\nADD h"ttp:"//169.254.169.254/latest /x\n', "ADD"),
        ("FROM a\nARG U=http://169.254.169.254\nADD $U /x\n", "ADD"),
        ('FROM a\nADD ["http\\u003a//169.254.169.254", "/x"]\n', "ADD"),
        ("FROM a\nADD git@example.org:x/y /x\n", "ADD"),
        ("FROM a\nRUN x \\\\\nFROM b\n", "continues a line"),
        ("FROM a\nRUN x\rFROM b\n", "continues a line"),
        ("FROM a\nRUN \0\n", "NUL"),
        ("# escape=x\nFROM a\n", "escape directive"),
        ("FROM a\nRUN " + "x" * 70_000, "longer than"),
        ("FROM a\n" + "#" * LARGEST_DOCKERFILE, "at most"),
    ],
)
def test_what_cannot_be_checked_is_not_built(text: str, message: str) -> None:
    with pytest.raises(ModelFault, match=message) as raised:
        parse(text.encode())
    assert raised.value.code is ModelFaultCode.BUILD_FAILED


@given(
    st.lists(
        st.sampled_from(
            [
                "FROM a",
                "FROM b AS c",
                "from c",
                "RUN x",
                "RUN y \\",
                "# FROM d",
                "",
                "  ",
                "COPY . /",
                "LABEL z=1",
                "\\",
            ]
        ),
        max_size=12,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_no_stage_is_without_its_label(lines: list[str], end: str) -> None:
    try:
        found = rewritten(end.join(lines))
    except ModelFault:
        return
    for line, following in zip(found, [*found[1:], ""], strict=True):
        assert (line.split()[0].upper() == "FROM") == (following == LABEL)
        assert not line.startswith("#")
        assert not line.rstrip().endswith("\\")


@pytest.mark.parametrize("doublings", [20, 28, 300])
def test_args_that_double_each_other_do_not_grow(doublings: int) -> None:
    lines = ["ARG A0=aaaaaaaa", *(f"ARG A{i + 1}=$A{i}$A{i}" for i in range(doublings)), f"FROM $A{doublings}"]
    tracemalloc.start()
    try:
        with pytest.raises(ModelFault, match="is no name of an image") as caught:
            parse("\n".join(lines).encode())
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content",
    [b"FROM \xff\xfe\n", b"FROM a\nONBUILD \xff\n", b"\xff x\n", b"FROM a \xff b c\n", b"FROM a\nADD http://\xff /\n",
     b"# escape=\xff\nFROM a\n", b"FROM ${A:-\xff}\n", b"FROM a\nRUN \x1b[2J \x0b x\n",
     b"FROM a\nCOPY --from=" + b"9" * 5000 + b" /a /b\n", "FROM a\nCOPY --from=² /a /b\n".encode(),
     b"FROM " + b"a" * 5000 + b"\n"],
)  # fmt: skip
def test_a_refusal_can_be_stored_and_printed(content: bytes) -> None:
    with pytest.raises(ModelFault) as caught:
        parse(content)
    assert str(caught.value).isprintable()
    assert len(str(caught.value).encode()) < 400
