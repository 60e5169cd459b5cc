"""The rules file, parsed and frozen (specs/epoch.md, 'Rules file').

Every key of the document has its value as the default; an unknown key or a value of the wrong kind is refused,
because a validator with other rules than its neighbours sets other weights.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.domain import ValidatorError
from app.untrusted import quoted

Quirk = Literal["heavy_atoms_by_capitals", "zero_is_missing", "uid_zero_never_wins"]

Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RulesError(ValidatorError):
    """The rules file cannot be used; the message names the key and what it should be."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ProteinSelection(_Section):
    weekly_target: str = Field("O15379", min_length=1)
    num_antitargets: int = Field(8, ge=0)


class ProteinConstraints(_Section):
    """Where the ligand should sit: residues of chain A as ``[chain, 1-based position]``, and a distance in Å."""

    binding_pocket: list[tuple[str, int]] | None = None
    max_distance: Annotated[float, Field(gt=0)] | None = None
    force: bool = False

    @field_validator("binding_pocket", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """YAML has lists where a pair is meant."""
        return (
            [tuple(entry) if isinstance(entry, list) else entry for entry in value]
            if isinstance(value, list)
            else value
        )


class MoleculeValidation(_Section):
    num_molecules: int = Field(100, ge=1)
    min_heavy_atoms: int = Field(20, ge=0)
    min_rotatable_bonds: int = Field(1, ge=0)
    max_rotatable_bonds: int = Field(10, ge=0)
    antitarget_weight: Finite = 0.9
    entropy_bonus_threshold: Finite = 0
    entropy_start_weight: Finite = 0.3
    entropy_start_epoch: int = 18703
    entropy_step_size: Finite = 0.007142857
    molecule_repetition_weight: Finite = Field(0, ge=0)
    molecule_repetition_threshold: Finite = 0
    num_molecules_boltz: int = Field(1, ge=0)
    boltz_metric: str = Field("affinity_probability_binary", min_length=1)
    sample_selection: Literal["first", "random"] = "first"

    @model_validator(mode="after")
    def _bounds_in_order(self) -> MoleculeValidation:
        if self.min_rotatable_bonds > self.max_rotatable_bonds:
            raise ValueError("min_rotatable_bonds is larger than max_rotatable_bonds")
        if self.num_molecules_boltz > self.num_molecules:
            raise ValueError("num_molecules_boltz is larger than num_molecules")
        return self


class ReactionFiltering(_Section):
    allowed_reactions: list[int] = [4, 5]
    random_valid_reaction: bool = False


class Competition(_Section):
    no_submission_blocks: int = Field(10, ge=0)
    boltz_weight: Share = 0.5
    burn_rate: Share = 0.5
    burn_uid: int = Field(0, ge=0)


class Rules(_Section):
    """All that the subnet may change from one epoch to the next."""

    protein_selection: ProteinSelection = ProteinSelection()
    protein_constraints: ProteinConstraints = ProteinConstraints()
    molecule_validation: MoleculeValidation = MoleculeValidation()
    reaction_filtering: ReactionFiltering = ReactionFiltering()
    competition: Competition = Competition()
    archive_unavailable: Literal["accept", "reject"] = "accept"
    quirks: list[Quirk] = []

    def has_quirk(self, quirk: Quirk) -> bool:
        """Whether an October 2025 oddity is switched on (specs/epoch.md, 'Quirks')."""
        return quirk in self.quirks


def rules_sha256(text: str) -> str:
    """The identity of a rules file: SHA-256 of its bytes, as kept in ``result.json``."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_rules(text: str, origin: str = "rules.yaml") -> Rules:
    """Parse a rules file.

    Raises:
        RulesError: not YAML, an unknown key, or a value of the wrong kind; names ``origin`` and each key.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise RulesError(f"{origin} is not YAML: {str(error).splitlines()[0] or type(error).__name__}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise RulesError(f"{origin} must hold sections such as 'molecule_validation:', not a bare value")
    try:
        return Rules.model_validate(document)
    except ValidationError as error:
        raise RulesError(f"{origin}: " + "; ".join(_sentence(item) for item in error.errors())) from None


def _sentence(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "extra_forbidden":
        return f"unknown key {quoted(key)}; remove it or correct its spelling"
    return f"{key}: {item['msg'].removeprefix('Value error, ')} (found {item['input']!r:.80})"
