"""Models' files on this machine: ``root/namespace/name/revision``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from app.store.model_queue import model_id

# A folder with this file is cleaned; no other is.
MARKER: Final = ".celery-validator-models"

log = logging.getLogger("celery_validator.models")


def model_folder(root: Path, commitment_text: str) -> Path:
    """Where a committed model's files lie."""
    model = model_id(commitment_text)
    return root / model.namespace / model.name / (model.commit or "main")


def remove_unreferenced(root: Path, commitment_texts: Iterable[str]) -> list[str]:
    """Remove the models that no commitment refers to; which, relative to ``root``. A folder that is not ours stays."""
    if not _is_ours(root):
        log.warning(
            "%s was not made by this application, so nothing in it is removed; name an empty folder in MODEL_DIR, "
            "or, where it holds nothing but models, make the file %s in it",
            root,
            MARKER,
        )
        return []
    kept = {model_folder(root, text) for text in commitment_texts}
    removed = []
    for folder in sorted(root.glob("*/*/*")):
        if folder in kept or folder.is_symlink() or not folder.is_dir() or folder.parent.is_symlink():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(str(folder.relative_to(root)))
        for parent in (folder.parent, folder.parent.parent):
            if not any(parent.iterdir()):
                parent.rmdir()
    return removed


def _is_ours(folder: Path) -> bool:
    """Whether the folder carries this application's marker; an empty or missing one is made ours."""
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    return (folder / MARKER).is_file()
