"""Evaluations as a worker has them: the piece of work claimed, the try begun, its end written."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from app.settings import get_settings
from app.store.claims import Claims, Piece, Work
from app.store.evaluations import EVALUATE, EvaluationEnd, Evaluations

SILENCE = timedelta(seconds=60)
LIMIT = timedelta(hours=2)


def begun(session: Session, evaluation_id: str, holder: str = "gpu@a/1", device: str = "0") -> Piece:
    """A worker takes an accepted evaluation and begins it."""
    work = Work(EVALUATE, (evaluation_id,))
    Claims(session).add([work], get_settings().cluster_name)
    piece = Claims(session).take(work, f"claim of {holder}", holder, SILENCE)
    assert isinstance(piece, Piece), piece
    assert Evaluations(session).begin(evaluation_id, piece.attempts, device, LIMIT)
    return piece


def finished(session: Session, evaluation_id: str, piece: Piece, end: EvaluationEnd) -> None:
    """The worker writes what came of it."""
    Claims(session).finish(piece)
    Evaluations(session).finish(evaluation_id, end)
