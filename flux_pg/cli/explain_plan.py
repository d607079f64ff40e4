"""Ask Postgres for a plan as another role, in a transaction that is read only and rolled back.

What remains: functions that are marked IMMUTABLE or STABLE may be called while Postgres plans,
since it folds constants. In a read-only transaction they cannot write to the database, nor draw
from a sequence; a function in an untrusted language could still reach outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as count_up
from itertools import pairwise

import psycopg
from psycopg import sql as composed
from psycopg.pq import ExecStatus
from sqlglot.errors import SqlglotError

from flux_pg.cli.session import Database
from flux_pg.explain.document import Statement
from flux_pg.explain.plan import Node
from flux_pg.explain.session import Session
from flux_pg.explain.text import Text

_numbers = count_up(1)
_LIMIT_S, _RUN_LIMIT_S, _LOCK_LIMIT_S = 10, 60, 5


class Planner:
    """Plans statements on one connection.

    Args:
        database: A connection in autocommit mode.
        session: As whom, and with which settings.
        analyze: Run the statements, and roll them back.
    """

    def __init__(self, database: Database, session: Session, *, analyze: bool = False) -> None:
        self._database = database
        self._session = session
        self._analyze = analyze

    def plan(self, statement: Statement) -> None:
        """Put the plan, or why there is none, into a statement."""
        if self._analyze and _parameters(statement.planned):
            statement.plan_note = "not run: --analyze needs values in place of parameters"
            return
        try:
            with as_role(self._database, self._session, writable=self._analyze):
                statement.plan = plan_of(self._database, statement.planned, analyze=self._analyze)
            _put_planned_away(statement)
        except NotPlanned as failure:
            _put_failure(statement, failure.error, failure.prefix)
        except psycopg.Error as error:
            _put_failure(statement, error, 0)


def _put_planned_away(statement: Statement) -> None:
    """Postgres asks for no right to what it has left out of the plan, as behind `where false`."""
    found = statement.preview
    found.unsupported += [f"{text}; but Postgres plans without it" for text in found.refused]
    found.refused.clear()


class NotPlanned(Exception):
    """Postgres made no plan: its error, and how much stood before the statement's own text."""

    def __init__(self, error: psycopg.Error, prefix: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.prefix = prefix


def plan_of(database: Database, sql: str, *, analyze: bool = False) -> Node:
    """The plan of one statement in the transaction that is open; without values for parameters.

    Raises:
        NotPlanned: Postgres refuses; the transaction is aborted then.
    """
    explain = f"explain (format json, verbose, {'analyze' if analyze else 'costs'}) "
    count = _parameters(sql)
    name = f"flux_explained_{next(_numbers)}"  # it outlives the transaction
    prefix = f"prepare {name} as " if count else explain
    try:
        answer = _one(database, prefix + sql)
        if count:
            database.execute("set local plan_cache_mode = force_generic_plan")
            values = ", ".join(["null"] * count)
            answer = _one(database, f"{explain}execute {name} ({values})")
    except psycopg.Error as error:
        raise NotPlanned(error, len(prefix)) from None
    plan: Node = json.loads(answer)[0]["Plan"]
    return plan


def _one(database: Database, sql: str) -> bytes:
    """Send one statement: the extended protocol takes no more, whatever the text says."""
    result = database.pgconn.exec_params(sql.encode(), [])
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise psycopg.errors.error_from_result(result)
    return (result.get_value(0, 0) or b"") if result.ntuples else b""


def _parameters(sql: str) -> int:
    """How many parameters a statement has: the highest of `$1`, `$2`, …"""
    text = Text(sql)
    try:
        tokens = text.tokens
    except SqlglotError:
        return 0
    pairs = pairwise(tokens)
    return max((int(b.text) for a, b in pairs if a.text == "$" and b.text.isdigit()), default=0)


def _put_failure(statement: Statement, error: psycopg.Error, prefix: int) -> None:
    """Say in a statement why Postgres made no plan for it."""
    message = error.diag.message_primary or str(error)
    if error.sqlstate == "42501" and message.startswith("permission denied to set role"):
        statement.plan_note = f"no plan: {message}"
    elif error.sqlstate in ("42501", "42P17"):
        statement.plan_note = f"Postgres refuses: {message}"
        statement.preview.refused = statement.preview.refused or [message]
        statement.preview.sql = None
    elif (error.sqlstate or "")[:2] in ("42", "22", "0A"):
        statement.error = {
            "message": message, "sqlstate": error.sqlstate, "hint": error.diag.message_hint,
        }  # fmt: skip
        if error.diag.statement_position is not None:
            position = int(error.diag.statement_position) - 1 - prefix
            if statement.query_at is not None:
                statement.error["position"] = position + statement.query_at
        statement.preview.sql = None
        statement.plan_note = "Postgres does not accept the statement"
    else:
        statement.plan_note = f"no plan: {message}"


@contextmanager
def as_role(database: Database, session: Session, *, writable: bool = False) -> Iterator[None]:
    """A transaction as a role with its settings, read only unless asked; it is rolled back."""
    with database.transaction(force_rollback=True):
        if not writable:
            database.execute("set transaction read only")
        limits = {
            "statement_timeout": f"{_RUN_LIMIT_S if writable else _LIMIT_S}s",
            "lock_timeout": f"{_LOCK_LIMIT_S}s",
        }
        for name, value in {**limits, **session.settings}.items():
            database.execute("select set_config(%s, %s, true)", (name, value))
        if session.claims is not None:
            database.execute("select flux.try_claims(%s)", (session.claims,))
        if session.role != session.login:
            database.execute(
                composed.SQL("set local role {}").format(composed.Identifier(session.role))
            )
        yield
