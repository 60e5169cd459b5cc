"""The steps of a nanobody's validation that need a program or package of their own, and what they find."""

from __future__ import annotations

from app.domain import ValidatorError


class StepUnavailable(ValidatorError):
    """This validator cannot run a step of the nanobody track; nothing may be concluded about any sequence."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"the nanobody track cannot be judged here, step '{step}': {reason}")
        self.step = step
