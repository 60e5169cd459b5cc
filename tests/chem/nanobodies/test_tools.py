"""Programs behind typed results: found or named as missing, failing alone or altogether, recorded and replayed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app.epochs.rules.august_2026_parameters import NanobodyRequirements
from chem.nanobodies.developability import Profile
from chem.nanobodies.igblast import IgBlast, first_v_hit
from chem.nanobodies.nativeness import GermlineHit, GermlineHits
from chem.nanobodies.numbering import number
from chem.nanobodies.sequence import sequence_hash
from chem.nanobodies.steps import CONTROL, StepUnavailable
from chem.nanobodies.tnp import Tnp, profile_of
from chem.nanobodies.tools import (
    IGBLAST,
    NUMBERING,
    TNP,
    Figures,
    LocalTools,
    RecordedFiguresMalformed,
    RememberingTools,
)
from chem.nanobodies.validation import NanobodyRules, validate_nanobodies
from tests.chem.nanobodies.examples import PERFECT, REGIONS

LIMITS = NanobodyRequirements().limits
VHH = "".join(REGIONS.regions)
PROFILE = Profile(34, 18, 0.9288582368386492, 88.7932, 0.0505, 0.3852)

REPORT = f"""# IGBLASTP
# Query: query
# Database: database/camelid_V
# Alignment summary between query and top germline V gene hit (from, to, length, matches, mismatches, gaps, percent)
FR1-IMGT\t1\t25\t25\t24\t1\t0\t96
Total\tN/A\tN/A\t96\t90\t6\t0\t93.8

# Hit table (the first field indicates the chain type of the hit)
# Fields: query id, subject id, % identity, alignment length, mismatches, gap opens, gaps, q. start, q. end, …
# 2 hits found
V\tquery\tIGHV3S53*01\t93.750\t96\t6\t0\t0\t1\t96\t1\t96\t1e-60\t180\t{VHH[:10]}\t{VHH[:9]}A
V\tquery\tIGHV3S1*01\t90.625\t96\t9\t0\t0\t1\t96\t1\t96\t1e-58\t170\tAAA\tAAC
"""
"""Invented, in the shape of igblastp's outfmt "7 std qseq sseq"."""


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def igblast_home(tmp_path: Path) -> Path:
    """A home whose igblastp tells what it was asked, answers with REPORT, and breaks on a sequence with WWWWW."""
    home = tmp_path / "igblast"
    for organism in ("camelid", "human"):
        (home / "database").mkdir(parents=True, exist_ok=True)
        (home / "database" / f"{organism}_V.psq").touch()
    (home / "report").write_text(REPORT)
    program(
        home / "bin" / "igblastp",
        'echo "$@" "IGDATA=$IGDATA" >> "$IGDATA/asked"\n'
        'grep -q WWWWW "$2" && { echo "core dumped" >&2; exit 3; }\n'
        'case "$*" in *human*) echo "# 0 hits found";; *) cat "$IGDATA/report";; esac',
    )
    return home


def test_igblast_is_asked_as_the_subnet_asks_it(igblast_home: Path) -> None:
    hits = IgBlast(igblast_home).hits(VHH)
    assert hits == GermlineHits(GermlineHit("IGHV3S53*01", 0.9375, 1, 96, VHH[:10], VHH[:9] + "A"), None)
    first, second = (igblast_home / "asked").read_text().splitlines()
    options = f"-organism camelid -domain_system imgt -outfmt 7 std qseq sseq -num_threads 1 IGDATA={igblast_home}"
    assert f"-germline_db_V {igblast_home}/database/camelid_V {options}" in first
    assert f"-germline_db_V {igblast_home}/database/human_V -organism human" in second


def test_a_sequence_on_which_igblast_breaks_costs_itself_only(igblast_home: Path) -> None:
    assert IgBlast(igblast_home).hits("WWWWW") == GermlineHits(None, None)
    program(igblast_home / "bin" / "igblastp", "echo no licence >&2; exit 1")
    with pytest.raises(StepUnavailable, match="no licence"):
        IgBlast(igblast_home).hits(VHH)


def test_what_igblast_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepUnavailable, match="IGBLAST_HOME"):
        IgBlast(None).hits(VHH)
    with pytest.raises(StepUnavailable, match="no igblastp in"):
        IgBlast(tmp_path).hits(VHH)
    program(tmp_path / "igblastp", "exit 0")
    with pytest.raises(StepUnavailable, match="camelid_V is no protein database"):
        IgBlast(tmp_path).hits(VHH)


@pytest.mark.parametrize("report", ["", "# 0 hits found\n", "V\tquery\tIGHV\t9", REPORT.replace("93.750", "high")])
def test_a_report_without_a_hit(report: str) -> None:
    assert first_v_hit(report) is None


def tnp(folder: Path, body: str) -> Tnp:
    return Tnp(str(program(folder / "TNP", body)))


ENTRY = {
    "name": "nanobody",
    "Total CDR Length": 34,
    "CDR3 Length": 18,
    "CDR3 Compactness": 0.9288582368386492,
    "PSH": 88.7932,
    "PPC": 0.0505,
    "PNC": 0.3852,
    "Flags": {"L": "green"},
}
WRITE = f"""echo '{json.dumps({"nanobody": ENTRY})}' > "$4/TNP_Results_SingleSeqEntry_$2.json" """


def test_tnp_is_asked_and_read(tmp_path: Path) -> None:
    assert tnp(tmp_path, f'[ "$1$3$5$6" = "--name--output--seq{VHH}" ] && {WRITE}').profile(VHH) == PROFILE


def test_no_profile_is_a_verdict_only_where_tnp_works(tmp_path: Path) -> None:
    assert tnp(tmp_path, f'[ "$6" = "{CONTROL}" ] && {WRITE}').profile(VHH) is None
    with pytest.raises(StepUnavailable, match="cannot profile even a typical nanobody"):
        tnp(tmp_path, "exit 1").profile(VHH)
    with pytest.raises(StepUnavailable, match="no program nowhere"):
        Tnp("nowhere").profile(VHH)


@pytest.mark.parametrize("entry", [None, [], {}, {**ENTRY, "PSH": "high"}, {**ENTRY, "CDR3 Length": float("inf")}])
def test_an_incomplete_profile_is_none(entry: object) -> None:
    assert profile_of(entry) is None


def test_numbering_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepUnavailable, match="hmmscan is not on the PATH"):
        number(VHH)
    program(tmp_path / "hmmscan", "exit 1")
    with pytest.raises(StepUnavailable, match="cannot number even a typical nanobody"):
        number(VHH)
    assert [error.step for error in LocalTools().missing()] == ["igblast", "developability"]


@pytest.mark.programs
def test_abnumber_for_real() -> None:
    assert number(VHH) == REGIONS
    assert number("GGG" + VHH) == REGIONS
    assert number("M" * 100) is None
    assert number(VHH + VHH) is None
    assert number("X" * 95 + "123") is None


def test_figures_survive_a_recording() -> None:
    known = Figures(
        {sequence_hash(VHH): REGIONS, sequence_hash("MMM"): None},
        {sequence_hash(VHH): GermlineHits(PERFECT, None), sequence_hash("MMM"): GermlineHits(None, None)},
        {sequence_hash(VHH): PROFILE, sequence_hash("MMM"): None},
    )
    tables = known.tables()
    assert set(tables) == {NUMBERING, IGBLAST, TNP}
    assert Figures.of_tables(tables) == known
    assert Figures.of_tables(tables).tables() == tables
    assert Figures().tables() == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("psh", "hydrophobicity"), "tnp.csv has no column psh"),
        (("88.7932", "high"), "tnp.csv, row 2"),
        (("88.7932", ""), "tnp.csv, row 2"),
    ],
)
def test_a_broken_table_names_file_and_row(change: tuple[str, str], why: str) -> None:
    tables = Figures(profile={sequence_hash(VHH): PROFILE}).tables()
    with pytest.raises(RecordedFiguresMalformed, match=why):
        Figures.of_tables({TNP: tables[TNP].replace(*change)})


def test_a_replay_asks_no_program_and_gives_the_same_verdict(igblast_home: Path, tmp_path: Path) -> None:
    human = replace(PERFECT, v_call="IGHV3-23*01")
    live = LocalTools(IgBlast(igblast_home), tnp(tmp_path, WRITE))
    known = Figures(
        numbering={sequence_hash(VHH): REGIONS}, germline={sequence_hash(VHH): GermlineHits(PERFECT, human)}
    )
    first = validate_nanobodies([VHH], NanobodyRules(LIMITS), RememberingTools(known, live))
    tables = known.tables()
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    recorded = Figures.of_files([tmp_path / name for name in tables])
    shutil.rmtree(igblast_home)
    replayed = validate_nanobodies(
        [VHH], NanobodyRules(LIMITS), RememberingTools(recorded, LocalTools(tnp=Tnp("nowhere")))
    )
    assert replayed == first
    assert replayed[0].profile == PROFILE


def test_a_replay_without_a_row_is_no_verdict() -> None:
    known = Figures(numbering={sequence_hash(VHH): REGIONS})
    with pytest.raises(StepUnavailable, match="'igblast'"):
        validate_nanobodies([VHH], NanobodyRules(LIMITS), RememberingTools(known, LocalTools()))
