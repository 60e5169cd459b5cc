"""The commands that read or write the store and nothing else, with a store for them; and what each one loads.

``python store_commands.py`` runs them, each in a fork of a process that has loaded little, and writes what each loaded
as JSON: a list of ``{argv, status, modules, output}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.store.database import Store

# in this order: each may need what those before it wrote
STORE_COMMANDS = (
    ("competition", "add", "voicebench", "--share", "1"),
    ("competition", "benchmark", "voicebench", "voicebench+mos"),
    ("competition", "set-baseline", "voicebench", "0.5"),
    ("competition", "list"),
    ("competition", "list", "--changes", "--json"),
    ("weights", "preview"),
    ("competition", "archive", "voicebench"),
    ("epoch", "list"),
    ("epoch", "show", "7"),
    ("epoch", "show", "7", "--json"),
    ("epoch", "watch", "7"),
    ("rules", "show"),
    ("settings", "wallet"),
    ("migrate",),
)

# they compute, talk to the network or to processes, or serve
OTHER_COMMANDS = {
    "run",
    "up",
    "api",
    "scoring-api",
    "flower",
    "doctor",
    "healthcheck",
    "epoch replay",
    "epoch record",
    "submission check",
    "submission seal",
    "score psichic",
    "score boltz",
    "checkpoints fetch",
    "checkpoints demo",
}


def fill(store: Store) -> None:
    """An epoch 7 that has ended, and a neuron to weigh."""
    from app.store.epochs import Epochs
    from tests.app.opened_epoch import opened

    epoch_id = opened(store, 7, "68:7", publishes=True)
    with store.writing() as session:
        epochs = Epochs(session)
        epochs.plan(epoch_id, {})
        epochs.close(epoch_id, (), {"psichic": 1, "boltz": None}, None, ())
        epochs.finish(epoch_id)


def loaded(argv: tuple[str, ...]) -> dict[str, Any]:
    """Run a command in a fork."""
    with tempfile.TemporaryDirectory() as folder:
        found, output = Path(folder) / "found.json", Path(folder) / "output.txt"
        child = os.fork()
        if child == 0:
            descriptor = os.open(output, os.O_CREAT | os.O_WRONLY)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.argv = ["app", *argv]
            status: object = 0
            try:
                from app.cli import main

                main()
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
                status = 70
            finally:
                with contextlib.suppress(ValueError):
                    sys.stdout.flush()
                found.write_text(json.dumps({"status": status or 0, "modules": sorted(sys.modules)}))
                os._exit(0)
        os.waitpid(child, 0)
        return {"argv": argv, "output": output.read_text(errors="replace"), **json.loads(found.read_text())}


if __name__ == "__main__":
    # what each of them needs, loaded once instead of fourteen times
    import pydantic_settings  # noqa: F401
    import typer  # noqa: F401

    print(json.dumps([loaded(argv) for argv in STORE_COMMANDS]))
