"""Two-way reasoning questions (bbh: sports_understanding, navigate, web_of_lies, hyperbaton): yes or no, (a) or (b)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gpu.evaluation.contract import Deadline, EvaluationImpossible
from gpu.evaluation.voicebench.dataset import Sample
from gpu.evaluation.voicebench.evaluator import Answered, SetVerdict, accuracy

_TRUTH: Final = {"yes": True, "no": False, "(a)": False, "(b)": True, "a": False, "b": True}
_NOISE: Final = re.compile(r"<\|[a-z_]+\|>|\A<[123]>|[*_\"“”.,:;!?()\[\]：-]+")
_LETTER_TASK: Final = "hyperbaton"

_NOT: Final = r"(?:not|n't|no longer|never)"
_STATED_WORD: Final = re.compile(r"\b(?:answer|verdict|conclusion) (?:\w+ ){0,4}?(yes|no)\b")
_STATED_LETTER: Final = re.compile(
    r"\b(?:answer|option|sentence|order|one|choice) (?:\w+ ){0,6}?(?:is|be) (?:in )?(?:option |sentence |the )*([ab])\b"
)
_LETTER_PRAISED: Final = re.compile(
    r"\b(?:option|sentence) ([ab]) (?:is|has|follows|uses|would be|seems|correctly)\b(?! (?:in|less|not)\w*\b)"
)
_LETTER_NAMED: Final = re.compile(r"\b(?:option|sentence) ([ab])\b")

# what an answer says instead of yes or no, by task: (pattern of no, pattern of yes); no is looked for first
_PARAPHRASES: Final = {
    "sports_understanding": (
        re.compile(
            rf"\b(?:implausible|unlikely|impossible)|{_NOT} (?:\w+ ){{0,3}}?(?:plausible|possible|accurate|true)"
        ),
        re.compile(r"\b(?:plausible|possible|likely true)\b"),
    ),
    "navigate": (
        re.compile(rf"\b(?:do|does|did|will|would|are|is) ?{_NOT} (?:\w+ ){{0,4}}?(?:return|back|at the start)"),
        re.compile(r"\b(?:return|back (?:at|to|where)|at the start)"),
    ),
    "web_of_lies": (
        re.compile(rf"\b(?:lies|lying|liar|(?:does|is) ?{_NOT} (?:\w+ )?tell(?:ing|s)? the truth)\b"),
        re.compile(r"\btell(?:s|ing)? the truth|\btruthful\b"),
    ),
}


def binary_answer(answer: str, task: str) -> bool | None:
    """What the answer says to the question of this task: True for yes or (b), False for no or (a), None for neither.

    A stated answer counts most, then the first word, the last word, and last a paraphrase.
    """
    text = " ".join(_NOISE.sub(" ", answer.lower().replace("\u2019", "'")).split())
    words = text.split()
    if _LETTER_TASK in task:
        return _letter(text, words)
    if stated := _STATED_WORD.findall(text):
        return bool(stated[-1] == "yes")
    for word in (words[:1], words[-1:]):
        if word and word[0] in {"yes", "no"}:
            return word[0] == "yes"
    for name, (no, yes) in _PARAPHRASES.items():
        if name in task:
            return False if no.search(text) else True if yes.search(text) else None
    return None


def _letter(text: str, words: list[str]) -> bool | None:
    if len(words) == 1 and words[0] in {"a", "b"}:
        return words[0] == "b"
    for pattern in (_STATED_LETTER, _LETTER_PRAISED, _LETTER_NAMED):
        if found := pattern.findall(text):
            return bool(found[-1] == "b")
    return words[-1] == "b" if words[-1:] and words[-1] in {"a", "b"} else None


class TwoWay:
    """Accuracy. An answer that says neither is wrong; VoiceBench guesses there."""

    def check(self) -> None:
        """Nothing is needed."""

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Look at the references.

        Raises:
            EvaluationImpossible: one is neither yes, no, (a) nor (b).
        """
        for sample in samples:
            _expected(sample)

    def evaluate(self, answers: Sequence[Answered], deadline: Deadline) -> SetVerdict:
        """The verdict is ``{"answer": true, "correct": true}``."""
        said = [binary_answer(answer.text, answer.sample.task or "") for answer in answers]
        right = [one is _expected(answer.sample) for one, answer in zip(said, answers, strict=True)]
        return SetVerdict(
            score=accuracy(right),
            verdicts=tuple({"answer": one, "correct": ok} for one, ok in zip(said, right, strict=True)),
            details={"accuracy": accuracy(right), "without_answer": said.count(None)},
        )


def _expected(sample: Sample) -> bool:
    reference = (sample.reference or "").strip().lower()
    if reference not in _TRUTH:
        raise EvaluationImpossible(f"{sample.id}: its reference {sample.reference!r} is neither yes, no, (a) nor (b)")
    return _TRUTH[reference]
