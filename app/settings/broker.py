"""Where the broker is: one Redis or Valkey, with or without TLS, or the one that Sentinel names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

_SENTINEL_PORT: Final = 26379
_MASTER: Final = "master_name"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """An address as Celery takes it (``url``), and what it does not take from there.

    ``master``, ``sentinels`` and the login are empty where no Sentinel is asked.
    """

    url: str
    master: str | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    database: int = 0
    login: tuple[tuple[str, str], ...] = ()

    @property
    def transport_options(self) -> dict[str, Any]:
        """What kombu and Celery's result backend need besides the address."""
        return {_MASTER: self.master} if self.master else {}

    @property
    def beat_url(self) -> str:
        """The address as redbeat takes it."""
        return "redis-sentinel://" if self.master else self.url

    @property
    def beat_options(self) -> dict[str, Any]:
        """What redbeat needs besides the address."""
        if not self.master:
            return {}
        return {"sentinels": list(self.sentinels), "service_name": self.master, "db": self.database, **dict(self.login)}


def broker_address(url: str, password: str | None = None) -> BrokerAddress:
    """Read an address; ``password`` is for one that holds none.

    ``rediss://`` checks the server's certificate unless ``ssl_cert_reqs`` says otherwise; redis-py's other options,
    such as ``ssl_ca_certs``, may follow after ``?``. Sentinels are separated by semicolons, and ``master_name`` is the
    master's name: ``sentinel://user:password@one:26379;sentinel://two:26379/0?master_name=validator``.

    Raises:
        ValueError: with what it should be.
    """
    parts = [urlsplit(part) for part in url.split(";")]
    schemes = {part.scheme for part in parts}
    if schemes == {"sentinel"}:
        return _sentinel_address(url, password)
    if len(parts) > 1 or not schemes <= {"redis", "rediss", "memory", "cache+memory"}:
        raise ValueError(
            "expected redis://host:6379/0, rediss://… or sentinel://host:26379;sentinel://…?master_name=…, "
            f"not scheme {' and '.join(sorted(map(repr, schemes)))}"
        )
    url = with_password(url, password)
    part = urlsplit(url)
    query = dict(parse_qsl(part.query))
    if part.scheme == "rediss":
        query.setdefault("ssl_cert_reqs", "required")
        if query["ssl_cert_reqs"] not in {"required", "optional", "none"}:
            raise ValueError("ssl_cert_reqs is required, optional or none")
    elif any(name.startswith("ssl_") for name in query):
        raise ValueError("TLS is asked for, so the address must begin with rediss://")
    return BrokerAddress(urlunsplit(part._replace(query=urlencode(query, safe="/"))) if query else url)


def with_password(url: str, password: str | None) -> str:
    """The address with the password in it; unchanged where it has one, or no host to give it to."""
    parts = urlsplit(url)
    if not password or parts.password is not None or not parts.hostname:
        return url
    host = parts.netloc.rpartition("@")[2]
    login = f"{parts.username or ''}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}"))


def _sentinel_address(url: str, password: str | None) -> BrokerAddress:
    parts = [urlsplit(part) for part in url.split(";")]
    query = {name: value for part in parts for name, value in parse_qsl(part.query)}
    if set(query) != {_MASTER}:
        raise ValueError("a sentinel:// address ends in ?master_name=…, the name of the master, and no other option")
    if not all(part.hostname for part in parts):
        raise ValueError("each part of a sentinel:// address names a host")
    databases = {part.path.strip("/") for part in parts} - {""}
    if len(databases) > 1 or not all(database.isdigit() for database in databases):
        raise ValueError("a sentinel:// address ends in one database number")
    database = int(databases.pop()) if databases else 0
    login = {
        name: unquote(value)
        for part in parts
        for name, value in (("username", part.username), ("password", part.password))
        if value
    }
    if password:
        login.setdefault("password", password)
    sentinels = tuple((str(part.hostname), part.port or _SENTINEL_PORT) for part in parts)
    user = quote(login.get("username", ""), safe="")
    prefix = f"{user}:{quote(login['password'], safe='')}@" if "password" in login else ""
    plain = ";".join(f"sentinel://{prefix}{host}:{port}/{database}" for host, port in sentinels)
    return BrokerAddress(plain, query[_MASTER], sentinels, database, tuple(login.items()))
