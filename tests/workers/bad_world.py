"""A whole outside world that may misbehave, and this process as its validator, quick to lose patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import chain.web
from app.epochs.rules import build_report
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from tests.chain.world import World, world
from tests.sweep import swept
from tests.workers.live_scene import eager_validator
from workers.scoring import forget_scorers
from workers.submissions import _examiner


@contextmanager
def bad_world(folder: Path, monkeypatch: pytest.MonkeyPatch, uids: frozenset[int], **settings: str) -> Iterator[World]:
    """The world in which these miners commit; ``settings`` are set on top of its own."""
    with swept(), world(folder, uids=uids) as scene:
        for name, value in (scene.environment(folder / "data") | settings).items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        monkeypatch.setattr("workers.fetching._PAUSE", timedelta(seconds=0.3))
        monkeypatch.setattr("workers.epochs._OPEN_PAUSE", timedelta(seconds=0.3))
        monkeypatch.setattr("chain.huggingface._PAUSE_SECONDS", 0.01)
        # a session of its own: a host that failed in another test is not remembered here
        quick = chain.web.WebSession(connect_seconds=2, read_seconds=1, body_seconds=3)
        monkeypatch.setattr("app.epochs.capture.shared_session", lambda: quick)
        with eager_validator():
            yield scene
        _examiner.cache_clear()
        forget_scorers()


def report_of(epoch_id: int) -> dict[str, Any]:
    """An epoch's result.json."""
    with get_store().reading() as session:
        epochs = Epochs(session)
        return build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )
