"""``python -m app migrate``: bring the store's schema up to date, as a step of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.terminal import Console
from app.domain import ValidatorError


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail where a migration is missing.")] = False,
) -> None:
    """Apply the store's missing migrations; workers do the same when they start."""
    from app.store.database import get_store
    from app.store.schema import current_revision, head_revision
    from app.store.schema import migrate as apply

    store = get_store()
    store.check()
    before, head = current_revision(store), head_revision()
    if check and before != head:
        raise ValidatorError(
            f"the store {store.shown_url} is at revision {before or 'none'}, this version needs {head}; "
            "run: python -m app migrate"
        )
    apply(store)
    done = "is at" if before == head else f"was brought from revision {before or 'none'} to"
    Console().print(f"The store {store.shown_url} {done} revision {head}.", soft_wrap=True, highlight=False)
    store.close()
