"""The pages: what operators and miners see in a browser. Read-only, without login, without anything from outside.

How a page is added:

1. What it shows is read by a function of ``app/store`` that returns frozen dataclasses (``epoch_views.py`` is the
   example): few queries, none per row.
2. A module here, named by its noun, holds ``router = PageRouter()`` and, per page, a function under
   ``@router.page("/things")`` that takes the ``Request`` and returns ``render(request, "things.html", things=…)``.
   Ids in paths are typed (``/things/{thing_id:int}``); what is not there raises ``NotFound("sentence")``.
3. Its template begins with ``{% extends "base.html" %}`` and ``{% import "macros.html" as ui with context %}``, and
   fills the blocks ``title``, ``content``, and where wanted ``heading``, ``trail`` and ``downloads``. Untrusted text
   goes through ``ui.foreign`` or ``ui.code``, instants through ``ui.when``, scores through ``ui.score``, wide tables
   into ``{% call ui.table("its name") %}``, plots of ``charts.py`` through ``ui.figure(chart)``. No ``style``
   attributes and no inline scripts: the security policy refuses both. No ``|safe``.
4. Beside it stand ``@router.page("/things.csv")`` and ``….json``, answered by :mod:`.downloads`.
5. The router joins ``page_routers`` below, and a main page joins ``NAVIGATION`` of :mod:`.page`.
"""

from __future__ import annotations

from fastapi import APIRouter


def page_routers() -> list[APIRouter]:
    """Every router of the pages; the home page's comes first, for it shares ``/`` with the API's health."""
    from app.api.pages import assets, home
    from app.api.pages.competitions import competitions
    from app.api.pages.epochs import epochs, miners, rejection_codes, submissions, weights
    from app.api.pages.page import compile_templates

    compile_templates()
    return [
        home.home_router,
        home.router,
        epochs.router,
        submissions.router,
        miners.router,
        weights.router,
        rejection_codes.router,
        competitions.router,
        assets.router,
    ]
