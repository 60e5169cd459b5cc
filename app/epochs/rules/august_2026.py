"""The rules of August 2026: two tracks, molecules judged by Boltz-2 and nanobodies by BoltzGen.

The parameters are the subnet's own configuration file, unchanged, and a few optional keys of this validator.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from app.domain import (
    BOLTZGEN_METRICS,
    Challenge,
    Molecule,
    Protein,
    Rejection,
    RejectionCode,
    ScoringModel,
    rejected,
)
from app.epochs.result import json_number, rejection_report, submission_report, track_report
from app.epochs.rules.archives import molecules_file, nanobodies_file, used_molecules
from app.epochs.rules.august_2026_parameters import QUIRKS, Parameters
from app.epochs.rules.rule_set import (
    ChallengeError,
    FactsNeeded,
    FactsReader,
    Inspection,
    Items,
    Judgement,
    RuleSet,
)
from app.epochs.scores import EpochScores
from app.store.records import (
    EpochSummary,
    Findings,
    ItemFinding,
    OpenEpoch,
    SubmissionRecord,
    TrackFindings,
    TrackStatus,
    Verdict,
)
from app.untrusted import quoted
from chain.incentive.molecules import WeightVector
from chain.incentive.tracks import (
    MOLECULE,
    NANOBODY,
    Contender,
    Place,
    binding_score,
    in_global_order,
    payouts,
    rank_track,
    track_weights,
    worst,
)
from chain.score_sharing import INFINITE, SCORE, Averages, batch, with_averages

SCHEMA: Final = 2

# In a challenge whose draw failed: no reaction is refused.
ANY_REACTION: Final = "any"

_NONE_GIVEN: Final = "~"

# The number of reactions where the table cannot be counted.
_USUAL_REACTIONS: Final = 5

_ITEM_KEYS: Final = {MOLECULE: ("smiles", "inchikey"), NANOBODY: ("sequence", "sequence_hash")}

_CATEGORIES: Final = ("confidence", "physical_interaction", "developability")


def parse_payload(text: str) -> dict[str, tuple[str, ...]]:
    """``molecule,…|sequence,…``, either side ``~`` for none; empty items count as not given.

    Raises:
        SubmissionRejected: ``payload_malformed``.
    """
    text = text.strip()

    def malformed(why: str) -> Exception:
        return rejected(RejectionCode.PAYLOAD_MALFORMED, f"the submission must read molecules|sequences: {why}")

    if any(letter.isspace() for letter in text):
        raise malformed("there is white space in it")
    if not text.isascii():
        raise malformed("there are characters in it that are not ASCII")
    sides = text.split("|")
    if len(sides) != 2:
        raise malformed(f"it has {len(sides) - 1} '|' where one is needed")
    if not all(sides):
        raise malformed("a side is empty; write ~ for a track that is not entered")
    molecules, sequences = (
        () if side == _NONE_GIVEN else tuple(item for item in side.split(",") if item) for side in sides
    )
    return {MOLECULE: molecules, NANOBODY: sequences}


def draw_reaction(start_block_hash: str, reactions: int | None) -> int | str:
    """The reaction of the epoch, ``seed % n + 1``; any, where there is none to draw.

    Raises:
        ChallengeError: the hash is not ``0x`` and hexadecimal digits.
    """
    digits = start_block_hash.removeprefix("0x")
    if digits == start_block_hash:
        raise ChallengeError(f"block hash {quoted(start_block_hash)} does not begin with 0x; there is no challenge")
    try:
        seed = int(digits, 16)
    except ValueError:
        raise ChallengeError(f"block hash {quoted(start_block_hash)} is not hexadecimal; no challenge") from None
    number = _USUAL_REACTIONS if reactions is None else reactions
    return seed % number + 1 if number else ANY_REACTION


@dataclass(frozen=True)
class August2026(RuleSet):
    """See the module."""

    era: ClassVar[str] = "august-2026"
    models: ClassVar[tuple[ScoringModel, ...]] = (ScoringModel.BOLTZ, ScoringModel.BOLTZGEN)
    exchanges_scores: ClassVar[bool] = True
    uses_alignments: ClassVar[bool] = True
    boltz_profile: ClassVar[str | None] = "live-2026"
    needs_every_model: ClassVar[bool] = False
    quirks: ClassVar[Mapping[str, str]] = {str(name): meaning for name, meaning in QUIRKS.items()}
    given: Parameters

    @property
    def parameters(self) -> Parameters:
        return self.given

    @property
    def no_submission_blocks(self) -> int:
        return self.given.competition.no_submission_blocks

    def parse(self, text: str) -> Items:
        return parse_payload(text)

    def challenge(self, start_block_hash: str, pool: Sequence[str], reactions: int) -> Challenge:
        drawn = draw_reaction(start_block_hash, reactions)
        return self._challenge((drawn,) if self.given.reaction_filtering.random_valid_reaction else self._listed)

    @property
    def undrawn_challenge(self) -> Challenge | None:
        return None if self.given.reaction_filtering.random_valid_reaction else self._challenge(self._listed)

    @property
    def _listed(self) -> tuple[int | str, ...]:
        return tuple(int(name.removeprefix("rxn:")) for name in self.given.reaction_filtering.allowed_reactions)

    def _challenge(self, reactions: tuple[int | str, ...]) -> Challenge:
        selection = self.given.protein_selection
        return Challenge(selection.small_molecule.codes, (), reactions, selection.nanobody.codes)

    def scored_part(self, challenge: Challenge, position: int, sequence: str) -> str:
        selection, molecules = self.given.protein_selection, len(challenge.targets)
        if position < molecules:
            return selection.small_molecule.clip(position, sequence)
        return selection.nanobody.clip(position - molecules, sequence)

    def facts_needed(self, challenge: Challenge) -> FactsNeeded:
        return FactsNeeded(
            files=(
                *(molecules_file(target) for target in challenge.targets),
                *(nanobodies_file(target) for target in challenge.nanobody_targets),
            )
        )

    def fact_warnings(self, facts: FactsReader, challenge: Challenge) -> list[str]:
        from app.epochs.rules.histories import molecule_histories, nanobody_archives

        _, used = used_molecules(facts, challenge.targets, self.given.archive_unavailable)
        _, histories = molecule_histories(facts, challenge.targets)
        _, archives = nanobody_archives(facts, challenge.nanobody_targets)
        return [*([used] if used else []), *histories, *archives]

    def reactants(self, items: Items) -> Collection[int]:
        from chem.names import parse_python_name

        parsed = (parse_python_name(name) for name in items[MOLECULE])
        return {number for name in parsed if name for number in name.reactants}

    def inspection(self, facts: FactsReader, challenge: Challenge) -> Inspection:
        from app.epochs.rules.august_2026_tracks import MoleculeTrack, NanobodyTrack

        molecules = MoleculeTrack(self.given, facts, challenge)
        nanobodies = NanobodyTrack(self.given, facts, challenge)

        def inspect(uid: int, items: Items) -> Findings:
            tracks = {
                MOLECULE: molecules.judge(items[MOLECULE]),
                NANOBODY: nanobodies.judge(items[NANOBODY]),
            }
            accepted = tracks[MOLECULE].accepted
            return Findings(
                molecules=tuple(Molecule(item.name, item.structure, item.key) for item in accepted),
                entropy=tracks[MOLECULE].entropy,
                rejection=_rejection_of_all(tracks),
                tracks=tracks,
            )

        return inspect

    def proteins(self, epoch: OpenEpoch, model: ScoringModel) -> tuple[Protein, ...]:
        return epoch.nanobody_targets if model is ScoringModel.BOLTZGEN else epoch.targets

    def candidates(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord]
    ) -> Mapping[ScoringModel, Sequence[str]]:
        return {
            ScoringModel.BOLTZ: [smiles for one in submissions for smiles in _nameable(one)],
            ScoringModel.BOLTZGEN: [item.structure for one in submissions for item in _accepted(one, NANOBODY)],
        }

    def scores_to_post(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores
    ) -> Mapping[str, Any]:
        """Of an item that several miners entered, the first UID's; of a model that cannot be run here, nothing."""
        molecules: dict[str, dict[str, Any]] = {}
        nanobodies: dict[str, dict[str, Any]] = {}
        for one in submissions:
            for item in _accepted(one, MOLECULE) if scores.all_missing(ScoringModel.BOLTZ) is None else ():
                if not item.details.get("boltz_skips"):
                    found = {
                        target: self._to_post(scores, target, item.structure) for target in epoch.challenge.targets
                    }
                    molecules.setdefault(item.name, found)
            for item in _accepted(one, NANOBODY) if scores.all_missing(ScoringModel.BOLTZGEN) is None else ():
                targets = epoch.challenge.nanobody_targets
                own = {target: scores.of(ScoringModel.BOLTZGEN, target, item.structure) or {} for target in targets}
                nanobodies.setdefault(item.key, own)
        if epoch.without_boltz:
            molecules = {}
        return batch(epoch.header.epoch, molecules, nanobodies, BOLTZGEN_METRICS)

    def _to_post(self, scores: EpochScores, target: str, smiles: str) -> dict[str, float]:
        metrics = scores.of(ScoringModel.BOLTZ, target, smiles) or {}
        return {**metrics, SCORE: self._binding_score(metrics, smiles)}

    def _binding_score(self, metrics: Mapping[str, float], smiles: str) -> float:
        from chem.properties import heavy_atoms_of

        config = self.given.boltz2_config
        return binding_score(
            metrics, config.boltz_metric, config.combination_strategy, heavy_atoms_of(smiles), config.boltz_mode
        )

    def share(
        self, submissions: Sequence[SubmissionRecord], scores: EpochScores, shared: Mapping[str, Any] | None
    ) -> list[str]:
        """Averages stand in the place of our own metrics, and a molecule's averaged score in that of its score."""
        if shared is None:
            return ["scores were not exchanged with other validators: the ranks are from this validator's own scores"]
        averages = Averages.of_document(shared)
        for model, track, table in (
            (ScoringModel.BOLTZ, MOLECULE, averages.molecules),
            (ScoringModel.BOLTZGEN, NANOBODY, averages.nanobodies),
        ):
            for name in {_shared_name(track, item) for one in submissions for item in _accepted(one, track)}:
                for target, average in (table or {}).get(name, {}).items():
                    scores.take(model, target, name, average)
        return list(averages.notes)

    def combine(self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores) -> Judgement:
        unjudged = {
            track: f"the {track} track could not be judged: {reason}"
            for track, model in ((MOLECULE, ScoringModel.BOLTZ), (NANOBODY, ScoringModel.BOLTZGEN))
            if (reason := _unjudged(track, model, submissions, scores, epoch))
        }
        standings = {
            MOLECULE: {} if MOLECULE in unjudged else self._rank_molecules(epoch, submissions, scores),
            NANOBODY: {} if NANOBODY in unjudged else self._rank_nanobodies(epoch, submissions, scores),
        }
        verdicts = tuple(
            Verdict(
                uid=one.uid,
                scored=None,
                standings={},
                details={track: found[one.uid] for track, found in standings.items() if one.uid in found},
            )
            for one in submissions
        )
        winners = {
            track: next((uid for uid, standing in found.items() if standing["rank"] == 1), None)
            for track, found in standings.items()
        }
        unaligned = sorted({one.code for one in epoch.proteins if one.alignment is None and epoch.scores == "model"})
        alone = [f"no alignment of {', '.join(unaligned)}: models got the sequence alone"] if unaligned else []
        return Judgement(verdicts, winners, (*unjudged.values(), *alone), unjudged)

    def weights(
        self, winners: Mapping[str, int | None], metagraph_uids: Sequence[int], unjudged: Mapping[str, str]
    ) -> WeightVector:
        payout = self.given.payout
        return track_weights(
            winners,
            metagraph_uids,
            self.given.competition.nanobody_weight,
            payout.override_uid if payout.enabled else None,
            unjudged,
        )

    def weights_of_failed(self, metagraph_uids: Sequence[int], error: str) -> WeightVector:
        """The override pays the winner; without it, nobody was judged, which is not to say that nobody won."""
        return self.weights({}, metagraph_uids, dict.fromkeys((MOLECULE, NANOBODY), error))

    def report(
        self, epoch: OpenEpoch, summary: EpochSummary, submissions: Sequence[SubmissionRecord], warnings: Sequence[str]
    ) -> dict[str, Any]:
        winners = {track: summary.winners.get(track) for track in (MOLECULE, NANOBODY)}
        paid = payouts(winners, self.given.competition.nanobody_weight) if self.given.payout.enabled else []
        return {
            "schema": SCHEMA,
            "era": self.era,
            "epoch": epoch.header.epoch,
            "rules_sha256": epoch.rules_sha256,
            "challenge": {
                "targets": {
                    MOLECULE: list(epoch.challenge.targets),
                    NANOBODY: list(epoch.challenge.nanobody_targets),
                },
                "allowed_reactions": list(epoch.challenge.allowed_reactions),
            },
            "submissions": [_reported(submission) for submission in submissions],
            "winners": winners,
            "unjudged": dict(summary.unjudged),
            "weights": None if summary.weights is None else {str(uid): w for uid, w in summary.weights.items()},
            "payouts": [{"track": track, "uid": uid, "share": share} for track, uid, share in paid],
            "warnings": list(warnings),
        }

    def _rank_molecules(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores
    ) -> dict[int, dict[str, Any]]:
        config = self.given.boltz2_config
        entered = [one for one in submissions if _accepted(one, MOLECULE)]
        own = {one.uid: _nameable(one) for one in entered}
        listed = in_global_order(own) if self.given.has_quirk("global_order_list") else own

        targets = epoch.challenge.targets

        def score(target: str, smiles: str) -> float:
            return self._binding_score(scores.of(ScoringModel.BOLTZ, target, smiles) or {}, smiles)

        table = {
            one.uid: [[score(target, smiles) for smiles in listed[one.uid]] for target in targets] for one in entered
        }
        shown = {one.uid: self._take_averages(one, scores, targets, listed[one.uid], table[one.uid]) for one in entered}
        for of_targets in table.values():
            for of_target in of_targets:
                of_target[:] = of_target or [worst(config.boltz_mode)]
        places = rank_track(
            [Contender(one.uid, one.commitment.block, one.push_time, table[one.uid]) for one in entered],
            self.given.molecule_requirements.num_molecules,
            config.boltz_mode,
            zero_is_missing=self.given.has_quirk("zero_is_missing"),
        )
        return {
            one.uid: _standing(places[one.uid], self.given.molecule_requirements.num_molecules)
            | {
                "items": [
                    {
                        "smiles": item.structure,
                        "score": json_number(item_score),
                        "boltz": _in_force(scores, ScoringModel.BOLTZ, targets, item.structure, item.name),
                        **_exchanged(scores, ScoringModel.BOLTZ, targets, item.structure, item.name),
                    }
                    for item, item_score in zip(shown[one.uid], places[one.uid].item_scores, strict=False)
                ]
            }
            for one in entered
        }

    def _take_averages(
        self,
        one: SubmissionRecord,
        scores: EpochScores,
        targets: Sequence[str],
        listed: Sequence[str],
        table: Sequence[list[float]],
    ) -> list[ItemFinding]:
        """Write the averaged scores of one UID's molecules into its ``table`` ([targets][listed]).

        A molecule without an averaged score keeps the score of our own metrics, whatever else was averaged. Quirk
        ``global_order_list``: an average takes the place that its molecule has in the miner's list, whatever our own
        score in that place is of.

        Returns:
            The molecule whose score each place holds.
        """
        accepted = _accepted(one, MOLECULE)
        of_structure = {item.structure: item for item in accepted}
        shown = [of_structure[smiles] for smiles in listed]
        for index, item in enumerate(accepted):
            if item.details.get("boltz_skips"):
                continue
            place = index if self.given.has_quirk("global_order_list") else listed.index(item.structure)
            for target, row in zip(targets, table, strict=True):
                averaged = scores.average(ScoringModel.BOLTZ, target, item.name).get(SCORE)
                if averaged is not None and place < len(row):
                    missing = abs(averaged) == INFINITE and not self.given.has_quirk("infinity_is_averaged")
                    row[place] = worst(self.given.boltz2_config.boltz_mode) if missing else averaged
                    shown[place] = item
        return shown

    def _rank_nanobodies(
        self, epoch: OpenEpoch, submissions: Sequence[SubmissionRecord], scores: EpochScores
    ) -> dict[int, dict[str, Any]]:
        from chem.nanobodies.ranking import rank_designs

        config, targets = self.given.boltzgen_config, epoch.challenge.nanobody_targets
        entered = [one for one in submissions if _accepted(one, NANOBODY)]
        sequences = {one.uid: [item.structure for item in _accepted(one, NANOBODY)] for one in entered}
        sequence_hashes = {item.structure: item.key for one in entered for item in _accepted(one, NANOBODY)}
        metrics = {
            uid: {
                sequence: _in_force(scores, ScoringModel.BOLTZGEN, targets, sequence, sequence_hashes[sequence])
                for sequence in of_uid
            }
            for uid, of_uid in sequences.items()
        }
        ranks = rank_designs(metrics, targets, missing_adds_zero=self.given.has_quirk("missing_metric_adds_zero"))

        def score(sequence: str, target: str) -> float | None:
            overall = ranks[sequence, target].overall
            return overall.rank_sum if config.boltzgen_rank_by == "rank_sum" else overall.worst_rank

        def category_sums(uid: int) -> dict[str, float]:
            pairs = [ranks[sequence, target].categories for sequence in sequences[uid] for target in targets]
            return {name: math.fsum(pair[name].rank_sum for pair in pairs) for name in _CATEGORIES}

        places = rank_track(
            [
                Contender(
                    one.uid,
                    one.commitment.block,
                    one.push_time,
                    [[score(sequence, target) for sequence in sequences[one.uid]] for target in targets],
                    tuple(category_sums(one.uid).values()),
                )
                for one in entered
            ],
            self.given.nanobody_requirements.num_sequences,
            config.boltzgen_rank_mode,
            zero_is_missing=self.given.has_quirk("zero_is_missing"),
        )
        return {
            one.uid: _standing(places[one.uid], self.given.nanobody_requirements.num_sequences)
            | {
                "rank_sums": category_sums(one.uid),
                "items": [
                    {
                        "sequence": sequence,
                        "score": json_number(item_score),
                        "boltzgen": metrics[one.uid][sequence],
                        **_exchanged(scores, ScoringModel.BOLTZGEN, targets, sequence, sequence_hashes[sequence]),
                    }
                    for sequence, item_score in zip(sequences[one.uid], places[one.uid].item_scores, strict=False)
                ],
            }
            for one in entered
        }


def _shared_name(track: str, item: ItemFinding) -> str:
    """How the exchange of scores names an item."""
    return item.name if track == MOLECULE else item.key


def _in_force(
    scores: EpochScores, model: ScoringModel, targets: Sequence[str], item: str, name: str
) -> dict[str, dict[str, float]]:
    """By target, an item's metrics: ours, with the averages in their place where there are any."""
    return {
        target: with_averages(scores.of(model, target, item) or {}, scores.average(model, target, name))
        for target in targets
    }


def _exchanged(
    scores: EpochScores, model: ScoringModel, targets: Sequence[str], item: str, name: str
) -> dict[str, Any]:
    """Our own metrics and the averages side by side, where there are any."""
    found = scores.side_by_side(model, targets, item, name)
    return {"exchange": found} if found else {}


def _accepted(submission: SubmissionRecord, track: str) -> tuple[ItemFinding, ...]:
    found = submission.tracks.get(track)
    return () if found is None else found.accepted


def _nameable(submission: SubmissionRecord) -> list[str]:
    """The SMILES of a submission's accepted molecules that Boltz-2 can take."""
    return [item.structure for item in _accepted(submission, MOLECULE) if not item.details.get("boltz_skips")]


def _unjudged(
    track: str,
    model: ScoringModel,
    submissions: Sequence[SubmissionRecord],
    scores: EpochScores,
    epoch: OpenEpoch,
) -> str | None:
    """Why this validator cannot rank a track that was entered; None where it can, and where nobody entered."""
    for one in submissions:
        found = one.tracks.get(track)
        if found is not None and found.status is TrackStatus.UNJUDGED and found.rejection is not None:
            return found.rejection.message
    if not any(_accepted(one, track) for one in submissions):
        return None
    if model is ScoringModel.BOLTZ and epoch.without_boltz:
        return "the operator said --without-boltz"
    return scores.all_missing(model)


def _rejection_of_all(tracks: Mapping[str, TrackFindings]) -> Rejection | None:
    """Why nothing of a submission counts; None where a track does, or could not be judged."""
    if any(found.status in {TrackStatus.VALID, TrackStatus.UNJUDGED} for found in tracks.values()):
        return None
    for found in tracks.values():
        if found.rejection is not None:
            return found.rejection
    return Rejection(RejectionCode.NOTHING_SUBMITTED, "the submission enters neither track")


def _standing(place: Place, counted: int) -> dict[str, Any]:
    too_few = Rejection(
        RejectionCode.TOO_FEW_ITEMS, f"it has {len(place.item_scores)} item(s) that can be scored; {counted} count"
    )
    return {
        "score": None if place.score is None else json_number(place.score),
        "rank": place.rank,
        "rejection": rejection_report(too_few) if place.score is None else None,
    }


def _reported(submission: SubmissionRecord) -> dict[str, Any]:
    return {
        **submission_report(submission),
        "tracks": {
            track: {**track_report(found, *_ITEM_KEYS[track]), "standing": submission.standings.get(track)}
            for track, found in submission.tracks.items()
        },
    }
