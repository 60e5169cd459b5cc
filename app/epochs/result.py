"""``result.json``: what a validator concluded of one epoch (specs/recording.md, schema 1)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.store.records import EpochSummary, OpenEpoch, PartState, SubmissionRecord
from chain.incentive.molecules import entropy_weight

SCHEMA: Final = 1

# An audit that differs in ten thousand numbers is read by its first few.
_DIFFERENCES_SHOWN: Final = 20


def json_number(value: float | None) -> float | str | None:
    """A float at full precision; −inf as the string ``-inf``."""
    if value is None or math.isfinite(value):
        return value
    return "-inf"


def build_report(
    epoch: OpenEpoch, summary: EpochSummary, submissions: Sequence[SubmissionRecord], warnings: Sequence[str]
) -> dict[str, Any]:
    """The document of one closed epoch."""
    return {
        "schema": SCHEMA,
        "epoch": epoch.header.epoch,
        "rules_sha256": epoch.rules_sha256,
        "challenge": {
            "targets": list(epoch.challenge.targets),
            "antitargets": list(epoch.challenge.antitargets),
            "allowed_reactions": list(epoch.challenge.allowed_reactions),
        },
        "entropy_weight": entropy_weight(epoch.header.epoch, epoch.rules.molecule_validation),
        "submissions": [_submission(submission) for submission in submissions],
        "winners": {"psichic": summary.psichic_winner, "boltz": summary.boltz_winner},
        "weights": None if summary.weights is None else {str(uid): share for uid, share in summary.weights.items()},
        "warnings": list(warnings),
    }


def _submission(submission: SubmissionRecord) -> dict[str, Any]:
    refused = submission.rejection
    valid = submission.state is PartState.VALID
    return {
        "uid": submission.uid,
        "hotkey": submission.commitment.hotkey,
        "block": submission.commitment.block,
        "push_time": submission.push_time,
        "status": submission.state.value,
        "rejection": None
        if refused is None
        else {
            "code": refused.code.value,
            "molecule": refused.molecule,
            "index": refused.index,
            "message": refused.message,
        },
        "molecules": [
            {"name": molecule.name, "smiles": molecule.smiles, "inchikey": molecule.inchikey, **scored}
            for molecule, scored in zip(submission.molecules, submission.scored or [], strict=True)
        ]
        if valid
        else [],
        "entropy": submission.entropy,
        "psichic_score": json_number(submission.psichic_score),
        "boltz_score": json_number(submission.boltz_score),
        "entropy_boltz": submission.entropy_boltz,
        "psichic_rank": submission.psichic_rank,
        "boltz_rank": submission.boltz_rank,
    }


def report_text(report: dict[str, Any]) -> str:
    """The document as it is written to disk."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
