"""The program: ``python -m app``, or ``celery-validator``."""

import atexit
import gc
import os

# What a command spends on nothing. Modules and a listing make 150,000 objects, and none is garbage: one search takes
# 0.05 s, and at its end the interpreter does so several times (0.3 s). Pydantic looks for plugins of its own in every
# distribution that is installed.
gc.set_threshold(300_000)
atexit.register(gc.freeze)
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from app.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
