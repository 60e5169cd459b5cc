"""``make bench``: every benchmark that this machine can run, one after another; ``… NAME`` runs one.

The GPU benchmarks need a CUDA device and are left out, by name, where there is none.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Benchmarks: the modules here that have a ``main``."""
    return sorted(
        path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__" and "\ndef main(" in path.read_text()
    )


def main() -> None:
    """Run them."""
    from gpu.devices import visible_gpus

    wanted = sys.argv[1:] or names()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    for name in wanted:
        if name.endswith("_gpu") and not visible_gpus():
            print(f"{name}: left out, no CUDA device here")
            continue
        sys.argv = [name]
        importlib.import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
