"""What every test shares: settings of its own, and a store on both databases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.settings import Settings, get_settings
from app.store import database
from app.store.database import Store
from tests.stores import migrated, replace_by_migrated
from tests.sweep import swept

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parent.parent / "app" / "demo" / "recording"


@pytest.fixture(scope="module", autouse=True)
def own_garbage() -> Iterator[None]:
    """No module is blamed for a socket that another left to the collector."""
    with swept():
        yield


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads the developer's environment, ``.env`` or store."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    database.close_stores()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL 16 from pip; yields the address of its maintenance database."""
    folder = tmp_path_factory.mktemp("postgresql")
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import pgserver

    # the server runs as a user of its own when the tests run as root
    for parent in (folder, *folder.parents):
        if parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    server = pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store, on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    import psycopg

    maintenance = request.getfixturevalue("postgresql_server")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield maintenance.replace("/postgres?", f"/{name}?")


@pytest.fixture
def store(request: pytest.FixtureRequest, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A migrated store, which is also the one the code under test finds through its settings."""
    monkeypatch.setenv("DATABASE_URL", store_url)
    get_settings.cache_clear()
    if not store_url.startswith("sqlite"):
        name = str(make_url(store_url).database)
        replace_by_migrated(request.getfixturevalue("postgresql_server"), name)
    return migrated(database.get_store())


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Libraries that keep caches under HOME keep them in a folder of this run."""
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if before is not None:
        os.environ["HOME"] = before
