"""PSICHIC as the validator's GPU worker uses it: resident, batch-independent, one error per molecule at most.

Importing this module and making a :class:`PsichicScorer` load neither torch nor RDKit; the first score does.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import logging
import math
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from app.domain import PSICHIC_METRIC, PairScore, Protein
from gpu.psichic.checkpoint import WeightsFolder, file_sha256, open_weights
from gpu.psichic.errors import CheckpointError, DeviceError, LigandError, ProteinError, PsichicError
from gpu.psichic.protein import FeatureCache, ProteinFeatures, features_from, read_feature_file, sequence_digest
from gpu.psichic.reading import Graphs, GraphsBeside, GraphsHere
from gpu.psichic.residue import sanitise

if TYPE_CHECKING:
    import torch

    from gpu.psichic.ligand import LigandGraph
    from gpu.psichic.runner import Runner

BATCH: Final = 32
DTYPES: Final = ("float32", "float64")
_PROTEINS_AT_ONCE: Final = 32

# Ligands whose graphs are read before the first is scored.
_READ_AHEAD: Final = 512

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AffinityTable:
    """Scores of every pair, and why some ligands or proteins have none."""

    scores: NDArray[np.float64]
    """proteins × ligands; NaN where the ligand or protein failed"""
    failures: dict[int, str]
    """ligand index → ``code: sentence``"""
    protein_failures: dict[int, str]
    """protein index → ``code: sentence``"""


class PsichicScorer:
    """Predicted binding affinities of ligands against proteins (:class:`app.domain.Scorer`).

    One scorer lives as long as its worker. A (protein, SMILES) score is bitwise the same alone, in any batch and at
    any place in it, on one device.
    """

    def __init__(
        self,
        weights: WeightsFolder,
        *,
        feature_cache: Path,
        esm: Path | None = None,
        device: str | None = None,
        dtype: str = "float32",
        protein_features: Path | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise PsichicError(f"the precision {dtype!r} is not offered; choose float32 or float64.")
        self._weights, self._esm, self._feature_cache = weights, esm, feature_cache
        self._device_name, self._dtype, self._feature_file = device, dtype, protein_features
        self._runner: Runner | None = None
        self._device: torch.device | None = None
        self._features: dict[str, ProteinFeatures] | None = None
        self._esm_digest: str | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_directory(
        cls,
        weights: Path,
        esm: Path | None = None,
        device: str | None = None,
        dtype: str = "float32",
        feature_cache: Path = Path("data/proteins"),
        protein_features: Path | None = None,
    ) -> PsichicScorer:
        """A scorer over a weights folder; ``device`` None takes CUDA where there is one.

        Without ``esm``, an ESM-2 checkpoint inside the weights folder is used where there is one. Raises
        :class:`~gpu.psichic.errors.CheckpointError` where the folder holds no such checkpoint.
        """
        folder = open_weights(weights)
        if esm is None and (weights / "esm2.pt").is_file():
            esm = weights / "esm2.pt"
        if esm is not None and not esm.exists():
            raise CheckpointError(f"{esm} does not exist; fetch ESM-2 with `python -m app checkpoints fetch esm2`.")
        return cls(
            folder,
            feature_cache=feature_cache,
            esm=esm,
            device=device,
            dtype=dtype,
            protein_features=protein_features,
        )

    @cached_property
    def _graphs(self) -> Graphs:
        # on a CPU the network takes a hundred times as long as the graph
        return GraphsBeside() if self._kind == "cuda" else GraphsHere()

    @property
    def untrained(self) -> bool:
        """Whether the weights are the demo, whose scores mean nothing."""
        return self._weights.untrained

    @property
    def digest(self) -> str:
        """Hex SHA-256 over weights, protein feature source, code, precision, kind of device and library versions.

        A CPU and a GPU differ in a score's last bits; so may plain torch and Triton's kernels.
        """
        libraries = ("torch", "rdkit", "fair-esm", *(("triton",) if self._kind == "cuda" else ()))
        versions = (_version(name) for name in libraries)
        parts = (self._weights.digest, self._feature_source(), code_digest(), self._dtype, self._kind, *versions)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def _kind(self) -> str:
        # asks torch only where nobody said which device
        return self._device_name.split(":")[0] if self._device_name else chosen_device(None).type

    def _feature_source(self) -> str:
        if self._feature_file is not None:
            return f"features {file_sha256(self._feature_file)}"
        return "no language model" if self._esm is None else f"esm {self._language_digest()}"

    def _language_digest(self) -> str:
        if self._esm_digest is None:
            from gpu.checkpoints import known_sha256

            assert self._esm is not None
            self._esm_digest = known_sha256(_language_file(self._esm))
        return self._esm_digest

    def score(self, proteins: Sequence[Protein], smiles: Sequence[str]) -> AffinityTable:
        """The table of every pair, proteins × ligands, in the order given.

        A ligand without a graph, or a protein without a sequence or features, is reported and leaves NaN; the others
        score. Raises :class:`~gpu.psichic.errors.PsichicError` where nothing can be scored (checkpoint, device).
        """
        # before the lock: what another thread has scored meanwhile leaves this one's graphs read
        self._graphs.expect(smiles[:_READ_AHEAD])
        with self._lock:
            table = np.full((len(proteins), len(smiles)), np.nan)
            failures: dict[int, str] = {}
            runner = self._loaded()
            keys: dict[int, str] = {}
            protein_failures: dict[int, str] = {}
            needed: dict[str, str] = {}
            for row, protein in enumerate(proteins):
                if protein.sequence is None:
                    protein_failures[row] = f"no_sequence: no sequence is known for protein {protein.code!r}."
                elif not protein.sequence:
                    protein_failures[row] = f"empty_sequence: the sequence of protein {protein.code!r} is empty."
                else:
                    keys[row] = sequence_digest(sanitise(protein.sequence))
                    needed[keys[row]] = sanitise(protein.sequence)
            unique = list(needed)
            for first in range(0, len(unique), _PROTEINS_AT_ONCE):
                group = unique[first : first + _PROTEINS_AT_ONCE]
                reasons = self._prepare({key: needed[key] for key in group}, runner)
                for row, key in list(keys.items()):
                    if key in reasons:
                        protein_failures[row] = reasons[key]
                        del keys[row]
                ready = [key for key in group if key not in reasons]
                rows = [(row, ready.index(key)) for row, key in keys.items() if key in ready]
                self._fill(table, failures, runner, ready, rows, smiles)
            if not unique:
                self._fill(table, failures, runner, [], [], smiles)
            return AffinityTable(table, failures, protein_failures)

    def _fill(
        self,
        table: NDArray[np.float64],
        failures: dict[int, str],
        runner: Runner,
        keys: list[str],
        rows: list[tuple[int, int]],
        smiles: Sequence[str],
    ) -> None:
        """Read and score, a batch at a time; the device works while the next batch is read."""
        columns: list[list[int]] = []
        read = self._graphs.graph

        def batches() -> Iterator[list[LigandGraph]]:
            for start in range(0, len(smiles), BATCH):
                self._graphs.expect(smiles[start + _READ_AHEAD : start + _READ_AHEAD + BATCH])
                graphs, places = [], []
                for column in range(start, min(start + BATCH, len(smiles))):
                    try:
                        graphs.append(read(smiles[column]))
                    except LigandError as error:
                        failures[column] = str(error)
                    else:
                        places.append(column)
                if graphs:
                    columns.append(places)
                    yield graphs

        if not keys:
            for _ in batches():
                continue
            return
        targets, sources = [row for row, _ in rows], [source for _, source in rows]
        for position, block in enumerate(runner.run(keys, batches())):
            table[np.ix_(targets, columns[position])] = block[sources]

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """One :class:`~app.domain.PairScore` per protein and SMILES, proteins outermost."""
        table = self.score(proteins, smiles)
        out: list[PairScore] = []
        for row, (protein, values) in enumerate(zip(proteins, table.scores.tolist(), strict=True)):
            for column, (text, value) in enumerate(zip(smiles, values, strict=True)):
                error = table.protein_failures.get(row) or table.failures.get(column)
                if error is None and not math.isfinite(value):
                    error = "not_finite: the network gave no finite number for this pair."
                metrics = {PSICHIC_METRIC: value} if error is None else {}
                out.append(PairScore(protein.code, text, metrics, error))
        return out

    def close(self) -> None:
        """Give back the model's memory; the next score loads it again."""
        with self._lock:
            device, self._runner, self._device = self._device, None, None
            self._graphs.close()
            if device is None:
                return
            gc.collect()
            if device.type == "cuda":
                import torch

                torch.cuda.synchronize(device)
                # cuBLAS keeps a workspace per stream; there is no public way to give it back.
                torch._C._cuda_clearCublasWorkspaces()
                torch.cuda.empty_cache()

    def resident_bytes(self) -> int:
        """Device memory held at present; 0 before the first score and after :meth:`close`."""
        with self._lock:
            return 0 if self._runner is None else self._runner.resident_bytes()

    def _loaded(self) -> Runner:
        if self._runner is None:
            import torch

            from gpu.psichic.checkpoint import load_network
            from gpu.psichic.engine import Engine
            from gpu.psichic.runner import PackedRunner, PairRunner

            device = chosen_device(self._device_name)
            dtype = torch.float32 if self._dtype == "float32" else torch.float64
            engine = Engine(load_network(self._weights), dtype, device, fastest_kernels(device, dtype))
            self._runner = PackedRunner(engine) if device.type == "cuda" else PairRunner(engine)
            self._device = device
        return self._runner

    def _prepare(self, needed: dict[str, str], runner: Runner) -> dict[str, str]:
        """Prepare the proteins that the runner does not know; why some cannot be."""
        reasons: dict[str, str] = {}
        language: list[Any] = []
        for key, sequence in needed.items():
            if runner.knows(key):
                continue
            try:
                features = self._features_of(sequence, language)
            except ProteinError as error:
                reasons[key] = f"no_features: {error}"
                continue
            if features.token.shape[1] != self._weights.evolutionary:
                raise CheckpointError(
                    f"the protein features are {features.token.shape[1]} wide, but {self._weights.path} was trained on "
                    f"{self._weights.evolutionary}: take the ESM-2 that belongs to these weights."
                )
            runner.prepare(key, features.network_input())
        return reasons

    def _features_of(self, sequence: str, language: list[Any]) -> ProteinFeatures:
        """Features of a sanitised sequence; ``language`` keeps the model for the proteins of one call."""
        if self._feature_file is not None:
            if self._features is None:
                by_name = read_feature_file(self._feature_file)
                self._features = {features.sequence: features for features in by_name.values()}
            if sequence in self._features:
                return self._features[sequence]
            if self._esm is None:
                raise ProteinError(f"{self._feature_file} has no protein with the sequence {sequence[:20]}….")
        if self._esm is None:
            raise ProteinError(
                "no ESM-2 checkpoint is configured; fetch one with `python -m app checkpoints fetch esm2`."
            )

        def make(clean: str) -> ProteinFeatures:
            from gpu.psichic.language_model import load_language_model
            from gpu.psichic.runner import exact_arithmetic

            if not language:
                assert self._esm is not None
                assert self._device is not None
                language.append(load_language_model(self._esm, self._device))
            with exact_arithmetic():
                return features_from(clean, language[0])

        # the language model's last bits differ between kinds of device, and with them a contact's side of 0.5
        maker = hashlib.sha256(f"{self._language_digest()} {self._kind}".encode()).hexdigest()
        return FeatureCache(self._feature_cache, maker).get_or_make(sequence, make)


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} absent"


def _language_file(path: Path) -> Path:
    from gpu.psichic.language_model import language_model_file

    return language_model_file(path)


def fastest_kernels(device: torch.device, dtype: torch.dtype) -> Any:
    """Triton's kernels for float32 on CUDA where Triton is installed and can compile, else plain torch."""
    import torch

    from gpu.psichic import plain_kernels

    if device.type != "cuda" or dtype != torch.float32 or importlib.util.find_spec("triton") is None:
        return plain_kernels
    from gpu.psichic import triton_kernels
    from gpu.psichic.engine_weights import Norm

    one = torch.ones(16, device=device)
    try:
        triton_kernels.layer_norm(one[None], Norm(one, one))
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        _log.warning("Triton cannot compile here (%s); PSICHIC runs in plain torch, at a third of the speed.", error)
        return plain_kernels
    return triton_kernels


def chosen_device(name: str | None) -> torch.device:
    """The device that was asked for, or CUDA where there is one. Raises :class:`DeviceError`."""
    import torch

    if name is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise DeviceError(f"the device {name!r} is not offered; choose cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device can be used here; choose --device cpu, or run where the driver sees a GPU.")
    return torch.device(name)


def code_digest() -> str:
    """SHA-256 over this package's source: a score is kept only for the code that made it."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
