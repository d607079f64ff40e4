"""Statements from every corner of the grammar are explained, or refused with a reason.

And more than that: wherever Postgres accepts a statement, its preview is SQL that Postgres accepts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.database.sql_split import split
from flux_pg.explain.catalog import Catalog, from_json
from flux_pg.explain.commands import PLANNED
from flux_pg.explain.document import Statement, examine, to_document
from flux_pg.explain.limits import limit_of
from flux_pg.explain.session import Session
from tests.conftest import Server

STATEMENTS = Path(__file__).parent / "statements"
_SCHEMA = """
create table docs (id int primary key, owner text, flag boolean, tags text[], data jsonb,
    made timestamptz);
create table notes (id int primary key, doc int, author text);
create table teams (id int primary key, parent int, tag text);
create table "Weird Table" ("Weird Col" int primary key);
create view his_view as select id, owner from docs;
create view mine_view with (security_invoker) as select id, owner from docs;
create function mine_count() returns bigint language sql stable as 'select count(*) from docs';
"""


@pytest.fixture
def connection(pg18: Server) -> Iterator[psycopg.Connection[Any]]:
    made = pg18.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        yield conn
    pg18.drop_database(made.name)


def secure(connection: psycopg.Connection[Any]) -> Catalog:
    """Row-level security on every table, with a policy that looks at every row."""
    tables = connection.execute(
        "select c.oid::regclass::text, a.attname from pg_class c join pg_attribute a"
        " on a.attrelid = c.oid and a.attnum = 1"
        " where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace"
    ).fetchall()
    for table, column in tables:
        connection.execute(f"alter table {table} enable row level security")
        connection.execute(f'create policy p on {table} using ("{column}" > 0)')
    connection.execute("grant all on all tables in schema public to pg_monitor")
    return read_catalog(connection)


def look(catalog: Catalog, file: str) -> Iterator[Statement]:
    session = Session.make("pg_monitor", "postgres", {"sub": "1"})
    for statement in split((STATEMENTS / file).read_text()):
        yield examine(catalog, session, statement.text, statement.words)


def planned(connection: psycopg.Connection[Any], sql: str) -> str | None:
    """What Postgres says against a statement, while it would only plan it."""
    with connection.transaction(force_rollback=True):
        result = connection.pgconn.exec_params(f"explain (generic_plan) {sql}".encode(), [])
        if result.status == psycopg.pq.ExecStatus.TUPLES_OK:
            return None
        return result.error_message.decode()


def test_the_queries_of_tpc_h_are_explained(connection: psycopg.Connection[Any]) -> None:
    connection.execute((STATEMENTS / "tpch_schema.sql").read_text())
    found = list(look(secure(connection), "tpch_queries.sql"))
    assert len(found) == 22
    for number, statement in enumerate(found, 1):
        assert statement.preview.unsupported == [], number
        assert statement.preview.refused == [], number
        assert statement.preview.applied, number
        assert planned(connection, str(statement.preview.sql)) is None, number


def test_every_statement_is_explained_or_refused_with_a_reason(
    connection: psycopg.Connection[Any],
) -> None:
    connection.execute(_SCHEMA)
    catalog = from_json(secure(connection).to_json())
    counts: Counter[str] = Counter()
    wrong = []
    for statement in look(catalog, "grammar.sql"):
        document = to_document(Session("pg_monitor", "postgres"), None, [statement])
        [told] = document["statements"]
        assert told["preview"] is None or not (told["unsupported"] or told["refused"])
        if told["preview"] is None:
            assert told["unsupported"] or told["refused"] or told["error"], statement.sql
            counts["refused with a reason"] += 1
            assert all(limit_of(reason) for reason in told["unsupported"]), told["unsupported"]
            reasons = "; ".join([*told["unsupported"], *told["refused"]])
            if statement.kind in PLANNED and planned(connection, statement.sql) is None:
                print(f"{statement.sql}\n    {reasons}")
            continue
        counts["explained"] += 1
        if planned(connection, statement.sql) is None:
            complaint = planned(connection, told["preview"])
            if complaint is not None:
                wrong.append((statement.sql, told["preview"], complaint))
    print(counts)
    assert wrong == []
    assert counts["explained"] > 180
