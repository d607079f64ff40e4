"""COPY, CALL and statements around a query, compared with what Postgres does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.explain.catalog import Catalog
from flux_pg.explain.document import Statement, columns, examine, writes
from flux_pg.explain.session import Session
from tests.conftest import Server

ROLE = "pg_monitor"
_SCHEMA = f"""
create table open (id int primary key, body text, twice int generated always as (id * 2) stored);
create table kept (id int primary key, owner text);
create table signed (id int, who text default current_user);
create table hidden (id int, secret text);
create table parts (id int) partition by range (id);
create table parts_1 partition of parts for values from (0) to (100);
create table made (id int);
create view seen as select * from open;
create materialized view stored as select 1 as id;
create function touch() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger touch before insert on open for each row execute function touch();
create procedure sweep() language sql security definer as 'delete from kept';
create procedure own() language plpgsql as $$ begin perform 1; end $$;
revoke execute on procedure own() from public;
alter table kept enable row level security;
create policy mine on kept using (owner = current_user);
insert into kept values (1, '{ROLE}'), (2, 'other');
insert into open values (1, 'a'), (2, 'b');
create schema closed;
grant create on schema public to {ROLE};
grant all on all tables in schema public to {ROLE};
revoke all on hidden from {ROLE};
grant select (id), insert (id) on hidden to {ROLE};
"""


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[psycopg.Connection[Any]]:
    made = server.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        conn.execute(_SCHEMA)
        yield conn
    server.drop_database(made.name)


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return read_catalog(connection)


def look(catalog: Catalog, sql: str) -> Statement:
    first = sql.split(maxsplit=1)[0].lower()
    return examine(catalog, Session.make(ROLE, "postgres", None), sql, (first,))


def copied(connection: psycopg.Connection[Any], sql: str, role: str | None) -> Any:
    """What COPY … TO gives, or why not; COPY … FROM ends at once."""
    with connection.transaction(force_rollback=True):
        if role is not None:
            connection.execute(f"set local role {role}")
        try:
            with connection.transaction(), connection.cursor().copy(sql.encode()) as copy:
                return b"".join(bytes(each) for each in copy) if " to " in sql else "in"
        except psycopg.Error as error:
            return error


@pytest.mark.parametrize(
    "sql",
    [
        "copy open to stdout", "copy open (body, id) to stdout with (format csv)",
        "copy public.open to stdout", "copy open (id, twice) to stdout",
        "copy kept to stdout", "copy kept (owner) to stdout (header, format csv)",
        "copy hidden to stdout", "copy hidden (id) to stdout", "copy seen to stdout",
        "copy parts to stdout", "copy parts_1 to stdout", "copy nothing to stdout",
        "copy (select * from kept order by id) to stdout",
        "copy (select secret from hidden) to stdout",
        "copy (table kept) to stdout", "copy (values (1), (2)) to stdout",
        "copy (delete from kept returning id) to stdout",
        "copy (with k as (select id from kept) select * from k) to stdout",
        "copy (select 1) to '/nowhere'", "copy open to program 'true'", "copy open to '/nowhere'",
        "copy open from stdin", "copy open (id) from stdin", "copy kept from stdin",
        "copy hidden from stdin", "copy hidden (id) from stdin", "copy seen from stdin",
        "copy stored from stdin", "copy parts from stdin", "copy signed from stdin",
        "copy signed (id) from stdin", "copy open from '/nowhere'",
    ],
)  # fmt: skip
def test_copy_does_what_its_preview_does(
    connection: psycopg.Connection[Any], catalog: Catalog, sql: str
) -> None:
    found = look(catalog, sql)
    original = copied(connection, sql, ROLE)
    preview = found.preview
    if preview.refused:
        assert isinstance(original, psycopg.Error), preview.refused
        assert preview.sql is None
    elif preview.unsupported:
        assert "nothing" in sql or "signed (id)" in sql, preview.unsupported
    else:
        assert isinstance(original, (str, bytes)), original
        assert copied(connection, str(preview.sql), None) == original, preview.sql


def test_copy_tells_what_it_reads_and_writes(catalog: Catalog) -> None:
    assert columns(look(catalog, "copy kept (owner) to stdout"))["read"] == ["public.kept.owner"]
    coming = look(catalog, "copy open (id) from stdin")
    assert columns(coming) == {"read": [], "written": ["public.open.id"]}
    [write] = writes(coming)
    assert (write["op"], [each["name"] for each in write["triggers"]]) == ("INSERT", ["touch"])
    assert [each.policy.name for each in look(catalog, "copy kept to stdout").preview.applied
            if each.policy] == ["mine"]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("explain select id from kept", None), ("explain (analyze, costs off) table kept", None),
        ("explain analyze verbose select id from kept", None),
        ("explain (select id from kept)", None),
        ("declare c no scroll cursor with hold for select id from kept", "select id from kept"),
        ("prepare p (int) as select id from kept where id = $1",
         "select id from kept where id = $1"),
        ("create table t as select id from kept", "select id from kept"),
        ("create table t (a) as select id from kept with no data", "select id from kept"),
        ("create temp table if not exists t as (select id from kept)", "(select id from kept)"),
        ("create materialized view v as select id from kept with data", "select id from kept"),
        ("create unlogged table t as with k as (table kept) select * from k",
         "with k as (table kept) select * from k"),
    ],
)  # fmt: skip
def test_a_command_around_a_query_is_explained_by_it(
    connection: psycopg.Connection[Any], catalog: Catalog, sql: str, query: str | None
) -> None:
    found = look(catalog, sql)
    assert found.query == query
    assert [each.policy.name for each in found.preview.applied if each.policy] == ["mine"]
    with connection.transaction(force_rollback=True):
        connection.execute(str(found.preview.sql).encode())


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("call sweep()", "public.sweep is in sql and runs with the rights of postgres, its owner"),
        ("call public.own()", "public.own is in plpgsql and runs with its caller's rights"),
        ("call nothing()", "cannot be known without running it"),
        ("do $$ begin end $$", "cannot be known without running it"),
        ("refresh materialized view stored", "with its owner's rights"),
        ("create view w as select * from kept", "without a plan"),
        ("create table t (id int)", "without a plan"),
        ("create table t (like kept)", "without a plan"),
        ("vacuum", "without a plan"), ("copy", "not understood"), ("copy kept", "not understood"),
        ("call", "not understood"),
    ],
)  # fmt: skip
def test_a_command_without_a_preview_says_why(catalog: Catalog, sql: str, reason: str) -> None:
    found = look(catalog, sql)
    assert found.preview.sql is None
    assert reason in "; ".join(found.preview.unsupported)


def test_a_procedure_that_may_not_be_called_is_refused(catalog: Catalog) -> None:
    assert look(catalog, "call own()").preview.refused == [
        "permission denied for procedure public.own"
    ]


@pytest.mark.parametrize("table", ["closed.t", "if not exists closed.t", "public.t"])
def test_a_table_is_made_only_where_the_role_may(
    connection: psycopg.Connection[Any], catalog: Catalog, table: str
) -> None:
    sql = f"create table {table} as select id from kept"
    refused = look(catalog, sql).preview.refused
    assert bool(refused) == ("closed" in table)
    with connection.transaction(force_rollback=True):
        connection.execute(f"set local role {ROLE}")
        try:
            connection.execute(sql)
        except psycopg.errors.InsufficientPrivilege:
            assert refused == [f"permission denied for schema closed: {ROLE} lacks CREATE"]
        else:
            assert refused == []
