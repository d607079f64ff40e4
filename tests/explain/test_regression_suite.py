"""Postgres's own regression suite: each statement is explained, or refused with a known reason.

A plain run takes the files about SELECT, a longer one (FLUX_TEST_SCALE) every file with queries.
Every table is held to have a policy, so that each preview has edits; Postgres is asked about every
statement, and about every preview.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.explain.catalog import PUBLIC, Catalog, Grant, Policy, Relation
from flux_pg.explain.commands import PLANNED
from flux_pg.explain.document import examine, to_document
from flux_pg.explain.limits import limit_of
from flux_pg.explain.session import Session
from tests.conftest import Server
from tests.explain import regression_suite as suite

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SELECTS = (
    "select", "select_distinct", "select_distinct_on", "select_having", "select_implicit",
    "select_into", "select_parallel", "select_views",
)  # fmt: skip
MORE = (
    "subselect", "union", "case", "limit", "join", "aggregates", "window", "with", "groupingsets",
    "tsrf", "rowsecurity", "returning", "insert", "insert_conflict", "update", "delete", "merge",
    "updatable_views", "rangefuncs", "rowtypes", "arrays", "jsonb", "json", "jsonpath", "strings",
    "copyselect", "portals", "prepare", "privileges", "rules", "inherit", "partition_prune",
    "generated", "identity", "tablesample", "namespace", "expressions", "truncate", "transactions",
    "xml", "numeric", "int8", "timestamptz", "interval", "regex", "incremental_sort", "matview",
)  # fmt: skip
FILES = [SELECTS, *((name,) for name in MORE)] if SCALE > 1 else [SELECTS]
_TEMPORARY = re.compile(r"^(create )(local |global )?temp(orary)? ", re.IGNORECASE)
ROLE = "pg_monitor"
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "USAGE", "EXECUTE")
_GRANTS = tuple(Grant(PUBLIC, privilege) for privilege in _PRIVILEGES)
# The superuser stays one, and each statement is a transaction: what a file makes is there at once.
_NOT_RUN = re.compile(
    r"(begin|start|commit|rollback|end|abort|savepoint|release|copy"
    r"|(re)?set\s+((session|local)\s+)?(role|(session\s+)?authorization))\b", re.IGNORECASE,
)  # fmt: skip


def guarded(catalog: Catalog) -> Catalog:
    """The catalog with a policy on every table, and with every right for everybody."""
    return replace(
        catalog,
        relations=tuple(_guarded(relation) for relation in catalog.relations),
        functions=tuple(replace(each, grants=_GRANTS) for each in catalog.functions),
        namespaces=tuple(replace(each, grants=_GRANTS) for each in catalog.namespaces),
    )


def _guarded(relation: Relation) -> Relation:
    if relation.kind not in ("table", "partitioned table") or not relation.columns:
        return replace(relation, grants=_GRANTS)
    column = '"' + relation.columns[0].name.replace('"', '""') + '"'
    policy = Policy("any_row", "ALL", True, (PUBLIC,), f"({column} IS NOT NULL)")
    return replace(relation, grants=_GRANTS, rls=True, forced=True, policies=(policy,))


class Run:
    """One file, statement by statement, on a database of its own."""

    def __init__(self, connection: psycopg.Connection[Any], counts: Counter[str]) -> None:
        self.connection = connection
        self.counts = counts
        self.wrong: list[str] = []
        self._catalog: Catalog | None = None

    def load(self, path: Path) -> None:
        """Make what a file makes, and explain nothing."""
        for statement in suite.statements(path):
            self._execute(statement.text)

    def explain(self, path: Path) -> None:
        for statement in suite.statements(path):
            self._look(path.stem, statement.text, statement.words)
            is_command = not statement.words or statement.words[0] not in PLANNED
            if is_command or "into" in statement.text.lower().split():
                self._execute(statement.text)

    def _execute(self, sql: str) -> None:
        if _NOT_RUN.match(sql):
            return
        try:
            # Temporary tables are in no catalog that is saved.
            self.connection.execute(_TEMPORARY.sub(r"\1", sql).encode())
            self._catalog = None
        except psycopg.Error:
            pass

    def _look(self, file: str, sql: str, words: tuple[str, ...]) -> None:
        if self._catalog is None:
            self._catalog = guarded(read_catalog(self.connection))
        session = Session.make(ROLE, "postgres", {"sub": "1"})
        found = examine(self._catalog, session, sql, words)
        [told] = to_document(session, None, [found])["statements"]
        assert told["preview"] is None or not (told["unsupported"] or told["refused"])
        planned = found.kind in PLANNED or found.query is not None
        accepted = planned and self._complaint(found.planned) is None
        if told["preview"] is not None:
            self.counts["explained"] += 1
            # Of a command the query inside was planned; the preview is the whole command.
            is_plain = accepted and found.query is None
            complaint = self._complaint(told["preview"]) if is_plain else None
            if complaint is not None:
                self.wrong.append(f"{file}: {sql}\n  {told['preview']}\n  {complaint}")
            return
        reasons = told["unsupported"] or told["refused"]
        unknown = [reason for reason in told["unsupported"] if limit_of(reason) is None]
        if (accepted and not reasons) or unknown:
            self.wrong.append(f"{file}: {sql}\n  {told['error']} {unknown}")
        what = "refused, which Postgres plans" if accepted else "refused"
        self.counts[what] += 1
        for reason in reasons:
            self.counts[f"    {reason}" if accepted else f"  ({reason})"] += 1

    def _complaint(self, sql: str) -> str | None:
        """What Postgres says against a statement, while it would only plan it."""
        with self.connection.transaction(force_rollback=True):
            text = f"explain (generic_plan) {sql}".encode()
            result = self.connection.pgconn.exec_params(text, [])
            if result.status == psycopg.pq.ExecStatus.TUPLES_OK:
                return None
            return result.error_message.decode()


@pytest.fixture
def connection(pg18: Server) -> Iterator[psycopg.Connection[Any]]:
    made = pg18.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        conn.execute("set client_min_messages = error")
        conn.execute("set statement_timeout = '10s'")
        yield conn
    pg18.drop_database(made.name)


@pytest.mark.parametrize(
    "files", [SELECTS, *(((name,)) for name in MORE)] if SCALE > 1 else [SELECTS]
)
def test_each_statement_is_explained_or_refused_with_a_known_reason(
    connection: psycopg.Connection[Any], files: tuple[str, ...]
) -> None:
    place = suite.folder()
    if place is None:
        pytest.skip(
            "Postgres's regression suite is not here: python -m tests.explain.regression_suite"
        )
    counts: Counter[str] = Counter()
    run = Run(connection, counts)
    run.load(place / "test_setup.sql")
    for file in files:
        run.explain(place / f"{file}.sql")
    for what, count in counts.most_common():
        print(f"{count:6} {what}")
    assert run.wrong == [], "\n\n".join(run.wrong)
