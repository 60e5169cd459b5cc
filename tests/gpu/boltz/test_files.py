"""Boltz-2's files: fetched by boltz's own function, never taken for whole when they are not; and the desk command."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boltz.main
import pytest

from app.domain import PairScore
from gpu.boltz import PROFILES, BoltzInstallationError
from gpu.boltz.files import cache_folder, check_files, fetch_files, scorer_from_cache
from gpu.boltz.independence import prove_independence
from gpu.checkpoints import FetchError
from tests.command_line import command
from tests.gpu.boltz.conftest import PEPTIDE, QUICK, QUICK_2026, Weights


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """boltz's addresses answered from a folder of this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(weights.structure, folder)
    shutil.copy(weights.affinity, folder)
    with tarfile.open(folder / "mols.tar", "w") as archive:
        archive.add(weights.mols, arcname="mols")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(boltz.main, "MOL_URL", f"{url}/mols.tar")
    monkeypatch.setattr(boltz.main, "BOLTZ2_URL_WITH_FALLBACK", [f"{url}/boltz2_conf.ckpt"])
    monkeypatch.setattr(boltz.main, "BOLTZ2_AFFINITY_URL_WITH_FALLBACK", [f"{url}/boltz2_aff.ckpt"])
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_fetch_brings_all_records_checksums_and_repairs(site: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    with pytest.raises(BoltzInstallationError, match=r"boltz2_conf.ckpt is not there.*checkpoints fetch boltz2"):
        check_files(home)
    files = fetch_files(home)
    check_files(home)
    record = json.loads((home / "checksums.json").read_text())["files"]
    assert {file.path.name: file.sha256 for file in files} == {name: entry["sha256"] for name, entry in record.items()}
    assert len(record) == 3

    whole = (home / "boltz2_aff.ckpt").read_bytes()
    (home / "boltz2_aff.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BoltzInstallationError, match=r"boltz2_aff.ckpt is only half there"):
        check_files(home)
    (home / "mols.tar").write_bytes(b"not a tar")
    told: list[str] = []
    fetch_files(home, told.append)
    assert (home / "boltz2_aff.ckpt").read_bytes() == whole
    check_files(home)
    assert sum("not whole" in text for text in told) == 2

    told.clear()
    fetch_files(home, told.append)
    assert told == []


def test_a_broken_download_leaves_nothing_behind(site: Path, tmp_path: Path) -> None:
    (site / "boltz2_aff.ckpt").unlink()
    home = tmp_path / "cache"
    with pytest.raises(FetchError, match="could not be fetched"):
        fetch_files(home)
    assert not list(home.glob("*.ckpt"))


def test_the_cache_is_boltz_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOLTZ_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "other") == tmp_path / "other"
    monkeypatch.delenv("BOLTZ_CACHE")
    assert cache_folder() == Path("~/.boltz").expanduser().resolve()


def test_score_boltz_writes_every_pair(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "live", QUICK)
    molecules, out = tmp_path / "molecules.csv", tmp_path / "out" / "scores.csv"
    molecules.write_text("smiles\nCCO\nC1CC(\nCCO\nCCN\n")
    arguments = ["--sequence", PEPTIDE.sequence or "", "--smiles", molecules, "--out", out, "--limit", 3]
    done = command("score", "boltz", *arguments, "--cache", weights.folder, "--device", "cpu")
    assert done.exit_code == 0, done.output
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["smiles"] for row in rows] == ["CCO", "C1CC(", "CCO"]
    assert rows[1]["error"].startswith("unparseable_smiles: ")
    assert rows[0] == rows[2]
    scorer = scorer_from_cache(weights.folder, QUICK, "cpu")
    (score,) = scorer.pair_scores([PEPTIDE], ["CCO"])
    scorer.close()
    assert {name: float(rows[0][name]) for name in score.metrics} == dict(score.metrics)


def test_independence_is_proved_at_the_desk(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "live-2026", QUICK_2026)
    molecules, company, out = tmp_path / "molecules.csv", tmp_path / "company.csv", tmp_path / "alone.csv"
    company.write_text("smiles\nC1CC(\nCCN\n")
    molecules.write_text("smiles\nCCO\nc1cc[nH]c1\n")
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["--sequence", PEPTIDE.sequence or "", "--smiles", molecules, "--profile", "live-2026", "--out", out]
    arguments += ["--company", company]
    done = command("score", "boltz", "--prove-independence", *arguments, "--cache", weights.folder, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "0 of 2 pairs change in company of other molecules" in done.output
    assert done.output.count("the same bits") == 2
    assert "c1cc[nH]c1" in done.output
    with out.open() as stream:
        for row in csv.DictReader(stream):
            assert repr(float(row["affinity_pred_value"])) in done.output


class _Leaky:
    """A scorer whose scores depend on what was scored before, as the subnet's own do."""

    digest = "0" * 64

    def __init__(self) -> None:
        self.before = 0

    def pair_scores(self, proteins: Any, smiles: Any, on_score: Any = None) -> list[PairScore]:
        found = []
        for one in smiles:
            found.append(PairScore(proteins[0].code, one, {"affinity_pred_value": len(one) + self.before * 2.0**-40}))
            self.before += 1
        return found


def test_a_dependence_of_one_bit_is_found() -> None:
    first, second = prove_independence(_Leaky(), PEPTIDE, ["CCO", "CCN", "CCO"])
    assert first.differing == second.differing == ("after others", "among others, reversed")
    assert 0 < first.largest_difference("affinity_pred_value") < 1e-9


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--profile", "slow"], "there is no profile 'slow'"),
        (["--fasta", "x.fasta"], "name the protein once"),
        (["--sequence", "MKT1"], "is not a protein"),
        (["--cache", "nowhere"], "checkpoints fetch boltz2"),
    ],
)
def test_a_wrong_option_is_a_sentence(changes: list[str], sentence: str, weights: Weights, tmp_path: Path) -> None:
    molecules = tmp_path / "molecules.csv"
    molecules.write_text("smiles\nCCO\n")
    arguments = ["--sequence", "MKT", "--smiles", molecules, "--out", tmp_path / "o.csv", "--cache", weights.folder]
    done = command("score", "boltz", *arguments, *changes)
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())
