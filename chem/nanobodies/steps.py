"""The steps of a nanobody's validation that need a program or package of their own."""

from __future__ import annotations

from typing import Final

from app.domain import ValidatorError

CONTROL: Final = (
    "QVQLVESGGGLVQAGGSLRLSCAASGRTFSSYAMGWFRQAPGKEREFVAAISWSGGSTYYADSVKGRFTISRDNAKNTVYLQMNSLKPEDTAVYYC"
    "AADSTIYASYYECGHGLSTGGYGYDSWGQGTQVTVSS"
)
"""A typical nanobody. A program that fails on it is broken; one that fails on another sequence only, is not."""


class StepUnavailable(ValidatorError):
    """This validator cannot run a step of the nanobody track; nothing may be concluded about any sequence."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"the nanobody track cannot be judged here, step '{step}': {reason}")
        self.step = step
        self.reason = reason
