"""Reading records beside the scorer: parsing and featurizing take most of a second in which the device would idle."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from gpu.boltz.conformer_worker import read_frame, write_frame
from gpu.boltz.failure import BoltzInstallationError
from gpu.boltz.profile import PocketConstraint, Profile
from gpu.boltz.record import ParsedRecord, Reading, RecordReader

_START_SECONDS: Final = 300.0
_KEPT_RECORDS: Final = 8


class ReaderDied(Exception):
    """The process that reads records ended, perhaps of the record that it was reading."""


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

    def check(self) -> None:
        self._records.check()

    def structure(self, request: Request) -> Awaited:
        return _Later(lambda: self._records.structure(request))

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Awaited:
        return _Later(lambda: self._records.affinity(request, coordinates))

    def close(self) -> None:
        self._records.close()


class ReaderBeside:
    """Reads in a child process, in the order of asking; a thread takes its answers.

    A plain child because a Celery worker's child is daemonic and may have no multiprocessing children. It ends when
    this process does, because its standard input ends then.
    """

    def __init__(self, mols: Path, profile: Profile, pocket: PocketConstraint | None) -> None:
        command = [sys.executable, "-c", "from gpu.boltz.reading import main; main()"]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._pending: deque[Future[Reading]] = deque()
        self._lock = threading.Lock()
        self._dead = False
        self._listener = threading.Thread(target=self._listen, name="boltz-reader", daemon=True)
        self._listener.start()
        self._started = self._ask((mols, profile, pocket))

    def check(self) -> None:
        try:
            self._started.result(_START_SECONDS)
        except (ReaderDied, TimeoutError) as error:
            raise BoltzInstallationError(
                f"The process that reads Boltz-2's records does not start: run `{sys.executable} -c "
                "'import gpu.boltz.reading'` to see why."
            ) from error

    def structure(self, request: Request) -> Awaited:
        return self._ask((request, None))

    def affinity(self, request: Request, coordinates: npt.NDArray[np.float32]) -> Awaited:
        return self._ask((request, coordinates))

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        # what was still to be written is of no use to a child that has gone
        with suppress(BrokenPipeError):
            cast(BinaryIO, self._child.stdin).close()
        self._listener.join()

    def _ask(self, question: object) -> Future[Reading]:
        answer: Future[Reading] = Future()
        with self._lock:
            if self._dead:
                answer.set_exception(ReaderDied())
                return answer
            self._pending.append(answer)
        try:
            write_frame(cast(BinaryIO, self._child.stdin), question)
        except (BrokenPipeError, ValueError):
            self._child.kill()  # the listener fails what is pending
        return answer

    def _listen(self) -> None:
        stream = cast(BinaryIO, self._child.stdout)
        try:
            while True:
                answer = read_frame(stream)
                with self._lock:
                    pending = self._pending.popleft()
                if isinstance(answer, BaseException):
                    pending.set_exception(answer)
                else:
                    pending.set_result(answer)
        except (EOFError, OSError, pickle.UnpicklingError):
            with self._lock:
                self._dead = True
                pending_now, self._pending = self._pending, deque()
            for waiting in pending_now:
                waiting.set_exception(ReaderDied())
            stream.close()


def main() -> None:
    """Answer the parent's questions until it closes the pipe. Answers go out as frames, errors among them."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # boltz prints; frames must not be disturbed
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    records: _Records | None = None
    while True:
        try:
            question = read_frame(questions)
        except EOFError:
            break
        try:
            if records is None:
                records = _Records(*question)
                records.check()
                answer: object = None
            else:
                request, coordinates = question
                answer = records.structure(request) if coordinates is None else records.affinity(request, coordinates)
        except Exception as error:  # noqa: BLE001  (the parent decides what each means)
            answer = _sendable(error)
        write_frame(answers, answer)
    if records is not None:
        records.close()


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (made on the line itself)
    except Exception:  # noqa: BLE001  (whatever its own pickling raises)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
