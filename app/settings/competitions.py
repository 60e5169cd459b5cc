"""Subnet 21: how models are queued, scored and rewarded, and what they are evaluated with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr

from app.settings.concern import Concern
from app.settings.values import Duration, DurationOrZero, SampleSets, WebAddress, WebAddresses

# So many heartbeats may be missed before a try counts as dead.
_MISSED_BEATS: Final = 6


class CompetitionSettings(Concern):
    """The model competitions."""

    run_api: bool = Field(False, description="score models through SCORING_API_URL instead of this cluster's GPU")
    scoring_api_url: WebAddresses = Field(
        ("http://127.0.0.1:8003",), description="scoring APIs, each on its own GPU, separated by commas"
    )
    local_scorers: int = Field(
        1,
        ge=1,
        le=256,
        description="models evaluated side by side without RUN_API, or by scoring-api: the cluster's GPUs",
    )
    evaluation_heartbeat: Duration = Field(
        timedelta(seconds=10),
        description="how often a running evaluation says that it lives; six missed ones mean that it died",
    )
    evaluation_limit: Duration = Field(timedelta(hours=2), description="how long one model may be under scoring")
    scoring_poll: Duration = Field(timedelta(seconds=10), description="first pause between two looks at a scorer")
    wandb_project: str | None = Field(None, description="each evaluation is logged to this Weights & Biases project")
    immediate: bool = Field(False, description="set weights now instead of waiting for :00, :20, :40")
    competition_profile: Literal["seed", "omega-v4"] = Field(
        "seed", description="whose rules hold where validators differ; omega-v4: OMEGA's own of November 2025"
    )
    alpha: float = Field(
        0.9, ge=0, le=1, description="EMA factor of the weights; 0 turns the EMA off, as omega-v4 does unless it is set"
    )
    burn_uid: int = Field(111, ge=0, le=65535, description="UID that gets what nobody earned")
    clean_period_minutes: int = Field(
        60, ge=1, le=100_000, description="how often unreferenced model folders are removed"
    )
    update_delay_minutes: int = Field(5, ge=1, le=100_000, description="how often the miners' commitments are read")
    min_age: DurationOrZero = Field(timedelta(0), description="a model must be older than this to be queued")
    model_dir: Path | None = Field(
        None, description="folder of models; those that no commitment names are removed; DATA_DIR/models when empty"
    )

    voicebench_dataset: str = Field(
        "hlt-lab/voicebench", min_length=1, description="hub id, optionally with @revision, or a local copy's folder"
    )
    voicebench_sets: SampleSets = Field(
        "commoneval:50,wildvoice:100,advbench:100,ifeval:50",
        description="sets and their sizes; SET/SPLIT:SIZE for another split than test",
    )
    sample_seed: str = Field(
        "subnet-21", min_length=1, description="decides which samples are asked; the same at all validators"
    )
    answer_limit: Duration = Field(timedelta(seconds=30), description="how long a model may take for one text answer")
    speech_answer_limit: Duration = Field(
        timedelta(seconds=60), description="how long a model may take for one spoken answer"
    )
    judge_url: WebAddress | None = Field(None, description="OpenAI-compatible API of the judge, such as https://…/v1")
    judge_model: str | None = Field(None, description="the judge's model name")
    judge_key: SecretStr | None = Field(None, description="key of JUDGE_URL")
    judge_fallback_url: WebAddress | None = Field(None, description="asked when JUDGE_URL fails")
    judge_fallback_model: str | None = Field(None, description="the fallback judge's model name")
    judge_fallback_key: SecretStr | None = Field(None, description="key of JUDGE_FALLBACK_URL")
    nltk_data: Path | None = Field(None, description="folder with tokenizers/punkt_tab, for IFEval; NLTK's own too")
    asr_model: str = Field(
        "openai/whisper-large-v2", min_length=1, description="Whisper that writes down spoken answers: hub id or folder"
    )
    mos_weights: Path | None = Field(
        None, description="TorchScript file of a UTMOS-style MOS predictor; the utmosv2 package when empty"
    )
    o1_dataset: str = Field(
        "omegalabsinc/omega-multimodal", min_length=1, description="videos' embeddings: hub id[@revision] or folder"
    )
    o1_samples: int = Field(64, ge=1, le=100_000, description="videos that an o1 model captions")
    imagebind_weights: Path | None = Field(None, description="ImageBind's imagebind_huge.pth (a state dict), for o1")

    @property
    def evaluation_silence(self) -> timedelta:
        """How long a running evaluation may be silent before it counts as dead."""
        return _MISSED_BEATS * self.evaluation_heartbeat
