"""Where a benchmark's data lie: the Hugging Face hub, or a folder in the same layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from app.settings import Settings
from app.untrusted import quoted, shown
from gpu.evaluation.contract import EvaluationImpossible

SPLIT: Final = "test"


@dataclass(frozen=True, slots=True)
class DataSource:
    """``place`` is a hub id, ``id@revision``, or a folder; ``setting`` names it for the operator.

    ``cache`` is where ``datasets`` keeps what it prepared (memory-mapped Arrow files); ``token`` is the hub's.
    """

    place: str
    setting: str
    cache: Path
    token: str | None = None

    @classmethod
    def of(cls, settings: Settings, setting: str) -> Self:
        """The source that the settings field ``setting`` names."""
        return cls(
            place=getattr(settings, setting.lower()),
            setting=setting,
            cache=settings.data_dir.expanduser().resolve() / "datasets",
            token=settings.hf_token.get_secret_value() if settings.hf_token else None,
        )

    def check(self) -> None:
        """Look, without the network, whether a folder is there; what the hub has is seen when it is loaded.

        Raises:
            EvaluationImpossible: there is no such folder.
        """
        self._path()

    def load(self, name: str | None, split: str) -> Any:
        """The ``datasets`` object of one configuration's split: not in memory, but mapped from the cache.

        Raises:
            EvaluationImpossible: it is not available; the message says what to download or set.
        """
        with self._had(name, split):
            return self._loaded(name, split, streaming=False)

    def first_rows(self, name: str | None, split: str, count: int) -> list[dict[str, Any]]:
        """The first rows of a split that may be too large to download: only these are streamed.

        Raises:
            EvaluationImpossible: as for ``load``.
        """
        with self._had(name, split):
            return list(islice(self._loaded(name, split, streaming=True), count))

    def _loaded(self, name: str | None, split: str, *, streaming: bool) -> Any:
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        path, revision = self._path()
        return load_dataset(
            path,
            name,
            split=split,
            revision=revision,
            cache_dir=str(self.cache),
            token=self.token,
            streaming=streaming,
        )

    @contextmanager
    def _had(self, name: str | None, split: str) -> Iterator[None]:
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (OSError, ValueError, DatasetsError) as error:
            raise EvaluationImpossible(
                f"{self.setting}: {self.place}, {name or 'default'}/{split}, cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}). Give this node access to the hub, or copy the data "
                f"('hf download --repo-type dataset {self._hub_name()} --local-dir FOLDER') and set "
                f"{self.setting}=FOLDER"
            ) from error

    def _path(self) -> tuple[str, str | None]:
        if self._is_folder():
            folder = Path(self.place).expanduser()
            if not folder.is_dir():
                raise EvaluationImpossible(f"{self.setting}: there is no folder {folder}")
            return str(folder.resolve()), None
        name, _, revision = self.place.partition("@")
        return name, revision or None

    def _is_folder(self) -> bool:
        return self.place.startswith(("/", ".", "~")) or Path(self.place).is_dir()

    def _hub_name(self) -> str:
        if not self._is_folder():
            return self.place.partition("@")[0]
        default = Settings.model_fields[self.setting.lower()].default
        return str(default)


def chosen_rows(seed: str, name: str, total: int, size: int) -> tuple[int, ...]:
    """Which ``size`` of ``total`` rows are asked, ascending: those whose SHA-256 of ``seed:name:row`` is least.

    The same at every validator with the same seed, whatever its Python or library versions; spread over the set.
    """

    def rank(row: int) -> bytes:
        return hashlib.sha256(f"{seed}:{name}:{row}".encode()).digest()

    return tuple(sorted(sorted(range(total), key=rank)[:size]))


def column(row: Mapping[str, Any], name: str, place: str) -> Any:
    """A row's value.

    Raises:
        EvaluationImpossible: the data have no such column.
    """
    if name not in row:
        raise EvaluationImpossible(
            f"{place}: there is no column {quoted(name)}, only {shown(', '.join(sorted(row)), 200)}"
        )
    return row[name]


def first_line(error: Exception) -> str:
    """What a library says of its failure, short."""
    return shown((str(error).splitlines() or [""])[0], 200)
