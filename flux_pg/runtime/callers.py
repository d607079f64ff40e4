"""Whom a transaction is done for, as Postgres is told of it.

Law: a function's own SQL can neither say who the caller is nor learn what says it. Claims are
signed with a key that the runtime reads with a login of its own; the server checks the signature
when the transaction begins and seals the claims to that transaction of that session
(`flux.assume`). A caller's login may write no record: what the runtime has to do in its
transactions goes through one door, with a token for the request and what is to be done
(`flux.for_caller`). Signatures and tokens travel as parameters only, and never to a named prepared
statement: a function's SQL could have put one of its own under that name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import time
from typing import Any, cast

import psycopg

from ..config_auth import url_variable
from ..database.pipeline import FixedQuery, FixedStatement, Sendable, Statement, run_batch
from ..database.pool import Pool
from ..database.roles import CALLER_FACTS, CallerFacts
from ..errors import FluxError, UsageError
from ..records import FunctionSpec, Identity

SERVICE = "service"
"""The caller that is trusted: it uses the login of the runtime itself."""

CONNECT_S = 5.0
"""How long the first connection of a login may take."""

_FACTS = Statement(CALLER_FACTS)
_SKEW_S = 300
"""How far the clocks of this machine and of the server may be apart."""

_CONTEXT = FixedQuery(
    "select pg_catalog.pg_current_snapshot()::pg_catalog.text,"
    " pg_catalog.set_config('flux.request_id', $1::pg_catalog.text, true),"
    " pg_catalog.set_config('flux.span_id', $2, true),"
    " pg_catalog.set_config('statement_timeout', $3, true),"
    " flux.assume($1::pg_catalog.uuid, $4, $5, $6)",
    6,
)
_COLLECTS, _ENQUEUES = "collect_attempted", "enqueue"
_DOOR = FixedQuery("select flux.for_caller($1, $2, $3, $4)", 4)
_COLLECT = FixedQuery(
    "select flux.for_caller($1::pg_catalog.text::pg_catalog.uuid, $2, 'collect_attempted',"
    " array[$1::pg_catalog.text])",
    2,
)
_COLLECT_AFTER = FixedQuery(
    "select c.changes, c.changes::pg_catalog.json -> -1 ->> 'seq' from (select"
    " flux.for_caller($1::pg_catalog.text::pg_catalog.uuid, $2, 'collect_attempted',"
    " array[$1::pg_catalog.text, $3]) as changes"
    ") as c",
    3,
)
_PUSH = "select flux.for_caller(%s, %s, 'enqueue', %s)"


class Signer:
    """Signs as `flux.sign` does (HMAC with SHA-256). `key`: its inner and its outer block."""

    def __init__(self, key: bytes) -> None:
        self._inner, self._outer = sha256(key[:64]), sha256(key[64:])

    def sign(self, *parts: str) -> str:
        """The signature of a message of several lines."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update("\n".join(parts).encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class Caller:
    """One caller, for the transactions of one run.

    Args:
        identity: Who it is.
        signer: Signs for it.
        login: The name of the caller's role if it has a login of its own, which may do nothing for
            the runtime; `service` for the runtime's own.
    """

    __slots__ = ("_claims", "_signer", "is_restricted", "login")

    def __init__(self, identity: Identity, signer: Signer, login: str) -> None:
        # ASCII, so that both sides sign the same bytes whatever the encoding of the database.
        self._claims = json.dumps(identity.claims, separators=(",", ":"), allow_nan=False)
        self._signer = signer
        self.login = login
        self.is_restricted = login != SERVICE

    def context(self, request_id: str, span: str | None, timeout_ms: int) -> FixedStatement:
        """What begins a transaction: which request, which span, how long, and for whom."""
        expires = str(int(time()) + timeout_ms // 1000 + _SKEW_S)
        signature = self._signer.sign("assume", request_id, expires, self._claims)
        return _CONTEXT.bind(request_id, span, str(timeout_ms), self._claims, expires, signature)

    def _token(self, request_id: str, operation: str) -> str:
        return self._signer.sign("runtime", request_id, operation)

    def collect(self, request_id: str) -> FixedStatement:
        """Reads back what a request changed."""
        return _COLLECT.bind(request_id, self._token(request_id, _COLLECTS))

    def collect_after(self, request_id: str, seq: str) -> FixedStatement:
        """Reads back what it changed after `seq`, and the newest seq."""
        return _COLLECT_AFTER.bind(request_id, self._token(request_id, _COLLECTS), seq)

    def through(self, statement: Sendable) -> Sendable:
        """A statement of the recorder, for the caller's login: `select flux.NAME($1, ...)`."""
        fixed = cast(FixedStatement, statement)
        operation = fixed.query.text.partition(b"flux.")[2].partition(b"(")[0].decode()
        values = cast(Sequence[bytes | None], fixed.values)
        request_id = cast(bytes, values[0]).decode()
        array = b"{" + b",".join(map(_element, values)) + b"}"
        return FixedStatement(
            _DOOR,
            [
                request_id.encode(),
                self._token(request_id, operation).encode(),
                operation.encode(),
                array,
            ],
        )

    def push(self, request_id: str, parameters: Sequence[Any]) -> Statement:
        """Enqueues a job in the caller's transaction; parameters as `Push.parameters` has them."""
        given = list(parameters)
        if given[2] is not None:
            given[2] = f"{given[2]} seconds"
        return Statement(_PUSH, (request_id, self._token(request_id, _ENQUEUES), given))


class Callers:
    """The callers of a deployment: their signer, and a pool for each role that has a login.

    Args:
        key: What signs for them (`flux.claims_key`).
        pools: By role; a pool opens no connection before it is asked for one.
    """

    def __init__(self, key: bytes, pools: Mapping[str, Pool]) -> None:
        self._signer = Signer(key)
        self._pools = pools

    def admit(self, identity: Identity, spec: FunctionSpec) -> tuple[Caller, Pool | None]:
        """Whom a run is done for, and where: None for the runtime's own login."""
        if SERVICE in (identity.role, spec.role):
            return Caller(identity, self._signer, SERVICE), None
        return Caller(identity, self._signer, identity.role), self._pools[identity.role]

    async def check(self, logins: Mapping[str, str]) -> None:
        """See that each login can connect, and can do nothing that a caller must not.

        Args:
            logins: The login that each role should have, for whoever has to make it.

        Raises:
            UsageError: It is not so; what mends it.
        """
        for role, pool in self._pools.items():
            try:
                async with pool.connection(CONNECT_S) as conn:
                    batch = (await run_batch(conn, [_FACTS])).check()
            except (psycopg.Error, FluxError) as error:
                told = str(error.__cause__ or error).strip().replace("\n", " ")
                raise UsageError(
                    f"callers of role {role} cannot log in: {told}",
                    f"As a superuser: create role {logins[role]} login; grant flux_caller to "
                    f"{logins[role]}; and set {url_variable(role)} if it needs a password.",
                    code="caller-login",
                ) from error
            problem = CallerFacts(*batch[0].rows[0]).problem()
            if problem is not None:
                raise UsageError(*problem, code="caller-login")

    async def aclose(self) -> None:
        """Close the pools."""
        for pool in self._pools.values():
            await pool.aclose()


def _element(value: bytes | None) -> bytes:
    """One element of an array literal."""
    if value is None:
        return b"NULL"
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def identity_from(recorded: Mapping[str, Any] | None) -> Identity | None:
    """Who a recorded request was done for, from what is shown of it."""
    if not recorded or "role" not in recorded:
        return None
    return Identity(role=recorded["role"], claims=dict(recorded.get("claims") or {}))
