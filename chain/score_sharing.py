"""The exchange of scores between subnet 68's validators since 2026: post ours, later take everybody's averages.

The API belongs to the subnet's owner and is closed; a validator needs its key. What an average is of, and when it is
complete, only the owner knows. Everything that comes back is checked: what is not a finite number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

from app.domain import ValidatorError
from app.untrusted import NotJson, read_json, shown

if TYPE_CHECKING:
    # the rule sets read averages without ever asking for any
    from chain.web import Answer, WebSession

MOLECULE_METRICS: Final = (
    "affinity_probability_binary",
    "affinity_pred_value",
    "affinity_probability_binary1",
    "affinity_pred_value1",
    "affinity_probability_binary2",
    "affinity_pred_value2",
    "confidence_score",
    "ptm",
    "iptm",
    "ligand_iptm",
    "protein_iptm",
    "complex_plddt",
    "complex_iplddt",
    "complex_pde",
    "complex_ipde",
)
SCORE: Final = "score"

_BLOCKS_LEFT: Final = 100
INFINITE: Final = 999.99
_MOST_BYTES: Final = 1 << 20
_AT_ONCE: Final = 8
_REFUSED: Final = 400
_FAILED_STATES: Final = frozenset({"failed", "error"})

Kind = Literal["molecules", "nanobodies"]

_ROUTES: Final[Mapping[Kind, str]] = {"molecules": "molecule-targets", "nanobodies": "nanobodies"}
_NAMES: Final[Mapping[Kind, str]] = {"molecules": "name", "nanobodies": "sequence_hash"}

Metrics = Mapping[str, float | None]
Table = Mapping[str, Mapping[str, Metrics]]
"""Item (a molecule's name, a sequence's hash) → target → metrics."""


class SharingFailed(ValidatorError):
    """The exchange gave nothing usable; this validator's own scores stand."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The API's receipt. ``job`` is None where it named none: then only the averages tell whether it worked."""

    job: int | None
    status: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Averages:
    """What the exchange gave. A kind without averages is None, and ``notes`` says why."""

    molecules: Table | None = None
    nanobodies: Table | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As kept in a recording's ``scores/shared.json``."""
        return {"molecules": self.molecules, "nanobodies": self.nanobodies, "notes": list(self.notes)}

    @staticmethod
    def of_document(document: Mapping[str, Any]) -> Averages:
        """What :meth:`document` wrote; unusable parts are left out."""
        tables = {
            kind: {str(item): _targets(found) for item, found in (document.get(kind) or {}).items()}
            if isinstance(document.get(kind), Mapping)
            else None
            for kind in _ROUTES
        }
        notes = document.get("notes")
        return Averages(
            tables["molecules"], tables["nanobodies"], tuple(map(str, notes if isinstance(notes, list) else ()))
        )


def averages_due(end_block: int, epoch_length: int) -> int:
    """The block from which the averages of the epoch that ended at ``end_block`` are taken."""
    return end_block + epoch_length - _BLOCKS_LEFT


def wire_number(value: object) -> float | None:
    """A metric as it is posted: infinities as ±999.99, None for what is no number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    if math.isinf(number):
        return math.copysign(INFINITE, number)
    return None if math.isnan(number) else number


def batch(epoch: int, molecules: Table, nanobodies: Table, nanobody_metrics: Sequence[str]) -> dict[str, Any]:
    """The request's document: one row per item and target; a list that would be empty is left out.

    A molecule's metrics include its ``score``.
    """
    lists: dict[Kind, tuple[Table, Sequence[str]]] = {
        "molecules": (molecules, (*MOLECULE_METRICS, SCORE)),
        "nanobodies": (nanobodies, nanobody_metrics),
    }
    document: dict[str, Any] = {"epoch": epoch}
    for kind, (table, metrics) in lists.items():
        rows = [
            {_NAMES[kind]: item, "target_protein": target} | {name: wire_number(found.get(name)) for name in metrics}
            for item, targets in table.items()
            for target, found in targets.items()
        ]
        if rows:
            document[kind] = rows
    return document


def with_averages(own: Mapping[str, float], average: Mapping[str, float | None]) -> dict[str, float]:
    """Our metrics with the averages in their place, where there is one.

    Quirk: a score of −999.99 that others posted counts in an average as an ordinary number.
    """
    return {**own, **{name: value for name, value in average.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class ScoreSharing:
    """The API at ``url``, asked with the validator's key."""

    session: WebSession
    url: str
    key: str = field(repr=False)

    def post(self, document: Mapping[str, Any]) -> Posted:
        """Hand in our scores (:func:`batch`).

        Raises:
            SharingFailed: the API refuses them or cannot be read.
            HostUnavailable: it does not answer.
        """
        found = self._json(
            self.session.post(f"{self._base}/validations/batch", document, _MOST_BYTES, self._headers), "our scores"
        )
        job = found.get("job_id")
        return Posted(
            job if isinstance(job, int) else None, shown(found.get("status", "")), shown(found.get("message", ""), 200)
        )

    def averages(self, posted: Posted, epoch: int, molecules: Sequence[str], nanobodies: Sequence[str]) -> Averages:
        """The averages of all items of each kind; one item without an average costs its whole kind.

        Raises:
            SharingFailed: the API's job on our scores failed.
        """
        notes = self._job_notes(posted)
        tables: dict[Kind, Table | None] = {}
        wanted: dict[Kind, Sequence[str]] = {"molecules": molecules, "nanobodies": nanobodies}
        for kind, items in wanted.items():
            tables[kind] = None
            if not items:
                continue
            try:
                with ThreadPoolExecutor(_AT_ONCE) as threads:
                    found = list(threads.map(lambda item, kind=kind: self._average(kind, item, epoch), items))
                tables[kind] = dict(zip(items, found, strict=True))
            except ValidatorError as error:
                notes.append(f"no averages for {kind}: {error}")
        return Averages(tables["molecules"], tables["nanobodies"], tuple(notes))

    @property
    def _base(self) -> str:
        return self.url.rstrip("/") + "/api/v1"

    @property
    def _headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}

    def _job_notes(self, posted: Posted) -> list[str]:
        if posted.job is None:
            return []
        try:
            found = self._get(f"jobs/{posted.job}", f"job {posted.job}")
        except ValidatorError as error:
            return [str(error)]
        status = shown(found.get("status", "")).lower()
        if status in _FAILED_STATES:
            raise SharingFailed(
                f"the score-sharing API could not process our scores: {shown(found.get('error_message', status), 200)}"
            )
        done, total = shown(found.get("processed_count", "?")), shown(found.get("total_count", "?"))
        return [f"job {posted.job} is {status}, {done} of {total} processed"] if status == "pending" else []

    def _average(self, kind: Kind, item: str, epoch: int) -> dict[str, dict[str, float | None]]:
        found = self._get(f"{_ROUTES[kind]}/{quote(item, safe='')}/{epoch}", shown(item))
        averages = found.get("target_averages")
        if not isinstance(averages, Mapping):
            raise SharingFailed(f"the score-sharing API has no averages of {shown(item)}")
        return _targets(averages)

    def _get(self, route: str, what: str) -> Mapping[str, Any]:
        return self._json(self.session.get(f"{self._base}/{route}", _MOST_BYTES, self._headers), what)

    def _json(self, answer: Answer, what: str) -> Mapping[str, Any]:
        if answer.status >= _REFUSED:
            raise SharingFailed(
                f"the score-sharing API refuses {what} with status {answer.status}: {shown(answer.body, 200)}"
            )
        try:
            found = read_json(answer.body)
        except NotJson as error:
            raise SharingFailed(f"the score-sharing API answers for {what} with what is not JSON: {error}") from None
        if answer.cut or not isinstance(found, Mapping):
            raise SharingFailed(f"the score-sharing API answers for {what} with something else than an object")
        return found


def _targets(found: object) -> dict[str, dict[str, float | None]]:
    """Target → metrics, of what the API sent; other shapes are left out."""
    pairs: Iterable[tuple[Any, Any]] = found.items() if isinstance(found, Mapping) else ()
    return {
        str(target): {str(name): _finite(value) for name, value in metrics.items() if _finite(value) is not None}
        for target, metrics in pairs
        if isinstance(metrics, Mapping)
    }


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
