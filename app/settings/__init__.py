"""The process's settings: every field is an environment variable (or a line of ``.env``) of the same name.

Read once per process with :func:`get_settings`. A wrong value is a sentence that names the variable.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.settings.secret_files import SecretFiles, SettingsError

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


_MOLECULES_NETUID = 68
_MODELS_NETUID = 21


__all__ = ["Settings", "SettingsError", "get_settings"]


class Settings(BaseSettings):
    """Names follow what validators already put in their ``.env``; the README's table is made from this class."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, str_strip_whitespace=True
    )

    # the chain
    netuid: int = Field(68, ge=0, description="subnet to validate: 68 (molecules) or 21 (models)")
    subtensor_network: str = Field("finney", min_length=1, description="network name or ws:// endpoint")
    wallet_name: str = Field("default", min_length=1, description="coldkey's name in the wallet folder")
    wallet_hotkey: str = Field("default", min_length=1, description="hotkey's name")
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="wallet folder")

    subtensor_fallbacks: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None, description="further ws:// endpoints, separated by commas; the network's public ones when unset"
    )
    subtensor_archives: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None, description="endpoints that keep old state; the network's public ones when unset"
    )
    chain_timeout: timedelta = Field(timedelta(seconds=30), description="one read on one endpoint")
    live: bool = Field(False, description="watch the chain and process its epochs; 'run' sets it")
    weights_file: Path | None = Field(None, description="test mode: write each vector here instead of to the chain")
    rehearsal_scores: Path | None = Field(
        None, description="rehearsal: take scores from this recording's scores/ folder instead of running models"
    )

    # outside services
    github_token: SecretStr | None = Field(None, description="raises GitHub's rate limit")
    github_raw_url: str = Field("https://raw.githubusercontent.com", description="where files are read")
    github_api_url: str = Field("https://api.github.com", description="where push times are read")
    uniprot_url: str = Field("https://rest.uniprot.org", description="where protein sequences are read")
    hf_endpoint: str = Field("https://huggingface.co", description="the Hugging Face hub")
    hf_token: SecretStr | None = Field(None, description="for datasets that need one")
    submit_results_url: str | None = Field(None, description="each epoch's results are posted here, where set")
    submit_results_key: SecretStr | None = Field(None, description="bearer key for SUBMIT_RESULTS_URL")
    monitoring_url: str | None = Field(None, description="each epoch's state is posted here, where set")
    monitoring_key: SecretStr | None = Field(None, description="bearer key for MONITORING_URL")
    score_share_api_url: str = Field(
        "https://vali-score-share-api.metanova-labs.ai", description="where subnet 68's validators exchange scores"
    )
    validator_api_key: SecretStr | None = Field(
        None, description="key of SCORE_SHARE_API_URL; without it this validator's own scores stand"
    )
    drand_urls: CommaSeparated = Field(
        ("https://api.drand.sh", "https://drand.cloudflare.com", "https://api2.drand.sh"),
        description="drand endpoints, tried in turn, separated by commas",
    )

    # the model competitions (netuid 21)
    run_api: bool = Field(False, description="score models through SCORING_API_URL instead of this cluster's GPU")
    scoring_api_url: CommaSeparated = Field(
        ("http://127.0.0.1:8003",), description="scoring APIs, each on its own GPU, separated by commas"
    )
    local_scorers: int = Field(
        1, ge=1, description="models evaluated side by side without RUN_API, or by scoring-api: the cluster's GPUs"
    )
    scoring_api_host: str = Field("127.0.0.1", min_length=1, description="address the scoring API listens on")
    scoring_api_port: int = Field(8003, ge=1, le=65535, description="port the scoring API listens on")
    scoring_api_callers: CommaSeparated = Field(
        (), description="hotkeys the scoring API works for, separated by commas; this wallet's own when empty"
    )
    evaluation_heartbeat: timedelta = Field(
        timedelta(seconds=10),
        gt=timedelta(0),
        description="how often a running evaluation says that it lives; six missed ones mean that it died",
    )
    wandb_project: str | None = Field(None, description="each evaluation is logged to this Weights & Biases project")
    immediate: bool = Field(False, description="set weights now instead of waiting for :00, :20, :40")
    offline: bool = Field(False, description="never talk to the chain; use what the store knows")
    dont_set_weights: bool = Field(False, description="compute and keep the weights, but submit none")
    alpha: float = Field(0.9, ge=0, le=1, description="EMA factor of the weights; 0 turns the EMA off")
    burn_uid: int = Field(111, ge=0, le=65535, description="UID that gets what nobody earned")
    clean_period_minutes: int = Field(60, ge=1, description="how often unreferenced model folders are removed")
    update_delay_minutes: int = Field(5, ge=1, description="how often the miners' commitments are read")
    min_age: timedelta = Field(
        timedelta(0), ge=timedelta(0), description="a model must be older than this to be queued"
    )
    evaluation_limit: timedelta = Field(timedelta(hours=2), description="how long one model may be under scoring")
    scoring_poll: timedelta = Field(timedelta(seconds=10), description="first pause between two looks at a scorer")
    model_dir: Path | None = Field(None, description="where models are downloaded to; DATA_DIR/models when empty")
    min_stake: float = Field(20_000.0, ge=0, description="stake (alpha) that a caller of the validator API needs")
    api_host: str = Field("127.0.0.1", min_length=1, description="address the API listens on")
    api_port: int = Field(8000, ge=1, le=65535, description="port the API listens on")
    api_basic: bool = Field(True, description="accept HTTP Basic with a hotkey signature, which can be replayed")
    api_rate_limit: int = Field(1200, ge=1, description="requests a minute that one hotkey may make")
    api_body_limit: int = Field(1_048_576, ge=1024, description="largest request body in bytes")
    pages: bool = Field(True, description="the API serves the pages too, to whoever can reach its address")

    # the containers that models run in (netuid 21); sizes in bytes, or 18GiB
    docker_host: str | None = Field(None, description="the Docker Engine, on this machine; its usual socket when empty")
    model_size_limit: ByteSize = Field(ByteSize(18 * 2**30), gt=0, description="largest repository of a model")
    disk_reserve: ByteSize = Field(
        ByteSize(40 * 2**30), ge=0, description="disk that stays free after a model's download"
    )
    build_limit: timedelta = Field(
        timedelta(minutes=30), gt=timedelta(0), description="how long an image's build may take"
    )
    build_network: str = Field(
        "default", min_length=1, description="network of a build's RUN steps: default, none, or a Docker network's name"
    )
    base_registries: CommaSeparated = Field(
        ("docker.io", "ghcr.io", "nvcr.io", "quay.io"),
        description="where base images may come from, separated by commas",
    )
    start_limit: timedelta = Field(
        timedelta(minutes=10), gt=timedelta(0), description="how long a model may take from its start to healthy"
    )
    container_memory: ByteSize = Field(
        ByteSize(32 * 2**30), gt=0, description="memory of a model's container, scratch included; its build's too"
    )
    container_cpus: float = Field(4.0, gt=0, description="CPU cores of a model's container; its build's too")
    container_firewall: bool = Field(
        False, description="the host's firewall drops new connections from cv-*: no warning of open ports"
    )
    container_port: int = Field(8000, ge=1024, le=65535, description="port on which a model's server listens")

    # what a model is evaluated with (netuid 21)
    voicebench_dataset: str = Field(
        "hlt-lab/voicebench", min_length=1, description="hub id, optionally with @revision, or a local copy's folder"
    )
    voicebench_sets: str = Field(
        "commoneval:50,wildvoice:100,advbench:100,ifeval:50",
        min_length=1,
        description="sets and their sizes; SET/SPLIT:SIZE for another split than test",
    )
    sample_seed: str = Field(
        "subnet-21", min_length=1, description="decides which samples are asked; the same at all validators"
    )
    answer_limit: timedelta = Field(
        timedelta(seconds=30), gt=timedelta(0), description="how long a model may take for one text answer"
    )
    speech_answer_limit: timedelta = Field(
        timedelta(seconds=60), gt=timedelta(0), description="how long a model may take for one spoken answer"
    )
    judge_url: str | None = Field(None, description="OpenAI-compatible API of the judge, such as https://…/v1")
    judge_model: str | None = Field(None, description="the judge's model name")
    judge_key: SecretStr | None = Field(None, description="key of JUDGE_URL")
    judge_fallback_url: str | None = Field(None, description="asked when JUDGE_URL fails")
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
    o1_samples: int = Field(64, ge=1, description="videos that an o1 model captions")
    imagebind_weights: Path | None = Field(None, description="ImageBind's imagebind_huge.pth (a state dict), for o1")

    # the cluster
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey that carries the tasks"
    )
    broker_password: SecretStr | None = Field(None, description="put into BROKER_URL where it holds none")
    result_backend: SecretStr | None = Field(None, description="where task results go; BROKER_URL when empty")
    cluster_name: str = Field(
        "default", min_length=1, description="shared by every process of one cluster; every key in Redis begins with it"
    )
    database_url: SecretStr | None = Field(
        None, description="the store: sqlite:///… or postgresql://…; DATA_DIR/validator.sqlite when empty"
    )
    database_password: SecretStr | None = Field(None, description="put into DATABASE_URL where it holds none")
    data_dir: Path = Field(Path("data"), description="store, embedded Redis, logs and downloads")
    rules_file: Path | None = Field(None, description="rules.yaml of the live epoch; the document's when empty")
    cpu_concurrency: int | None = Field(None, ge=1, description="processes of a cpu worker; all cores when empty")
    flower_address: str = Field(
        "127.0.0.1", min_length=1, description="address Flower listens on; beyond loopback it needs FLOWER_BASIC_AUTH"
    )
    flower_port: int = Field(5555, ge=1, le=65535, description="port of the Flower dashboard")
    flower_basic_auth: SecretStr | None = Field(
        None, description="Flower's user:password, several separated by commas; open to this machine when empty"
    )
    flower_url: str | None = Field(None, description="where the pages link to Flower; its own address when empty")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address workers and beat serve metrics on")
    metrics_port: int = Field(
        9540,
        ge=0,
        le=65531,
        description="first metrics port: chain; cpu +1, gpu +2, beat +3, mixed worker +4; 0 turns metrics off",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")
    log_format: Literal["human", "json"] = Field("human", description="human: aligned text; json: an object per line")

    # scoring
    psichic_weights: Path | None = Field(None, description="folder with model.pt, degree.pt, config.json")
    esm_checkpoint: Path | None = Field(None, description="fair-esm ESM-2 checkpoint file")
    without_boltz: bool = Field(False, description="run live epochs without Boltz-2; the report says so")
    boltz_profile: Literal["live", "fast"] = Field("live", description="live: float32; fast: bf16, its own digest")
    boltz_cache: Path | None = Field(None, description="folder with the Boltz-2 checkpoints")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models run")

    # how long things may take
    examine_limit: timedelta = Field(timedelta(minutes=5), description="one submission, soft limit")
    scoring_limit: timedelta = Field(timedelta(minutes=30), description="one batch of 32, soft limit")
    visibility_timeout: timedelta = Field(
        timedelta(hours=3),
        description="when Redis hands a lost worker's message to another; above every limit",
    )
    reconcile_after: timedelta = Field(
        timedelta(seconds=60),
        description="how long an epoch may stand still before the reconciler moves it on",
    )
    watch_every: timedelta = Field(timedelta(seconds=12), description="how often the chain is asked for a closed epoch")
    open_budget: timedelta = Field(
        timedelta(minutes=30), description="how long an epoch's opening waits for a chain or hub that is away"
    )
    fetch_budget: timedelta = Field(
        timedelta(minutes=10), description="how long submissions are waited for when GitHub or drand is away"
    )
    weights_pause: timedelta = Field(timedelta(seconds=12), description="between two tries to set weights")
    facts_retention: timedelta = Field(
        timedelta(days=7), description="how long fetched submissions are kept for 'epoch record'"
    )
    reconcile_every: timedelta = Field(timedelta(seconds=15), description="how often the reconciler looks")
    retention: timedelta = Field(timedelta(days=30), description="how long epochs and scores are kept")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Secrets may also lie in files that ``NAME_FILE`` names, as container platforms hand them out."""
        files = SecretFiles(settings_cls, env_settings, dotenv_settings)
        return (init_settings, files, env_settings, dotenv_settings)

    @model_validator(mode="before")
    @classmethod
    def _plain_seconds(cls, values: dict[str, object]) -> dict[str, object]:
        """A duration may be a number of seconds, or ISO 8601 (``PT5M``)."""
        for name, field in cls.model_fields.items():
            value = values.get(name)
            if field.annotation is timedelta and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
                values[name] = float(value)
        return values

    @field_validator("subtensor_fallbacks", "subtensor_archives", mode="before")
    @classmethod
    def _split_endpoints(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator(
        "submit_results_url",
        "monitoring_url",
        "weights_file",
        "wandb_project",
        "docker_host",
        "judge_url",
        "judge_model",
        "judge_fallback_url",
        "judge_fallback_model",
        "nltk_data",
        "mos_weights",
        "imagebind_weights",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("drand_urls", "scoring_api_url", "scoring_api_callers", "base_registries", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        return value

    @field_validator("drand_urls", "scoring_api_url")
    @classmethod
    def _web_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not urls:
            raise ValueError("needs at least one address")
        for url in urls:
            if urlsplit(url).scheme not in {"http", "https"}:
                raise ValueError(f"{url!r} is not an http(s) address")
        return urls

    @field_validator("broker_url", "result_backend")
    @classmethod
    def _redis_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        scheme = urlsplit(url.get_secret_value()).scheme
        if scheme not in {"redis", "rediss", "memory", "cache+memory"}:
            raise ValueError(f"expected redis://host:6379/0 or rediss://…, not scheme {scheme!r}")
        return url

    @field_validator("flower_basic_auth")
    @classmethod
    def _flower_users(cls, users: SecretStr | None) -> SecretStr | None:
        for user in users.get_secret_value().split(",") if users else ():
            name, _, password = user.partition(":")
            if not name.strip() or not password:
                raise ValueError("expected user:password, several separated by commas")
        return users

    @field_validator("database_url")
    @classmethod
    def _database_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        scheme = urlsplit(url.get_secret_value()).scheme.split("+")[0]
        if scheme not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError(f"expected sqlite:///file or postgresql://user@host/name, not scheme {scheme!r}")
        return url

    @model_validator(mode="after")
    def _epochs_are_molecules(self) -> Settings:
        """The chain's epochs are judged by the rules of the molecules, whatever subnet they are read from."""
        if self.live and self.netuid != _MOLECULES_NETUID:
            raise ValueError(
                f"LIVE: only subnet {_MOLECULES_NETUID} has epochs of molecules, so it must be 0 where NETUID is "
                f"{self.netuid}"
            )
        return self

    @model_validator(mode="after")
    def _messages_outlast_tasks(self) -> Settings:
        """A message that came back while its task still runs would be worked twice for ever."""
        longest = max(self.examine_limit, self.scoring_limit, self.evaluation_limit) + timedelta(minutes=1)
        if self.visibility_timeout <= longest:
            raise ValueError(
                f"VISIBILITY_TIMEOUT: must be more than {longest.total_seconds():.0f} s, the longest task's limit"
            )
        return self

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store, with the driver that is installed."""
        if self.database_url is None:
            return f"sqlite:///{(self.data_dir.expanduser().resolve() / 'validator.sqlite')}"
        url = _with_password(self.database_url.get_secret_value(), self.database_password)
        scheme, rest = url.split(":", 1)
        return f"postgresql+psycopg:{rest}" if scheme in {"postgresql", "postgres"} else url

    @property
    def sets_weights(self) -> bool:
        """Whether weights go to the chain: not in test mode (``WEIGHTS_FILE``), nor where none are to be set."""
        return not (self.weights_file is not None or self.dont_set_weights or self.offline)

    @property
    def models_netuid(self) -> int:
        """The subnet of the model competitions: NETUID, and 21 for a process that was started for the molecules' 68."""
        return _MODELS_NETUID if self.netuid == _MOLECULES_NETUID else self.netuid

    @property
    def models_folder(self) -> Path:
        """Where models are downloaded to, absolute."""
        return (self.model_dir or self.data_dir / "models").expanduser().resolve()

    @property
    def redis_url(self) -> str:
        """The broker's address, password included."""
        return _with_password(self.broker_url.get_secret_value(), self.broker_password)

    @property
    def key_prefix(self) -> str:
        """What every key of this cluster in Redis begins with: several clusters may share one database."""
        return f"{self.cluster_name}:"

    @property
    def beat_prefix(self) -> str:
        """What the keys of beat's timetable and lock begin with."""
        return f"{self.key_prefix}redbeat:"

    @property
    def result_url(self) -> str:
        """Where task results go: the broker's Redis unless ``RESULT_BACKEND`` says otherwise."""
        return self.result_backend.get_secret_value() if self.result_backend else self.redis_url


def _with_password(url: str, password: SecretStr | None) -> str:
    """The address with the password in it; unchanged where it has one, or no host to give it to."""
    parts = urlsplit(url)
    if password is None or not password.get_secret_value() or parts.password is not None or not parts.hostname:
        return url
    host = parts.netloc.rpartition("@")[2]
    login = f"{parts.username or ''}:{quote(password.get_secret_value(), safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}"))


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: naming each variable that is wrong, what it holds and what it should hold.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(item) for item in error.errors())) from None


def _sentence(item: object) -> str:
    assert isinstance(item, dict)
    if not item["loc"]:
        return str(item["msg"]).removeprefix("Value error, ") + "; set it in the environment or in .env"
    name = str(item["loc"][0]).upper() if item["loc"] else "settings"
    secret = any(word in name for word in ("TOKEN", "KEY", "PASSWORD", "URL", "BACKEND", "AUTH"))
    found = "" if secret else f" (found {item['input']!r:.80})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}{found}; set it in the environment or in .env"
