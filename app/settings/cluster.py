"""What the processes of one cluster share: broker, store, timing, logs and their own dashboards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from app.settings.broker import BrokerAddress, broker_address, with_password
from app.settings.concern import Concern
from app.settings.values import ClusterName, Duration, Host, Port, WebAddress


class ClusterSettings(Concern):
    """Broker, store, and what watches them."""

    data_dir: Path = Field(Path("data"), description="store, embedded Redis, logs and downloads")
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey that carries the tasks"
    )
    broker_password: SecretStr | None = Field(None, description="put into BROKER_URL where it holds none")
    result_backend: SecretStr | None = Field(None, description="where task results go; BROKER_URL when empty")
    cluster_name: ClusterName = Field(
        "default",
        description="shared by every process of one cluster; every key in Redis begins with it",
    )
    database_url: SecretStr | None = Field(
        None, description="the store: sqlite:///… or postgresql://…; DATA_DIR/validator.sqlite when empty"
    )
    database_password: SecretStr | None = Field(None, description="put into DATABASE_URL where it holds none")
    cpu_concurrency: int | None = Field(
        None, ge=1, le=1024, description="processes of a cpu worker; all cores when empty"
    )
    visibility_timeout: Duration = Field(
        timedelta(hours=3),
        description="when Redis hands a lost worker's message to another; above every limit",
    )
    reconcile_every: Duration = Field(timedelta(seconds=15), description="how often the reconciler looks")
    reconcile_after: Duration = Field(
        timedelta(seconds=60),
        description="how long work may stand still before the reconciler sends it again",
    )

    flower_address: Host = Field(
        "127.0.0.1", description="address Flower listens on; beyond loopback it needs FLOWER_BASIC_AUTH"
    )
    flower_port: Port = Field(5555, description="port of the Flower dashboard")
    flower_basic_auth: SecretStr | None = Field(
        None, description="Flower's user:password, several separated by commas; open to this machine when empty"
    )
    flower_url: WebAddress | None = Field(
        None, description="where the pages link to Flower; its own address when empty"
    )
    metrics_host: Host = Field("127.0.0.1", description="address that workers, beat and the API serve metrics on")
    metrics_port: int = Field(
        9540,
        ge=0,
        le=65529,
        description="first metrics port: chain; cpu +1, gpu +2, beat +3, mixed worker +4, API +5, scoring API +6; "
        "0 turns metrics off",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")
    log_format: Literal["human", "json"] = Field("human", description="human: aligned text; json: an object per line")

    @field_validator("broker_url", "result_backend")
    @classmethod
    def _redis_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        broker_address(url.get_secret_value())
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
        if url is None:
            return None
        scheme = urlsplit(url.get_secret_value()).scheme.split("+")[0]
        if scheme not in {"sqlite", "postgresql", "postgres"}:
            raise ValueError(f"expected sqlite:///file or postgresql://user@host/name, not scheme {scheme!r}")
        return url

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store, with the driver that is installed."""
        if self.database_url is None:
            return f"sqlite:///{(self.data_dir.expanduser().resolve() / 'validator.sqlite')}"
        url = with_password(self.database_url.get_secret_value(), _shown(self.database_password))
        scheme, rest = url.split(":", 1)
        return f"postgresql+psycopg:{rest}" if scheme in {"postgresql", "postgres"} else url

    @property
    def broker(self) -> BrokerAddress:
        """The broker's address, password included."""
        return broker_address(self.broker_url.get_secret_value(), _shown(self.broker_password))

    @property
    def key_prefix(self) -> str:
        """What every key of this cluster in Redis begins with: several clusters may share one database."""
        return f"{self.cluster_name}:"

    @property
    def beat_prefix(self) -> str:
        """What the keys of beat's timetable and lock begin with."""
        return f"{self.key_prefix}redbeat:"

    @property
    def results(self) -> BrokerAddress:
        """Where task results go: the broker's Redis unless ``RESULT_BACKEND`` says otherwise."""
        return broker_address(self.result_backend.get_secret_value()) if self.result_backend else self.broker


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
