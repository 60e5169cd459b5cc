"""From (sequence, SMILES) to the tensors of one Boltz-2 record, in memory.

boltz's own parser, tokenizer, cropper and featurizer, unpatched; what they do through files is left out.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from boltz.data import const
from boltz.data.crop.affinity import AffinityCropper
from boltz.data.feature.featurizerv2 import Boltz2Featurizer
from boltz.data.mol import load_canonicals, load_molecules
from boltz.data.parse import schema as boltz_schema
from boltz.data.tokenize.boltz2 import Boltz2Tokenizer
from boltz.data.types import Coords, Input, Interface
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, Descriptors
from torch import Tensor

from gpu.boltz.alignment import parsed_alignment
from gpu.boltz.conformer import ConformerEmbedder
from gpu.boltz.failure import (
    MOLECULE_ERRORS,
    BoltzInstallationError,
    FailureCode,
    MoleculeFailure,
    is_out_of_memory,
)
from gpu.boltz.profile import PocketConstraint, Profile

Features = dict[str, Any]
"""boltz's batch of one record: tensors with a leading 1, and the entries of ``_HOST_KEYS`` as lists."""

_HOST_KEYS: Final = frozenset(
    {
        "all_coords",
        "all_resolved_mask",
        "crop_to_all_atom_map",
        "chain_symmetries",
        "amino_acids_symmetries",
        "ligand_symmetries",
        "record",
        "affinity_mw",
    }
)
_FEATURIZER_SEED: Final = 42
_CONTROL: Final = ("CCO", "ACDEFGHIKLMNPQRSTVWY")
_MAX_ATOM_NAME: Final = 4
_PROTEIN_CHAIN: Final = 0

# boltz asks AllChem for Descriptors, which is there only if somebody attached it
if not hasattr(AllChem, "Descriptors"):
    AllChem.Descriptors = Descriptors  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ParsedRecord:
    """boltz's parsed target (record, structure, ligand) of one molecule and one protein, and the protein's MSA."""

    target: Any
    alignment: Any | None = None


@dataclass(frozen=True)
class Generators:
    """The states of the process's generators (Python's, NumPy's, torch's on the CPU)."""

    python: Any
    legacy: Any
    torch: Tensor

    @classmethod
    def now(cls) -> Generators:
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.legacy)
        torch.set_rng_state(self.torch)


@dataclass(frozen=True)
class Reading:
    """A record's features on the CPU and where making them left the generators, from which the model goes on."""

    features: Features
    generators: Generators

    def on(self, device: torch.device) -> Features:
        """The features, on ``device``."""
        return {key: value if key in _HOST_KEYS else value.to(device) for key, value in self.features.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Tensors travel as arrays, which pickle without torch's own file format around each."""
        arrays = {key: value.numpy() if isinstance(value, Tensor) else value for key, value in self.features.items()}
        tensors = frozenset(key for key, value in self.features.items() if isinstance(value, Tensor))
        return _received, (arrays, tensors, self.generators)


def _received(arrays: Features, tensors: frozenset[str], generators: Generators) -> Reading:
    features = {key: torch.from_numpy(value) if key in tensors else value for key, value in arrays.items()}
    return Reading(features, generators)


def seed_generators(seed: int) -> None:
    """Python's, NumPy's and torch's generators (every device's) begin at ``seed``."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class RecordReader:
    """Parses and featurizes records; holds the amino acids' components and the conformer process.

    ``mols`` is boltz's folder of CCD components (``mols/ALA.pkl``, …).
    """

    def __init__(self, mols: Path, profile: Profile, pocket: PocketConstraint | None) -> None:
        self._mols, self._profile, self._pocket = mols, profile, pocket
        try:
            self._canonicals: Mapping[str, Chem.Mol] = load_canonicals(str(mols))
        except (OSError, ValueError) as error:
            raise BoltzInstallationError(
                f"{mols} does not hold boltz's CCD components ({error}): run `python -m app checkpoints fetch boltz2`."
            ) from error
        self._tokenizer, self._featurizer, self._cropper = Boltz2Tokenizer(), Boltz2Featurizer(), AffinityCropper()
        self._embedder = ConformerEmbedder(profile.embedding_seconds)

    def close(self) -> None:
        """End the conformer process."""
        self._embedder.close()

    def check(self) -> None:
        """Parse and featurize a record that must succeed: every amino acid and ethanol.

        Raises:
            BoltzInstallationError: when it does not, so that a broken installation never looks like bad molecules.
        """
        try:
            self.structure_reading(self._parsed(*_CONTROL, 0, None), 0)
        except MoleculeFailure as failure:
            raise BoltzInstallationError(
                f"boltz cannot prepare even ethanol with a peptide ({failure}): its version, one of its "
                f"dependencies or {self._mols} is not what it should be; install requirements.txt and boltz==2.2.1 "
                "again, or run `python -m app checkpoints fetch boltz2`."
            ) from failure

    def parsed(self, smiles: str, sequence: str, seed: int, alignment: str | None = None) -> ParsedRecord:
        """Parse protein A (with its alignment in A3M, if it has one) and ligand B, the ligand embedded with ``seed``.

        Raises:
            MoleculeFailure: ``unparseable_smiles``, ``atom_name``, ``ligand_too_large``, ``conformer`` or ``parse``.
            AlignmentError: the alignment is not A3M.
        """
        record = self._parsed(smiles, sequence, seed, self._pocket)
        return record if alignment is None else replace(record, alignment=parsed_alignment(sequence, alignment))

    def _parsed(self, smiles: str, sequence: str, seed: int, pocket: PocketConstraint | None) -> ParsedRecord:
        self._refuse(smiles)
        document: dict[str, Any] = {
            "version": 1,
            "sequences": [
                {"protein": {"id": "A", "sequence": sequence, "msa": "empty"}},
                {"ligand": {"id": "B", "smiles": smiles}},
            ],
            "properties": [{"affinity": {"binder": "B"}}],
        }
        if pocket is not None:
            document["constraints"] = [
                {
                    "pocket": {
                        "binder": "B",
                        "contacts": [list(contact) for contact in pocket.contacts],
                        "max_distance": pocket.max_distance,
                        "force": pocket.force,
                    }
                }
            ]
        with self._embedding(seed), contextlib.redirect_stdout(io.StringIO()):
            try:
                target = boltz_schema.parse_boltz_schema(str(seed), document, self._canonicals, str(self._mols), True)
            except MOLECULE_ERRORS as error:
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200]
                raise MoleculeFailure(_code(error), f"boltz cannot parse {smiles!r}: {reason}") from error
        return ParsedRecord(target)

    def structure_reading(self, record: ParsedRecord, seed: int) -> Reading:
        """Features of the whole complex, made with every generator seeded with ``seed``.

        Raises:
            MoleculeFailure: ``featurize``.
        """
        seed_generators(seed)
        return Reading(self._features(record, record.target.structure, affinity=False), Generators.now())

    def affinity_reading(self, record: ParsedRecord, coordinates: npt.NDArray[np.float32], seed: int) -> Reading:
        """Features of the neighbourhood of the ligand, cropped in the predicted pose (atoms × 3, Å).

        Raises:
            MoleculeFailure: ``featurize``.
        """
        seed_generators(seed)
        posed = _posed(record.target.structure.remove_invalid_chains(), coordinates)
        return Reading(self._features(record, posed, affinity=True), Generators.now())

    def _refuse(self, smiles: str) -> None:
        with rdBase.BlockLogs():
            molecule: Any = Chem.MolFromSmiles(smiles)
            if molecule is None or molecule.GetNumAtoms() == 0:
                raise MoleculeFailure(FailureCode.UNPARSEABLE_SMILES, f"{smiles!r} is not a SMILES that RDKit can read")
            if molecule.GetNumHeavyAtoms() > self._profile.max_heavy_atoms:
                raise MoleculeFailure(
                    FailureCode.LIGAND_TOO_LARGE,
                    f"{molecule.GetNumHeavyAtoms()} heavy atoms; "
                    f"the affinity model takes {self._profile.max_heavy_atoms}",
                )
            molecule = Chem.AddHs(molecule)
            ranks = Chem.CanonicalRankAtoms(molecule)
        for atom, rank in zip(molecule.GetAtoms(), ranks, strict=True):
            name = f"{atom.GetSymbol().upper()}{rank + 1}"
            if len(name) > _MAX_ATOM_NAME:
                raise MoleculeFailure(
                    FailureCode.ATOM_NAME, f"atom name {name} is longer than {_MAX_ATOM_NAME} characters"
                )

    @contextlib.contextmanager
    def _embedding(self, seed: int) -> Iterator[None]:
        """Boltz's unseeded, unbounded embedding replaced by ours while one record is parsed."""

        def embed(molecule: Chem.Mol, version: str = "v3") -> bool:
            coordinates = self._embedder.coordinates(molecule, seed)
            if coordinates is None:
                raise MoleculeFailure(FailureCode.CONFORMER, "RDKit finds no 3D conformer")
            conformer = Chem.Conformer(len(coordinates))
            conformer.SetPositions(coordinates)
            conformer.SetProp("name", "Computed")
            conformer.SetProp("coord_generation", f"ETKDG{version}")
            molecule.AddConformer(conformer, assignId=True)
            return True

        original = boltz_schema.compute_3d_conformer
        boltz_schema.compute_3d_conformer = embed
        try:
            yield
        finally:
            boltz_schema.compute_3d_conformer = original

    def _features(self, record: ParsedRecord, structure: Any, *, affinity: bool) -> Features:
        target = record.target
        data = Input(
            structure,
            {} if record.alignment is None else {_PROTEIN_CHAIN: record.alignment},
            record=target.record,
            residue_constraints=target.residue_constraints,
            templates=None,
            extra_mols=target.extra_mols,
        )
        try:
            tokens = self._tokenizer.tokenize(data)
            if affinity:
                tokens = self._cropper.crop(
                    tokens,
                    max_tokens=self._profile.max_affinity_tokens,
                    max_atoms=self._profile.max_affinity_atoms,
                )
            molecules = {**self._canonicals, **data.extra_mols}
            absent = set(tokens.tokens["res_name"].tolist()) - set(molecules)
            molecules.update(load_molecules(str(self._mols), absent))
            options = target.record.inference_options
            features = self._featurizer.process(
                tokens,
                molecules=molecules,
                random=np.random.default_rng(_FEATURIZER_SEED),
                training=False,
                max_atoms=None,
                max_tokens=None,
                max_seqs=const.max_msa_seqs,
                pad_to_max_seqs=False,
                single_sequence_prop=0.0,
                compute_frames=True,
                inference_pocket_constraints=options.pocket_constraints if options else None,
                inference_contact_constraints=options.contact_constraints if options else None,
                compute_constraint_features=True,
                override_method="other" if affinity else None,
                compute_affinity=affinity,
            )
        except MOLECULE_ERRORS as error:
            if is_out_of_memory(error):
                raise
            stage = "affinity" if affinity else "structure"
            raise MoleculeFailure(
                FailureCode.FEATURIZE, f"boltz cannot make the {stage} model's features: {error!r}"
            ) from error
        features["record"] = target.record
        # boltz's own function comes with PyTorch Lightning, half of what a reader's process imports
        return {name: [value] if name in _HOST_KEYS else value[None] for name, value in features.items()}


def _code(error: Exception) -> FailureCode:
    text = str(error)
    if "4 characters" in text:
        return FailureCode.ATOM_NAME
    if "3D conformer" in text:
        return FailureCode.CONFORMER
    if "too large" in text:
        return FailureCode.LIGAND_TOO_LARGE
    return FailureCode.PARSE


def _posed(structure: Any, coordinates: npt.NDArray[np.float32]) -> Any:
    """The structure as boltz's writer would store it for the affinity stage: predicted pose, all atoms present."""
    atoms, residues = structure.atoms.copy(), structure.residues.copy()
    atoms["coords"] = coordinates
    atoms["is_present"] = True
    residues["is_present"] = True
    ensemble = np.array([(position,) for position in coordinates], dtype=Coords)
    return replace(structure, atoms=atoms, residues=residues, interfaces=np.array([], dtype=Interface), coords=ensemble)
