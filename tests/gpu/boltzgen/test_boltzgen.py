"""BoltzGen's command as the subnet gives it, its table as it is read, and what a failure costs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from app.domain import BOLTZGEN_METRICS, PairScore, Protein, ScoringInterrupted, ScoringModel
from app.settings import Settings
from chem.nanobodies.sequence import sequence_hash
from gpu.boltzgen.scorer import BoltzGenScorer, BoltzGenUnavailable, Design, read_metrics, write_specification
from gpu.scorers import build_scorer

TARGET = Protein("P05231", "MKTAYIAKQRQISFVKSHFSRQLEERLGLI")
FIRST, SECOND = "QVQLVESGGG", "EVQLVESGGG"

STAND_IN = r"""#!PYTHON
# Stands in for boltzgen: notes its arguments, breaks on what BREAK names, writes a table for each specification.
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\n")
if sys.argv[1] == "--version":
    print("boltzgen 0.2.0")
elif sys.argv[1] == "configure":
    out = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
    out.mkdir()
    names = [pathlib.Path(name) for name in sys.argv[2:] if name.endswith("_input.yaml")]
    (out / "names").write_text("\n".join(name.stem for name in names))
    (here / "specifications").write_text("\n".join(name.read_text() for name in names))
elif "design" in sys.argv:
    import numpy
    out = pathlib.Path(sys.argv[2])
    (out / "intermediate_designs").mkdir()
    for name in (out / "names").read_text().split():
        numpy.savez(out / "intermediate_designs" / f"{name}.npz", design_mask=numpy.zeros(40, numpy.float32), other=[7])
else:
    import numpy
    for path in (pathlib.Path(sys.argv[2]) / "intermediate_designs").glob("*.npz"):
        assert numpy.load(path)["design_mask"].tolist() == [0] * 30 + [1] * 10
        assert numpy.load(path)["other"].tolist() == [7]
    names = (pathlib.Path(sys.argv[2]) / "names").read_text().split()
    for word, complaint in json.loads((here / "breaks").read_text()).items():
        if any(word in name for name in names):
            sys.exit(complaint)
    table = pathlib.Path(sys.argv[2]) / "intermediate_designs" / "aggregate_metrics_analyze.csv"
    columns = json.loads((here / "columns").read_text())
    rows = [",".join(["id", *columns]), *(",".join([name + "_0", *columns.values()]) for name in names)]
    table.write_text("\n".join(rows) + "\n")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "boltzgen"
    path.write_text(STAND_IN.replace("PYTHON", sys.executable))
    path.chmod(0o755)
    (tmp_path / "breaks").write_text("{}")
    columns = {name: str(place / 2) for place, name in enumerate(BOLTZGEN_METRICS)} | {"rmsd": "1.0"}
    (tmp_path / "columns").write_text(json.dumps(columns))
    return path


@pytest.fixture
def scorer(program: Path) -> BoltzGenScorer:
    return BoltzGenScorer(str(program), options=("--devices", "1"))


def breaks(program: Path, **words: str) -> None:
    (program.parent / "breaks").write_text(json.dumps(words))


def asked(program: Path) -> list[list[str]]:
    return [json.loads(line) for line in (program.parent / "asked").read_text().splitlines()]


def test_boltzgen_is_asked_as_the_subnet_asks_it(scorer: BoltzGenScorer, program: Path) -> None:
    told: list[PairScore] = []
    aligned = replace(TARGET, alignment=f">query\n{TARGET.sequence}\n")
    scores = scorer.pair_scores([aligned], [FIRST, SECOND, FIRST], told.append)
    assert [score.smiles for score in scores] == [FIRST, SECOND, FIRST]
    assert scores[0] == scores[2] == told[0]
    assert dict(scores[0].metrics) == {name: place / 2 for place, name in enumerate(BOLTZGEN_METRICS)}
    configure, design, later = asked(program)
    files, options = configure[1:3], configure[3:]
    assert [Path(name).name for name in files] == [f"{sequence_hash(s)}_P05231_input.yaml" for s in (FIRST, SECOND)]
    assert " ".join(options[2:]) == (
        "--protocol nanobody-anything --num_designs 1 --num_workers 4 --skip_inverse_folding "
        "--step_scale 2.0 --noise_scale 0.88 --devices 1"
    )
    assert design == ["execute", options[1], "--steps", "design"]
    assert later == ["execute", options[1], "--steps", "folding", "design_folding", "analysis"]
    assert not Path(options[1]).exists()


def test_a_specification(tmp_path: Path) -> None:
    path = write_specification(tmp_path, Design(FIRST, replace(TARGET, alignment=">query\nMKT\n")))
    assert yaml.safe_load(path.read_text()) == {
        "entities": [
            {"protein": {"id": "A", "sequence": TARGET.sequence, "msa": str(tmp_path / "P05231.a3m")}},
            {"protein": {"id": "B", "sequence": FIRST, "msa": "empty"}},
        ]
    }
    assert (tmp_path / "P05231.a3m").read_text() == ">query\nMKT\n"
    bare = yaml.safe_load(write_specification(tmp_path, Design(FIRST, TARGET)).read_text())
    assert bare["entities"][0]["protein"]["msa"] == "empty"


def test_a_missing_metric_is_left_out_and_a_missing_row_is_an_error(program: Path, scorer: BoltzGenScorer) -> None:
    (program.parent / "columns").write_text('{"design_ptm": "", "design_iiptm": "nan", "interaction_pae": "4.5"}')
    (score,) = scorer.pair_scores([TARGET], [FIRST])
    assert dict(score.metrics) == {"interaction_pae": 4.5}
    (program.parent / "columns").write_text('{"rmsd": "1.0"}')
    (score,) = scorer.pair_scores([TARGET], [FIRST])
    assert score.error is not None
    assert score.error.startswith("no_metrics: ")


def test_the_first_row_of_a_design_counts(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,design_ptm\nabc_P05231_input_0,0.5\nabc_P05231_input_1,0.75\nabd_Q9UKV0-3_input_0,0.25\n")
    assert read_metrics(table) == {"abc_P05231": {"design_ptm": 0.5}, "abd_Q9UKV0-3": {"design_ptm": 0.25}}


def test_a_bad_design_costs_itself_only(program: Path, scorer: BoltzGenScorer) -> None:
    breaks(program, **{sequence_hash(SECOND): "cannot fold this"})
    first, second = scorer.pair_scores([TARGET], [FIRST, SECOND])
    assert first.metrics
    assert second.error is not None
    assert second.error.endswith("cannot fold this")


def test_a_broken_program_is_no_verdict_on_any_design(program: Path, scorer: BoltzGenScorer) -> None:
    breaks(program, P05231="CUDA is required")
    for sequences in ([FIRST], [FIRST, SECOND]):
        with pytest.raises(BoltzGenUnavailable, match="CUDA is required"):
            scorer.pair_scores([TARGET], sequences)
    breaks(program, P05231="torch.OutOfMemoryError: CUDA out of memory")
    with pytest.raises(ScoringInterrupted):
        scorer.pair_scores([TARGET], [FIRST])
    with pytest.raises(BoltzGenUnavailable, match="BOLTZGEN_COMMAND"):
        BoltzGenScorer("nowhere").pair_scores([TARGET], [FIRST])


def test_a_target_without_sequence_asks_nothing(program: Path, scorer: BoltzGenScorer) -> None:
    (score,) = scorer.pair_scores([Protein("X", None)], [FIRST])
    assert score.error is not None
    assert not (program.parent / "asked").exists()


def test_the_digest_tells_version_and_options(program: Path, scorer: BoltzGenScorer) -> None:
    assert scorer.digest == BoltzGenScorer(str(program), options=("--devices", "1")).digest
    assert scorer.digest != BoltzGenScorer(str(program)).digest
    other = program.with_name("newer")
    other.write_text(STAND_IN.replace("PYTHON", sys.executable).replace("0.2.0", "0.3.2"))
    other.chmod(0o755)
    assert BoltzGenScorer(str(other)).digest != BoltzGenScorer(str(program)).digest


def test_the_steps_end_with_the_wait(tmp_path: Path) -> None:
    """A task that is stopped must leave no step of BoltzGen on the device."""
    program = tmp_path / "boltzgen"
    program.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/step; sleep 0.5; kill -ALRM $PPID; wait\n")
    program.chmod(0o755)

    class LimitReached(Exception):
        pass

    def stop(*_: object) -> None:
        raise LimitReached

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(LimitReached):
            BoltzGenScorer(str(program)).pair_scores([TARGET], [FIRST])
    finally:
        signal.signal(signal.SIGALRM, before)
    step = int((tmp_path / "step").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{step}").exists() and "zombie" not in Path(f"/proc/{step}/status").read_text():
        assert time.monotonic() < deadline, "a step outlives the wait"
        os.sched_yield()
        time.sleep(0.05)


def test_the_gpu_queue_builds_it_where_its_program_is_installed(program: Path) -> None:
    settings = Settings(_env_file=None, boltzgen_command=str(program), device="cpu")
    scorer = build_scorer(ScoringModel.BOLTZGEN, settings)
    (score,) = scorer.pair_scores([TARGET], [FIRST])
    assert dict(score.metrics) == {name: place / 2 for place, name in enumerate(BOLTZGEN_METRICS)}
    # known before anything is scored, so that the track is left unjudged and not the epoch
    with pytest.raises(BoltzGenUnavailable, match="BOLTZGEN_COMMAND"):
        build_scorer(ScoringModel.BOLTZGEN, Settings(_env_file=None, boltzgen_command="nowhere", device="cpu"))
