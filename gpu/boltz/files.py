"""The Boltz-2 files on disk: fetched by boltz itself into its cache, checked by us."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.untrusted import read_json
from gpu.boltz.failure import BoltzInstallationError
from gpu.boltz.profile import LIVE, PocketConstraint, Profile
from gpu.checkpoints import RECORD, FetchedFile, FetchError, sha256_of

if TYPE_CHECKING:
    from gpu.boltz.scorer import BoltzScorer

STRUCTURE: Final = "boltz2_conf.ckpt"
AFFINITY: Final = "boltz2_aff.ckpt"
COMPONENTS: Final = "mols.tar"
FILES: Final = (STRUCTURE, AFFINITY, COMPONENTS)

_SOURCE: Final = "boltz 2.2.1's own addresses"
_FETCH: Final = "run `python -m app checkpoints fetch boltz2`"


def cache_folder(folder: Path | None = None) -> Path:
    """``folder``, or ``BOLTZ_CACHE``, or boltz's default ``~/.boltz``."""
    return Path(folder or os.environ.get("BOLTZ_CACHE") or "~/.boltz").expanduser().resolve()


def scorer_from_cache(
    folder: Path | None = None,
    profile: Profile = LIVE,
    device: str | None = None,
    pocket: PocketConstraint | None = None,
) -> BoltzScorer:
    """A scorer on the files of ``folder`` (:func:`cache_folder`); ``device`` None takes CUDA where there is one.

    Raises:
        BoltzInstallationError: when a file is missing or half downloaded.
    """
    import torch

    from gpu.boltz.scorer import BoltzScorer

    home = cache_folder(folder)
    check_files(home)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise BoltzInstallationError(f"there is no CUDA device for --device {where}; use cpu or fix the driver.")
    return BoltzScorer(home / STRUCTURE, home / AFFINITY, home / "mols", profile, where, pocket)


def check_files(folder: Path) -> None:
    """That every file is there and whole, as far as can be told without reading gigabytes.

    Raises:
        BoltzInstallationError: naming the file and the command that brings it.
    """
    for name in (STRUCTURE, AFFINITY):
        path = folder / name
        if not path.is_file():
            raise BoltzInstallationError(f"Boltz-2's {path} is not there: {_FETCH} (BOLTZ_CACHE names the folder).")
        # a checkpoint is a zip archive, whose directory comes last
        if not zipfile.is_zipfile(path) or path.stat().st_size != _recorded(folder, name).get(
            "size", path.stat().st_size
        ):
            raise BoltzInstallationError(f"Boltz-2's {path} is only half there: {_FETCH}, it will replace it.")
    if not (folder / "mols" / "ALA.pkl").is_file():
        raise BoltzInstallationError(f"{folder / 'mols'} does not hold boltz's CCD components: {_FETCH}.")


def fetch_files(folder: Path | None = None, tell: Callable[[str], None] = lambda _: None) -> list[FetchedFile]:
    """Bring the files with boltz's own download function and record their checksums beside them.

    boltz takes any existing file for whole, so what is not (no zip, no tar, another size or checksum than recorded)
    is deleted first, and a download that breaks off leaves nothing.

    Raises:
        FetchError: when they cannot be downloaded.
    """
    home = cache_folder(folder)
    home.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        path = home / name
        if path.exists() and not _whole(home, name):
            tell(f"{path} is not whole, fetching it again")
            path.unlink()
            if name == COMPONENTS:
                shutil.rmtree(home / "mols", ignore_errors=True)
    absent = [name for name in FILES if not (home / name).exists()]
    if absent:
        tell(f"fetching {', '.join(absent)} into {home}")
        _download(home, absent)
    elif not (home / "mols").is_dir():
        _download(home, [])
    broken = [name for name in FILES if not _whole(home, name)]
    if broken:
        raise FetchError(f"{', '.join(broken)} came damaged into {home}; run the same command again.")
    record = {"repository": _SOURCE, "revision": "2.2.1", "files": {name: _entry(home / name) for name in FILES}}
    partial = home / (RECORD + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(home / RECORD)
    return [FetchedFile(home / n, str(e["sha256"]), int(e["size"])) for n, e in record["files"].items()]  # type: ignore[attr-defined]


def _download(home: Path, absent: list[str]) -> None:
    try:
        from boltz.main import download_boltz2
    except ImportError as error:
        raise FetchError(f"boltz is not installed ({error}): pip install --no-deps boltz==2.2.1.") from error
    done = False
    try:
        download_boltz2(home)
        done = True
    except (OSError, RuntimeError) as error:
        raise FetchError(
            f"Boltz-2's files could not be fetched ({error}); check the network, then run the same command again."
        ) from error
    finally:
        if not done:
            for name in absent:
                (home / name).unlink(missing_ok=True)


def _whole(home: Path, name: str) -> bool:
    path, known = home / name, _recorded(home, name)
    if not path.is_file():
        return False
    if known:
        return path.stat().st_size == known.get("size") and sha256_of(path) == known.get("sha256")
    if name == COMPONENTS:
        import tarfile

        return tarfile.is_tarfile(path)
    return zipfile.is_zipfile(path)


def _entry(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"sha256": sha256_of(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _recorded(home: Path, name: str) -> Mapping[str, Any]:
    try:
        entry = read_json((home / RECORD).read_text())["files"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return entry if isinstance(entry, Mapping) else {}
