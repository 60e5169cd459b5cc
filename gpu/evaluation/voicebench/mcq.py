"""Multiple choice (openbookqa, mmsu): which of A to D does the answer choose?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gpu.evaluation.contract import Deadline
from gpu.evaluation.voicebench.dataset import Sample
from gpu.evaluation.voicebench.evaluator import Answered, SetVerdict, accuracy

# around a letter: bold, brackets, quotes, TeX
_OPEN: Final = r"(?:[\s*_\"'“‘(\[{$:]|option|choice|answer|\\\(|\\boxed|\\text(?:bf)?|\\mathbf)*"
_CHOICE: Final = r"(?P<choice>[A-D])(?![A-Za-z0-9'’])"

# from the most to the least explicit; the first that matches decides
_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # the whole answer
        rf"\A{_OPEN}{_CHOICE}[\s*_\"'”’)\]}}$.,:;!]*\Z",
        # "the correct answer is …", "the best option would be …"
        r"\b(?:answer|option|choice|one)\b[^.\n?!]{0,60}?\b(?:is|be|was)\b(?:\s+(?:likely|most|probably|therefore|"
        rf"typically|definitely|clearly|to|the|letter))*[\s:]{_OPEN}{_CHOICE}",
        rf"答案(?:应该|就)?[是选]?\s*(?:选项)?\s*{_OPEN}{_CHOICE}",
        # "I would choose …"
        rf"\b(?:choose|select|pick|say|go\s+(?:with|for))\s+{_OPEN}{_CHOICE}",
        # "B is the best answer"
        r"\b(?P<choice>[A-D])[\s*_\"'”’)\]]+(?:is|would\s+be)\s+(?:the\s+)?(?:most\s+)?(?:correct|right|best|appropriate)",
        rf"\\boxed{_OPEN}{_CHOICE}",
        # "B. because …" at the beginning
        rf"\A{_OPEN}{_CHOICE}\s*[*_]*[.,:)\]]",
        r"\boption\s+[\s*_\"'“‘(\[]*(?P<choice>[A-D])(?![A-Za-z0-9'’])",
        # a letter marked as one
        r"(?:\*\*|[(\"'“])(?P<choice>[A-D])(?:\*\*|[)\"'”.:,])",
        r"(?:\A|[\s:])(?P<choice>[B-D])[.,:)]",
        r"(?:\A|[\s:])(?P<choice>A)[:)]",
    )
)
_NEGATED: Final = re.compile(r"\b(?:not|isn['’]t|n['’]t)\s*[*_\"'“(]*\Z", re.IGNORECASE)


def chosen_letter(answer: str) -> str | None:
    """The letter A to D that the answer gives as its choice; None where it gives none."""
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\A<[123]>", "", answer.strip()))
    text = re.sub(r" ?\n[ \n]*", "\n", text)
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            if not _NEGATED.search(text[max(0, match.start("choice") - 16) : match.start("choice")]):
                return match["choice"].upper()
    return None


class MultipleChoice:
    """Accuracy. An answer without a choice is wrong; VoiceBench guesses there, which no two validators would repeat."""

    def check(self) -> None:
        """Nothing is needed."""

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing is needed."""

    def evaluate(self, answers: Sequence[Answered], deadline: Deadline) -> SetVerdict:
        """The verdict is ``{"choice": "B", "correct": true}``."""
        choices = [chosen_letter(answer.text) for answer in answers]
        right = [
            choice is not None and choice == (answer.sample.reference or "").strip("() .").upper()
            for choice, answer in zip(choices, answers, strict=True)
        ]
        return SetVerdict(
            score=accuracy(right),
            verdicts=tuple({"choice": choice, "correct": one} for choice, one in zip(choices, right, strict=True)),
            details={"accuracy": accuracy(right), "without_choice": choices.count(None)},
        )
