"""Which questions a model is asked, and how they sound (``hlt-lab/voicebench``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gpu.evaluation.contract import EvaluationImpossible
from gpu.evaluation.datasets_hub import SPLIT, DataSource, chosen_rows, column
from gpu.evaluation.model_client import Waveform
from gpu.evaluation.sound import decoded

# which evaluator judges a set (VoiceBench's task types)
EVALUATOR_OF: Final[Mapping[str, str]] = {
    "alpacaeval": "open",
    "alpacaeval_full": "open",
    "commoneval": "open",
    "wildvoice": "open",
    "advbench": "harm",
    "ifeval": "ifeval",
    "openbookqa": "mcq",
    "mmsu": "mcq",
    "bbh": "bbh",
}

_PLAN: Final = re.compile(r"(?P<set>[a-z_]+)(?:/(?P<split>[A-Za-z_]+))?:(?P<size>[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class SetPlan:
    """One set of the benchmark: its name, how many of its samples are asked, and of which split."""

    name: str
    size: int
    split: str = SPLIT

    @property
    def label(self) -> str:
        """``name``, or ``name/split`` where the split is not ``test``."""
        return self.name if self.split == SPLIT else f"{self.name}/{self.split}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question. ``row`` is its place in the set; what a set does not have is None or empty."""

    plan: SetPlan
    row: int
    prompt: str
    reference: str | None = None
    task: str | None = None
    instructions: tuple[str, ...] = ()
    arguments: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def id(self) -> str:
        """``set/row``, for reports."""
        return f"{self.plan.label}/{self.row}"


def planned_sets(text: str) -> tuple[SetPlan, ...]:
    """The sets that ``VOICEBENCH_SETS`` names: ``commoneval:50,mmsu/physics:20``.

    Raises:
        EvaluationImpossible: naming the part that cannot be read, or a set without an evaluator, or one named twice.
    """
    plans = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _PLAN.fullmatch(part)
        if match is None:
            raise EvaluationImpossible(f"VOICEBENCH_SETS: {part!r} is not SET:SIZE or SET/SPLIT:SIZE")
        if match["set"] not in EVALUATOR_OF:
            known = ", ".join(sorted(EVALUATOR_OF))
            raise EvaluationImpossible(f"VOICEBENCH_SETS: no evaluator for {match['set']!r}; there are {known}")
        plans.append(SetPlan(match["set"], int(match["size"]), match["split"] or SPLIT))
    if not plans:
        raise EvaluationImpossible("VOICEBENCH_SETS: names no set; 'commoneval:50' is one")
    if len({plan.label for plan in plans}) < len(plans):
        raise EvaluationImpossible("VOICEBENCH_SETS: names a set twice")
    return tuple(plans)


class VoiceDataset:
    """The planned sets' samples; their sound is read from the cache one at a time."""

    def __init__(self, source: DataSource, plans: Sequence[SetPlan], seed: str) -> None:
        self.source = source
        self._plans = tuple(plans)
        self._seed = seed
        self._tables: dict[SetPlan, Any] = {}

    @property
    def plans(self) -> tuple[SetPlan, ...]:
        """The sets, in the order asked."""
        return self._plans

    def samples(self) -> tuple[Sample, ...]:
        """The chosen samples of all sets, set by set, rows ascending.

        Raises:
            EvaluationImpossible: a set cannot be loaded, is empty, or lacks a column.
        """
        return tuple(sample for plan in self._plans for sample in self._samples(plan))

    def wave(self, sample: Sample) -> Waveform:
        """How the question sounds: shape ``(T,)``, 16 kHz.

        Raises:
            EvaluationImpossible: the audio is missing or cannot be decoded.
        """
        audio = self._table(sample.plan)[sample.row]["audio"]
        if not isinstance(audio, Mapping) or not audio.get("bytes"):
            raise EvaluationImpossible(f"{self.source.place}, {sample.id}: there is no audio; download the data again")
        return decoded(audio["bytes"], f"{self.source.place}, {sample.id}")

    def _table(self, plan: SetPlan) -> Any:
        if plan not in self._tables:
            from datasets import Audio

            table = self.source.load(plan.name, plan.split)
            if "audio" not in table.column_names:
                raise EvaluationImpossible(f"{self.source.place}, {plan.label}: there is no column 'audio'")
            # decoded here, with soundfile: the library's own decoder needs torchcodec
            self._tables[plan] = table.cast_column("audio", Audio(decode=False))
        return self._tables[plan]

    def _samples(self, plan: SetPlan) -> tuple[Sample, ...]:
        table = self._table(plan)
        if not len(table):
            raise EvaluationImpossible(f"{self.source.place}, {plan.label}: the set is empty")
        rows = chosen_rows(self._seed, plan.label, len(table), plan.size)
        # without the sound: all the questions' audio at once would be gigabytes
        words = table.remove_columns("audio").select(rows)
        return tuple(self._sample(plan, row, words[place]) for place, row in enumerate(rows))

    def _sample(self, plan: SetPlan, row: int, words: Mapping[str, Any]) -> Sample:
        place = f"{self.source.place}, {plan.label}"
        prompt = str(column(words, "prompt", place))
        match EVALUATOR_OF[plan.name]:
            case "mcq":
                return Sample(plan, row, prompt, reference=_reference(words, place))
            case "bbh":
                task = str(column(words, "id", place))
                return Sample(plan, row, prompt, reference=_reference(words, place), task=task)
            case "ifeval":
                arguments = column(words, "kwargs", place)
                instructions = tuple(column(words, "instruction_id_list", place))
                if len(arguments) != len(instructions):
                    raise EvaluationImpossible(f"{place}, row {row}: not one kwargs for each instruction")
                return Sample(plan, row, prompt, instructions=instructions, arguments=tuple(arguments))
        return Sample(plan, row, prompt)


def _reference(words: Mapping[str, Any], place: str) -> str:
    return str(words["reference"] if "reference" in words else column(words, "output", place)).strip()
