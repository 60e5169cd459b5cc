"""How pairs reach the device: one by one on a CPU, in fixed-shape batches of 32 on a GPU.

Both give each pair the same bits whatever its batch-mates are. On the CPU a pair is computed alone. On the GPU every
batch has the same shape (:mod:`gpu.psichic.packing`), is recorded once per protein as a CUDA graph, and replayed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu.psichic.engine import Engine, PreparedProtein
from gpu.psichic.errors import DeviceError
from gpu.psichic.ligand import LigandGraph
from gpu.psichic.network import ProteinInput
from gpu.psichic.packing import Capacity, PackedBuffer, drug_like_capacity, exact_capacity, portions

SLOTS: Final = 32
KEPT_PROTEINS: Final = 64


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Deterministic algorithms, no TF32 or bfloat16 products, no autograd; the caller's settings come back after."""
    backends: Any = torch.backends
    memory: Any = torch.utils.deterministic
    matmuls = (backends.cuda.matmul, backends.mkldnn.matmul)
    precision = [backend.fp32_precision for backend in matmuls]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        for backend in matmuls:
            backend.fp32_precision = "ieee"
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
        with torch.inference_mode():
            yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for backend, value in zip(matmuls, precision, strict=True):
            backend.fp32_precision = value


class Runner(Protocol):
    """Scores ligand graphs against proteins that were prepared under a key."""

    def knows(self, key: str) -> bool:
        """Whether this protein is still prepared."""

    def prepare(self, key: str, protein: ProteinInput) -> None:
        """Prepare a protein and keep it."""

    def run(self, keys: Sequence[str], batches: Iterator[Sequence[LigandGraph]]) -> Iterator[NDArray[np.float64]]:
        """For each batch the scores, proteins × ligands. The next batch is fetched while the device works."""

    def resident_bytes(self) -> int:
        """Device memory held."""


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Operations on one thread each, whatever the caller has set; yields how many threads the caller allows.

    A product split over two threads sums in another order than on one, so the split would decide the last bits.
    """
    allowed = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield allowed
    finally:
        torch.set_num_threads(allowed)


class PairRunner:
    """One pair at a time and one thread a pair: the CPU's way. Several ligands go side by side where threads allow."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._proteins: OrderedDict[str, PreparedProtein] = OrderedDict()

    def knows(self, key: str) -> bool:
        """Whether this protein is still prepared."""
        return key in self._proteins

    def prepare(self, key: str, protein: ProteinInput) -> None:
        """Prepare a protein and keep it; the least recently used beyond 64 go."""
        with _one_thread_each(), exact_arithmetic():
            self._proteins[key] = self._engine.prepare_protein(protein)
        while len(self._proteins) > KEPT_PROTEINS:
            self._proteins.popitem(last=False)

    def run(self, keys: Sequence[str], batches: Iterator[Sequence[LigandGraph]]) -> Iterator[NDArray[np.float64]]:
        """For each batch the scores, proteins × ligands."""
        for key in keys:
            self._proteins.move_to_end(key)
        proteins = [self._proteins[key] for key in keys]
        for graphs in batches:
            with _one_thread_each() as allowed, exact_arithmetic():
                one = partial(self._column, proteins)
                if allowed == 1 or len(graphs) == 1:
                    columns = [one(graph) for graph in graphs]
                else:
                    with ThreadPoolExecutor(allowed, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                        columns = list(pool.map(one, graphs))
            yield np.array(columns).T.reshape(len(keys), len(graphs))

    def _column(self, proteins: Sequence[PreparedProtein], graph: LigandGraph) -> list[float]:
        """One ligand's scores against every protein."""
        with torch.inference_mode():
            packed = PackedBuffer(exact_capacity(graph), self._engine.device)
            packed.fill([graph])
            ligand = self._engine.prepare_ligands(packed.batch)
            return [self._engine.pairs(ligand, packed.batch, protein).item() for protein in proteins]

    def resident_bytes(self) -> int:
        """Memory of weights and prepared proteins."""
        return tensor_bytes(self._engine.weights) + tensor_bytes(self._proteins)


@dataclass(slots=True)
class _Recorded:
    """A replayable launch and what it writes."""

    replay: Callable[[], None]
    output: Any


@dataclass(slots=True)
class _Stage:
    """The buffers of one capacity class on the device, and what is recorded over them."""

    staging: tuple[PackedBuffer, PackedBuffer]
    device: PackedBuffer
    prologue: _Recorded
    pairs: dict[str, _Recorded] = field(default_factory=dict)
    copied: list[Any] = field(default_factory=lambda: [None, None])
    """per staging buffer: the event after which it may be filled again"""
    turn: int = 0


@dataclass(slots=True)
class _Pending:
    """Scores under way: where they land, and when."""

    landing: Tensor
    done: Any
    columns: list[int]


class PackedRunner:
    """Batches of ``slots`` ligands in fixed shapes, recorded as CUDA graphs; eager on other devices.

    Out of memory: what is recorded and kept is dropped first; then the slots are halved for good, down to one pair.
    """

    def __init__(self, engine: Engine, slots: int = SLOTS, *, graphs: bool = True) -> None:
        self._engine, self._slots = engine, slots
        self._cuda = engine.device.type == "cuda"
        self._graphs = graphs and self._cuda
        self._proteins: OrderedDict[str, PreparedProtein] = OrderedDict()
        self._stages: dict[Capacity, _Stage] = {}
        self._pool: Any = None
        self._side: Any = None
        self._recording: Any = None
        if self._cuda:
            self._side, self._recording = _cuda().Stream(engine.device), _cuda().Stream(engine.device)
            engine.side_by_side = self._fork
        if self._graphs:
            self._pool = torch.cuda.graph_pool_handle()

    @property
    def slots(self) -> int:
        """Ligands per launch at present."""
        return self._slots

    def _fork(self, left: Callable[[], Any], right: Callable[[], Any]) -> tuple[Any, Any]:
        """Residues on the current stream, ligands beside them; both are done when this returns.

        Every tensor that crosses over is held by the caller until the next join, so no memory is reused too early.
        """
        main = torch.cuda.current_stream(self._engine.device)
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            second = right()
        first = left()
        main.wait_stream(self._side)
        return first, second

    def knows(self, key: str) -> bool:
        """Whether this protein is still prepared."""
        return key in self._proteins

    def prepare(self, key: str, protein: ProteinInput) -> None:
        """Prepare a protein and keep it; the least recently used beyond 64 go."""

        def make() -> None:
            with exact_arithmetic():
                self._proteins[key] = self._engine.prepare_protein(protein)

        self._with_room(make)
        while len(self._proteins) > KEPT_PROTEINS:
            old, _ = self._proteins.popitem(last=False)
            for stage in self._stages.values():
                stage.pairs.pop(old, None)

    def _with_room(self, work: Callable[[], None]) -> None:
        """Do the work; where memory runs out, drop what is recorded, then halve the slots, and try again."""
        dropped = False
        while True:
            try:
                with self._on_device():
                    work()
            except torch.OutOfMemoryError as error:
                if not dropped:
                    dropped = True
                elif self._slots > 1:
                    self._slots //= 2
                else:
                    raise DeviceError(
                        f"{self._engine.device} has no room for a single pair; free its memory or score on the CPU."
                    ) from error
                self._drop_recorded()
                continue
            return

    def _on_device(self) -> AbstractContextManager[Any]:
        """Triton and the graphs launch on the current device, so the engine's is made current."""
        return _cuda().device(self._engine.device) if self._cuda else nullcontext()

    def _drop_recorded(self) -> None:
        self._stages.clear()
        if self._cuda:
            torch.cuda.synchronize(self._engine.device)
            if self._graphs:
                self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.empty_cache()

    def run(self, keys: Sequence[str], batches: Iterator[Sequence[LigandGraph]]) -> Iterator[NDArray[np.float64]]:
        """For each batch the scores, proteins × ligands. The next batch is fetched while the device works."""
        for key in keys:
            self._proteins.move_to_end(key)
        earlier: tuple[NDArray[np.float64], list[_Pending]] | None = None
        for graphs in batches:
            scores = np.empty((len(keys), len(graphs)))
            now = scores, self._launch_all(keys, graphs)
            if earlier is not None:
                yield self._collect(*earlier)
            earlier = now
        if earlier is not None:
            yield self._collect(*earlier)

    def _collect(self, scores: NDArray[np.float64], pending: list[_Pending]) -> NDArray[np.float64]:
        for part in pending:
            if part.done is not None:
                part.done.synchronize()
            scores[:, part.columns] = part.landing[:, : len(part.columns)].double().numpy()
        return scores

    def _launch_all(self, keys: Sequence[str], graphs: Sequence[LigandGraph]) -> list[_Pending]:
        pending: list[_Pending] = []

        def work() -> None:
            pending.clear()
            with exact_arithmetic():
                for columns, capacity in portions(graphs, drug_like_capacity(self._slots)):
                    pending.append(self._launch(keys, [graphs[i] for i in columns], columns, capacity))

        self._with_room(work)
        return pending

    def _launch(
        self, keys: Sequence[str], graphs: Sequence[LigandGraph], columns: list[int], capacity: Capacity
    ) -> _Pending:
        stage = self._stages.get(capacity)
        if stage is None:
            stage = self._stages[capacity] = self._new_stage(capacity, graphs)
        turn = stage.turn = stage.turn ^ 1
        copied = stage.copied[turn]
        if copied is not None:
            copied.synchronize()
        stage.staging[turn].fill(graphs)
        stage.device.bytes.copy_(stage.staging[turn].bytes, non_blocking=True)
        stage.copied[turn] = self._event()
        for key in keys:
            if key not in stage.pairs:
                stage.pairs[key] = self._record_pairs(stage, self._proteins[key])
        stage.prologue.replay()
        scores = torch.empty(len(keys), capacity.slots, dtype=self._engine.dtype, device=self._engine.device)
        for row, key in enumerate(keys):
            # Recordings share one memory pool, so an output is only safe until the next replay.
            stage.pairs[key].replay()
            scores[row].copy_(stage.pairs[key].output)
        if not self._cuda:
            return _Pending(scores, None, columns)
        landing = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        landing.copy_(scores, non_blocking=True)
        return _Pending(landing, self._event(), columns)

    def _event(self) -> Any:
        if not self._cuda:
            return None
        event = _cuda().Event()
        event.record()
        return event

    def _new_stage(self, capacity: Capacity, graphs: Sequence[LigandGraph]) -> _Stage:
        device = self._engine.device
        host = torch.device("cpu")
        staging = (
            PackedBuffer(capacity, host, pinned=self._cuda),
            PackedBuffer(capacity, host, pinned=self._cuda),
        )
        on_device = PackedBuffer(capacity, device)
        staging[0].fill(graphs)
        on_device.bytes.copy_(staging[0].bytes)
        prologue = self._record(lambda: self._engine.prepare_ligands(on_device.batch))
        return _Stage(staging, on_device, prologue)

    def _record_pairs(self, stage: _Stage, protein: PreparedProtein) -> _Recorded:
        batch, ligands = stage.device.batch, stage.prologue.output
        stage.prologue.replay()
        return self._record(lambda: self._engine.pairs(ligands, batch, protein))

    def _record(self, work: Callable[[], Any]) -> _Recorded:
        """Run the work once, then record it; without graphs, run it again at each replay into the same tensors."""
        if not self._graphs:
            output = work()

            def again() -> None:
                _copy_into(output, work())

            return _Recorded(again, output)
        stream = self._recording
        stream.wait_stream(torch.cuda.current_stream(self._engine.device))
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream(self._engine.device).wait_stream(stream)
        torch.cuda.synchronize(self._engine.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            output = work()
        return _Recorded(graph.replay, output)

    def resident_bytes(self) -> int:
        """Device memory of weights, prepared proteins, buffers and the recordings' pool."""
        held = tensor_bytes(self._engine.weights) + tensor_bytes(self._proteins)
        held += sum(stage.device.bytes.nbytes for stage in self._stages.values())
        if self._graphs:
            held += sum(
                segment["total_size"]
                for segment in _cuda().memory_snapshot()
                if tuple(segment["segment_pool_id"]) == tuple(self._pool)
            )
        return held


def _copy_into(old: Any, new: Any) -> None:
    """Write the tensors of ``new`` over those of ``old``, which has the same structure."""
    if isinstance(old, Tensor):
        old.copy_(new)
    else:
        for item in fields(old):
            _copy_into(getattr(old, item.name), getattr(new, item.name))


def tensor_bytes(holder: Any, seen: set[int] | None = None) -> int:
    """Bytes of all distinct tensor storages reachable through attributes, containers and dataclasses."""
    seen = set() if seen is None else seen
    if isinstance(holder, Tensor):
        storage = holder.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if isinstance(holder, dict):
        return sum(tensor_bytes(value, seen) for value in holder.values())
    if isinstance(holder, list | tuple):
        return sum(tensor_bytes(value, seen) for value in holder)
    if is_dataclass(holder):
        return sum(tensor_bytes(getattr(holder, item.name), seen) for item in fields(holder))
    if hasattr(holder, "__dict__") and type(holder).__module__.startswith("gpu."):
        return sum(tensor_bytes(value, seen) for value in vars(holder).values())
    return 0


def _cuda() -> Any:
    """``torch.cuda``, parts of which carry no types."""
    return torch.cuda
