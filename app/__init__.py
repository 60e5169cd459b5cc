"""celery-validator: a Bittensor validator as a Celery cluster. ``celery -A app worker -Q gpu`` works."""

import sys
from pathlib import Path
from typing import Any, Final

__version__: Final = "0.2.0"

# `celery -A app` finds this package in the working directory and then takes that folder off the path again; the other
# rooms (workers, chem, chain, gpu) lie beside this one and are imported later. So an entry of our own, at the end, even
# where the folder is on the path just now.
sys.path.append(str(Path(__file__).resolve().parent.parent))


def __getattr__(name: str) -> Any:
    # lazy, so that the rooms that know nothing of Celery can import app.domain without it
    if name in {"celery_app", "app"}:
        from app.celery import app as celery_app

        return celery_app
    raise AttributeError(f"module 'app' has no attribute {name!r}")
