from pathlib import Path

import pytest

from app.settings import SettingsError, get_settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("BROKER_URL", "amqp://user:hunter2@host", "expected redis://"),
        ("DATABASE_URL", "mysql://user:hunter2@host/x", "expected sqlite:///file or postgresql://"),
        ("NETUID", "sixty-eight", "valid integer"),
        ("DRAND_URLS", "ftp://x", "is not an http(s) address"),
        ("DRAND_URLS", " , ", "at least one address"),
        ("DEVICE", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("CPU_CONCURRENCY", "0", "greater than or equal to 1"),
        ("RECONCILE_AFTER", "soon", "duration"),
        ("VISIBILITY_TIMEOUT", "60", "must be more than 7260 s"),
    ],
)
def test_a_wrong_value_is_a_sentence_naming_the_variable(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert message in text
    assert "hunter2" not in text


def test_only_the_molecules_subnet_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE", "1")
    assert get_settings().live
    get_settings.cache_clear()
    monkeypatch.setenv("NETUID", "21")
    with pytest.raises(SettingsError, match=r"^LIVE: only subnet 68 .* must be 0 where NETUID is 21; set it"):
        get_settings()


def test_names_that_validators_use_and_lists_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SUBTENSOR_NETWORK": "test",
        "WALLET_NAME": "w",
        "WALLET_HOTKEY": "h",
        "NETUID": "21",
        "DRAND_URLS": "https://a.example/, https://b.example",
        "GITHUB_TOKEN": "ghp_secret",
    }.items():
        monkeypatch.setenv(name, value)
    settings = get_settings()
    assert (settings.subtensor_network, settings.wallet_name, settings.wallet_hotkey) == ("test", "w", "h")
    assert settings.netuid == 21
    assert settings.drand_urls == ("https://a.example", "https://b.example")
    assert "ghp" not in repr(settings.github_token)


def test_dotenv_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NETUID=21\nUNRELATED=1\n")
    assert get_settings().netuid == 21


def test_the_store_defaults_to_the_data_folder_and_postgresql_gets_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_settings().store_url.endswith("/data/validator.sqlite")
    get_settings.cache_clear()
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/d")
    assert get_settings().store_url == "postgresql+psycopg://u@h/d"
