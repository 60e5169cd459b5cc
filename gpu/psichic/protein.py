"""A protein's features: from ESM-2, from a file, or from the cache that workers share."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gpu.psichic.errors import ProteinError
from gpu.psichic.residue import residue_features, residue_graph, sanitise

if TYPE_CHECKING:
    from gpu.psichic.language_model import LanguageModel
    from gpu.psichic.network import ProteinInput

_log = logging.getLogger(__name__)

_MAGIC: Final = b"PSICHIC protein features 1\n"


@dataclass(frozen=True, slots=True)
class ProteinFeatures:
    """A protein as features: L residues, E directed edges."""

    sequence: str
    """sanitised"""
    token: NDArray[np.float16]
    """L × D"""
    edge_index: NDArray[np.int64]
    """2 × E: source, target"""
    edge_weight: NDArray[np.float32]
    """E"""

    def network_input(self) -> ProteinInput:
        """The same as tensors, residue features added."""
        import torch

        from gpu.psichic.network import ProteinInput

        return ProteinInput(
            residue_feature=torch.from_numpy(residue_features(self.sequence).astype(np.float32)),
            token=torch.from_numpy(self.token.astype(np.float32)),
            edge_index=torch.from_numpy(self.edge_index),
            edge_weight=torch.from_numpy(self.edge_weight),
        )


def sequence_digest(sequence: str) -> str:
    """SHA-256 of a sequence, hex."""
    return hashlib.sha256(sequence.encode()).hexdigest()


def features_from(sequence: str, model: LanguageModel) -> ProteinFeatures:
    """Sanitise, run ESM-2, draw the graph. Raises :class:`ProteinError` for an empty sequence."""
    clean = sanitise(sequence)
    if not clean:
        raise ProteinError("the sequence is empty; a protein has at least one residue.")
    output = model(clean)
    index, weight = residue_graph(output.contact)
    return ProteinFeatures(clean, output.token, index, weight)


def read_feature_file(path: Path) -> dict[str, ProteinFeatures]:
    """A torch file of dicts with ``seq, token_representation, edge_index, edge_weight`` by protein.

    Raises :class:`ProteinError`.
    """
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise ProteinError(f"{path} cannot be read as protein features ({error}).") from error
    if not isinstance(content, dict) or not content:
        raise ProteinError(f"{path} holds no protein; it should be a dict of proteins by name.")
    return {str(name): _from_record(record, f"{path}: {name}") for name, record in content.items()}


def _from_record(record: Any, where: str) -> ProteinFeatures:
    needed = ("seq", "token_representation", "edge_index", "edge_weight")
    lacking = [key for key in needed if not isinstance(record, Mapping) or key not in record]
    if lacking:
        raise ProteinError(f"{where} lacks {', '.join(lacking)}.")
    features = ProteinFeatures(
        sequence=str(record["seq"]),
        token=record["token_representation"].numpy().astype(np.float16),
        edge_index=record["edge_index"].numpy().astype(np.int64),
        edge_weight=record["edge_weight"].numpy().astype(np.float32),
    )
    problem = _inconsistency(features)
    if problem:
        raise ProteinError(f"{where}: {problem}.")
    return features


def _inconsistency(f: ProteinFeatures) -> str | None:
    """Why these features cannot be of one protein, or None."""
    length, edges = len(f.sequence), f.edge_weight.shape[0] if f.edge_weight.ndim == 1 else -1
    if length == 0 or sanitise(f.sequence) != f.sequence:
        return "the sequence is empty or not sanitised"
    if f.token.ndim != 2 or f.token.shape[0] != length:
        return f"{f.token.shape} token features for {length} residues"
    if f.edge_index.shape != (2, edges):
        return f"{f.edge_index.shape} edges for {f.edge_weight.shape} weights"
    if edges and (int(f.edge_index.min()) < 0 or int(f.edge_index.max()) >= length):
        return "an edge names a residue that does not exist"
    if not np.isfinite(f.edge_weight).all() or not np.isfinite(f.token).all():
        return "values that are not finite"
    return None


class FeatureCache:
    """Features on disk by (sequence, language model), shared by every worker that sees the folder.

    An entry is written beside its place and moved there whole. What does not check (magic, SHA-256, the sequence
    and model it says it is of) counts as absent and is written again.
    """

    def __init__(self, folder: Path, model_digest: str) -> None:
        self._folder, self._model = folder, model_digest

    def path(self, sequence: str) -> Path:
        """Where a sanitised sequence's entry lies."""
        return self._folder / f"{sequence_digest(sequence)}-{self._model[:16]}.features"

    def get_or_make(self, sequence: str, make: Callable[[str], ProteinFeatures]) -> ProteinFeatures:
        """The kept features of a sequence, else those that ``make`` gives, kept from now on."""
        clean = sanitise(sequence)
        found = self._read(clean)
        if found is not None:
            return found
        made = make(clean)
        try:
            self._write(made)
        except OSError as error:
            _log.warning("protein features cannot be kept in %s (%s); they will be made again.", self._folder, error)
        return made

    def _read(self, sequence: str) -> ProteinFeatures | None:
        try:
            raw = self.path(sequence).read_bytes()
        except OSError:
            return None
        head = len(_MAGIC)
        checksum, payload = raw[head : head + 32], raw[head + 32 :]
        if raw[:head] != _MAGIC or hashlib.sha256(payload).digest() != checksum:
            return None
        try:
            with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
                if str(arrays["sequence"]) != sequence or str(arrays["model"]) != self._model:
                    return None
                features = ProteinFeatures(sequence, arrays["token"], arrays["edge_index"], arrays["edge_weight"])
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            return None
        return None if _inconsistency(features) else features

    def _write(self, features: ProteinFeatures) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            sequence=np.array(features.sequence),
            model=np.array(self._model),
            token=features.token,
            edge_index=features.edge_index,
            edge_weight=features.edge_weight,
        )
        payload = buffer.getvalue()
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
                stream.flush()
                os.fsync(stream.fileno())
            Path(partial).replace(self.path(features.sequence))
        except OSError:
            Path(partial).unlink(missing_ok=True)
            raise
