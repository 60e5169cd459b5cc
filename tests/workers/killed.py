"""A child of this process that kills itself at one point of its work, as a power cut or the kernel would."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from app.store.database import get_store


def killed_at(owner: Any, name: str, when: str, work: Callable[[], object]) -> None:
    """Do the work in a child that is killed before or after (``when``) it calls ``owner.name``."""
    child = os.fork()
    if child == 0:
        try:
            # a database connection belongs to the process that opened it
            get_store().engine.dispose(close=False)
            original = getattr(owner, name)

            def deadly(*args: Any, **kwargs: Any) -> Any:
                if when == "after":
                    original(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(owner, name, deadly)
            work()
        finally:
            os._exit(3)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"the child ended with {os.waitstatus_to_exitcode(status)}"
