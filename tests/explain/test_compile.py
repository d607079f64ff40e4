"""The preview of single statements: what is written, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flux_pg.database.catalog_snapshot import read_catalog
from flux_pg.explain.catalog import Catalog
from flux_pg.explain.preview import Preview, compile_statement
from flux_pg.explain.session import Session
from tests.conftest import Server

_SCHEMA = """
create schema auth;
create function auth.uid() returns text language sql stable as
    $$ select nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub' $$;
create function auth.is_uid(p text) returns boolean language plpgsql stable as
    $$ begin return p = (select auth.uid()); end $$;
create table docs (id int primary key, owner text default current_user, body text);
create table rows_of (id int primary key, owner text);
create table loops (id int primary key);
create table only_restrictive (id int primary key);
create table by_function (id int primary key, owner text);
create table stamped (id int primary key, body text);
create table renamed (id int primary key, team int);
create table checked (id int primary key, owner text check (owner = current_user));
create view barrier with (security_barrier, security_invoker) as select * from docs where id > 0;
create table plain (id int primary key, secret text);
create function stamp() returns trigger language plpgsql as
    $$ begin new.body := current_user; return new; end $$;
create trigger stamp before insert on stamped for each row execute function stamp();
alter table docs enable row level security;
alter table rows_of enable row level security;
alter table loops enable row level security;
alter table only_restrictive enable row level security;
alter table by_function enable row level security;
alter table renamed enable row level security;
create policy own on docs using (owner = auth.uid());
create policy row on rows_of using (rows_of is not null and to_jsonb(rows_of) ->> 'owner' = 'ann');
create policy loop on loops using (exists (select 1 from loops as l where l.id > loops.id));
create policy rest on only_restrictive as restrictive using (id > 0);
create policy called on by_function using (auth.is_uid(owner));
create policy inner_alias on renamed
    using (exists (select 1 from plain as r where r.id = renamed.team));
create function of_docs(docs) returns text language sql immutable as 'select $1.body';
create table turned (id int primary key);
alter table turned enable row level security;
create policy turned on turned for delete using (exists (select from turned as t where t.id > 1));
grant usage on schema auth to public;
grant all on all tables in schema public to pg_monitor;
revoke all on plain from pg_monitor;
grant select (id) on plain to pg_monitor;
insert into docs values (1, 'ann', 'default'), (2, 'bob', 'where');
insert into rows_of values (1, 'ann'), (2, 'bob');
insert into plain values (7);
insert into renamed values (1, 7), (2, 8);
"""


@pytest.fixture(scope="module")
def connection(pg18: Server) -> Iterator[psycopg.Connection[Any]]:
    made = pg18.create_database(flux=False)
    with psycopg.connect(made.superuser, autocommit=True) as conn:
        conn.execute(_SCHEMA)
        yield conn
    pg18.drop_database(made.name)


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection[Any]) -> Catalog:
    return read_catalog(connection)


def compiled(catalog: Catalog, sql: str) -> Preview:
    return compile_statement(catalog, Session.make("pg_monitor", "postgres", {"sub": "ann"}), sql)


def rows(connection: psycopg.Connection[Any], preview: Preview) -> Any:
    assert preview.sql is not None, (preview.unsupported, preview.refused)
    with connection.transaction(force_rollback=True):
        return connection.execute(preview.sql).fetchall()


def test_a_function_that_reads_the_session_is_written_out(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    preview = compiled(catalog, "select id, auth.uid() from docs")
    assert rows(connection, preview) == [(1, "ann")]
    assert "auth.uid()" not in str(preview.sql)


def test_what_stands_in_strings_is_left_alone(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    sql = (
        "select 'current_user', E'current_user', $$user$$, 'docs', 'where'"
        " from docs where body = 'default' or body = 'from docs'"
    )
    found = rows(connection, compiled(catalog, sql))
    assert found == [("current_user", "current_user", "user", "docs", "where")]
    sql = "insert into docs values (9, 'ann', 'default') returning '*', body, 'returning'"
    assert rows(connection, compiled(catalog, sql)) == [("*", "default", "returning")]
    sql = "update docs set body = 'where' returning body"
    assert rows(connection, compiled(catalog, sql)) == [("where",)]


def test_comments_and_quoted_names_survive(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    sql = 'select "id" -- from docs where\n /* docs */ from "public"."docs" -- the end'
    assert rows(connection, compiled(catalog, sql)) == [(1,)]


def test_a_policy_on_the_whole_row_holds_for_writes_under_an_alias(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    sql = "update rows_of as r set owner = 'ann' where r.id > 0 returning r.id"
    assert rows(connection, compiled(catalog, sql)) == [(1,)]


def test_an_alias_that_a_policy_uses_inside_is_not_captured(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    sql = "delete from renamed as r where r.id > 0 returning r.id"
    assert rows(connection, compiled(catalog, sql)) == [(1,)]


def test_a_view_is_fenced_where_a_condition_can_fail(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    preview = compiled(catalog, "select id from barrier where 1 / id > 0")
    assert str(preview.sql).count("offset 0") == 2
    assert rows(connection, preview) == [(1,)]


def test_without_a_permissive_policy_no_row_is_seen(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    preview = compiled(catalog, "select * from only_restrictive")
    assert [applied.policy for applied in preview.applied] == [None]
    assert "where false" in str(preview.sql)


def test_conditions_that_can_fail_do_not_meet_hidden_rows(catalog: Catalog) -> None:
    assert "offset 0" in str(compiled(catalog, "select * from docs where 1 / id > 0").sql)
    assert "offset 0" not in str(compiled(catalog, "select * from docs where id > 0").sql)


def test_a_policy_may_look_at_its_own_table_where_no_other_subquery_follows(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    sql = "delete from turned"
    preview = compiled(catalog, sql)
    assert (preview.refused, preview.unsupported) == ([], [])
    connection.execute(str(preview.sql))
    with connection.transaction(force_rollback=True):
        connection.execute("set local role pg_monitor")
        connection.execute(sql)


def test_a_function_may_take_a_row_of_a_protected_table(
    connection: psycopg.Connection[Any], catalog: Catalog
) -> None:
    preview = compiled(catalog, "select of_docs(d), of_docs(d.*) from docs as d")
    assert preview.unsupported == []
    assert connection.execute(str(preview.sql)).fetchall() == [("default", "default")]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("select * from loops", "infinite recursion"),
        ("select secret from plain", "lacks SELECT on secret"),
        ("select p from plain as p", "lacks SELECT on secret"),
        ("select id from plain as p where p.secret = 'x'", "lacks SELECT on secret"),
        ("insert into plain values (1)", "lacks INSERT on id"),
        ("delete from plain", "lacks DELETE"),
        ("select id from plain for update", "lacks UPDATE"),
    ],
)
def test_what_postgres_refuses_is_refused(
    connection: psycopg.Connection[Any], catalog: Catalog, sql: str, reason: str
) -> None:
    preview = compiled(catalog, sql)
    assert preview.sql is None
    assert reason in "; ".join(preview.refused)
    with connection.transaction(force_rollback=True), pytest.raises(psycopg.Error):
        connection.execute("set local role pg_monitor")
        connection.execute(sql)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("select * from by_function", "runs with its caller's rights"),
        ("select ctid from docs", "system column ctid"),
        ("select * from docs tablesample system (10)", "TABLESAMPLE"),
        ("select set_config('a.b', 'c', true) from docs", "set_config"),
        ("select current_setting(body) from docs", "computed"),
        ("select current_setting('app.none') from docs", "not given"),
        ("select query_to_xml('select 1', true, true, '') from docs", "query_to_xml"),
        ("insert into stamped values (1, 'x')", "trigger stamp"),
        ("select * from pg_stat_activity", "depend on who looks"),
        ("insert into checked values (1, 'x')", "depends on the session"),
        ("select * into made from docs", "INTO"),
        ("select * from nowhere", "no relation nowhere"),
        ("update docs set body = 'x' where current of c", "not understood"),
        ("select * from docs as d where d = '(1,a,b)'", "whole row of public.docs"),
        ("select of_docs(d) from docs as d left join plain on true", "whole row of public.docs"),
        (
            "insert into docs as excluded values (1) on conflict (id) do update set id = 2",
            "ON CONFLICT",
        ),
    ],
)
def test_what_cannot_be_exact_is_named(catalog: Catalog, sql: str, reason: str) -> None:
    preview = compiled(catalog, sql)
    assert preview.sql is None
    assert reason in "; ".join(preview.unsupported)
