"""What tests leave to the garbage collector."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def swept() -> Iterator[None]:
    """What servers leave behind is collected once they have ended, so that no later test is blamed for it."""
    # what is there already, modules above all, need not be looked through
    gc.freeze()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.unfreeze()
