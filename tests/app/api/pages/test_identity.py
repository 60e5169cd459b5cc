"""The header of every page names the validator, and says unknown where nobody has read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.settings import get_settings
from app.store.database import Store
from app.store.services import keep_block
from app.weights import keep_verdict
from chain.weights import WeightsParameters, verdict
from tests.app.api.pages.page_reader import folded, read
from tests.app.page_stores import full_epoch, hotkey

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


def who(client: TestClient, path: str = "/", status: int = 200) -> dict[str, str]:
    names = read(client, path, status).root.xpath("//dl[@id='who']//dt")
    return {folded(name.text_content()): folded(name.getnext().text_content()) for name in names}


def test_what_nobody_has_read_is_unknown(store: Store) -> None:
    with TestClient(create_app()) as client:
        found = who(client)
    assert found["Subnet"] == "68 on finney"
    assert {found[name] for name in ("Block", "Hotkey", "UID", "Stake", "Permit")} == {"unknown"}
    assert found["Weights"] == "none yet"


def test_every_page_names_the_validator(store: Store) -> None:
    full_epoch(store, submissions=2, molecules=4)
    with store.writing() as session:
        keep_block(session, 68, 6_859_400)
        parameters = WeightsParameters(68, hotkey(12), 6_859_361, uid=12, permit=True, stake=31_204.5)
        keep_verdict(session, verdict(parameters))
    with TestClient(create_app()) as client:
        for path, status in (("/", 200), ("/epochs/1", 200), ("/epochs/1/submissions/0", 200), ("/nowhere", 404)):
            found = who(client, path, status)
            assert found["Block"].startswith("6,859,400 ")
            assert found["Hotkey"].startswith(f"{hotkey(12)[:6]}…{hotkey(12)[-5:]}")
            assert (found["UID"], found["Stake"], found["Permit"]) == ("12", "31,204.50", "yes")
            assert found["Weights"].startswith("set ")
        page = read(client, "/")
        assert f"SN68 finney {hotkey(12)[:6]}" in page.text("//title"), "two tabs are told apart"
        assert page.root.xpath("//dl[@id='who']//button/@data-copy") == [hotkey(12)]
        fragment = client.get("/fragments/now", headers={"Accept": "text/html"}).text
        assert 'data-replaces="who"' in fragment


def test_the_hotkey_is_known_before_the_chain_was_asked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wallets" / "default" / "hotkeys"
    folder.mkdir(parents=True)
    (folder / "default").write_text(json.dumps({"ss58Address": hotkey(5), "secretPhrase": "never shown"}))
    monkeypatch.setenv("WALLET_PATH", str(tmp_path / "wallets"))
    monkeypatch.setenv("SUBTENSOR_NETWORK", "wss://login:secret@node.example:9944")
    get_settings.cache_clear()
    with TestClient(create_app()) as client:
        text = client.get("/", headers={"Accept": "text/html"}).text
        found = who(client)
        with store.writing() as session:
            keep_verdict(session, verdict(WeightsParameters(68, hotkey(12), 6_859_361, uid=12, permit=True, stake=9.0)))
        changed = who(client)
    assert found["Hotkey"].startswith(hotkey(5)[:6])
    assert changed["Hotkey"] == found["Hotkey"], "the wallet was changed after the chain was asked"
    assert {changed[name] for name in ("UID", "Stake", "Permit")} == {"unknown"}
    assert found["Subnet"] == "68 on node.example"
    assert "secret" not in text
    assert "never shown" not in text


def test_a_store_that_is_gone_leaves_the_header_unknown(store: Store) -> None:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        store.engine.dispose()
        with store.writing() as session:
            session.connection().exec_driver_sql("DROP TABLE service_states")
        assert who(client, "/rejections")["UID"] == "unknown"
        assert who(client, "/", 503)["UID"] == "unknown"
