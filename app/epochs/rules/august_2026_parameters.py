"""What the rules file of August 2026 may set: the subnet's configuration file, and a few keys of this validator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from app.epochs.rules.document import Section
from chain.incentive.tracks import Mode, Strategy
from chem.nanobodies.validation import NanobodyLimits

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

Quirk = Literal[
    "prefix_kept",
    "zero_is_missing",
    "missing_metric_adds_zero",
    "global_order_list",
    "order_by_any_bit",
    "python_integers",
    "infinity_is_averaged",
    "regions_from_alignment",
    "identity_of_alignment",
]

QUIRKS: Final[Mapping[Quirk, str]] = {
    "prefix_kept": "molecules accepted before one that is refused stay accepted; off: all or nothing",
    "zero_is_missing": "a score of exactly zero counts as missing",
    "missing_metric_adds_zero": "a nanobody's missing metric adds nothing to its rank sum, which is an advantage",
    "global_order_list": "the molecules that count are the first in the epoch's order, not in the miner's; an average "
    "takes the place that its molecule has in the miner's",
    "order_by_any_bit": "three reactants are ordered by roles of which they share some bit, not all",
    "python_integers": "numbers in names are read as Python reads them: rxn:04, rxn: 4 and rxn:4_0",
    "infinity_is_averaged": "an averaged score of 999.99 or −999.99, posted for missing ones, counts as a number",
    "regions_from_alignment": "a nanobody's regions are counted from the first residue that IgBLAST aligns, not from "
    "the sequence's",
    "identity_of_alignment": "a nanobody's identity with an archived one is that of the best local alignment, so that "
    "a short perfect match counts as 1",
}


class TrackTargets(Section):
    """``target``: UniProt entries, comma-separated. ``clip_interval``: a [from, to) of each, or null for the whole."""

    target: str = Field(min_length=1)
    clip_interval: list[Annotated[list[Count], Field(min_length=2, max_length=2)] | None] | None = None

    @property
    def codes(self) -> tuple[str, ...]:
        """The entries, in order."""
        return tuple(code.strip() for code in self.target.split(","))

    def clip(self, position: int, sequence: str) -> str:
        """The scored part of a target's sequence."""
        interval = self.clip_interval[position] if self.clip_interval else None
        return sequence[interval[0] : interval[1]] if interval else sequence

    @field_validator("target")
    @classmethod
    def _names_files(cls, value: str) -> str:
        if not all(code.strip().isalnum() for code in value.split(",")):
            raise ValueError("is not one or more UniProt entries, apart by commas")
        return value

    @model_validator(mode="after")
    def _one_clip_each(self) -> TrackTargets:
        if self.clip_interval is not None and len(self.clip_interval) != len(self.codes):
            raise ValueError(f"clip_interval has {len(self.clip_interval)} entries for {len(self.codes)} target(s)")
        for interval in self.clip_interval or ():
            if interval is not None and interval[0] >= interval[1]:
                raise ValueError(f"clip_interval {interval} is empty")
        return self


class ProteinSelection(Section):
    small_molecule: TrackTargets = TrackTargets(target="Q9UQM7", clip_interval=[[340, 475]])
    nanobody: TrackTargets = TrackTargets(target="P05231", clip_interval=[[30, 212]])


class Competition(Section):
    no_submission_blocks: Count = 10
    nanobody_weight: Share = 0.6


class Payout(Section):
    enabled: bool = True
    override_uid: Count = 42


class MoleculeRequirements(Section):
    num_molecules: int = Field(1, ge=1)
    min_heavy_atoms: Count = 10
    min_rotatable_bonds: Count = 1
    max_rotatable_bonds: Count = 10
    min_entropy: Annotated[float, Field(allow_inf_nan=False)] = 0.1
    """Read by the subnet's validator and never enforced, so neither here."""
    banned_atom_types: list[str] = Field(["Se", "Na", "Fe", "Zn", "S"])
    max_similarity_to_historical: Share = 0.6

    @model_validator(mode="after")
    def _bounds_in_order(self) -> MoleculeRequirements:
        if self.min_rotatable_bonds > self.max_rotatable_bonds:
            raise ValueError("min_rotatable_bonds is larger than max_rotatable_bonds")
        return self


class ReactionFiltering(Section):
    random_valid_reaction: bool = True
    allowed_reactions: list[Annotated[str, Field(pattern=r"^rxn:[0-9]{1,9}$")]] = Field(["rxn:1", "rxn:2"])


class Boltz2Config(Section):
    boltz_metric: list[str] = Field(["affinity_probability_binary", "affinity_pred_value"], min_length=1)
    combination_strategy: Strategy = "heavy_atom_normalization"
    boltz_mode: Mode = "max"

    @model_validator(mode="after")
    def _enough_metrics(self) -> Boltz2Config:
        if len(self.boltz_metric) > 2 and self.combination_strategy == "heavy_atom_normalization":
            raise ValueError("heavy_atom_normalization takes one metric or two")
        return self


class NanobodyRequirements(Section):
    num_sequences: int = Field(1, ge=1)
    min_sequence_length: Count = 90
    max_sequence_length: Count = 150
    min_cysteines: Count = 1
    cys_pair_min_separation: Count = 35
    cys_pair_max_separation: Count = 80
    max_homopolymer_run: Count = 6
    max_di_repeat_pairs: Count = 4
    reject_signal_peptides: bool = True
    """The subnet's validator refuses signal peptides whatever this says, so ours does too."""
    sp_window: int = Field(12, ge=1)
    sp_hydro_min_in_window: Count = 8
    sp_scan_prefix: Count = 30
    min_nativeness_score: Share = 0.45
    min_human_framework_score: Share = 0.75
    max_similarity_score: Share = 0.95
    num_top_sequences: Count = 50
    enforce_vhh_hallmarks: bool = True

    @property
    def limits(self) -> NanobodyLimits:
        """What the sequences are held against."""
        return NanobodyLimits(**{name: getattr(self, name) for name in NanobodyLimits.__dataclass_fields__})


class BoltzgenConfig(Section):
    boltzgen_rank_mode: Mode = "min"
    boltzgen_rank_by: Literal["rank_sum", "worst_rank"] = "rank_sum"


class Parameters(Section):
    """The subnet's configuration file; ``era``, ``archive_unavailable`` and ``quirks`` are this validator's own."""

    era: Literal["august-2026"] = "august-2026"
    protein_selection: ProteinSelection = ProteinSelection()
    competition: Competition = Competition()
    payout: Payout = Payout()
    molecule_requirements: MoleculeRequirements = MoleculeRequirements()
    reaction_filtering: ReactionFiltering = ReactionFiltering()
    boltz2_config: Boltz2Config = Boltz2Config()
    nanobody_requirements: NanobodyRequirements = NanobodyRequirements()
    boltzgen_config: BoltzgenConfig = BoltzgenConfig()
    archive_unavailable: Literal["accept", "reject"] = "accept"
    quirks: list[Quirk] = Field(list(QUIRKS))

    def has_quirk(self, quirk: Quirk) -> bool:
        """Whether an oddity of the subnet's own validator is on; all are unless the file lists others."""
        return quirk in self.quirks
