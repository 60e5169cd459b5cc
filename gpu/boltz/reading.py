"""Reading records beside the scorer: parsing and featurizing take most of a second in which the device would idle."""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from gpu.boltz.failure import BoltzInstallationError
from gpu.boltz.profile import PocketConstraint, Profile
from gpu.boltz.record import ParsedRecord, Reading, RecordReader
from gpu.child import Child, ChildDied, readers

_START_SECONDS: Final = 300.0
_KEPT_RECORDS: Final = 8

# One molecule may be embedded for a minute, in which others are read; more readers than that only take memory.
_MOST_READERS: Final = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One molecule against one protein; ``alignment`` in A3M."""

    smiles: str
    sequence: str
    seed: int
    alignment: str | None


class Awaited(Protocol):
    """A reading asked for."""

    def done(self) -> bool:
        """Whether ``result`` answers without waiting."""
        ...

    def result(self) -> Reading:
        """The reading, or what went wrong raised."""
        ...


class Reader(Protocol):
    """Where records are read."""

    @property
    def ahead(self) -> int:
        """How many molecules are to be asked for before the first is taken."""
        ...

    def structure(self, request: Request) -> Awaited:
        """The structure model's features."""
        ...

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Awaited:
        """The affinity model's features, once ``structure`` was asked for; coordinates atoms × 3, Å."""
        ...

    def check(self) -> None:
        """Whether a record that must be readable is; BoltzInstallationError if not."""
        ...

    def close(self) -> None:
        """End whatever was started."""
        ...


@dataclass(frozen=True)
class _Later:
    """Read when asked for the result, in this process."""

    result: Callable[[], Reading]

    def done(self) -> bool:
        return False


class _Records:
    """Reads, keeping what was parsed until its pose comes."""

    def __init__(self, mols: Path, profile: Profile, pocket: PocketConstraint | None) -> None:
        self._reader = RecordReader(mols, profile, pocket)
        self._parsed: OrderedDict[Request, ParsedRecord] = OrderedDict()

    def check(self) -> None:
        self._reader.check()

    def structure(self, request: Request) -> Reading:
        record = self._record(request)
        self._parsed[request] = record
        while len(self._parsed) > _KEPT_RECORDS:
            self._parsed.popitem(last=False)
        return self._reader.structure_reading(record, request.seed)

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Reading:
        return self._reader.affinity_reading(self._record(request), coordinates, request.seed)

    def close(self) -> None:
        self._reader.close()

    def _record(self, request: Request) -> ParsedRecord:
        kept = self._parsed.pop(request, None)
        if kept is not None:
            return kept
        return self._reader.parsed(request.smiles, request.sequence, request.seed, request.alignment)


class ReaderHere:
    """Reads in this process, when the result is asked for."""

    def __init__(self, mols: Path, profile: Profile, pocket: PocketConstraint | None) -> None:
        self._records = _Records(mols, profile, pocket)

    @property
    def ahead(self) -> int:
        return 1

    def check(self) -> None:
        self._records.check()

    def structure(self, request: Request) -> Awaited:
        return _Later(lambda: self._records.structure(request))

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Awaited:
        return _Later(lambda: self._records.affinity(request, coordinates))

    def close(self) -> None:
        self._records.close()


class ReaderBeside:
    """Reads in child processes, each in the order of asking. A molecule stays with the child that parsed it."""

    def __init__(
        self, mols: Path, profile: Profile, pocket: PocketConstraint | None, children: int | None = None
    ) -> None:
        self._arguments = (mols, profile, pocket)
        wanted = children or readers(_MOST_READERS)
        self._children = [self._child() for _ in range(wanted)]
        self._next = itertools.cycle(range(len(self._children)))
        self._reads: OrderedDict[Request, int] = OrderedDict()

    @property
    def ahead(self) -> int:
        return 2 * len(self._children)

    def check(self) -> None:
        for child in self._children:
            try:
                child.started.result(_START_SECONDS)
            except (ChildDied, TimeoutError) as error:
                raise BoltzInstallationError(
                    "The process that reads Boltz-2's records does not start: run `python -c "
                    "'import gpu.boltz.reading'` to see why."
                ) from error

    def structure(self, request: Request) -> Awaited:
        number = self._reads[request] = next(self._next)
        while len(self._reads) > _KEPT_RECORDS * len(self._children):
            self._reads.popitem(last=False)
        return self._ask(number, (request, None))

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Awaited:
        number = self._reads.pop(request, None)
        return self._ask(next(self._next) if number is None else number, (request, coordinates))

    def close(self) -> None:
        for child in self._children:
            child.close()

    def _ask(self, number: int, question: object) -> Future[Reading]:
        if not self._children[number].alive:
            self._children[number] = self._child()
        return self._children[number].ask(question)

    def _child(self) -> Child:
        return Child("gpu.boltz.reading:answering", *self._arguments)


def answering(mols: Path, profile: Profile, pocket: PocketConstraint | None) -> Callable[[Any], Reading]:
    """What a child does: reads structures, and affinity's features where coordinates come along."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    records = _Records(mols, profile, pocket)
    records.check()

    def answer(question: Any) -> Reading:
        request, coordinates = question
        return records.structure(request) if coordinates is None else records.affinity(request, coordinates)

    return answer
