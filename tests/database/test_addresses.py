"""Which attempts a connection string means."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from flux_pg.database.addresses import describe, list_attempts

HOSTS = {"one": ["10.0.0.1", "10.0.0.2"], "two": ["10.0.1.1"]}


async def resolve(host: str, port: str) -> list[str]:
    if host not in HOSTS:
        raise OSError("Name or service not known")
    return HOSTS[host]


async def addresses(conninfo: str) -> list[object]:
    attempts, _ = await list_attempts(conninfo_to_dict(conninfo), resolve)
    return [attempt.get("hostaddr") for attempt in attempts]


async def test_every_address_of_every_host_is_an_attempt() -> None:
    attempts, failures = await list_attempts(conninfo_to_dict("host=one,two port=1,2"), resolve)
    assert [(a["hostaddr"], a["port"]) for a in attempts] == [
        ("10.0.0.1", "1"),
        ("10.0.0.2", "1"),
        ("10.0.1.1", "2"),
    ]
    assert [describe(a) for a in attempts] == ["one:1", "one:1", "two:2"]
    assert failures == []


@pytest.mark.parametrize(
    ("conninfo", "expected"),
    [
        ("host=/run/postgresql", [None]),
        ("dbname=x", [None]),
        ("host=127.0.0.1", ["127.0.0.1"]),
        ("host=::1", ["::1"]),
        ("host=named hostaddr=10.9.9.9", ["10.9.9.9"]),
    ],
)
async def test_what_needs_no_name_service_does_not_ask_it(
    conninfo: str, expected: list[str | None]
) -> None:
    assert await addresses(conninfo) == expected


async def test_host_without_an_address_is_a_failure_beside_the_others() -> None:
    attempts, failures = await list_attempts(conninfo_to_dict("host=nowhere,two"), resolve)
    assert [a["hostaddr"] for a in attempts] == ["10.0.1.1"]
    assert "'nowhere'" in str(failures[0])


async def test_prefer_standby_tries_every_host_as_one_first() -> None:
    conninfo = "host=one target_session_attrs=prefer-standby"
    attempts, _ = await list_attempts(conninfo_to_dict(conninfo), resolve)
    assert [a.get("target_session_attrs") for a in attempts] == ["standby", "standby", None, None]


async def test_a_vanished_peer_is_noticed_unless_told_otherwise() -> None:
    attempts, _ = await list_attempts(conninfo_to_dict("host=two tcp_user_timeout=5"), resolve)
    assert attempts[0]["tcp_user_timeout"] == "5"
    assert attempts[0]["keepalives_idle"] == 30
