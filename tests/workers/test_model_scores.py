"""An epoch scored by the models themselves, in eager mode: the demo PSICHIC, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.celery import app
from app.domain import PSICHIC_METRIC, Protein, ScoringModel, ValidatorError
from app.epochs.recording import Recording
from app.epochs.rules import build_report
from app.epochs.rules.october_2025 import October2025, Parameters
from app.epochs.scores import UNTRAINED
from app.settings import get_settings
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.facts import FactKind, Facts
from app.store.records import Stage
from app.store.tables.epochs import PanelRow
from gpu.boltz.profile import LIVE, PROFILES, PocketConstraint
from gpu.scorers import build_scorer
from tests.gpu.boltz.components import write_components
from tests.gpu.boltz.random_weights import TINY, write_checkpoints
from tests.workers.small_recording import write_small_recording
from workers import scoring
from workers.epochs import open_epoch
from workers.submissions import _examiner

UID = 1


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    app.loader.import_default_modules()
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    scoring.forget_scorers()
    yield
    app.conf.update(task_always_eager=False, task_eager_propagates=False)
    _examiner.cache_clear()
    scoring.forget_scorers()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_small_recording(tmp_path / "recording", [UID])


def run(store: Store, folder: Path, *, without_boltz: bool) -> dict[str, Any]:
    with store.writing() as session:
        epoch_id = Recording(folder).announce(session, "model", "c", without_boltz=without_boltz)
    open_epoch.delay(epoch_id)
    with store.reading() as session:
        epochs = Epochs(session)
        if epochs.summary(epoch_id).stage is Stage.FAILED:
            raise ValidatorError(epochs.summary(epoch_id).error or "")
        return build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_an_epoch_scored_by_psichic(store: Store, recording: Path) -> None:
    result = run(store, recording, without_boltz=True)
    assert any("--without-boltz" in warning for warning in result["warnings"])
    assert any("untrained demo checkpoint" in warning for warning in result["warnings"])
    (submission,) = result["submissions"]
    assert result["winners"] == {"psichic": UID, "boltz": None}
    scorer = build_scorer(ScoringModel.PSICHIC, get_settings())
    facts = Recording(recording).facts
    codes = [*result["challenge"]["targets"], *result["challenge"]["antitargets"]]
    proteins = [Protein(code, facts.sequence(code)) for code in codes]
    for molecule in submission["molecules"]:
        alone = scorer.pair_scores(proteins, [molecule["smiles"]])
        told = [*molecule["target_scores"], *molecule["antitarget_scores"]]
        assert told == [pair.metrics[PSICHIC_METRIC] for pair in alone]
    with store.reading() as session:
        kept = set(session.execute(select(PanelRow.model_digest)).scalars())
    assert scorer.digest in kept, "each score is kept under the model's digest"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_untrained_weights_are_refused_where_weights_would_be_set(
    store: Store, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, recording, without_boltz=True)
    with store.reading() as session:
        epoch = Epochs(session).get(1)
        batch = Epochs(session).batches(1, ScoringModel.PSICHIC)[0]
    live = replace(epoch, publishes=True)
    with pytest.raises(ValidatorError, match="checkpoints fetch psichic"):
        scoring._Scoring(live, batch, scoring.score_psichic)
    for harmless in ("WEIGHTS_FILE", "DONT_SET_WEIGHTS"):
        with monkeypatch.context() as patch:
            patch.setenv(harmless, "1")
            get_settings.cache_clear()
            scoring._Scoring(live, batch, scoring.score_psichic)
    with store.reading() as session:
        assert list(Facts(session).all(epoch.id, FactKind.WARNING)) == [UNTRAINED]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_missing_boltz_weights_end_the_epoch_with_the_command_to_get_them(
    store: Store, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOLTZ_CACHE", str(tmp_path / "none"))
    get_settings.cache_clear()
    with pytest.raises(ValidatorError, match="checkpoints fetch boltz2"):
        run(store, recording, without_boltz=False)


def test_the_rules_pocket_reaches_boltz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("gpu.boltz.files.scorer_from_cache", lambda *arguments: asked.append(arguments[3]))
    pocket = {"protein_constraints": {"binding_pocket": [["A", 5]], "max_distance": 4.0, "force": True}}
    for rules in ({}, pocket):
        build_scorer(ScoringModel.BOLTZ, get_settings(), October2025(Parameters.model_validate(rules)).binding_pocket)
    assert asked == [None, PocketConstraint((("A", 5),), 4.0, force=True)]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_rules_without_a_boltz_weight_need_no_boltz(store: Store, recording: Path) -> None:
    rules = recording / "rules.yaml"
    rules.write_text(rules.read_text().replace("boltz_weight: 0.5", "boltz_weight: 0.0"))
    result = run(store, recording, without_boltz=False)
    assert any("boltz_weight: 0" in warning for warning in result["warnings"])
    assert result["weights"] == {"0": 0.5, "1": 0.5}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_an_epoch_scored_by_both_models(
    store: Store, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "boltz"
    write_components(weights / "mols")
    write_checkpoints(weights, TINY)
    monkeypatch.setenv("BOLTZ_CACHE", str(weights))
    get_settings.cache_clear()
    # the tiny checkpoint has fewer layers than the profile's architecture, and few steps are enough here
    quick = {"recycling_steps": 1, "affinity_recycling_steps": 1, "sampling_steps": 10, "affinity_sampling_steps": 10}
    monkeypatch.setitem(PROFILES, "live", TINY.profile(LIVE, **quick))
    # a short target, for boltz's time grows with the square of its length
    proteins = recording / "proteins.fasta"
    target, rest = proteins.read_text().split("\n", 2)[1:]
    proteins.write_text(f">O15379\n{target[:24]}\n{rest}")
    result = run(store, recording, without_boltz=False)
    (submission,) = result["submissions"]
    assert result["winners"] == {"psichic": UID, "boltz": UID}
    metrics = [molecule["boltz"] for molecule in submission["molecules"]]
    assert metrics[1:] == [None, None], "one candidate a UID"
    assert submission["boltz_score"] == metrics[0]["affinity_probability_binary"]
    assert {"affinity_pred_value", "confidence_score", "iptm"} <= metrics[0].keys()
