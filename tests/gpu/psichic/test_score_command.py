"""`python -m app score psichic`: what a miner runs before submitting."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from golden_psichic import FOLDER, expected, protein_records

from tests.command_line import Ended, command


def _run(*arguments: object) -> Ended:
    return command("score", "psichic", *arguments)


@pytest.fixture
def smiles(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("name", "smiles"))
        writer.writerows(enumerate([*expected().smiles[:3], "C1CC", *expected().smiles[3:6]]))
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scores_by_features_equal_the_golden(tmp_path: Path, smiles: Path) -> None:
    out = tmp_path / "out.csv"
    done = _run(
        "--weights", FOLDER, "--protein-features", FOLDER / "proteins.pt", "--smiles", smiles, "--out", out,
        "--device", "cpu", "--dtype", "float64", "--feature-cache", tmp_path / "c",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "12 of 14 pairs scored" in done.output
    rows = _rows(out)
    assert list(rows[0]) == ["protein", "smiles", "predicted_binding_affinity", "error"]
    golden = expected()
    for row in rows:
        if row["smiles"] == "C1CC":
            assert row["predicted_binding_affinity"] == ""
            assert row["error"].startswith("unreadable_smiles: ")
            continue
        truth = golden.scores[golden.proteins.index(row["protein"]), golden.smiles.index(row["smiles"])]
        assert float(row["predicted_binding_affinity"]) == pytest.approx(truth, rel=1e-9)
        assert row["error"] == ""


def test_scores_by_fasta_and_language_model(tmp_path: Path, smiles: Path) -> None:
    fasta, out = tmp_path / "p.fasta", tmp_path / "out.csv"
    name, record = next(iter(protein_records().items()))
    fasta.write_text(f">{name} a comment\n{record['raw_seq'][:60]}\n{record['raw_seq'][60:]}\n")
    done = _run(
        "--weights", FOLDER, "--fasta", fasta, "--esm", FOLDER / "tiny_esm2.pt", "--smiles", smiles, "--out", out,
        "--device", "cpu", "--limit", 2, "--feature-cache", tmp_path / "c",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = _rows(out)
    assert [row["protein"] for row in rows] == [name, name]
    golden = expected()
    for row, truth in zip(rows, golden.scores[golden.proteins.index(name), :2], strict=True):
        assert float(row["predicted_binding_affinity"]) == pytest.approx(truth, abs=1e-3)


def test_without_weights_the_demo_scores_under_a_warning(tmp_path: Path, smiles: Path) -> None:
    fasta, out = tmp_path / "p.fasta", tmp_path / "out.csv"
    fasta.write_text(">p\nMKTAYIAKQRQISFVKSHFSRQ\n")
    done = _run(
        "--fasta", fasta, "--smiles", smiles, "--out", out, "--device", "cpu", "--feature-cache", tmp_path / "c"
    )
    assert done.exit_code == 0, done.output
    assert "untrained demo" in done.output
    assert len(_rows(out)) == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no sequence"),
        (">a\n>b\nMKV\n", "no amino acid"),
        (">a\nMK1V\n", "not an amino acid sequence"),
        (">a\n-----\n", "no amino acid"),
        (">a\nMKV\n>a\nMKL\n", "share a name"),
    ],
)
def test_bad_fasta_is_a_sentence(tmp_path: Path, smiles: Path, content: str, words: str) -> None:
    fasta = tmp_path / "p.fasta"
    fasta.write_text(content)
    done = _run("--weights", FOLDER, "--fasta", fasta, "--smiles", smiles, "--out", tmp_path / "o", "--device", "cpu",
                "--feature-cache", tmp_path / "c")  # fmt: skip
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output


def test_fasta_letters_are_kept_as_written(tmp_path: Path) -> None:
    from app.cli.score import read_fasta

    fasta = tmp_path / "p.fasta"
    fasta.write_text("MKuv\r\nAB*\r\n")
    (protein,) = read_fasta(fasta)
    assert (protein.code, protein.sequence) == ("p", "MKuvAB*")


def test_bad_inputs_are_sentences(tmp_path: Path, smiles: Path) -> None:
    table = tmp_path / "t.csv"
    common = ("--out", tmp_path / "o.csv", "--feature-cache", tmp_path / "c", "--device", "cpu")
    features = ("--protein-features", FOLDER / "proteins.pt")
    table.write_text("SMILES\nCCO\n")
    assert "no column 'smiles'" in _run("--weights", FOLDER, *features, "--smiles", table, *common).output
    table.write_text("smiles\n")
    assert "no molecule" in _run("--weights", FOLDER, *features, "--smiles", table, *common).output
    assert "no protein given" in _run("--weights", FOLDER, "--smiles", smiles, *common).output
    assert "checkpoints fetch psichic" in _run("--weights", tmp_path, *features, "--smiles", smiles, *common).output
    done = _run("--weights", FOLDER, *features, "--smiles", smiles, *common, "--esm", tmp_path / "absent.pt")
    assert done.exit_code == 2
    assert "does not exist" in done.output


def test_the_module_starts_without_torch_and_rdkit() -> None:
    heavy = "('torch', 'rdkit', 'esm')"
    code = f"import app.cli.score, app.cli.checkpoints, sys; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
