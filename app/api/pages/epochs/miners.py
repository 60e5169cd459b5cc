"""One miner over all molecule epochs: page, files and feed; and the search box of every page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.api.pages.charts import Chart, Series, lines
from app.api.pages.downloads import csv_response, file_headers, json_response, streamed_json
from app.api.pages.epochs.epochs import miner_path
from app.api.pages.epochs.rejection_codes import REMEDIES
from app.api.pages.epochs.stage_bars import MODEL_NAMES
from app.api.pages.errors import NotFound
from app.api.pages.page import PageRouter, render
from app.api.pages.paging import every, paging
from app.api.pages.wording import iso, number
from app.domain import MODELS_NETUID, ScoringModel, percent
from app.store.database import get_store
from app.store.metagraph import Metagraph
from app.store.miner_views import MOLECULE_EPOCHS, MOST_FOUND, Found, MinerEntry, MinerViews
from app.store.records import PartState
from app.untrusted import visible

router = PageRouter()

_PAGE_SIZE: Final = 30
_PLOTTED: Final = 100
_FEED: Final = 50

# The shortest beginning of a hotkey that is looked for.
_SHORTEST: Final = 4

_ATOM: Final = "http://www.w3.org/2005/Atom"


@router.page("/search")
def search(request: Request, q: str = "") -> Response:
    """What a UID, a hotkey or a molecule leads to: straight there where it is one thing, else a list."""
    wanted = _wanted(q)
    with get_store().reading() as session:
        if wanted and MinerViews(session).count(wanted):
            return RedirectResponse(miner_path(wanted), 303)
        if wanted and Metagraph(session, MODELS_NETUID).neuron_of(wanted) is not None:
            return RedirectResponse(_model_miner_path(wanted), 303)
        kind, found = _hits(session, wanted)
    if kind in {"UID", "hotkey"} and len(found) == 1:
        return RedirectResponse(_page_of(found[0]), 303)
    return render(
        request,
        "search.html",
        wanted=wanted,
        kind=kind,
        found=found,
        epochs=MOLECULE_EPOCHS,
        page_of=_page_of,
    )


@router.page("/search.csv")
def search_csv(q: str = "") -> Response:
    """What was found, as CSV."""
    with get_store().reading() as session:
        _, found = _hits(session, _wanted(q))
    rows = [(one.number, one.epoch_id, one.uid, one.what, one.hotkey) for one in found]
    return csv_response("search", ("epoch", "id", "uid", "found_as", "hotkey"), rows)


@router.page("/search.json")
def search_json(q: str = "") -> Response:
    """What was found, as JSON."""
    with get_store().reading() as session:
        kind, found = _hits(session, _wanted(q))
    entries = [
        {"epoch": one.number, "id": one.epoch_id, "uid": one.uid, "found_as": one.what, "hotkey": one.hotkey}
        for one in found
    ]
    return json_response("search", {"wanted": _wanted(q), "kind": kind, "found": entries})


def _wanted(typed: str) -> str:
    return typed.strip().replace("\x00", "\ufffd")[:500]


def _hits(session: Session, wanted: str) -> tuple[str, list[Found]]:
    """What a text was taken for, and where that occurs: at most ``MOST_FOUND`` places."""
    views = MinerViews(session)
    if not wanted:
        return "nothing", []
    if wanted.isascii() and wanted.isdigit():
        return "UID", _with_models(session, wanted, views.of_uid(int(wanted[:12])))
    if len(wanted) >= _SHORTEST and (found := _with_models(session, wanted, views.of_hotkey(wanted))):
        return "hotkey", found
    return "molecule", views.of_molecule(wanted)


def _with_models(session: Session, wanted: str, found: list[Found]) -> list[Found]:
    """The hits, and the neurons of the model competitions beside them."""
    neurons = Metagraph(session, MODELS_NETUID).find(wanted, MOST_FOUND)
    return [*found, *(Found(None, None, uid, key, f"a neuron of subnet {MODELS_NETUID}") for uid, key in neurons)]


def _page_of(found: Found) -> str:
    return miner_path(found.hotkey) if found.epoch_id is not None else _model_miner_path(found.hotkey)


def _model_miner_path(hotkey: str) -> str:
    return f"/miners/{quote(hotkey, safe='')}"


@router.page("/hotkeys/{hotkey:path}/verdicts.csv")
def verdicts_csv(hotkey: str) -> Response:
    """Every verdict of a miner as CSV."""
    columns = (
        "epoch", "id", "live", "uid", "hotkey", "status", "code", "message", "remedy", "molecule", "molecule_index",
        "molecule_smiles", "psichic_rank", "psichic_score", "boltz_rank", "boltz_score", "tracks", "refusals",
        "weight", "opened_at", "judged_at",
    )  # fmt: skip
    rows = ([entry[column] for column in columns] for entry in map(_document, _every(_known(hotkey))))
    return csv_response(f"{hotkey[:60]}-verdicts", columns, rows)


@router.page("/hotkeys/{hotkey:path}/verdicts.json")
def verdicts_json(hotkey: str) -> Response:
    """Every verdict of a miner as JSON."""
    return streamed_json(f"{hotkey[:60]}-verdicts", {"verdicts": map(_document, _every(_known(hotkey)))})


@router.page("/hotkeys/{hotkey:path}/verdicts.atom")
def verdicts_atom(request: Request, hotkey: str) -> Response:
    """The newest verdicts of a miner as an Atom feed (RFC 4287), so that nobody need look again and again."""
    hotkey = _known(hotkey)
    with get_store().reading() as session:
        entries = MinerViews(session).entries(hotkey, _FEED)
    base = str(request.base_url).rstrip("/")
    body = _feed(base, hotkey, [entry for entry in entries if entry.judged_at is not None])
    return Response(body, media_type="application/atom+xml", headers=file_headers())


@router.page("/hotkeys/{hotkey:path}")
def miner(request: Request, hotkey: str) -> Response:
    """A miner's verdicts, ranks and scores over the epochs; of each refusal what to change."""
    hotkey = _known(hotkey)
    with get_store().reading() as session:
        views = MinerViews(session)
        found = paging(request, views.count(hotkey), _PAGE_SIZE)
        entries = views.entries(hotkey, _PAGE_SIZE, found.offset)
        plotted = entries if found.number > 1 else views.entries(hotkey, _PLOTTED)
    return render(
        request,
        "hotkey.html",
        hotkey=hotkey,
        path=miner_path(hotkey),
        entries=entries,
        paging=found,
        remedies=REMEDIES,
        scores=_plots(plotted),
    )


def _known(hotkey: str) -> str:
    """The hotkey, where the store has something of it.

    Raises:
        NotFound: it never submitted anything.
    """
    hotkey = hotkey.replace("\x00", "\ufffd")
    with get_store().reading() as session:
        if not MinerViews(session).count(hotkey):
            raise NotFound("This hotkey submitted nothing in the epochs that the store holds.")
    return hotkey


def _every(hotkey: str) -> Iterator[MinerEntry]:
    return every(lambda session, limit, offset: MinerViews(session).entries(hotkey, limit, offset))


def _document(entry: MinerEntry) -> dict[str, Any]:
    found = asdict(entry)
    return {
        "epoch": found.pop("number"),
        "id": found.pop("epoch_id"),
        "status": found.pop("state"),
        **found,
        "remedy": REMEDIES.get(entry.code or ""),
        "refusals": [
            {
                "track": one.track,
                "whole_track": one.whole,
                "code": one.rejection.code,
                "message": one.rejection.message,
                "remedy": REMEDIES.get(one.rejection.code),
                "molecule": one.rejection.molecule,
                "molecule_index": one.rejection.index,
                "molecule_smiles": one.rejection.smiles,
            }
            for one in entry.refusals
        ],
    }


def _plots(entries: Sequence[MinerEntry]) -> list[Chart]:
    points: dict[str, list[tuple[float, float]]] = {}
    ranks: dict[str, list[tuple[float, float]]] = {}
    for entry in reversed(entries):
        for name, score, rank in _standings(entry):
            if score is not None:
                points.setdefault(name, []).append((float(entry.number), score))
            if rank is not None:
                ranks.setdefault(name, []).append((float(entry.number), float(rank)))
    # PSICHIC and Boltz-2 have scales of their own
    charts = [
        lines(f"{name} scores", [Series(name, tuple(found))], axis="epoch", y_axis="score")
        for name, found in points.items()
    ]
    series = [Series(name, tuple(found)) for name, found in ranks.items()]
    return [*charts, lines("Ranks (1 is the winner)", series, axis="epoch", y_axis="rank")]


def _standings(entry: MinerEntry) -> Iterable[tuple[str, float | None, int | None]]:
    yield MODEL_NAMES[ScoringModel.PSICHIC], entry.psichic_score, entry.psichic_rank
    yield MODEL_NAMES[ScoringModel.BOLTZ], entry.boltz_score, entry.boltz_rank
    for name, standing in entry.tracks.items():
        yield f"{name} track", standing.score if isinstance(standing.score, int | float) else None, standing.rank


def _feed(base: str, hotkey: str, entries: Sequence[MinerEntry]) -> bytes:
    ElementTree.register_namespace("", _ATOM)
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    page = base + miner_path(hotkey)
    _add(feed, "title", f"Verdicts on {hotkey}")
    _add(feed, "id", page)
    _add(feed, "updated", max((iso(one.judged_at) for one in entries if one.judged_at), default="1970-01-01T00:00:00Z"))
    author = _add(feed, "author", None)
    _add(author, "name", "celery-validator")
    _add(feed, "link", None, {"rel": "self", "href": f"{page}/verdicts.atom"})
    _add(feed, "link", None, {"rel": "alternate", "href": page})
    for one in entries:
        assert one.judged_at is not None
        address = f"{base}/epochs/{one.epoch_id}/submissions/{one.uid}"
        element = _add(feed, "entry", None)
        verdict = f"refused ({one.code})" if one.code else one.state.value
        if one.state is PartState.VALID and one.refusals:
            verdict += f", refused in part ({', '.join(dict.fromkeys(it.rejection.code for it in one.refusals))})"
        _add(element, "title", f"Epoch {one.number}: {verdict}")
        # a verdict that changes (examined, then ranked) is the same entry, updated
        _add(element, "id", address)
        _add(element, "updated", iso(one.judged_at))
        _add(element, "link", None, {"rel": "alternate", "href": address})
        _add(element, "content", _told(one), {"type": "text"})
    document: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return document


def _told(entry: MinerEntry) -> str:
    """A verdict in sentences."""
    refusals = [
        f"{one.track} track{'' if one.whole else ', one item'}: {_advised(one.rejection.code, one.rejection.message)}"
        for one in entry.refusals
    ]
    if entry.code is not None:
        return " ".join((_advised(entry.code, entry.message), *refusals))
    places = [
        f"{name}: score {number(score)}, {'no rank' if rank is None else f'rank {rank}'}"
        for name, score, rank in _standings(entry)
        if score is not None and math.isfinite(score)
    ]
    weight = "" if entry.weight is None else f" Weight: {percent(entry.weight)}."
    return " ".join((("; ".join(places) + "." if places else "Accepted; not ranked yet.") + weight, *refusals))


def _advised(code: str, message: str | None) -> str:
    remedy = REMEDIES.get(code)
    return f"refused ({code}): {message or code}." + (f" What to do: {remedy}" if remedy else "")


def _add(
    parent: ElementTree.Element, name: str, text: str | None, attributes: Mapping[str, str] | None = None
) -> ElementTree.Element:
    found = ElementTree.SubElement(parent, f"{{{_ATOM}}}{name}", dict(attributes or {}))
    # XML has no way to write what is not visible
    found.text = None if text is None else visible(text)
    return found
