"""Subnet 68: which epochs are processed, with which models, for how long, and who hears of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from app.settings.concern import Concern
from app.settings.values import Duration, DurationOrZero, WebAddress


class EpochSettings(Concern):
    """The molecule epochs."""

    live: bool = Field(False, description="watch the chain and process its epochs; 'run' sets it")
    rules_file: Path | None = Field(None, description="rules.yaml of the live epoch; the document's when empty")
    rehearsal_scores: Path | None = Field(
        None, description="rehearsal: take scores from this recording's scores/ folder instead of running models"
    )
    submit_results_url: WebAddress | None = Field(None, description="each epoch's results are posted here, where set")
    submit_results_key: SecretStr | None = Field(None, description="bearer key for SUBMIT_RESULTS_URL")
    monitoring_url: WebAddress | None = Field(None, description="each epoch's state is posted here, where set")
    monitoring_key: SecretStr | None = Field(None, description="bearer key for MONITORING_URL")
    score_share_api_url: WebAddress = Field(
        "https://vali-score-share-api.metanova-labs.ai", description="where subnet 68's validators exchange scores"
    )
    validator_api_key: SecretStr | None = Field(
        None, description="key of SCORE_SHARE_API_URL; without it this validator's own scores stand"
    )

    psichic_weights: Path | None = Field(None, description="folder with model.pt, degree.pt, config.json")
    esm_checkpoint: Path | None = Field(None, description="fair-esm ESM-2 checkpoint file")
    without_boltz: bool = Field(False, description="run live epochs without Boltz-2; the report says so")
    boltz_profile: Literal["live", "fast"] = Field("live", description="live: float32; fast: bf16, its own digest")
    boltz_cache: Path | None = Field(None, description="folder with the Boltz-2 checkpoints")
    igblast_home: Path | None = Field(
        None, description="folder with IgBLAST's internal_data/ and database/{camelid_V,human_V}, for nanobodies"
    )
    tnp_command: str = Field("TNP", description="the Therapeutic Nanobody Profiler's program, for nanobodies")
    boltzgen_command: str = Field("boltzgen", description="BoltzGen's program on a GPU worker, for nanobodies")
    boltzgen_cache: Path | None = Field(
        None, description="where BoltzGen keeps its weights; its own default when unset"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models run")

    watch_every: Duration = Field(timedelta(seconds=12), description="how often the chain is asked for a closed epoch")
    open_budget: DurationOrZero = Field(
        timedelta(minutes=30), description="how long an epoch's opening waits for an unavailable chain or hub"
    )
    fetch_budget: DurationOrZero = Field(
        timedelta(minutes=10), description="how long submissions are waited for while GitHub or drand is unavailable"
    )
    examine_limit: Duration = Field(timedelta(minutes=5), description="one submission, soft limit")
    scoring_limit: Duration = Field(timedelta(minutes=30), description="one batch of 32, soft limit")
    facts_retention: DurationOrZero = Field(
        timedelta(days=7), description="how long fetched submissions are kept for 'epoch record'"
    )
    retention: DurationOrZero = Field(timedelta(days=30), description="how long epochs and scores are kept")
