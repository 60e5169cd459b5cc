"""Rule sets: which rules a file names, with which parameters."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from app.epochs.result import report_pieces
from app.epochs.rules.august_2026 import August2026
from app.epochs.rules.august_2026_parameters import Parameters as August2026Parameters
from app.epochs.rules.document import RulesError, parameters_from, read_document
from app.epochs.rules.october_2025 import October2025
from app.epochs.rules.october_2025 import Parameters as October2025Parameters
from app.epochs.rules.rule_set import RuleSet
from app.store.records import EpochSummary, OpenEpoch, SubmissionRecord
from app.untrusted import quoted

__all__ = ["RuleSet", "RulesError", "build_report", "parse_rules", "rdkit_difference", "rules_of", "rules_sha256"]

ERAS: Final = (October2025.era, August2026.era)

# Sections that only the subnet's configuration file of 2026 has; it names no era itself.
_OF_2026: Final = frozenset(
    {"payout", "molecule_requirements", "boltz2_config", "nanobody_requirements", "boltzgen_config"}
)


def rules_sha256(text: str) -> str:
    """The identity of a rules file: SHA-256 of its bytes, as kept in ``result.json``."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_rules(text: str, origin: str = "rules.yaml") -> RuleSet:
    """The rule set that a file names with ``era:``.

    A file that names none is October 2025's, unless it has the sections of the subnet's own file of August 2026.

    Raises:
        RulesError: not YAML, an unknown era or key, or a value of the wrong kind; names ``origin`` and each key.
    """
    document = read_document(text, origin)
    era = document.get("era") or (August2026.era if _OF_2026 & document.keys() else October2025.era)
    if era == October2025.era:
        return October2025(parameters_from(October2025Parameters, document, origin))
    if era == August2026.era:
        return August2026(parameters_from(August2026Parameters, document, origin))
    raise RulesError(f"{origin}: era: {quoted(era, 60)} is unknown; the eras are {', '.join(ERAS)}")


@lru_cache(maxsize=16)
def _frozen(text: str, parameters: str, origin: str) -> RuleSet:
    # a default may change from one version of this validator to the next, and a frozen epoch keeps the one it had
    return parse_rules(parameters or text, origin)


def rules_of(epoch: OpenEpoch) -> RuleSet:
    """The rules that an epoch was opened with, every default as it was then."""
    parameters = json.dumps(epoch.parameters) if epoch.parameters else ""
    return _frozen(epoch.rules_text, parameters, f"the rules stored with epoch {epoch.id}")


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


def rdkit_difference(rules: RuleSet) -> str | None:
    """What is to be said of this machine's RDKit, where it is not the one that the rules count with."""
    installed = importlib.metadata.version("rdkit")
    if installed == rules.rdkit:
        return None
    return (
        f"RDKit {installed} is installed, but the rules of {rules.era} count with RDKit {rules.rdkit}: verdicts and "
        "scores may differ from the subnet's"
    )
