"""Which addresses a connection string means, in the order to try them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import shuffle

from psycopg._conninfo_utils import get_param, is_ip_address, split_attempts
from psycopg.abc import ConnDict
from psycopg.errors import OperationalError

Resolve = Callable[[str, str], Awaitable[list[str]]]

# A peer that vanished without a word is noticed within a minute also where nobody asked for it;
# libpq ignores these for unix sockets.
_TCP_DEFAULTS = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


async def list_attempts(
    params: ConnDict, resolve: Resolve
) -> tuple[list[ConnDict], list[OperationalError]]:
    """The parameters of each attempt to make, and why some hosts gave none.

    libpq, left to itself, would resolve names by blocking the loop, and does not apply
    `connect_timeout` when driven without blocking; so, like psycopg, one attempt is one address.

    Args:
        params: As parsed from the connection string.
        resolve: Host and port to addresses; may raise OSError.
    """
    prefer_standby = get_param(params, "target_session_attrs") == "prefer-standby"
    if prefer_standby:
        params = {k: v for k, v in params.items() if k != "target_session_attrs"}
    attempts: list[ConnDict] = []
    failures: list[OperationalError] = []
    for named in split_attempts({**_TCP_DEFAULTS, **params}):
        try:
            attempts.extend(await _resolve_one(named, resolve))
        except OSError as exc:
            failures.append(OperationalError(f"cannot resolve host {named.get('host')!r}: {exc}"))
    if get_param(params, "load_balance_hosts") == "random":
        shuffle(attempts)
    if prefer_standby:  # first every host as a standby, then whatever it is
        attempts = [{**a, "target_session_attrs": "standby"} for a in attempts] + attempts
    return attempts, failures


async def _resolve_one(attempt: ConnDict, resolve: Resolve) -> list[ConnDict]:
    host = get_param(attempt, "host")
    if not host or host.startswith("/") or get_param(attempt, "hostaddr"):
        return [attempt]
    if is_ip_address(host):
        return [{**attempt, "hostaddr": host}]
    found = await resolve(host, get_param(attempt, "port") or "5432")
    return [{**attempt, "hostaddr": address} for address in found]


def describe(attempt: ConnDict) -> str:
    """`host:port`, for messages."""
    where = ":".join(str(attempt[key]) for key in ("host", "port") if attempt.get(key))
    return where or "the default socket"
