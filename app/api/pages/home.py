"""The home page: what the validator does now."""

from __future__ import annotations

from fastapi import Request, Response

from app.api.pages.page import BrowserRoute, PageRouter, render

router = PageRouter(route_class=BrowserRoute)


@router.page("/")
def home(request: Request) -> Response:
    """What the validator does now. Clients that do not prefer HTML get the API's health instead."""
    return render(request, "home.html")
