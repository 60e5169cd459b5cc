"""What a competition's models are judged by: a benchmark's name, and its parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.domain import ValidatorError
from app.untrusted import quoted

Seconds = Annotated[float, Field(gt=0, le=7200)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]


class UnknownBenchmark(ValidatorError):
    """No benchmark has this name, or one of its parameters is wrong; the message says what there is."""


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CaptionParameters(_Parameters):
    """``answer_limit`` in seconds for one caption; ``samples`` videos are asked. Unset: the node's settings."""

    samples: int | None = Field(None, ge=1, le=1024)
    answer_limit: Seconds | None = None


class VoiceBenchParameters(_Parameters):
    """``sets`` as VOICEBENCH_SETS spells them; ``set_weights`` by set, 1 where a set has none."""

    sets: str | None = None
    set_weights: Mapping[str, Weight] = Field(default_factory=dict)
    answer_limit: Seconds | None = None

    @field_validator("set_weights", mode="before")
    @classmethod
    def _as_typed(cls, given: object) -> object:
        """``commoneval:2,ifeval:1.5``, as on the command line, or a mapping."""
        if not isinstance(given, str):
            return given
        return {name.strip(): weight for name, _, weight in (part.partition(":") for part in given.split(","))}


class SpokenParameters(VoiceBenchParameters):
    """``voice_share`` of the score is the voice's; ``speech_answer_limit`` in seconds for one spoken answer."""

    voice_share: Share = 0.3
    speech_answer_limit: Seconds | None = None


class SampledVoiceParameters(SpokenParameters):
    """``spoken_samples`` of each set are asked once more, in speech, for their voice alone."""

    spoken_samples: int = Field(2, ge=1, le=1000)


Parameters = CaptionParameters | VoiceBenchParameters

# benchmark → its parameters' class
BENCHMARKS: Final[Mapping[str, type[Parameters]]] = {
    "voicebench": VoiceBenchParameters,
    "voicebench+mos": SampledVoiceParameters,
    "v2v": SpokenParameters,
    "o1": CaptionParameters,
}


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """A benchmark by name with its parameters as they were given, plain JSON."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The name, and the parameters where there are any: two plans are equal where their texts are."""
        return f"{self.name} {json.dumps(dict(self.given), sort_keys=True)}" if self.given else self.name

    def parameters(self) -> Parameters:
        """The parameters, checked.

        Raises:
            UnknownBenchmark: no such benchmark, or a parameter that it does not have or take.
        """
        kind = BENCHMARKS.get(self.name)
        if kind is None:
            known = ", ".join(sorted(BENCHMARKS))
            raise UnknownBenchmark(f"there is no benchmark {quoted(self.name)}; there are {known}")
        try:
            return kind.model_validate(dict(self.given))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            known = ", ".join(sorted(kind.model_fields))
            raise UnknownBenchmark(
                f"benchmark {self.name}: parameter {quoted(where)}: {first['msg']}; it has {known}"
            ) from None
