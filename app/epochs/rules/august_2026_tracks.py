"""The two tracks of August 2026, each judged with verdicts of its own. Importing this loads RDKit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.domain import Challenge, Rejection, RejectionCode
from app.epochs.rules.archives import used_molecules
from app.epochs.rules.histories import molecule_histories, nanobody_archives
from app.epochs.rules.molecules import (
    Entry,
    banned_atoms,
    building_blocks,
    duplicate_names,
    enough_heavy_atoms,
    entries,
    identical_molecules,
    in_database,
    not_used_before,
    reaction_allowed,
    rotatable_bonds_within,
    unlike_history,
)
from app.epochs.rules.rule_set import FactsReader
from app.epochs.rules.walk import Check, Effect, Policy, TrackChecks, walk
from app.settings import get_settings
from app.store.records import ItemFinding, TrackFindings, TrackStatus
from chem.atom_names import atom_name_fault
from chem.database import CombinatorialDatabase
from chem.diversity import maccs_entropy
from chem.names import parse_name, parse_python_name, python_reaction_of, reaction_of
from chem.nanobodies.sequence import normalised, sequence_hash
from chem.nanobodies.steps import StepUnavailable
from chem.nanobodies.tools import FILES, Figures, RememberingTools, local_tools
from chem.nanobodies.validation import (
    NanobodiesRejected,
    NanobodyRules,
    NanobodyTools,
    validate_nanobodies,
)

if TYPE_CHECKING:
    from app.epochs.rules.august_2026_parameters import Parameters

_NONE_GIVEN = "~"


class MoleculeTrack:
    """Molecules: what was accepted before a refused one stays; one too similar to an archived one is left out alone."""

    def __init__(self, rules: Parameters, facts: FactsReader, challenge: Challenge) -> None:
        self._rules = rules
        self._challenge = challenge
        self._database = CombinatorialDatabase(facts.molecule_database())
        self._used, _ = used_molecules(facts, challenge.targets, rules.archive_unavailable)
        self._histories, _ = molecule_histories(facts, challenge.targets)

    def judge(self, names: Sequence[str]) -> TrackFindings:
        """The verdict on one submission's names."""
        if not names:
            return TrackFindings(TrackStatus.ABSENT)
        items = entries(names, parse_python_name if self._rules.has_quirk("python_integers") else parse_name)
        found = walk(items, self._checks(items))
        refused = found.refused
        if found.rejection is None and not found.accepted:
            return TrackFindings(TrackStatus.REJECTED, _findings(items, refused), refused[min(refused)])
        if found.rejection is not None:
            return TrackFindings(TrackStatus.REJECTED, _findings(items, refused), found.rejection)
        several = self._rules.molecule_requirements.num_molecules > 1
        entropy = maccs_entropy([item.mol for item in found.accepted]) if several else None
        if found.stopped_at is not None:
            refused = refused | {
                item.index: item.refusal(
                    RejectionCode.LIST_ENDED, f"comes after molecule {found.stopped_at}, which ended the list"
                )
                for item in items[found.stopped_at + 1 :]
            }
        return TrackFindings(TrackStatus.VALID, _findings(items, refused), entropy=entropy)

    def _checks(self, items: Sequence[Entry]) -> TrackChecks[Entry]:
        limits, has_quirk = self._rules.molecule_requirements, self._rules.has_quirk
        allowed = self._challenge.allowed_reactions
        claimed = python_reaction_of if has_quirk("python_integers") else reaction_of
        targets = ", ".join(self._challenge.targets)
        each: list[Check[Entry]] = []
        if "any" not in allowed:
            each.append(Check(reaction_allowed(allowed, claimed)))
        each += [
            Check(
                in_database(
                    self._database,
                    building_blocks(items, self._database),
                    any_bit_order=has_quirk("order_by_any_bit"),
                )
            ),
            Check(enough_heavy_atoms(limits.min_heavy_atoms)),
            Check(banned_atoms(frozenset(limits.banned_atom_types))),
            Check(rotatable_bonds_within(limits.min_rotatable_bonds, limits.max_rotatable_bonds)),
            Check(not_used_before(self._used, targets)),
            *(
                Check(unlike_history(history, target, limits.max_similarity_to_historical), Effect.SKIP)
                for target, history in self._histories.items()
            ),
        ]
        return TrackChecks(
            before=(_no_placeholder, duplicate_names),
            each=tuple(each),
            after=(identical_molecules,),
            policy=Policy.PREFIX if has_quirk("prefix_kept") else Policy.ALL_OR_NOTHING,
        )


class NanobodyTrack:
    """Nanobodies: all or nothing over a submission's sequences."""

    def __init__(self, rules: Parameters, facts: FactsReader, challenge: Challenge) -> None:
        archives, _ = nanobody_archives(facts, challenge.nanobody_targets)
        given = rules.nanobody_requirements
        self._against = NanobodyRules(
            given.limits,
            archives,
            regions_from_alignment=rules.has_quirk("regions_from_alignment"),
            identity_of_alignment=rules.has_quirk("identity_of_alignment"),
        )
        self._counted = given.num_sequences
        self._known = Figures.of_files([facts.file(name) for name in FILES])
        settings = get_settings()
        self._local = local_tools(settings.igblast_home, settings.tnp_command)

    def judge(self, items: Sequence[str]) -> TrackFindings:
        """The verdict on one submission's sequences; a step that cannot be run here leaves it open."""
        if not items:
            return TrackFindings(TrackStatus.ABSENT)
        found_here = Figures()
        found = self._judge(items, RememberingTools(self._known, RememberingTools(found_here, self._local)))
        # a recording of this epoch answers with what was found here
        return replace(found, figures=found_here.tables())

    def _judge(self, items: Sequence[str], tools: NanobodyTools) -> TrackFindings:
        try:
            accepted = validate_nanobodies(items, self._against, tools)
        except NanobodiesRejected as refusal:
            name = items[refusal.index] if refusal.index is not None else None
            rejection = Rejection(RejectionCode(refusal.code.value), str(refusal), name, refusal.index)
            return TrackFindings(TrackStatus.REJECTED, self._unjudged(items), rejection)
        except StepUnavailable as fault:
            rejection = Rejection(RejectionCode.STEP_UNAVAILABLE, str(fault))
            return TrackFindings(TrackStatus.UNJUDGED, self._unjudged(items), rejection)
        found = tuple(
            ItemFinding(
                item,
                one.sequence,
                one.hash,
                details={"nativeness": one.nativeness.score, "human_framework": one.nativeness.human},
            )
            for item, one in zip(items, accepted, strict=False)
        )
        return TrackFindings(TrackStatus.VALID, found)

    def _unjudged(self, items: Sequence[str]) -> tuple[ItemFinding, ...]:
        counted = items[: self._counted]
        return tuple(ItemFinding(item, normalised(item), sequence_hash(normalised(item))) for item in counted)


def _no_placeholder(items: Sequence[Entry]) -> Rejection | None:
    for item in items:
        if _NONE_GIVEN in item.name:
            return item.refusal(RejectionCode.TRACK_EXCLUDED, "contains '~', which excludes the whole track")
    return None


def _findings(items: Sequence[Entry], refused: dict[int, Rejection]) -> tuple[ItemFinding, ...]:
    return tuple(
        ItemFinding(item.name, item.smiles, item.inchikey, refused.get(item.index), _details(item)) for item in items
    )


def _details(item: Entry) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if item.nearest is not None:
        target, nearest = item.nearest
        details["nearest"] = {"target": target, "smiles": nearest.smiles, "similarity": nearest.similarity}
    if item.smiles and (fault := atom_name_fault(item.smiles)):
        details["boltz_skips"] = fault
    return details
