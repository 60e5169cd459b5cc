"""The bundled recording cut down to what a model can score in a moment."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from app.demo import RECORDING
from app.epochs.recording import Recording
from chain.submission import fetch_submission, open_submission, parse_submission
from chain.timelock import seal

MOLECULES = 3
ANTITARGETS = 2


def write_small_recording(folder: Path, uids: Sequence[int] = (1,)) -> Path:
    """The bundled epoch with these miners and the first three of their molecules, without scores and result."""
    shutil.copytree(RECORDING, folder, ignore=shutil.ignore_patterns("scores", "result.json"))
    source = Recording(folder).facts
    hotkeys = {source.metagraph()[uid].hotkey: uid for uid in uids}
    commitments, push_times = [], {}
    for commitment in source.commitments():
        if commitment.hotkey not in hotkeys:
            continue
        uid = hotkeys[commitment.hotkey]
        text = open_submission(source, uid, parse_submission(fetch_submission(source, commitment)))
        names = text.split(",")[:MOLECULES]
        content = repr((1000, seal(f"{uid}:{','.join(names)}".encode(), 1000))).encode()
        path = f"miner{uid}/s/main/{hashlib.sha256(content).hexdigest()[:20]}.txt"
        (folder / "github" / "contents" / path).parent.mkdir(parents=True)
        (folder / "github" / "contents" / path).write_bytes(content)
        commitments.append({"hotkey": commitment.hotkey, "block": commitment.block, "data": path})
        push_times[path] = "2025-10-28T14:21:17Z"
    (folder / "commitments.json").write_text(json.dumps(commitments))
    (folder / "github" / "push_times.json").write_text(json.dumps(push_times))
    rules = (folder / "rules.yaml").read_text()
    for name, before, after in (("num_molecules", 100, MOLECULES), ("num_antitargets", 8, ANTITARGETS)):
        assert f"{name}: {before}\n" in rules
        rules = rules.replace(f"{name}: {before}\n", f"{name}: {after}\n")
    (folder / "rules.yaml").write_text(rules)
    return folder
