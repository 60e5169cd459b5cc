"""The in-memory path against boltz's own ``predict`` on the same inputs and seeds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import boltz.main
import numpy as np
import pytest
import torch
from boltz.data.module.inferencev2 import PredictionDataset
from boltz.data.parse import schema
from rdkit import Chem

from gpu.boltz import BoltzScorer, PocketConstraint, Profile
from gpu.boltz.alignment import AlignmentError
from gpu.boltz.profile import record_seed
from tests.gpu.boltz.conftest import PEPTIDE, QUICK, QUICK_2026, Weights

PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"
CHIRAL = "C[C@H](N)C(=O)N1CCC[C@@H]1C(=O)O"
POCKET = PocketConstraint(contacts=(("A", 5), ("A", 9), ("A", 12)), max_distance=6.0, force=True)


@pytest.mark.parametrize(
    ("smiles", "pocket"), [(PARACETAMOL, None), (CHIRAL, None), (PARACETAMOL, POCKET)], ids=["flat", "chiral", "pocket"]
)
def test_every_metric_is_bitwise_that_of_boltz_predict(
    smiles: str,
    pocket: PocketConstraint | None,
    weights: Weights,
    scorer_for: Any,
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expected = _predicted_by_boltz(smiles, pocket, weights, tmp_path, patch)
    scorer: BoltzScorer = scorer_for(pocket=pocket)
    (score,) = scorer.pair_scores([PEPTIDE], [smiles])
    assert score.error is None
    assert dict(score.metrics) == expected


ALIGNMENT = f""">query
{PEPTIDE.sequence}
>an insertion and a gap
MKTAYIaaAKQRQISFVKSHFSRQL-ERLGLI
>a fragment
------AKERQLSFVKAHWSRQLEDRLG---
"""


def test_an_alignment_in_the_numerics_of_2026_is_bitwise_that_of_boltz_predict(
    weights: Weights, scorer_for: Any, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expected = _predicted_by_boltz(PARACETAMOL, None, weights, tmp_path, patch, QUICK_2026, ALIGNMENT)
    scorer: BoltzScorer = scorer_for(QUICK_2026)
    aligned, bare = replace(PEPTIDE, alignment=ALIGNMENT), PEPTIDE
    (score,) = scorer.pair_scores([aligned], [PARACETAMOL])
    assert score.error is None
    assert dict(score.metrics) == expected
    # the alignment counts, in the score and in the protein's identity
    (without,) = scorer.pair_scores([bare], [PARACETAMOL])
    assert dict(without.metrics) != expected
    assert aligned.digest != bare.digest
    assert scorer.digest != scorer_for().digest


def test_an_alignment_of_another_sequence_is_left_out_as_boltz_does(
    weights: Weights, scorer_for: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    longer = ALIGNMENT.replace(f">query\n{PEPTIDE.sequence}", f">query\nAPV{PEPTIDE.sequence}")
    with pytest.MonkeyPatch.context() as patch:
        expected = _predicted_by_boltz(PARACETAMOL, None, weights, tmp_path, patch, QUICK_2026, longer)
    (score,) = scorer_for(QUICK_2026).pair_scores([replace(PEPTIDE, alignment=longer)], [PARACETAMOL])
    assert dict(score.metrics) == expected
    assert "first row (33 residues) is not the target's sequence (30 residues)" in caplog.text


def test_what_is_no_alignment_is_refused_by_name(scorer_for: Any) -> None:
    broken = replace(PEPTIDE, alignment=ALIGNMENT + ">odd\nMKT!\n")
    with pytest.raises(AlignmentError, match="'!'"):
        scorer_for(QUICK_2026).pair_scores([broken], [PARACETAMOL])


def _predicted_by_boltz(
    smiles: str,
    pocket: PocketConstraint | None,
    weights: Weights,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    profile: Profile = QUICK,
    alignment: str | None = None,
) -> dict[str, float]:
    """boltz's command, its files and its Lightning loop, with our seeds put where it has none."""
    seed = record_seed(smiles, PEPTIDE.sequence or "")
    make_options = schema.AllChem.ETKDGv3

    def seeded_options() -> Any:
        options = make_options()
        options.randomSeed = seed
        return options

    fetch = PredictionDataset.__getitem__

    def seeded_fetch(dataset: PredictionDataset, index: int) -> Any:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return fetch(dataset, index)

    def quiet(trainer: Any, **options: Any) -> Any:
        if profile.precision == "float32":
            options["precision"] = "32-true"  # boltz's command has bf16-mixed
        return trainer(**{**options, "enable_progress_bar": False, "logger": False})

    partial = functools.partial
    monkeypatch.setattr(schema.AllChem, "ETKDGv3", seeded_options)
    monkeypatch.setattr(PredictionDataset, "__getitem__", seeded_fetch)
    monkeypatch.setattr(boltz.main, "Trainer", partial(quiet, boltz.main.Trainer))
    monkeypatch.setattr(
        boltz.main,
        "PairformerArgsV2",
        partial(boltz.main.PairformerArgsV2, num_blocks=profile.pairformer_blocks, num_heads=profile.pairformer_heads),
    )
    monkeypatch.setattr(boltz.main, "MSAModuleArgs", partial(boltz.main.MSAModuleArgs, msa_blocks=profile.msa_blocks))
    monkeypatch.setattr(
        boltz.main,
        "Boltz2DiffusionParams",
        partial(boltz.main.Boltz2DiffusionParams, alignment_reverse_diff=profile.alignment_reverse_diffusion),
    )
    load = boltz.main.Boltz2.load_from_checkpoint

    def quick_affinity(checkpoint: Any, **options: Any) -> Any:
        if options["predict_args"]["recycling_steps"] == 5:  # what boltz's command fixes for the affinity stage
            options["predict_args"]["recycling_steps"] = profile.affinity_recycling_steps
        return load(checkpoint, weights_only=False, **options)

    monkeypatch.setattr(boltz.main.Boltz2, "load_from_checkpoint", quick_affinity)

    cache = folder / "cache"
    cache.mkdir()
    (cache / "mols").symlink_to(weights.mols)
    (cache / "mols.tar").touch()
    (cache / "boltz2_conf.ckpt").symlink_to(weights.structure)
    (cache / "boltz2_aff.ckpt").symlink_to(weights.affinity)
    msa = "empty"
    if alignment is not None:
        (folder / "a.a3m").write_text(alignment)
        msa = str(folder / "a.a3m")
    document: dict[str, Any] = {
        "version": 1,
        "sequences": [
            {"protein": {"id": "A", "sequence": PEPTIDE.sequence, "msa": msa}},
            {"ligand": {"id": "B", "smiles": smiles}},
        ],
        "properties": [{"affinity": {"binder": "B"}}],
    }
    if pocket:
        contacts = [list(contact) for contact in pocket.contacts]
        constraint = {"binder": "B", "contacts": contacts, "max_distance": pocket.max_distance, "force": pocket.force}
        document["constraints"] = [{"pocket": constraint}]
    (folder / "inputs").mkdir()
    (folder / "inputs" / "record.yaml").write_text(json.dumps(document))
    before = Chem.GetDefaultPickleProperties()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            boltz.main.predict.callback(
                data=str(folder / "inputs"),
                out_dir=str(folder / "out"),
                cache=str(cache),
                accelerator="cpu",
                recycling_steps=profile.recycling_steps,
                sampling_steps=profile.sampling_steps,
                sampling_steps_affinity=profile.affinity_sampling_steps,
                diffusion_samples_affinity=profile.affinity_diffusion_samples,
                max_parallel_samples=1,
                num_workers=0,
                preprocessing_threads=1,
                override=True,
                no_kernels=True,
                affinity_mw_correction=True,
                output_format="pdb",
            )
    finally:
        torch.set_grad_enabled(True)
        Chem.SetDefaultPickleProperties(before)
    (predictions,) = (folder / "out").glob("boltz_results_*/predictions/*")
    written = json.loads(next(predictions.glob("confidence_*.json")).read_text())
    confidence = {key: value for key, value in written.items() if isinstance(value, float)}
    return confidence | json.loads(next(predictions.glob("affinity_*.json")).read_text())
