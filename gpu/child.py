"""A child process that answers questions in the order of asking, beside the process that has the device.

A plain child, not multiprocessing's: a Celery worker's child is daemonic and may have no such children. It ends when
this process does, because its end of the connection is closed then.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any


def send(connection: Connection, value: Any) -> None:
    """Send by plain pickle: the connection's own would pass torch's tensors as shared memory of a multiprocessing."""
    connection.send_bytes(pickle.dumps(value))


def receive(connection: Connection) -> Any:
    """Receive; EOFError where the other side is gone."""
    return pickle.loads(connection.recv_bytes())  # noqa: S301  (both ends are this program)


def readers(most: int) -> int:
    """How many children read beside one device: a quarter of the machine's processors, at least one."""
    return min(most, max(1, (os.cpu_count() or 1) // 4))


class ChildDied(Exception):
    """The child ended, perhaps of the question that it was asked."""


class Child:
    """A started child. ``started`` is done once it takes questions, or holds what went wrong."""

    def __init__(self, factory: str, *arguments: Any) -> None:
        """Start ``factory``, written ``module:name``, with the arguments; what it returns answers each question."""
        self._ours, theirs = Pipe()
        command = [sys.executable, "-P", "-c", f"from gpu.child import serve; serve({theirs.fileno()}, {factory!r})"]
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment
            )
        self._pending: deque[Future[Any]] = deque()
        self._asking, self._answering = threading.Lock(), threading.Lock()
        self._dead = False
        self._listener = threading.Thread(target=self._listen, name=f"answers of {factory}", daemon=True)
        self._listener.start()
        self.started = self.ask(arguments)

    def ask(self, question: Any) -> Future[Any]:
        """Ask; the future holds the answer, the exception that the child met, or :class:`ChildDied`."""
        answer: Future[Any] = Future()
        # two locks: while a long question waits for the child to read it, answers must still be taken
        with self._asking:
            with self._answering:
                if self._dead:
                    answer.set_exception(ChildDied())
                    return answer
                self._pending.append(answer)
            try:
                send(self._ours, question)
            except OSError:
                self.kill()  # the listener fails what is pending
        return answer

    @property
    def alive(self) -> bool:
        """Whether it may still answer."""
        return not self._dead

    def kill(self) -> None:
        """End it, whatever it is doing; what is pending fails with :class:`ChildDied`."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and wait until all that was pending has failed."""
        self.kill()
        self._listener.join()

    def _listen(self) -> None:
        with self._ours, suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                answer = receive(self._ours)
                with self._answering:
                    pending = self._pending.popleft()
                if isinstance(answer, BaseException):
                    pending.set_exception(answer)
                else:
                    pending.set_result(answer)
        self._process.kill()
        with self._answering:
            self._dead = True
            left, self._pending = self._pending, deque()
        for waiting in left:
            waiting.set_exception(ChildDied())


def serve(descriptor: int, factory: str) -> None:
    """Answer the parent's questions until it closes the connection; the first one holds the factory's arguments."""
    # what a library prints does not belong into the output of the command that asks
    os.dup2(2, 1)
    module, name = factory.split(":")
    answer: Callable[[Any], Any] | None = None
    with Connection(descriptor) as parent:
        while True:
            try:
                question = receive(parent)
            except EOFError:
                return
            try:
                if answer is None:
                    answer, found = getattr(importlib.import_module(module), name)(*question), None
                else:
                    found = answer(question)
            except Exception as error:  # noqa: BLE001  (the parent decides what each means)
                found = _sendable(error)
            send(parent, found)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (made on the line itself)
    except Exception:  # noqa: BLE001  (whatever its own pickling raises)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
