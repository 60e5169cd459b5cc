"""Ligand graphs read beside the scorer: one core reads as many as a device scores against nine proteins."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, Protocol

from gpu.child import Child, ChildDied, readers
from gpu.psichic.errors import LigandError
from gpu.psichic.ligand import LigandGraph, ligand_graph

# Two read half as much again as one device needs on a slow core.
_MOST_READERS: Final = 2

# SMILES in one question.
_TOGETHER: Final = 32

# Graphs that were read ahead and not asked for, for their call failed, go once there are so many.
_KEPT: Final = 4096


class Graphs(Protocol):
    """Where ligand graphs come from."""

    def expect(self, smiles: Sequence[str]) -> None:
        """Begin to read these."""
        ...

    def graph(self, smiles: str) -> LigandGraph:
        """The graph of one SMILES; :class:`~gpu.psichic.errors.LigandError` where there is none."""
        ...

    def close(self) -> None:
        """End whatever was started."""
        ...


class GraphsHere:
    """Read in this process, when asked for."""

    def expect(self, smiles: Sequence[str]) -> None:
        return

    def graph(self, smiles: str) -> LigandGraph:
        return ligand_graph(smiles)

    def close(self) -> None:
        return


class GraphsBeside:
    """Read in child processes. Threads may share it: one reads ahead while another's are scored."""

    def __init__(self, children: int | None = None) -> None:
        self._wanted = children or readers(_MOST_READERS)
        self._children: list[Child] = []
        self._turn = 0
        self._lock = threading.Lock()
        self._coming: OrderedDict[str, tuple[Future[list[LigandGraph | LigandError]], int]] = OrderedDict()

    def expect(self, smiles: Sequence[str]) -> None:
        with self._lock:
            new = [text for text in dict.fromkeys(smiles) if text not in self._coming]
            for start in range(0, len(new), _TOGETHER):
                some = new[start : start + _TOGETHER]
                answer = self._child().ask(some)
                self._coming.update((text, (answer, place)) for place, text in enumerate(some))
            while len(self._coming) > _KEPT:
                self._coming.popitem(last=False)

    def graph(self, smiles: str) -> LigandGraph:
        with self._lock:
            coming = self._coming.pop(smiles, None)
        if coming is None:
            return ligand_graph(smiles)
        answer, place = coming
        try:
            found = answer.result()[place]
        except ChildDied:
            found = self._alone(smiles)
        if isinstance(found, LigandError):
            raise found
        return found

    def close(self) -> None:
        with self._lock:
            children, self._children = self._children, []
            self._coming.clear()
        for child in children:
            child.close()

    def _child(self) -> Child:
        """The next child in turn; one that died is replaced."""
        if len(self._children) < self._wanted:
            self._children.append(Child("gpu.psichic.reading:answering"))
        self._turn = (self._turn + 1) % len(self._children)
        if not self._children[self._turn].alive:
            self._children[self._turn] = Child("gpu.psichic.reading:answering")
        return self._children[self._turn]

    def _alone(self, smiles: str) -> Any:
        """Read by a child that reads nothing else, for a molecule may have ended the one before."""
        child = Child("gpu.psichic.reading:answering")
        try:
            return child.ask([smiles]).result()[0]
        except ChildDied:
            return LigandError("crash", f"RDKit crashes when it reads {smiles!r}; leave the molecule out.")
        finally:
            child.close()


def answering() -> Callable[[Sequence[str]], list[LigandGraph | LigandError]]:
    """What a child does: a graph for each SMILES, or why there is none."""

    def answer(smiles: Sequence[str]) -> list[LigandGraph | LigandError]:
        return [_graph_or_error(text) for text in smiles]

    return answer


def _graph_or_error(smiles: str) -> LigandGraph | LigandError:
    try:
        return ligand_graph(smiles)
    except LigandError as error:
        return error
