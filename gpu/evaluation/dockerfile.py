"""A model's Dockerfile, rewritten so that all that its build makes bears our labels and starts from a public image.

The classic builder labels only an image's last layer, and leaves the others behind when it is killed: so a LABEL
after every FROM. Rewritten means parsed into one instruction a line and written again, so that the builder cannot see
a FROM where we saw none (continuations, comments and the escape directive mean what we read in them, or nothing).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.untrusted import quoted, shown
from gpu.evaluation.contract import ModelFault, ModelFaultCode

LARGEST_DOCKERFILE: Final = 1 << 18
_LONGEST_LINE: Final = 60_000
_ESCAPE: Final = "\\"
_DIRECTIVE: Final = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*?)\s*")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)(?::([-+])([^}]*))?\}|(\w+))")
_HEREDOC: Final = re.compile(r"(?<!<)\d*<<-?(?!<)[\"']?[A-Za-z_]\w*[\"']?(?=$|[\s;&|>)])")
_LONGEST_REFERENCE: Final = 255
_LONGEST_WORD: Final = 4096
_LONGEST_NUMBER: Final = 6
_REFERENCE: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/@-]{{0,{_LONGEST_REFERENCE - 1}}}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continuation lines joined: ``FROM`` and ``python:3.11 AS base``."""

    word: str
    rest: str

    @property
    def flags(self) -> tuple[str, ...]:
        """The ``--name=value`` words before the arguments."""
        words = self.rest.split()
        return tuple(words[: next((i for i, word in enumerate(words) if not word.startswith("--")), len(words))])

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after the flags."""
        return tuple(self.rest.split()[len(self.flags) :])


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed Dockerfile. ``images`` are what it takes from outside, in order, as it names them."""

    escape: str
    instructions: tuple[Instruction, ...]
    images: tuple[str, ...]

    def rewritten(self, labels: Mapping[str, str], pinned: Mapping[str, str]) -> bytes:
        """The same build with ``labels`` on every stage and each image of ``images`` replaced by its pinned name.

        The model's own LABELs are left out: they could overwrite ours.
        """
        label = "LABEL " + " ".join(f'{key}="{value}"' for key, value in labels.items())
        lines = [] if self.escape == _ESCAPE else [f"# escape={self.escape}"]
        for instruction, image in _with_images(self.instructions):
            if instruction.word == "LABEL":
                continue
            rest = instruction.rest if image is None else _replaced(instruction, image, pinned)
            lines.append(f"{instruction.word} {rest}")
            if instruction.word == "FROM":
                lines.append(label)
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def parse(content: bytes) -> Dockerfile:
    """Read a Dockerfile as the classic builder does.

    Raises:
        ModelFault: it cannot be built here; the message names the line's first words and what to write instead.
    """
    if len(content) > LARGEST_DOCKERFILE:
        raise refused(f"it has {len(content)} bytes; at most {LARGEST_DOCKERFILE}")
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if "\0" in text:
        raise refused("it holds a NUL byte")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    escape = _escape(lines)
    instructions = tuple(_instruction(line, escape) for line in _logical(lines, escape))
    if not any(instruction.word == "FROM" for instruction in instructions):
        raise refused("it has no FROM")
    images = dict.fromkeys(image for _, image in _with_images(instructions) if image is not None)
    return Dockerfile(escape, instructions, tuple(images))


def refused(why: str) -> ModelFault:
    """The fault of a model whose Dockerfile is not built."""
    return ModelFault(ModelFaultCode.BUILD_FAILED, f"the Dockerfile is not built here: {why}")


def _escape(lines: Iterable[str]) -> str:
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if not found:
            break
        if found[1].lower() == "escape":
            if found[2] not in {_ESCAPE, "`"}:
                raise refused(f"its escape directive names {quoted(found[2], 20)}; only \\ and ` can be one")
            return found[2]
    return _ESCAPE


def _logical(lines: Iterable[str], escape: str) -> Iterable[str]:
    continued = re.compile(rf"(.*?)(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*", re.DOTALL)
    joined = ""
    within = False
    for line in lines:
        if line.lstrip().startswith("#") or (within and not line.strip()):
            continue
        if found := continued.fullmatch(line):
            joined, within = joined + found[1], True
            continue
        yield joined + line
        joined, within = "", False
    yield joined


def _instruction(line: str, escape: str) -> Instruction:
    line = line.strip()
    word, _, rest = line.replace("\t", " ", 1).partition(" ") if "\t" in line.split(" ", 1)[0] else line.partition(" ")
    instruction = Instruction(word.upper(), rest.strip())
    start = line[:60]
    if len(line) > _LONGEST_LINE:
        raise refused(f"an instruction is longer than {_LONGEST_LINE} characters ({quoted(start)})")
    if line.endswith(escape) or any(character in line for character in "\r\v\f"):
        raise refused(f"{quoted(start)} holds or ends with a character that continues a line")
    if instruction.word == "ONBUILD":
        raise refused(f"{quoted(start)}: ONBUILD has no use in a model's own image; write the instruction itself")
    if instruction.word in {"RUN", "COPY", "ADD"} and _HEREDOC.search(instruction.rest):
        raise refused(f"{quoted(start)}: here-documents need BuildKit; put the text into a file of the repository")
    if instruction.word == "ADD":
        _refuse_remote(instruction, start)
    return instruction


def _refuse_remote(instruction: Instruction, start: str) -> None:
    """The builder fetches an ADD's address from the host's own network, where a container's locks do not reach."""
    if any(character in argument for argument in instruction.arguments for character in ":$\\`"):
        raise refused(f"{quoted(start)}: ADD takes only files of the repository; fetch addresses with RUN, or use COPY")


def _with_images(instructions: Iterable[Instruction]) -> Iterable[tuple[Instruction, str | None]]:
    """Each instruction (blank ones left out), and the image from outside that it takes, variables replaced."""
    variables: dict[str, str] = {}
    stages: set[str] = set()
    count = 0
    for instruction in instructions:
        image = None
        if not instruction.word:
            continue
        if instruction.word == "ARG" and not count:
            _remember(instruction.rest, variables)
        elif instruction.word == "FROM":
            if not instruction.arguments:
                raise refused("a FROM names no image")
            name = _known(instruction.arguments[0], variables)
            if name.lower() not in stages and name != "scratch":
                image = _reference(name)
            if len(instruction.arguments) == 3 and instruction.arguments[1].upper() == "AS":
                stages.add(instruction.arguments[2].lower())
            elif len(instruction.arguments) != 1:
                raise refused(f"{quoted(f'FROM {instruction.rest}')} is neither 'FROM image' nor 'FROM image AS name'")
            count += 1
        elif not count:
            raise refused(f"{shown(instruction.word, 20)} stands before the first FROM")
        elif source := next((flag for flag in instruction.flags if flag.lower().startswith("--from=")), None):
            name = source.split("=", 1)[1]
            # a stage by its number; neither ² nor thousands of digits, which int() refuses
            numbered = name.isascii() and name.isdigit() and len(name) < _LONGEST_NUMBER and int(name) < count
            if not numbered and name.lower() not in stages:
                image = _reference(name)
        yield instruction, image


def _remember(rest: str, variables: dict[str, str]) -> None:
    """Put an ARG's defaults into ``variables``."""
    for part in rest.split():
        name, given, value = part.partition("=")
        if given and not any(quote in name for quote in "\"'"):
            variables[name] = _known(value.strip("\"'"), variables, strict=False)


def _known(name: str, variables: Mapping[str, str], *, strict: bool = True) -> str:
    def value(found: re.Match[str]) -> str:
        key, mode, other = found[1] or found[4], found[2], found[3] or ""
        known = variables.get(key, "")
        if mode == "+":
            return other if known else ""
        return known or (other if mode == "-" else "")

    if len(name) > _LONGEST_WORD:
        raise refused(f"{quoted(name, 60)} is longer than {_LONGEST_WORD} characters")
    # ARGs that double each other grow beyond all memory; a value cut here is still too long for an image's name
    replaced = _VARIABLE.sub(value, name.strip("\"'"))[: _LONGEST_REFERENCE + 1]
    if strict and not replaced:
        raise refused(f"FROM {shown(name, 60)} has no value: give its ARG a default before the first FROM")
    return replaced


def _reference(name: str) -> str:
    if not _REFERENCE.fullmatch(name):
        raise refused(f"{quoted(name)} is no name of an image")
    return name


def _replaced(instruction: Instruction, image: str, pinned: Mapping[str, str]) -> str:
    flags = [f"--from={pinned[image]}" if flag.lower().startswith("--from=") else flag for flag in instruction.flags]
    if instruction.word == "FROM":
        return " ".join([*flags, pinned[image], *instruction.arguments[1:]])
    # what follows the flags stays as it is: blanks count in the exec form's strings
    rest = instruction.rest
    for flag in instruction.flags:
        rest = rest.split(flag, 1)[1]
    return " ".join([*flags, rest.strip()])
