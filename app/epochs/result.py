"""``result.json``: what a validator concluded of one epoch; each rule set fills its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from app.domain import Rejection
from app.store.records import SubmissionRecord, TrackFindings

# An audit that differs in ten thousand numbers is read by its first few.
_DIFFERENCES_SHOWN: Final = 20


def json_number(value: float | None) -> float | str | None:
    """A float at full precision; infinities as the strings ``-inf`` and ``inf``."""
    if value is None or math.isfinite(value):
        return value
    return "inf" if value == math.inf else "-inf"


def submission_report(submission: SubmissionRecord) -> dict[str, Any]:
    """What every era says of a submission: whose it is, when it came, and why it was refused."""
    return {
        "uid": submission.uid,
        "hotkey": submission.commitment.hotkey,
        "block": submission.commitment.block,
        "push_time": submission.push_time,
        "status": submission.state.value,
        "rejection": rejection_report(submission.rejection),
    }


def rejection_report(refused: Rejection | None) -> dict[str, Any] | None:
    """A refusal as the report words it."""
    if refused is None:
        return None
    return {
        "code": refused.code.value,
        "molecule": refused.molecule,
        "index": refused.index,
        "message": refused.message,
    }


def track_report(found: TrackFindings, structure: str, key: str) -> dict[str, Any]:
    """What became of one track; ``structure`` and ``key`` are the era's names for an item's."""
    return {
        "status": found.status.value,
        "rejection": rejection_report(found.rejection),
        "entropy": found.entropy,
        "items": [
            {
                "name": item.name,
                structure: item.structure or None,
                key: item.key or None,
                "rejection": rejection_report(item.rejection),
                **item.details,
            }
            for item in found.items
        ],
    }


def report_text(report: dict[str, Any]) -> str:
    """The document as it is written to disk."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_pieces(head: dict[str, Any], submissions: Iterable[dict[str, Any]]) -> Iterator[str]:
    """:func:`report_text` of ``head`` with these as its ``submissions``, which must be empty there, bit by bit."""
    before, after = report_text(head | {"submissions": []}).split('\n "submissions": []', 1)
    yield before + '\n "submissions": ['
    written = False
    for submission in submissions:
        text = json.dumps(submission, indent=1, ensure_ascii=False, allow_nan=False)
        yield (",\n  " if written else "\n  ") + text.replace("\n", "\n  ")
        written = True
    yield ("\n ]" if written else "]") + after


def differences(old: Any, new: Any) -> list[str]:
    """Where two documents differ, as ``path: old → new``, at most 20 and a count of the rest."""
    found = list(_differences(old, new, ""))
    shown = found[:_DIFFERENCES_SHOWN]
    if len(found) > len(shown):
        shown.append(f"… and {len(found) - len(shown)} more")
    return shown


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            path = f"{where}.{key}" if where else str(key)
            if key not in old:
                yield f"{path}: only in the new result"
            elif key not in new:
                yield f"{path}: only in the old result"
            else:
                yield from _differences(old[key], new[key], path)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} entries → {len(new)}"
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from _differences(before, after, f"{where}[{index}]")
    elif old != new or type(old) is not type(new):
        yield f"{where}: {old!r:.100} → {new!r:.100}"
