"""Every setting, by its name: a value that it takes, what that means, and one that it refuses with a sentence."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.settings import CONCERNS, Settings, SettingsError, get_settings

CONTROL = "a\x1b[31mb"
SECONDS_90 = ("PT1M30S", timedelta(seconds=90), "soon")

# name → (text, what it means, a wrong text); where any text is right, one with a control character is not
EXAMPLES: dict[str, tuple[str, Any, str]] = {
    "netuid": ("21", 21, "3"),
    "subtensor_network": ("test,ws://127.0.0.1:9944", "test,ws://127.0.0.1:9944", "http://127.0.0.1"),
    "subtensor_fallbacks": ("wss://a.example, ws://b:1", ("wss://a.example", "ws://b:1"), "a.example"),
    "subtensor_archives": ("none", (), "https://a.example"),
    "chain_timeout": SECONDS_90,
    "wallet_name": ("owner", "owner", "../owner"),
    "wallet_hotkey": ("first", "first", "a/b"),
    "wallet_path": ("~/wallets", Path("~/wallets"), CONTROL),
    "offline": ("1", True, "maybe"),
    "dont_set_weights": ("true", True, "2"),
    "weights_file": ("w.jsonl", Path("w.jsonl"), CONTROL),
    "weights_pause": SECONDS_90,
    "github_token": ("ghp_x", SecretStr("ghp_x"), CONTROL),
    "github_raw_url": ("http://127.0.0.1:80/", "http://127.0.0.1:80", "127.0.0.1:80"),
    "github_api_url": ("http://a.example", "http://a.example", "ftp://a.example"),
    "drand_urls": ("http://a/,https://b", ("http://a", "https://b"), "http://a,b"),
    "uniprot_url": ("http://a.example", "http://a.example", "a.example"),
    "hf_endpoint": ("http://a.example", "http://a.example", "http://a:port"),
    "hf_token": ("hf_x", SecretStr("hf_x"), CONTROL),
    "live": ("yes", True, "68"),
    "rules_file": ("rules.yaml", Path("rules.yaml"), CONTROL),
    "rehearsal_scores": ("recording/scores", Path("recording/scores"), CONTROL),
    "submit_results_url": ("https://a.example/x", "https://a.example/x", "mailto:a@b"),
    "submit_results_key": ("k", SecretStr("k"), CONTROL),
    "monitoring_url": ("https://a.example", "https://a.example", "a.example"),
    "monitoring_key": ("k", SecretStr("k"), CONTROL),
    "score_share_api_url": ("https://a.example", "https://a.example", "a.example"),
    "validator_api_key": ("k", SecretStr("k"), CONTROL),
    "psichic_weights": ("w", Path("w"), CONTROL),
    "esm_checkpoint": ("esm.pt", Path("esm.pt"), CONTROL),
    "without_boltz": ("on", True, "boltz"),
    "boltz_profile": ("fast", "fast", "slow"),
    "competition_profile": ("omega-v4", "omega-v4", "omega"),
    "boltz_cache": ("b", Path("b"), CONTROL),
    "boltzgen_command": ("/opt/boltzgen/bin/boltzgen", "/opt/boltzgen/bin/boltzgen", CONTROL),
    "boltzgen_cache": ("c", Path("c"), CONTROL),
    "igblast_home": ("i", Path("i"), CONTROL),
    "tnp_command": ("/opt/tnp/bin/TNP", "/opt/tnp/bin/TNP", CONTROL),
    "device": ("cuda", "cuda", "tpu"),
    "watch_every": ("6", timedelta(seconds=6), "0"),
    "open_budget": ("0", timedelta(0), "-1"),
    "fetch_budget": ("0.5", timedelta(seconds=0.5), "PT"),
    "examine_limit": SECONDS_90,
    "scoring_limit": SECONDS_90,
    "facts_retention": ("P2D", timedelta(days=2), "2 days or so"),
    "retention": ("P2D", timedelta(days=2), "P9999D"),
    "run_api": ("1", True, "http://a"),
    "scoring_api_url": ("http://a:1,http://b:2/", ("http://a:1", "http://b:2"), ","),
    "local_scorers": ("8", 8, "0"),
    "evaluation_heartbeat": SECONDS_90,
    "evaluation_limit": SECONDS_90,
    "scoring_poll": SECONDS_90,
    "wandb_project": ("p", "p", CONTROL),
    "immediate": ("1", True, "now"),
    "alpha": ("0", 0.0, "1.5"),
    "burn_uid": ("0", 0, "-1"),
    "clean_period_minutes": ("7", 7, "0"),
    "update_delay_minutes": ("3", 3, "1.5"),
    "min_age": ("0", timedelta(0), "-1"),
    "model_dir": ("models", Path("models"), CONTROL),
    "voicebench_dataset": ("a/b@rev", "a/b@rev", CONTROL),
    "voicebench_sets": ("a:1, mmsu/physics:20", "a:1, mmsu/physics:20", "a"),
    "sample_seed": ("s", "s", CONTROL),
    "answer_limit": SECONDS_90,
    "speech_answer_limit": SECONDS_90,
    "judge_url": ("http://a/v1", "http://a/v1", "a/v1"),
    "judge_model": ("m", "m", CONTROL),
    "judge_key": ("k", SecretStr("k"), CONTROL),
    "judge_fallback_url": ("http://a/v1", "http://a/v1", "ftp://a"),
    "judge_fallback_model": ("m", "m", CONTROL),
    "judge_fallback_key": ("k", SecretStr("k"), CONTROL),
    "nltk_data": ("n", Path("n"), CONTROL),
    "asr_model": ("a/b", "a/b", CONTROL),
    "mos_weights": ("m.pt", Path("m.pt"), CONTROL),
    "o1_dataset": ("a/b", "a/b", CONTROL),
    "o1_samples": ("2", 2, "0"),
    "imagebind_weights": ("i.pth", Path("i.pth"), CONTROL),
    "docker_host": ("unix:///run/docker.sock", "unix:///run/docker.sock", "/run/docker.sock"),
    "model_size_limit": ("18GiB", 18 << 30, "18 boxes"),
    "disk_reserve": ("0", 0, "-1"),
    "build_limit": SECONDS_90,
    "build_network": ("none", "none", "a b"),
    "base_registries": ("docker.io, ghcr.io", ("docker.io", "ghcr.io"), CONTROL),
    "start_limit": SECONDS_90,
    "container_memory": ("1GiB", 1 << 30, "0"),
    "container_cpus": ("1.5", 1.5, "nan"),
    "container_runtime": ("runsc", "runsc", "a/b"),
    "container_firewall": ("1", True, "drop"),
    "container_port": ("8001", 8001, "80"),
    "api_host": ("0.0.0.0", "0.0.0.0", "http://0.0.0.0"),
    "api_port": ("8001", 8001, "65536"),
    "api_basic": ("0", False, "none"),
    "api_rate_limit": ("60", 60, "0"),
    "api_body_limit": ("4096", 4096, "1"),
    "min_stake": ("0", 0.0, "inf"),
    "pages": ("0", False, "home"),
    "scoring_api_host": ("::1", "::1", "a b"),
    "scoring_api_port": ("8004", 8004, "http"),
    "scoring_api_callers": ("5A, 5B", ("5A", "5B"), CONTROL),
    "data_dir": ("d", Path("d"), CONTROL),
    "broker_url": ("rediss://h:1/0", SecretStr("rediss://h:1/0"), "amqp://h"),
    "broker_password": ("p", SecretStr("p"), CONTROL),
    "result_backend": ("redis://h:1/1", SecretStr("redis://h:1/1"), "file:///x"),
    "cluster_name": ("second", "second", "a:b"),
    "database_url": ("postgresql://h/d", SecretStr("postgresql://h/d"), "mysql://h/d"),
    "database_password": ("p", SecretStr("p"), CONTROL),
    "cpu_concurrency": ("2", 2, "0"),
    "visibility_timeout": ("PT4H", timedelta(hours=4), "60"),
    "reconcile_every": SECONDS_90,
    "reconcile_after": SECONDS_90,
    "flower_address": ("0.0.0.0", "0.0.0.0", "a/b"),
    "flower_port": ("5556", 5556, "0"),
    "flower_basic_auth": ("ann:secret", SecretStr("ann:secret"), "ann"),
    "flower_url": ("https://flower.example", "https://flower.example", "flower.example"),
    "metrics_host": ("0.0.0.0", "0.0.0.0", "a b"),
    "metrics_port": ("0", 0, "65532"),
    "log_level": ("DEBUG", "DEBUG", "LOUD"),
    "log_format": ("json", "json", "xml"),
}


def test_every_setting_is_here_and_belongs_to_one_concern() -> None:
    fields = [name for concern in CONCERNS.values() for name in concern.model_fields]
    assert set(EXAMPLES) == set(Settings.model_fields) == set(fields)
    assert len(fields) == len(set(fields))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_right_value_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, meaning, _ = EXAMPLES[name]
    monkeypatch.setenv(name.upper(), f"  {text} ")
    assert getattr(get_settings(), name) == meaning


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_wrong_value_is_a_sentence_that_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name.upper(), EXAMPLES[name][2])
    with pytest.raises(SettingsError) as caught:
        get_settings()
    text = str(caught.value)
    assert text.startswith(f"{name.upper()}: ")
    assert text.endswith("; set it in the environment or in .env")
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize("place", ["environment", "dotenv"])
@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("name", EXAMPLES)
def test_empty_means_unset(name: str, blank: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "environment":
        monkeypatch.setenv(name.upper(), blank)
    else:
        monkeypatch.delenv(name.upper(), raising=False)
        Path(".env").write_text(f'{name.upper()}="{blank}"\n')
    assert getattr(get_settings(), name) == Settings.model_fields[name].default
