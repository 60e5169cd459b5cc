"""Rule sets: which rules a file names, with which parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from app.epochs.result import report_pieces
from app.epochs.rules.document import RulesError, parameters_from, read_document
from app.epochs.rules.october_2025 import October2025
from app.epochs.rules.october_2025 import Parameters as October2025Parameters
from app.epochs.rules.rule_set import RuleSet
from app.store.records import EpochSummary, OpenEpoch, SubmissionRecord
from app.untrusted import quoted

__all__ = ["RuleSet", "RulesError", "build_report", "parse_rules", "rules_of", "rules_sha256"]

ERAS: Final = {October2025.era: October2025}


def rules_sha256(text: str) -> str:
    """The identity of a rules file: SHA-256 of its bytes, as kept in ``result.json``."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_rules(text: str, origin: str = "rules.yaml") -> RuleSet:
    """The rule set that a file names with ``era:``; October 2025 where it names none.

    Raises:
        RulesError: not YAML, an unknown era or key, or a value of the wrong kind; names ``origin`` and each key.
    """
    document = read_document(text, origin)
    era = document.get("era", October2025.era)
    if era not in ERAS:
        raise RulesError(f"{origin}: era: {quoted(era, 60)} is unknown; the eras are {', '.join(ERAS)}")
    return October2025(parameters_from(October2025Parameters, document, origin))


@lru_cache(maxsize=16)
def _parsed(text: str, origin: str) -> RuleSet:
    return parse_rules(text, origin)


def rules_of(epoch: OpenEpoch) -> RuleSet:
    """The rules that an epoch was opened with."""
    return _parsed(epoch.rules_text, f"the rules stored with epoch {epoch.id}")


def build_report(
    epoch: OpenEpoch, summary: EpochSummary, submissions: Sequence[SubmissionRecord], warnings: Sequence[str]
) -> dict[str, Any]:
    """``result.json`` of one closed epoch, as its rule set writes it."""
    return rules_of(epoch).report(epoch, summary, submissions, warnings)


def written_report(
    epoch: OpenEpoch, summary: EpochSummary, submissions: Iterable[SubmissionRecord], warnings: Sequence[str]
) -> Iterator[str]:
    """The text of :func:`build_report` in pieces, with one submission in memory at a time."""
    rules = rules_of(epoch)
    entries = (rules.report(epoch, summary, (one,), ())["submissions"][0] for one in submissions)
    yield from report_pieces(rules.report(epoch, summary, (), warnings), entries)
