"""The rules of August 2026 beyond the subnet's own cases: files, quirks, tracks, and what costs one item alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.demo import RECORDING, RECORDING_2026
from app.domain import (
    Challenge,
    Commitment,
    EpochHeader,
    Neuron,
    PairScore,
    Protein,
    RejectionCode,
    ScoringModel,
    SubmissionRejected,
)
from app.epochs.rules import RulesError, parse_rules
from app.epochs.rules.august_2026 import August2026, parse_payload
from app.epochs.rules.august_2026_parameters import QUIRKS, Parameters
from app.epochs.rules.august_2026_tracks import MoleculeTrack, NanobodyTrack
from app.epochs.scores import MODEL_UNAVAILABLE, EpochScores
from app.store.records import (
    ItemFinding,
    OpenEpoch,
    PartState,
    Stage,
    SubmissionRecord,
    TrackFindings,
    TrackStatus,
)
from chain.incentive.tracks import Contender, rank_track, track_weights
from chain.sources import ArchiveUnavailable
from chem.database import CombinatorialDatabase
from chem.history import History, read_history
from chem.properties import parse_smiles

CONFIG = Path(__file__).parents[3] / "data" / "nova-2026" / "config.yaml"


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_subnets_own_file_is_the_default_of_its_era() -> None:
    rules = parse_rules(CONFIG.read_text())
    assert rules.era == "august-2026"
    assert rules.parameters == Parameters()
    assert parse_rules("era: august-2026").parameters == Parameters()
    assert parse_rules((RECORDING_2026 / "rules.yaml").read_text()).parameters == Parameters()
    assert parse_rules((RECORDING / "rules.yaml").read_text()).era == "october-2025"
    assert parse_rules("").era == "october-2025"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("payout: {enable: true}", "unknown key 'payout.enable'"),
        ("molecule_validation: {}\npayout: {}", "unknown key 'molecule_validation'"),
        ("payout: {}\nprotein_selection: {small_molecule: {target: a/b}}", "is not one or more UniProt entries"),
        (
            "payout: {}\nprotein_selection: {small_molecule: {target: 'A,B', clip_interval: [[1, 2]]}}",
            "clip_interval has 1 entries for 2 target(s)",
        ),
        ("payout: {}\nreaction_filtering: {allowed_reactions: [4]}", "reaction_filtering.allowed_reactions.0"),
        ("boltz2_config: {combination_strategy: sum}", "boltz2_config.combination_strategy"),
        ("boltz2_config: {boltz_metric: [a, b, c]}", "one metric or two"),
        ("era: august-2026\nquirks: [zero]", "quirks.0"),
        ("era: october-2025\npayout: {}", "unknown key 'payout'"),
    ],
)
def test_a_wrong_file_is_a_sentence_that_names_the_key(text: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert message in str(caught.value)


def test_targets_are_scored_in_part() -> None:
    text = "payout: {}\nprotein_selection: {small_molecule: {target: 'A1,B2', clip_interval: [[1, 3], null]}}"
    rules = parse_rules(text)
    challenge = rules.challenge("0x0", (), 4)
    assert challenge.targets == ("A1", "B2")
    parts = [rules.scored_part(challenge, place, "0123456789" * 30) for place in range(3)]
    assert parts[0] == "12"
    assert len(parts[1]) == 300
    assert len(parts[2]) == 212 - 30


@given(st.text(max_size=60))
def test_a_payload_is_parsed_or_refused(text: str) -> None:
    try:
        tracks = parse_payload(text)
    except SubmissionRejected:
        return
    assert all(item and item.isascii() and "," not in item for items in tracks.values() for item in items)


# -- molecules ----------------------------------------------------------------------------------------------------


class Facts:
    """The bundled recording's database, and an archive of one's own."""

    def __init__(self, archive: Path | None = None, *, unavailable: bool = False) -> None:
        self._archive = archive
        self._unavailable = unavailable

    def molecule_database(self) -> Path:
        return RECORDING_2026 / "molecules.sqlite"

    def file(self, name: str) -> Path | None:
        if self._unavailable:
            raise ArchiveUnavailable("the hub was unavailable")
        return self._archive if name.endswith("_molecules.csv") else None


def names() -> list[str]:
    """Names of the bundled recording that pass every check."""
    report = json.loads((Path(__file__).parents[3] / "data" / "example-2026.result.json").read_text())
    return [
        item["name"]
        for entry in report["submissions"]
        for item in entry["tracks"].get("molecule", {"items": []})["items"]
        if entry["tracks"]["molecule"]["status"] == "valid" and item["rejection"] is None
    ]


def track(archive: Path | None = None, *, unavailable: bool = False, **sections: Any) -> MoleculeTrack:
    return MoleculeTrack(
        Parameters.model_validate(sections),
        Facts(archive, unavailable=unavailable),
        Challenge(("Q9UQM7",), (), (4,), ("P05231",)),
    )


def test_what_was_accepted_before_the_list_ends_stays_unless_the_quirk_is_off() -> None:
    good, other = names()[0], names()[3]
    found = track().judge([good, "rxn:4:1:2", other])
    assert found.status is TrackStatus.VALID
    codes = [item.rejection and item.rejection.code for item in found.items]
    assert codes == [None, RejectionCode.NOT_IN_DATABASE, RejectionCode.LIST_ENDED]
    assert [item.name for item in found.accepted] == [good]
    strict = track(quirks=[name for name in QUIRKS if name != "prefix_kept"]).judge([good, "rxn:4:1:2", other])
    assert strict.status is TrackStatus.REJECTED
    assert strict.rejection is not None
    assert strict.rejection.code is RejectionCode.NOT_IN_DATABASE
    spelled = good.replace("rxn:4", "rxn:04")
    assert track().judge([spelled]).status is TrackStatus.VALID
    exact = track(quirks=[name for name in QUIRKS if name != "python_integers"])
    assert exact.judge([good]).status is TrackStatus.VALID
    assert exact.judge(["rxn: 4:1:2"]).status is TrackStatus.REJECTED


def test_a_molecule_that_resembles_an_archived_one_is_left_out_alone(tmp_path: Path) -> None:
    good, other = names()[0], names()[3]
    smiles = track().judge([good]).items[0].structure
    archive = tmp_path / "archive.csv"
    # the row that ends the original's process, and a row without a key
    archive.write_text(f"SMILES,InChI_Key\nC1CC(,\n{smiles},\n")
    found = track(archive).judge([good, other])
    assert [item.name for item in found.accepted] == [other]
    refusal = found.items[0].rejection
    assert refusal is not None
    assert refusal.code is RejectionCode.TOO_SIMILAR
    assert found.items[0].details["nearest"] == {"target": "Q9UQM7", "smiles": smiles, "similarity": 1.0}
    assert 0 < found.items[1].details["nearest"]["similarity"] < 0.6
    rules = August2026(Parameters())
    challenge = rules.challenge("0x3", (), 4)
    assert any("1 archived molecule(s)" in sentence for sentence in rules.fact_warnings(Facts(archive), challenge))


def test_an_unavailable_archive_is_said_and_follows_the_rules() -> None:
    rules = August2026(Parameters())
    sentences = rules.fact_warnings(Facts(unavailable=True), rules.challenge("0x3", (), 4))
    assert sum("the hub was unavailable" in sentence for sentence in sentences) == 3
    assert track(unavailable=True).judge(names()[:1]).status is TrackStatus.VALID
    refused = track(unavailable=True, archive_unavailable="reject").judge(names()[:1])
    assert refused.rejection is not None
    assert refused.rejection.code is RejectionCode.ALREADY_USED


def test_a_history_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    history = History(["C1CC(", "", "CCO"])
    assert history.unreadable == 2
    nearest = history.nearest(parse_smiles("CCO"))
    assert nearest is not None
    assert (nearest.smiles, nearest.similarity) == ("CCO", 1.0)
    (tmp_path / "a.csv").write_text("InChI_Key\nX\n")
    assert read_history(tmp_path / "a.csv").nearest(parse_smiles("CCO")) is None


def test_three_reactants_are_ordered_by_any_bit(tmp_path: Path) -> None:
    from chem.database import BuildingBlock, Reaction
    from chem.names import CombinatorialName
    from chem.reactions import product_smiles

    name = CombinatorialName(5, (1, 2, 3))
    # the first serves neither role fully in this order, but shares a bit with both
    blocks = {
        1: BuildingBlock("OB(O)c1ccccc1", 32 | 1),
        2: BuildingBlock("Brc1ccc(Cl)cc1", 17 | 32),
        3: BuildingBlock("OB(O)c1ccncc1", 32),
    }
    reactions = {5: Reaction(5, "", 17, 32, 32)}
    assert product_smiles(name, reactions, blocks) is not None
    assert product_smiles(name, reactions, blocks, any_bit_order=True) is None


# -- ranks and weights --------------------------------------------------------------------------------------------


def test_too_few_items_cost_their_uid_alone() -> None:
    places = rank_track(
        [Contender(1, 5, "", [[0.5]]), Contender(2, 5, "", [[0.5, 0.1]]), Contender(3, 5, "", [[]])], 2, "max"
    )
    assert (places[1].score, places[3].score) == (None, None)
    assert places[2].rank == 1


@given(
    st.lists(
        st.tuples(
            st.floats(-2, 2) | st.just(math.inf) | st.none(),
            st.integers(1, 3),
            st.sampled_from(["", "x", "2026-08-01"]),
        ),
        max_size=7,
    ),
    st.randoms(use_true_random=False),
    st.sampled_from(["max", "min"]),
)
def test_the_order_of_contenders_does_not_matter(field: list[Any], shuffler: Any, mode: Any) -> None:
    contenders = [Contender(uid, block, push, [[score]]) for uid, (score, block, push) in enumerate(field)]
    shuffled = list(contenders)
    shuffler.shuffle(shuffled)
    found = rank_track(contenders, 1, mode)
    assert rank_track(shuffled, 1, mode) == found
    ranks = sorted(place.rank for place in found.values() if place.rank)
    assert ranks == list(range(1, len(ranks) + 1))


def test_a_track_that_could_not_be_judged_burns_nothing() -> None:
    nobody = {"molecule": None, "nanobody": None}
    assert track_weights(nobody, range(64), 0.6, None, {}).weights == {0: 1.0}
    unjudged = track_weights(nobody, range(64), 0.6, None, {"nanobody": "no BoltzGen"})
    assert unjudged.weights is None
    assert "nanobody" in (unjudged.reason or "")
    # an override does not depend on scores
    assert track_weights(nobody, range(64), 0.6, 42, {"nanobody": "no BoltzGen"}).weights == {42: 1.0}
    assert track_weights(nobody, range(40), 0.6, 42, {}).weights is None


def epoch(**changes: Any) -> OpenEpoch:
    challenge = Challenge(("Q9UQM7",), (), (4,), ("P05231",))
    opened = OpenEpoch(
        id=1,
        scores="model",
        publishes=False,
        without_boltz=False,
        stage=Stage.SCORING,
        header=EpochHeader(68, "test", 361, 361, 722, "0x1", "0x2"),
        neurons=tuple(Neuron(uid, f"h{uid}", "c", 1.0, False) for uid in range(64)),
        rules_text="era: august-2026",
        parameters=None,
        rules_sha256="",
        challenge=challenge,
        proteins=tuple(Protein(code, "MKT") for code in challenge.proteins),
    )
    return replace(opened, **changes)


def submission(uid: int, *, molecules: tuple[str, ...] = (), sequences: tuple[str, ...] = ()) -> SubmissionRecord:
    def entered(items: tuple[str, ...]) -> TrackFindings:
        status = TrackStatus.VALID if items else TrackStatus.ABSENT
        return TrackFindings(status, tuple(ItemFinding(item, item, item) for item in items))

    return SubmissionRecord(
        uid=uid,
        commitment=Commitment(f"h{uid}", 400 + uid, "o/r/b/f.txt"),
        state=PartState.VALID,
        push_time="",
        rejection=None,
        entropy=None,
        molecules=(),
        scored=None,
        psichic_score=None,
        boltz_score=None,
        entropy_boltz=None,
        psichic_rank=None,
        boltz_rank=None,
        tracks={"molecule": entered(molecules), "nanobody": entered(sequences)},
    )


def test_a_missing_model_leaves_its_track_unjudged_and_the_other_stands() -> None:
    rules = August2026(Parameters())
    scores = EpochScores()
    metrics = {"affinity_probability_binary": 0.8, "affinity_pred_value": -1.2}
    scores.add(ScoringModel.BOLTZ, [PairScore("Q9UQM7", "CCO", metrics)])
    scores.add(ScoringModel.BOLTZGEN, [PairScore("P05231", "QVQ", error=f"{MODEL_UNAVAILABLE}: no BoltzGen here")])
    found = rules.combine(epoch(), [submission(1, molecules=("CCO",), sequences=("QVQ",))], scores)
    assert found.winners == {"molecule": 1, "nanobody": None}
    assert "no BoltzGen here" in found.unjudged["nanobody"]
    assert any("no BoltzGen here" in sentence for sentence in found.warnings)
    plain = August2026(Parameters.model_validate({"payout": {"enabled": False}}))
    assert plain.weights(found.winners, range(64), found.unjudged).weights is None
    nobody_entered = rules.combine(epoch(), [submission(1, molecules=("CCO",))], scores)
    assert nobody_entered.unjudged == {}


def test_one_failed_molecule_costs_its_uid_alone() -> None:
    scores = EpochScores()
    metrics = {"affinity_probability_binary": 0.8, "affinity_pred_value": -1.2}
    scores.add(
        ScoringModel.BOLTZ,
        [PairScore("Q9UQM7", "CCO", metrics), PairScore("Q9UQM7", "CCN", error="failed_alone: ValueError")],
    )
    field = [submission(1, molecules=("CCN",)), submission(2, molecules=("CCO",))]
    found = August2026(Parameters()).combine(epoch(), field, scores)
    assert found.winners["molecule"] == 2
    assert {one.uid: one.details["molecule"]["rank"] for one in found.verdicts} == {1: None, 2: 1}


def test_the_miners_own_order_counts_where_the_quirk_is_off() -> None:
    scores = EpochScores()
    for smiles, value in (("CCO", 0.9), ("CCN", 0.2)):
        metrics = {"affinity_probability_binary": value, "affinity_pred_value": 0.0}
        scores.add(ScoringModel.BOLTZ, [PairScore("Q9UQM7", smiles, metrics)])
    field = [submission(1, molecules=("CCO",)), submission(2, molecules=("CCN", "CCO"))]
    quirky = August2026(Parameters()).combine(epoch(), field, scores)
    off = Parameters.model_validate({"quirks": [name for name in QUIRKS if name != "global_order_list"]})
    straight = August2026(off).combine(epoch(), field, scores)
    second = [{one.uid: one for one in found.verdicts}[2].details["molecule"]["score"] for found in (quirky, straight)]
    assert second == [pytest.approx(0.3), pytest.approx(0.2 / 3)]


def exchanged(field: list[SubmissionRecord], own: dict[str, float], averages: Any, **changes: Any) -> dict[int, Any]:
    """The molecule standings where Boltz-2 gave ``own`` (SMILES → metric) and the exchange ``averages``."""
    scores = EpochScores()
    for smiles, value in own.items():
        metrics = {"affinity_probability_binary": value, "affinity_pred_value": 0.0}
        scores.add(ScoringModel.BOLTZ, [PairScore("Q9UQM7", smiles, metrics)])
    rules = August2026(Parameters.model_validate(changes))
    rules.share(field, scores, {"molecules": {name: {"Q9UQM7": found} for name, found in averages.items()}})
    return {one.uid: one.details["molecule"] for one in rules.combine(epoch(), field, scores).verdicts}


def test_averages_without_an_averaged_score_leave_our_score() -> None:
    averages = {"CCO": {"affinity_probability_binary": 0.3}, "CCN": {"affinity_probability_binary": 0.3, "score": 0.5}}
    field = [submission(1, molecules=("CCO",)), submission(2, molecules=("CCN",))]
    found = exchanged(field, {"CCO": 0.9, "CCN": 0.9}, averages)
    assert {uid: standing["score"] for uid, standing in found.items()} == {1: pytest.approx(0.3), 2: 0.5}
    (item,) = found[1]["items"]
    assert item["boltz"]["Q9UQM7"]["affinity_probability_binary"] == 0.3
    assert item["exchange"]["Q9UQM7"]["own"]["affinity_probability_binary"] == 0.9


def test_an_average_belongs_to_the_name_that_a_miner_gave() -> None:
    field = [named(submission(uid, molecules=("CCO",)), f"rxn:{uid}") for uid in (1, 2)]
    found = exchanged(field, {"CCO": 0.9}, {"rxn:1": {"score": 0.5}, "rxn:2": {"score": 0.25}})
    assert {uid: standing["score"] for uid, standing in found.items()} == {1: 0.5, 2: 0.25}
    assert [found[uid]["items"][0]["exchange"]["Q9UQM7"]["average"]["score"] for uid in (1, 2)] == [0.5, 0.25]


def test_an_average_takes_its_place_in_the_miners_list_unless_the_quirk_is_off() -> None:
    # the epoch's order is CCO, CCN; the second miner's CCN, CCO
    field = [submission(1, molecules=("CCO",)), submission(2, molecules=("CCN", "CCO"))]
    own = {"CCO": 0.9, "CCN": 0.2}
    averages = {"CCO": {"score": 0.75}, "CCN": {"score": 0.125}}
    standing = exchanged(field, own, averages)[2]
    assert [(item["smiles"], item["score"]) for item in standing["items"]] == [("CCN", 0.125), ("CCO", 0.75)]
    only_second = exchanged(field, own, {"CCO": {"score": 0.75}})[2]
    # in the place of CCN's own score, beside CCO's own
    assert [(item["smiles"], item["score"]) for item in only_second["items"]] == [
        ("CCO", pytest.approx(0.3)),
        ("CCO", 0.75),
    ]
    off = [name for name in QUIRKS if name != "global_order_list"]
    standing = exchanged(field, own, {"CCO": {"score": 0.75}}, quirks=off)[2]
    assert [(item["smiles"], item["score"]) for item in standing["items"]] == [
        ("CCN", pytest.approx(0.2 / 3)),
        ("CCO", 0.75),
    ]


def test_an_average_of_a_molecule_that_boltz_cannot_take_costs_nobody_anything() -> None:
    skipped = submission(1, molecules=("CCN", "CCO"))
    track = skipped.tracks["molecule"]
    first = replace(track.items[0], details={"boltz_skips": "an atom's name is too long"})
    skipped = replace(skipped, tracks={**skipped.tracks, "molecule": replace(track, items=(first, track.items[1]))})
    averages = {"CCN": {"score": 9.0}, "CCO": {"score": 0.75}}
    # the average of the second comes to a place that the list of scores does not have
    assert exchanged([skipped], {"CCO": 0.9}, averages)[1]["score"] == pytest.approx(0.3)
    off = [name for name in QUIRKS if name != "global_order_list"]
    assert exchanged([skipped], {"CCO": 0.9}, averages, quirks=off)[1]["score"] == 0.75


def test_an_averaged_infinity_is_a_number_unless_the_quirk_is_off() -> None:
    field, averages = [submission(1, molecules=("CCO",))], {"CCO": {"score": -999.99}}
    standing = exchanged(field, {"CCO": 0.9}, averages)[1]
    assert (standing["score"], standing["rank"]) == (-999.99, 1)
    off = [name for name in QUIRKS if name != "infinity_is_averaged"]
    standing = exchanged(field, {"CCO": 0.9}, averages, quirks=off)[1]
    assert (standing["score"], standing["rank"]) == ("-inf", None)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("quirk", ["regions_from_alignment", "identity_of_alignment"])
def test_a_quirk_of_nanobodies_reaches_their_track(quirk: str, on: bool) -> None:
    quirks = [name for name in QUIRKS if on or name != quirk]
    given = Parameters.model_validate({"quirks": quirks})
    track = NanobodyTrack(given, Facts(), Challenge(("Q9UQM7",), (), (4,), ("P05231",)))
    assert getattr(track._against, quirk) is on


def named(one: SubmissionRecord, name: str) -> SubmissionRecord:
    """The submission with another name for its only molecule."""
    track = one.tracks["molecule"]
    return replace(one, tracks={**one.tracks, "molecule": replace(track, items=(replace(track.items[0], name=name),))})


def test_the_bundled_database_opens() -> None:
    database = CombinatorialDatabase(RECORDING_2026 / "molecules.sqlite")
    assert len(database.reactions) == 5
    database.close()
