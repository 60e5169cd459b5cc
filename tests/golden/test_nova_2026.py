"""Answers of the subnet's own validator of August 2026, case by case.

The folder is that of NOVA_2026_CASES, by default the copy in ``tests/data``. Every file in it is covered; a file or a
case that is not known here fails. Where the original loses its epoch (``raises``), ours must not: that is asked then.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from app.domain import Challenge, Commitment, EpochHeader, Neuron, SubmissionRejected
from app.epochs.rules import parse_rules
from app.epochs.rules.august_2026 import August2026, draw_reaction, parse_payload
from app.epochs.rules.august_2026_parameters import Parameters
from app.epochs.rules.august_2026_tracks import MoleculeTrack
from app.epochs.rules.rule_set import ChallengeError
from app.store.records import TrackStatus
from chain.commitments import in_window
from chain.incentive.tracks import (
    MOLECULE,
    NANOBODY,
    Contender,
    binding_score,
    in_global_order,
    payouts,
    rank_track,
    worst,
)
from chain.score_sharing import wire_number
from chain.submission import file_literal
from chem.atom_names import atom_name_fault
from chem.database import CombinatorialDatabase
from chem.history import tanimoto
from chem.names import parse_python_name, python_reaction_of
from chem.nanobodies import ranking, sequence, similarity
from chem.nanobodies.nativeness import vhh_or_vh
from chem.properties import heavy_atoms_of, inchikey, parse_smiles, rotatable_bonds
from chem.reactions import product_smiles
from gpu.boltz.profile import record_seed

FOLDER: Final = Path(os.environ.get("NOVA_2026_CASES", Path(__file__).parents[1] / "data" / "nova-2026"))

Case = dict[str, Any]


def number(value: Any) -> float | None:
    return None if value is None else float(value)


def same(found: float | None, expected: Any) -> bool:
    if expected is None or found is None:
        return found is None and expected is None
    return found == float(expected) or math.isclose(found, float(expected), rel_tol=1e-12)


@pytest.fixture(scope="session")
def database_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = json.loads((FOLDER / "database.json").read_text())
    path = tmp_path_factory.mktemp("nova") / "molecules.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE reactions(rxn_id INTEGER PRIMARY KEY, name, smarts, roleA, roleB, roleC)")
    connection.execute("CREATE TABLE molecules(mol_id INTEGER PRIMARY KEY, smiles, role_mask)")
    connection.executemany("INSERT INTO reactions VALUES(?, ?, ?, ?, ?, ?)", rows["reactions"])
    connection.executemany("INSERT INTO molecules VALUES(?, ?, ?)", rows["molecules"])
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def database(database_path: Path) -> Iterator[CombinatorialDatabase]:
    opened = CombinatorialDatabase(database_path)
    yield opened
    opened.close()


class Facts:
    """A database and an archive for every target."""

    def __init__(self, database: Path, archive: Path | None) -> None:
        self._database = database
        self._archive = archive

    def molecule_database(self) -> Path:
        return self._database

    def file(self, name: str) -> Path | None:
        return self._archive if name.endswith("_molecules.csv") else None


def rules(**sections: dict[str, Any]) -> Parameters:
    return Parameters.model_validate(sections)


# One function a file; each judges one case.


def challenge(case: Case) -> None:
    def draw() -> Challenge:
        if case["block_hash"] is None:
            raise ChallengeError("no hash")
        ours = August2026(rules(reaction_filtering={"random_valid_reaction": case.get("random", True)}))
        return ours.challenge(case["block_hash"], (), case["rows_in_reactions"])

    expected = case.get("returns")
    if expected is None:
        with pytest.raises(ChallengeError):
            draw()
        return
    found = draw()
    assert list(found.targets) == expected["small_molecule_target"]
    assert list(found.nanobody_targets) == expected["nanobody_target"]
    if (reaction := expected["allowed_reaction"]) is None:
        assert found.allowed_reactions == ("any",)
    else:
        assert [f"rxn:{number}" for number in found.allowed_reactions] == [reaction]
        assert f"rxn:{draw_reaction(case['block_hash'], case['rows_in_reactions'])}" == reaction


def payload(case: Case) -> None:
    if case["returns"] is None:
        with pytest.raises(SubmissionRejected, match=r"molecules\|sequences"):
            parse_payload(case["decrypted"] or "")
        return
    tracks = parse_payload(case["decrypted"])
    assert [list(tracks[MOLECULE]), list(tracks[NANOBODY])] == case["returns"]


def window(case: Case) -> None:
    start, end = case["start_block"], case["end_block"]
    header = EpochHeader(68, "test", end - start, start, end, "0x1", "0x2")
    counted = in_window(
        [Commitment("h", case["commit_block"], "a/b")],
        header,
        case["no_submission_blocks"],
        [Neuron(0, "h", "c", 1.0, False)],
    )
    assert bool(list(counted)) is case["accepted"]


def literal(case: Case) -> None:
    text = case["text"]
    if isinstance(text, dict):
        text = _long_text(text)
    if case["returns"] is None:
        with pytest.raises(SubmissionRejected):
            file_literal(text)
        return
    drand_round, ciphertext = file_literal(text)
    value, kind, data = case["returns"]
    assert (drand_round, type(drand_round).__name__) == (value, kind)
    assert data in {ciphertext.hex(), f"{len(ciphertext)} bytes"}


def _long_text(described: Case) -> str:
    length, begins = described["length"], described["repeat"].removesuffix("...")
    if begins.startswith("(1, b'"):
        return "(1, b'" + "x" * (length - len("(1, b'')")) + "')"
    return begins[0] * length


def product(case: Case, database: CombinatorialDatabase) -> None:
    name = parse_python_name(case["name"])
    blocks = database.building_blocks(name.reactants if name else ())
    found = product_smiles(name, database.reactions, blocks, any_bit_order=True) if name else None
    mol = parse_smiles(found) if found else None
    if case["returns"] is None:
        assert mol is None
        return
    assert found == case["returns"]
    assert mol is not None
    assert (heavy_atoms_of(found or ""), rotatable_bonds(mol)) == (case["heavy"], case["rotatable"])
    assert inchikey(mol) == case["inchikey"]
    assert (atom_name_fault(found or "") is None) is case["boltz_safe"][0]


def reaction(case: Case) -> None:
    claimed = python_reaction_of(case["name"])
    allowed = case["allowed"] is None or (claimed is not None and claimed == int(case["allowed"].split(":")[1]))
    assert allowed is bool(case["returns"])


def validity(case: Case, database_path: Path, tmp_path: Path) -> None:
    changes = dict(case["config_overrides"])
    drawn = changes.pop("random_valid_reaction", True)
    listed = changes.pop("allowed_reactions", None)
    reactions: tuple[Any, ...] = ("any",)
    if case["allowed_reaction"] is not None:
        reactions = (int(case["allowed_reaction"].split(":")[1]),)
    if not drawn:
        reactions = tuple(int(name.split(":")[1]) for name in listed or ["rxn:1", "rxn:2"])
    archive = tmp_path / "archive.csv"
    rows = [*(f",{key}" for key in case["archive_inchikeys"]), *(f"{s}," for s in case["history_smiles"] or ())]
    archive.write_text("\n".join(["SMILES,InChI_Key", *rows]) + "\n")
    given = rules(molecule_requirements=changes)
    track = MoleculeTrack(given, Facts(database_path, archive), Challenge(("Q9UQM7",), (), reactions, ("P05231",)))
    found = track.judge(case["molecules"])
    if case["result"] is None or "raises" in case:
        assert found.accepted == ()
        assert found.status in {TrackStatus.REJECTED, TrackStatus.ABSENT}
        return
    assert [item.structure for item in found.accepted] == case["result"]["smiles"]
    assert [item.name for item in found.accepted] == case["result"]["names"]
    assert same(found.entropy, case["entropy"])


def resemblance(case: Case) -> None:
    first, second = parse_smiles(case["a"]), parse_smiles(case["b"])
    found = None if first is None or second is None else tanimoto(first, second)
    assert same(found, case["tanimoto"])


def boltz_safe(case: Case) -> None:
    assert (atom_name_fault(case["smiles"]) is None) is case["returns"][0]


def record_id(case: Case) -> None:
    assert record_seed(case["smiles"], "") == case["id"]


def boltz_combine(case: Case) -> None:
    own = {int(uid): smiles for uid, smiles in case["smiles_by_uid"].items()}
    metrics = {
        smiles: {name: float(value) for name, value in values.items() if value is not None}
        for smiles, values in case["boltz_metrics"].items()
    }
    for uid, listed in in_global_order(own).items():
        expected = case["molecule_scores"][str(uid)]
        if expected is None or any(score is None for of_target in expected for score in of_target):
            # an unknown strategy: our rules file refuses it
            with pytest.raises(ValueError, match="combination_strategy"):
                rules(boltz2_config={"combination_strategy": case["strategy"]})
            continue
        found = [
            binding_score(metrics.get(s, {}), case["metric"], case["strategy"], heavy_atoms_of(s), case["mode"])
            for s in listed
        ] or [worst(case["mode"])]
        assert len(expected) == 1
        assert all(same(*pair) for pair in zip(found, expected[0], strict=True)), (found, expected)


def track_ranking(case: Case) -> None:
    nanobody = case["item"] == "nanobody"
    overrides = case["config_overrides"]
    counted = overrides.get("num_sequences" if nanobody else "num_molecules", 1)
    mode = overrides.get("boltzgen_rank_mode" if nanobody else "boltz_mode", "min" if nanobody else "max")
    contenders = []
    for uid, entry in case["input"].items():
        ties = ()
        if nanobody and case["components"] is not None:
            names = [f"{category}_rank_sum" for category in ("confidence", "physical_interaction", "developability")]
            pairs = [pair for by_target in case["components"].get(uid, {}).values() for pair in by_target.values()]
            ties = tuple(
                sum(math.inf if pair.get(name) is None else float(pair[name]) for pair in pairs) if pairs else math.inf
                for name in names
            )
        block = entry.get("block_submitted")
        scores = [[number(score) for score in of_target] for of_target in entry[f"{case['item']}_scores"]]
        contenders.append(
            Contender(int(uid), math.inf if block is None else block, entry.get("push_time") or "", scores, ties)
        )
    places = rank_track(contenders, counted, mode)
    if isinstance(case["final"], dict) and "raises" not in case["final"]:
        for uid, expected in case["final"].items():
            assert same(places[int(uid)].score, expected), uid
    else:
        assert any(place.score is None for place in places.values()), "the item that costs the original its epoch"
    if "raises" in case["ranks"]:
        finite = [place for place in places.values() if place.score is not None and math.isfinite(place.score)]
        assert sorted(place.rank or 0 for place in finite) == list(range(1, len(finite) + 1))
    else:
        assert {str(uid): place.rank for uid, place in places.items() if place.rank} == case["ranks"]


def design_ranks(case: Case) -> None:
    components = {int(uid): designs for uid, designs in case["components"].items()}
    found = ranking.rank_designs(components, case["targets"])
    for uid, designs in case["scores"].items():
        for design, by_target in designs.items():
            for target, expected in by_target.items():
                overall = found[design, target].overall
                score = overall.rank_sum if case["rank_by"] == "rank_sum" else overall.worst_rank
                assert same(score, expected), (uid, design)
    for designs in case["ranks_written_back"].values():
        for design, by_target in designs.items():
            for target, written in by_target.items():
                ranks = found[design, target]
                parts = {"": ranks.overall, **{f"{name}_": part for name, part in ranks.categories.items()}}
                for prefix, part in parts.items():
                    if f"{prefix}rank_sum" in written:
                        assert same(part.rank_sum, written[f"{prefix}rank_sum"])
                        assert same(part.worst_rank, written[f"{prefix}worst_rank"])


def helper(case: Case) -> None:
    name, text = case["fn"], case.get("seq", "")
    calls: dict[str, Callable[[], Any]] = {
        "max_run_length": lambda: sequence.longest_run(text),
        "max_di_repeat_pairs": lambda: sequence.most_repeated_pairs(text),
        "looks_like_signal_peptide(12,8,30)": lambda: sequence.looks_like_signal_peptide(text, 12, 8, 30),
        "has_plausible_cys_pair(35,80)": lambda: sequence.has_cysteine_pair(text, 35, 80),
        "normalize_seq+seq_hash": lambda: [
            sequence.normalised(text),
            sequence.sequence_hash(sequence.normalised(text)),
        ],
        "classify_vhh_vh": lambda: vhh_or_vh(*case["pos49_50"]),
        "is_duplicate": lambda: similarity.is_duplicate(case["identity"], case["cdr"]),
    }
    if "repeat" in name:
        # the one helper on repeats, whatever the original calls it
        name = "max_di_repeat_pairs"
    assert name in calls, f"no function here answers {name}"
    assert calls[name]() == case["returns"]


def exchanged(case: Case) -> None:
    assert same(wire_number(case["in"]), case["returns"])


def weights(case: Case) -> None:
    winners = {MOLECULE: case["winner_molecules"], NANOBODY: case["winner_nanobodies"]}
    override = {"enabled": case["override_enabled"], "override_uid": case["override_uid"] or 0}
    ours = August2026(rules(payout=override))
    found = ours.weights(winners, range(case["metagraph_size"]), {})
    expected = case["weights_nonzero"]
    # a validator that is not registered sends nothing, and none of ours hands its wallet to a remote sender
    if case["registered"] and not case["remote_weights"]:
        assert (None if found.weights is None else {str(uid): w for uid, w in found.weights.items()}) == (
            None if expected is None else pytest.approx(expected)
        )
    if case["payouts"]:
        assert [list(paid) for paid in payouts(winners, 0.6)] == case["payouts"]


RUNNERS: Final[dict[str, Callable[..., None]]] = {
    "boltz_combine": boltz_combine,
    "boltz_safe": boltz_safe,
    "boltzgen_rank": design_ranks,
    "challenge": challenge,
    "file_literal": literal,
    "molecule_validity": validity,
    "nanobody_helpers": helper,
    "payload": payload,
    "product_smiles": product,
    "ranking": track_ranking,
    "reaction_allowed": reaction,
    "record_id": record_id,
    "safe_float": exchanged,
    "similarity": resemblance,
    "weights": weights,
    "window": window,
}


def cases() -> list[Any]:
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem == "database":
            continue
        document = json.loads(path.read_text())
        listed = document["cases"] if isinstance(document, dict) else document
        found += [
            pytest.param(path.stem, case, id=f"{path.stem}-{number}-{str(case.get('case', ''))[:40]}")
            for number, case in enumerate(listed)
        ]
    return found


@pytest.mark.parametrize(("kind", "case"), cases())
def test_the_original_s_answer(
    kind: str, case: Case, database: CombinatorialDatabase, database_path: Path, tmp_path: Path
) -> None:
    assert kind in RUNNERS, f"{kind}.json holds cases of a kind that is not known here"
    if kind == "product_smiles":
        product(case, database)
    elif kind == "molecule_validity":
        validity(case, database_path, tmp_path)
    else:
        RUNNERS[kind](case)


def test_every_file_is_covered(capsys: pytest.CaptureFixture[str], database: CombinatorialDatabase) -> None:
    files = sorted(path.name for path in FOLDER.iterdir() if path.is_file())
    known = {f"{kind}.json" for kind in RUNNERS} | {"database.json", "config.yaml"}
    with capsys.disabled():
        print(f"\n{FOLDER.name}: {len(cases())} cases in {len(files)} files")
    assert not set(files) - known, "files that no test here reads"
    assert len(cases()) > 0
    if "database.json" in files:
        rows = json.loads((FOLDER / "database.json").read_text())
        assert database.reactions.keys() == {row[0] for row in rows["reactions"]}
        assert database.building_blocks(row[0] for row in rows["molecules"]).keys() == {
            row[0] for row in rows["molecules"]
        }


@pytest.mark.skipif(not (FOLDER / "config.yaml").exists(), reason="no configuration among these cases")
def test_the_subnet_s_own_configuration_loads_unchanged() -> None:
    assert parse_rules((FOLDER / "config.yaml").read_text()).era == "august-2026"
