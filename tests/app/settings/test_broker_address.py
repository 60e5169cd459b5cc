"""Brokers as operators have them, read from one address."""

from __future__ import annotations

import pytest

from app.settings.broker import broker_address


@pytest.mark.parametrize("url", ["redis://user:p%40@redis:6379/0", "memory://", "cache+memory://"])
def test_a_plain_address_is_left_as_it_is(url: str) -> None:
    found = broker_address(url)
    assert found.url == found.beat_url == url
    assert found.transport_options == found.beat_options == {}


def test_tls_checks_the_servers_certificate_unless_told_otherwise() -> None:
    assert broker_address("rediss://redis/0").url == "rediss://redis/0?ssl_cert_reqs=required"
    own = "rediss://redis/0?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/c.pem&ssl_keyfile=/etc/k.pem"
    assert broker_address(own).url == f"{own}&ssl_cert_reqs=required"
    assert broker_address("rediss://redis/0?ssl_cert_reqs=none").url == "rediss://redis/0?ssl_cert_reqs=none"


def test_sentinels_share_login_database_and_master() -> None:
    url = "sentinel://user:p%40@one:26380;sentinel://two/3?master_name=validator"
    found = broker_address(url)
    assert found.url == "sentinel://user:p%40@one:26380/3;sentinel://user:p%40@two:26379/3"
    assert found.transport_options == {"master_name": "validator"}
    assert found.beat_url == "redis-sentinel://"
    assert found.beat_options == {
        "sentinels": [("one", 26380), ("two", 26379)],
        "service_name": "validator",
        "db": 3,
        "username": "user",
        "password": "p@",
    }


def test_sentinels_get_the_password_they_lack() -> None:
    url = "sentinel://one;sentinel://two?master_name=m"
    assert broker_address(url, "p@").url == "sentinel://:p%40@one:26379/0;sentinel://:p%40@two:26379/0"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("amqp://host", "not scheme 'amqp'"),
        ("redis://one;redis://two", "expected"),
        ("redis://host/0?ssl_ca_certs=/etc/ca.pem", "must begin with rediss://"),
        ("rediss://host/0?ssl_cert_reqs=sometimes", "required, optional or none"),
        ("sentinel://one;sentinel://two", "master_name"),
        ("sentinel://one/0?master_name=m&ssl=1", "no other option"),
        ("sentinel://one/0;sentinel://two/1?master_name=m", "one database number"),
        ("sentinel://;sentinel://two/1?master_name=m", "names a host"),
    ],
)
def test_what_cannot_work_is_refused_with_what_should_be(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        broker_address(url)
