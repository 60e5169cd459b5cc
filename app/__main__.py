"""The program: ``python -m app``, or ``celery-validator``."""

import atexit
import gc
import os

# What a command spends on nothing. While modules are loaded, thousands of objects are made and none is garbage; at the
# end the interpreter searches all of them for cycles, several times (0.3 s); and pydantic looks through every installed
# distribution for plugins of its own.
gc.set_threshold(100_000)
atexit.register(gc.freeze)
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from app.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
