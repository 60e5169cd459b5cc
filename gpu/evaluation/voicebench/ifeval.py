"""Does an answer follow the instructions in the question? IFEval's checks, as lm-eval keeps them."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gpu.evaluation.contract import Deadline, EvaluationImpossible
from gpu.evaluation.voicebench.dataset import Sample
from gpu.evaluation.voicebench.evaluator import Answered, SetVerdict, accuracy

_PUNKT: Final = "tokenizers/punkt_tab/english/"
_SEED: Final = 0


class InstructionFollowing:
    """The mean of four accuracies, VoiceBench's ``final``: prompts and instructions, strict and loose.

    Strict judges the answer as it is; loose also without first line, last line and asterisks. A prompt is followed
    where all its instructions are. ``nltk_data`` is a folder where NLTK looks besides its own.
    """

    def __init__(self, nltk_data: Path | None = None) -> None:
        self._nltk_data = nltk_data

    def check(self) -> None:
        """See ``Evaluator.check``."""
        self._checks()

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Import the checks, and look whether each instruction is known and complete.

        Raises:
            EvaluationImpossible: NLTK's punkt_tab is not on this machine (nothing is downloaded), or the data set asks
                for a check that does not exist.
        """
        checks = self._checks()
        for sample in samples:
            unknown = set(sample.instructions) - set(checks.instructions_registry.INSTRUCTION_DICT)
            if unknown:
                raise EvaluationImpossible(
                    f"{sample.id}: no check for {', '.join(sorted(unknown))}; is lm-eval as new as the data set?"
                )
            if not sample.instructions:
                raise EvaluationImpossible(f"{sample.id}: has no instructions to check")
            for instruction, arguments in zip(sample.instructions, sample.arguments, strict=True):
                try:
                    with _fixed_chance():
                        checks.test_instruction_following_strict(
                            _example(checks, sample, instruction, arguments), "An answer."
                        )
                except (LookupError, TypeError, ValueError) as error:
                    raise EvaluationImpossible(f"{sample.id}: {instruction} with {arguments}: {error}") from error

    def evaluate(self, answers: Sequence[Answered], deadline: Deadline) -> SetVerdict:
        """The verdict is ``{"strict": [true, …], "loose": [true, …]}``, one for each instruction.

        Raises:
            ModelFault: the deadline is over: answers can be made to slow the checks down.
        """
        verdicts = []
        for answer in answers:
            deadline.check("checking whether the model's answers follow their instructions")
            verdicts.append(self._verdict(answer))
        details: dict[str, float] = {}
        for kind in ("strict", "loose"):
            lists = [verdict[kind] for verdict in verdicts]
            details[f"{kind}_prompt"] = accuracy([all(one) for one in lists])
            details[f"{kind}_instruction"] = accuracy([followed for one in lists for followed in one])
        return SetVerdict(sum(details.values()) / len(details), tuple(verdicts), details)

    def _verdict(self, answer: Answered) -> Mapping[str, list[bool]]:
        checks = self._checks()
        verdict: dict[str, list[bool]] = {"strict": [], "loose": []}
        text = _bare(answer.text)
        for instruction, arguments in zip(answer.sample.instructions, answer.sample.arguments, strict=True):
            one = _example(checks, answer.sample, instruction, arguments)
            strict = _followed(checks.test_instruction_following_strict, one, text)
            verdict["strict"].append(strict)
            # what is followed strictly is the first of the loose readings
            verdict["loose"].append(strict or _followed(checks.test_instruction_following_loose, one, text))
        return verdict

    def _checks(self) -> Any:
        """lm-eval's module of checks. Importing it would download punkt_tab, so that must be there before."""
        import nltk

        if self._nltk_data is not None and str(self._nltk_data) not in nltk.data.path:
            nltk.data.path.insert(0, str(self._nltk_data))
        try:
            nltk.data.find(_PUNKT)
        except LookupError:
            raise EvaluationImpossible(
                "IFEval needs NLTK's punkt_tab: run 'python -m nltk.downloader -d FOLDER punkt_tab' on a machine with "
                "network and set NLTK_DATA=FOLDER"
            ) from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            import langdetect
            from lm_eval.tasks.ifeval import utils

        langdetect.DetectorFactory.seed = _SEED
        # it logs whole answers where no language can be detected
        logging.getLogger("lm_eval.tasks.ifeval").setLevel(logging.CRITICAL)
        return utils


def _example(checks: Any, sample: Sample, instruction: str, arguments: Mapping[str, Any]) -> Any:
    return checks.InputExample(
        key=sample.row, instruction_id_list=[instruction], prompt=sample.prompt, kwargs=[dict(arguments)]
    )


def _bare(text: str) -> str:
    """Without the speaker tokens that some models leave in, as VoiceBench takes them off."""
    for token in ("<1>", "<2>", "<3>"):
        text = text.removeprefix(token)
    return text.removesuffix("<|user|>").strip()


def _followed(check: Any, example: Any, text: str) -> bool:
    """One check's verdict; an answer that makes the check itself stumble does not follow."""
    try:
        with _fixed_chance():
            return bool(check(example, text).follow_all_instructions)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return False


@contextmanager
def _fixed_chance() -> Iterator[None]:
    """The checks draw what a data set leaves out; every validator must draw the same."""
    before = random.getstate()
    random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(before)
