"""The resident Boltz-2 scorer."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from app.domain import PairScore, Protein
from gpu.boltz.failure import DeviceOutOfMemory, FailureCode, MoleculeFailure, PocketError, is_out_of_memory
from gpu.boltz.profile import LIVE, PocketConstraint, Profile, record_seed

if TYPE_CHECKING:
    from gpu.boltz.reading import Awaited, Reader, Request
    from gpu.boltz.record import Reading
    from gpu.boltz.replay import Replayed

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CODE_VERSION: Final = 2
"""Raised with every change of this package that changes a number."""

_CONFIDENCE_METRICS: Final = (
    "confidence_score",
    "ptm",
    "iptm",
    "ligand_iptm",
    "protein_iptm",
    "complex_plddt",
    "complex_iplddt",
    "complex_pde",
    "complex_ipde",
)
_AFFINITY_PREFIX: Final = "affinity_"
_STEERING: Final = ("fk_steering", "physical_guidance_update", "contact_guidance_update")
_PAIR_TYPE: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class _Loaded:
    reader: Reader
    structure: Any
    affinity: Any
    replayed: list[Replayed]


@dataclass
class _Read:
    """A molecule whose record is being read."""

    request: Request
    structure: Awaited


@dataclass
class _Posed:
    """A molecule with its pose's metrics, and its affinity features on the way."""

    request: Request
    metrics: dict[str, float]
    coordinates: npt.NDArray[np.float32]
    affinity: Awaited


class _StageOutOfMemory(Exception):
    """boltz swallows an out-of-memory and returns a flag; this is the flag made an error again."""


class BoltzScorer:
    """Scores ligands against proteins with Boltz-2; both models stay on the device from the first score on.

    A score depends on molecule, protein, profile, weights and library versions, never on what was scored
    before or beside it: bitwise the same alone, first, last, after a failure, in another process of the device.
    Not thread-safe (nothing in boltz is). ``close()`` frees the device; the next score loads again.
    """

    def __init__(
        self,
        structure_checkpoint: Path,
        affinity_checkpoint: Path,
        mols: Path,
        profile: Profile = LIVE,
        device: str | torch.device = "cpu",
        pocket: PocketConstraint | None = None,
        *,
        replay: bool = True,
        beside: bool | None = None,
    ) -> None:
        """``mols`` is boltz's folder of CCD components.

        Same numbers whatever these say: ``replay`` off launches every kernel again; ``beside`` reads records in a
        process of their own while the device works (by default where there is one).
        """
        self._checkpoints = (Path(structure_checkpoint), Path(affinity_checkpoint))
        self._mols = Path(mols)
        self._profile = profile
        self._device = torch.device(device)
        self._pocket = pocket
        self._replay = replay
        self._beside = self._device.type == "cuda" if beside is None else beside
        self._loaded: _Loaded | None = None

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over all that decides a number: weights, components, profile, pocket, device kind, versions."""
        from gpu.boltz.weights import file_digest

        components = hashlib.sha256()
        for path in sorted(self._mols.glob("???.pkl")):
            if path.stem in _AMINO_ACIDS:
                components.update(path.stem.encode() + path.read_bytes())
        parts = {
            "model": "boltz2",
            "code": _CODE_VERSION,
            "weights": [file_digest(path) for path in self._checkpoints],
            "components": components.hexdigest(),
            "profile": asdict(self._profile),
            "pocket": asdict(self._pocket) if self._pocket else None,
            "device": self._device.type,
            "versions": {name: importlib.metadata.version(name) for name in ("boltz", "torch", "rdkit", "numpy")},
            "kernels": importlib.metadata.version("triton") if self._kernels else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def pair_scores(
        self,
        proteins: Sequence[Protein],
        smiles: Sequence[str],
        on_score: Callable[[PairScore], None] | None = None,
    ) -> list[PairScore]:
        """One PairScore per protein and SMILES, proteins outermost; a repeated SMILES is computed once.

        ``on_score`` hears of each score as soon as it is there, so that what is done survives an interruption.

        Raises:
            DeviceOutOfMemory: some molecules found no room even alone; carries all other scores.
            BoltzInstallationError: weights, components, boltz or the conformer process cannot be used.
            PocketError: the pocket is not on the protein.
        """
        finished: list[PairScore] = []
        unfinished: list[tuple[str, str]] = []
        for protein in proteins:
            self._check_pocket(protein)
        if smiles and any(protein.sequence for protein in proteins):
            try:
                self.load()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._release()
                wanted = [(protein.code, ligand) for protein in proteins for ligand in dict.fromkeys(smiles)]
                raise DeviceOutOfMemory((), wanted, str(self._device)) from error
        for protein in proteins:
            known: dict[str, PairScore | None] = {}
            for ligand, score in self._protein_scores(protein, list(dict.fromkeys(smiles))):
                known[ligand] = score
                if score is not None and on_score is not None:
                    on_score(score)
            for ligand in smiles:
                score = known[ligand]
                if score is None:
                    unfinished.append((protein.code, ligand))
                else:
                    finished.append(score)
        if unfinished:
            raise DeviceOutOfMemory(finished, list(dict.fromkeys(unfinished)), str(self._device))
        return finished

    def load(self) -> None:
        """Read both checkpoints onto the device; does nothing when they are there."""
        if self._loaded is not None:
            return
        guided = self._pocket is not None and self._pocket.force
        with _quiet(), contextlib.ExitStack() as undo:
            from gpu.boltz import weights

            reader = self._reader()
            undo.callback(reader.close)
            structure = weights.structure_model(self._checkpoints[0], self._profile, self._device, guided=guided)
            affinity = weights.affinity_model(self._checkpoints[1], self._profile, self._device)
            replayed: list[Replayed] = []
            for model in (structure, affinity):
                replayed += self._economised(model)
            with _own_generators(torch.device("cpu")):
                reader.check()
            self._loaded = _Loaded(reader, structure, affinity, replayed)
            undo.pop_all()

    def close(self) -> None:
        """Give the device's memory back and end the conformer process."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        loaded.reader.close()
        del loaded
        self._release()

    def resident_bytes(self) -> int:
        """Bytes of the device that the weights hold now; 0 before the first score and after ``close()``."""
        if self._loaded is None:
            return 0
        tensors = (
            tensor
            for model in (self._loaded.structure, self._loaded.affinity)
            for tensor in (*model.parameters(), *model.buffers())
        )
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _reader(self, children: int | None = None) -> Reader:
        from gpu.boltz.reading import ReaderBeside, ReaderHere

        if not self._beside:
            return ReaderHere(self._mols, self._profile, self._pocket)
        return ReaderBeside(self._mols, self._profile, self._pocket, children)

    @property
    def _kernels(self) -> bool:
        return self._profile.packed and self._device.type == "cuda" and importlib.util.find_spec("triton") is not None

    def _economised(self, model: Any) -> list[Replayed]:
        """The model with its waste taken out; the profile's numbers stay. Returns what holds recordings."""
        from gpu.boltz.replay import Recorder, ReplayedDenoiser, ReplayedStack
        from gpu.boltz.shortcuts import AbsentTemplates, sampled

        if model.use_templates:
            model.template_module = AbsentTemplates(model.template_module)
        steered = any(model.steering_args[name] for name in _STEERING)
        if not steered and not self._profile.alignment_reverse_diffusion:
            model.structure_module.sample = functools.partial(sampled, model.structure_module)
        if self._profile.packed:
            from gpu.boltz.packing import pack

            pack(model, _PAIR_TYPE[self._profile.precision], self._device)
        if self._device.type != "cuda" or not self._replay:
            return []
        with torch.inference_mode():
            recorder = Recorder(self._device)
        denoiser = ReplayedDenoiser(model.structure_module.score_model, recorder)
        model.structure_module.score_model = denoiser
        replayed: list[Replayed] = [denoiser]
        if self._profile.packed:
            for stack in (model.pairformer_module, model.confidence_module.pairformer_stack):
                stack.core = ReplayedStack(stack.core, recorder)
                replayed.append(stack.core)
        return replayed

    def _protein_scores(self, protein: Protein, ligands: Sequence[str]) -> Iterator[tuple[str, PairScore | None]]:
        """Each ligand's score, in the order of reading; None where the device has no room for it even alone.

        Records are read ahead, and one that takes long to read is waited for last. While one molecule's pose is made
        into features the next molecule is posed.
        """
        if not protein.sequence:
            for ligand in ligands:
                yield ligand, PairScore(protein.code, ligand, error=f"no_sequence: nobody knows {protein.code}'s")
            return
        coming = (self._request(protein, protein.sequence, ligand) for ligand in ligands)
        assert self._loaded is not None
        reading = [self._read(request) for request in itertools.islice(coming, self._loaded.reader.ahead)]
        posed: _Posed | None = None
        while reading or posed:
            if posed is not None and not any(read.structure.done() for read in reading):
                yield posed.request.smiles, self._concluded(protein, posed)
                posed = None
                continue
            read = _first_read(reading)
            reading.extend(self._read(request) for request in itertools.islice(coming, 1))
            outcome = self._scored(protein, read.request, functools.partial(self._pose, read))
            if posed is not None:
                yield posed.request.smiles, self._concluded(protein, posed)
            posed = outcome if isinstance(outcome, _Posed) else None
            if not isinstance(outcome, _Posed):
                yield read.request.smiles, outcome

    def _request(self, protein: Protein, sequence: str, smiles: str) -> Request:
        from gpu.boltz.reading import Request

        seed = record_seed(smiles, sequence, self._profile.base_seed)
        return Request(smiles, sequence, seed, protein.alignment)

    def _read(self, request: Request) -> _Read:
        assert self._loaded is not None
        return _Read(request, self._loaded.reader.structure(request))

    def _concluded(self, protein: Protein, posed: _Posed) -> PairScore | None:
        outcome = self._scored(protein, posed.request, functools.partial(self._metrics, posed))
        return outcome if outcome is None or isinstance(outcome, PairScore) else self._score(protein, posed, outcome)

    def _score(self, protein: Protein, posed: _Posed, affinity: dict[str, float]) -> PairScore:
        metrics, smiles = posed.metrics | affinity, posed.request.smiles
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        if wrong:
            failure = MoleculeFailure(FailureCode.NON_FINITE, f"{', '.join(wrong)} of {smiles!r} is not a number")
            return PairScore(protein.code, smiles, error=str(failure))
        return PairScore(protein.code, smiles, metrics=metrics)

    def _scored(self, protein: Protein, request: Request, stage: Callable[[], _T]) -> _T | PairScore | None:
        """What ``stage`` returns, the score of a molecule that fails it, or None where there is no room even alone."""
        try:
            outcome = self._attempt(stage)
            if outcome is None:
                _log.warning("out of memory on %s at %s: trying it alone", self._device, request.smiles)
                outcome = self._alone(stage)
        except MoleculeFailure as failure:
            return PairScore(protein.code, request.smiles, error=str(failure))
        return outcome

    def _check_pocket(self, protein: Protein) -> None:
        """A pocket that is not on the protein would fail every molecule; it is the rules' mistake."""
        length = len(protein.sequence or "")
        for chain, position in self._pocket.contacts if self._pocket and length else ():
            if chain != "A" or not 1 <= position <= length:
                raise PocketError(
                    f"the pocket names residue {position} of chain {chain}; {protein.code} is chain A with residues 1 "
                    f"to {length}. Correct protein_constraints in the rules file."
                )

    def _alone(self, stage: Callable[[], _T]) -> _T | None:
        """As ``_attempt`` with nothing else of ours on the device but the weights."""
        assert self._loaded is not None
        self._release()
        for part in self._loaded.replayed:
            part.enabled = False
        try:
            outcome = self._attempt(stage)
        finally:
            for part in self._loaded.replayed:
                part.enabled = True
        if outcome is None:
            self._release()
        return outcome

    def _attempt(self, stage: Callable[[], _T]) -> _T | None:
        """``stage()`` with the profile's arithmetic, the process's generators left as they were; None: no memory."""
        try:
            with _quiet(), _own_generators(self._device), _arithmetic(self._profile), torch.inference_mode():
                return stage()
        except _StageOutOfMemory:
            return None
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            raise

    def _pose(self, read: _Read) -> _Posed:
        """The structure model's metrics and best pose."""
        assert self._loaded is not None
        reading = self._answer(read.structure, lambda reader: reader.structure(read.request))
        pose = self._predict(self._loaded.structure, reading, read.request.seed)
        best = int(torch.argsort(pose["confidence_score"], descending=True)[0])
        metrics = {name: pose[name][best].item() for name in _CONFIDENCE_METRICS}
        coordinates = pose["coords"][best][pose["masks"][0].bool()].float().cpu().numpy()
        return _Posed(read.request, metrics, coordinates, self._loaded.reader.affinity(read.request, coordinates))

    def _metrics(self, posed: _Posed) -> dict[str, float]:
        """The affinity model's metrics."""
        assert self._loaded is not None
        reading = self._answer(posed.affinity, lambda reader: reader.affinity(posed.request, posed.coordinates))
        affinity = self._predict(self._loaded.affinity, reading, posed.request.seed)
        return {key: value.item() for key, value in affinity.items() if key.startswith(_AFFINITY_PREFIX)}

    def _answer(self, awaited: Awaited, ask_again: Callable[[Reader], Awaited]) -> Reading:
        """The reading; where the process died, perhaps of another molecule, one of its own is asked, once."""
        from gpu.child import ChildDied

        try:
            return awaited.result()
        except ChildDied:
            _log.warning("a process that reads Boltz-2's records died: asking one that reads nothing else")
        lone = self._reader(children=1)
        try:
            lone.check()
            return ask_again(lone).result()
        except ChildDied:
            raise MoleculeFailure(FailureCode.PARSE, "boltz crashes when it reads this molecule") from None
        finally:
            lone.close()

    def _predict(self, model: Any, reading: Reading, seed: int) -> dict[str, Any]:
        from gpu.boltz.record import seed_generators
        from gpu.boltz.replay import ReplayedDenoiser
        from gpu.boltz.shortcuts import idle_terms_left_out

        half = self._profile.precision == "bfloat16"
        features = reading.on(self._device)
        seed_generators(seed)
        reading.generators.restore()
        try:
            with (
                idle_terms_left_out(model, features),
                torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=half),
                contextlib.redirect_stdout(None),
            ):
                predicted: dict[str, Any] = model.predict_step(features, 0)
        finally:
            for part in self._loaded.replayed if self._loaded else ():
                if isinstance(part, ReplayedDenoiser):  # a molecule's own
                    part.forget()
        if predicted["exception"]:
            raise _StageOutOfMemory
        return predicted

    def _release(self) -> None:
        for part in self._loaded.replayed if self._loaded else ():
            part.forget()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _first_read(reading: list[_Read]) -> _Read:
    """Take out what is read, or will be first."""
    wait([read.structure for read in reading if isinstance(read.structure, Future)], return_when=FIRST_COMPLETED)
    read = next((read for read in reading if read.structure.done()), reading[0])
    reading.remove(read)
    return read


_AMINO_ACIDS: Final = frozenset(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL UNK".split()  # noqa: SIM905  (readable as it is)
)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """boltz's notices and its dependencies' deprecations kept from the worker's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Python's, NumPy's and torch's generators (the device's too) restored on leaving."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextlib.contextmanager
def _arithmetic(profile: Profile) -> Iterator[None]:
    """Deterministic kernels and the profile's matrix precision; PSICHIC's settings return on leaving."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    precision = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(True)
    # a debugging aid that would write every buffer once more
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("high" if profile.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
