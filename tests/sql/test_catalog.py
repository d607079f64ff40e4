"""Laws of schema flux, asked of the catalog of a real installation and of its files.

A function that is new, a column without a comment, a right too many: one of these fails and says
which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from flux_pg.database import sql_files

PINNED = "search_path=pg_catalog, pg_temp"
GROUPS = {
    "v_runtime": "flux_runtime",
    "v_reader": "flux_reader",
    "v_public": "public",
    "v_caller": "flux_caller",
}
# Not in class ZF, on purpose: they say exactly what Postgres says when it refuses the same.
FOREIGN_SQLSTATES = {"42501"}


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.superuser) as connection:
        yield connection


def names(conn: psycopg.Connection, query: str) -> list[str]:
    return [row[0] for row in conn.execute(query).fetchall()]


def granted(group: str) -> set[str]:
    """The functions that grants.sql names for a group."""
    text = sql_files.read("grants.sql")
    array = re.search(rf"{group} constant text\[\] := array\[(.*?)\]", text, re.DOTALL)
    assert array is not None
    return set(re.findall(r"'(\w+)'", array[1]))


def test_every_function_pins_its_search_path(conn):
    assert (
        names(
            conn,
            f"""
            select p.oid::regprocedure::text from pg_proc as p
            where p.pronamespace = 'flux'::regnamespace
                and not coalesce('{PINNED}' = any (p.proconfig), false)""",
        )
        == []
    )


def test_everything_that_people_see_has_a_comment(conn):
    missing = names(
        conn,
        """
        select 'function ' || p.oid::regprocedure from pg_proc as p
        where p.pronamespace = 'flux'::regnamespace
            and obj_description(p.oid, 'pg_proc') is null
        union all
        select 'relation ' || c.oid::regclass from pg_class as c
        where c.relnamespace = 'flux'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
            and not c.relispartition and obj_description(c.oid, 'pg_class') is null
        union all
        select format('column %s.%s', c.oid::regclass, a.attname)
        from pg_class as c join pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace = 'flux'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
            and not c.relispartition and a.attnum > 0 and not a.attisdropped
            and col_description(c.oid, a.attnum) is null
        union all
        select 'type ' || t.oid::regtype from pg_type as t
        left join pg_class as c on c.oid = t.typrelid
        where t.typnamespace = 'flux'::regnamespace and t.typelem = 0
            and coalesce(c.relkind, 'c') = 'c' and t.typtype in ('c', 'd', 'e')
            and obj_description(t.oid, 'pg_type') is null""",
    )
    assert missing == []


def test_only_what_grants_names_can_be_called(conn):
    """Asked with the rights of nobody, of the runtime, of a reader and of a caller's login."""
    for group in ("public", "flux_runtime", "flux_reader", "flux_caller"):
        array = {role: name for name, role in GROUPS.items()}[group]
        grantee = "0" if group == "public" else f"'{group}'::regrole"
        callable_now = set(
            names(
                conn,
                f"""
                select distinct p.proname from pg_proc as p,
                    aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
                where p.pronamespace = 'flux'::regnamespace and a.grantee = {grantee}""",
            )
        )
        assert callable_now == granted(array), group


def test_only_the_owner_writes_and_only_backups_read_what_is_hidden(conn):
    others = conn.execute("""
        select c.oid::regclass::text, a.privilege_type, a.grantee::regrole::text
        from pg_class as c, aclexplode(c.relacl) as a
        where c.relnamespace = 'flux'::regnamespace and a.grantee <> c.relowner
            and (a.privilege_type <> 'SELECT'
                or a.grantee not in ('flux_reader'::regrole, 'flux_admin'::regrole))
    """).fetchall()
    assert others == []
    readable = names(
        conn,
        "select c.relname from pg_class as c where c.relnamespace = 'flux'::regnamespace"
        " and c.relkind in ('r', 'p', 'v') and has_table_privilege('flux_reader', c.oid, 'select')",
    )
    assert set(readable) == granted("v_readable")


def test_everything_is_owned_by_flux_owner_who_may_do_nothing_else(conn):
    others = names(
        conn,
        """
        select 'function ' || p.oid::regprocedure from pg_proc as p
        where p.pronamespace = 'flux'::regnamespace and p.proowner <> 'flux_owner'::regrole
        union all
        select 'relation ' || c.oid::regclass from pg_class as c
        where c.relnamespace = 'flux'::regnamespace and c.relowner <> 'flux_owner'::regrole
        union all
        select 'type ' || t.oid::regtype from pg_type as t
        where t.typnamespace = 'flux'::regnamespace and t.typowner <> 'flux_owner'::regrole""",
    )
    assert others == []
    role = conn.execute("""
        select rolsuper or rolcreaterole or rolcreatedb or rolcanlogin or rolbypassrls
            or rolreplication
        from pg_roles where rolname = 'flux_owner'
    """).fetchone()
    assert role == (False,)
    assert names(conn, "select roleid::regrole from pg_auth_members where member = "
                 "'flux_owner'::regrole") == []  # fmt: skip


def test_every_body_is_valid(conn):
    """An installation does not check them, as their order in the manifest is free."""
    conn.execute("set local role flux_owner")
    conn.execute("set local check_function_bodies = on")
    definitions = conn.execute(
        "select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc as p"
        " where p.pronamespace = 'flux'::regnamespace and p.prokind in ('f', 'p')"
    ).fetchall()
    broken = []
    for name, definition in definitions:
        try:
            with conn.transaction():
                conn.execute(definition.encode())
        except psycopg.Error as error:
            broken.append(f"{name}: {error}")
    assert broken == []
    assert definitions


HEADER = re.compile(r"^create (?:or replace )?(function|procedure) (.*?)(?:\nas |\nbegin atomic|"
                    r"\nreturn )", re.DOTALL | re.MULTILINE)  # fmt: skip


def test_every_function_says_its_volatility_and_whether_it_may_run_in_parallel():
    silent = [
        f"{file.name}: {found[2].splitlines()[0]}"
        for file in sql_files.body().files
        for found in HEADER.finditer(file.text)
        if not re.search(r"\b(volatile|stable|immutable)\b", found[2])
        or not re.search(r"\bparallel (safe|restricted|unsafe)\b", found[2])
    ]
    assert silent == []


def test_a_file_holds_the_function_it_is_named_after():
    wrong = []
    for file in sql_files.body().files:
        folder, _, name = file.name.rpartition("/")
        created = re.findall(r"^create (?:function|procedure) flux\.(\w+)", file.text, re.M)
        if folder == "functions" and set(created) != {name.removesuffix(".sql")}:
            wrong.append((file.name, created))
    assert wrong == []


def test_files_hold_no_psql_command_and_no_transaction_control():
    for file in sql_files.body().files:
        assert not re.search(r"^\\", file.text, re.M), file.name
        assert not re.search(r"^(begin|commit|rollback)\s*;", file.text, re.M | re.I), file.name


def test_every_error_has_a_state_of_class_zf():
    foreign = [
        (file.name, state)
        for file in sql_files.body().files
        for state in re.findall(r"errcode = '(\w+)'", file.text)
        if not re.fullmatch(r"ZF00[1-7]", state) and state not in FOREIGN_SQLSTATES
    ]
    assert foreign == []


HOSTILE = """
create schema hostile;
grant usage on schema hostile to public;
create function hostile.trap() returns void language plpgsql as $$
begin raise exception 'a function of the caller ran' using errcode = 'XX999'; end $$;
create function hostile.now() returns timestamptz language sql
    as 'select hostile.trap(); select clock_timestamp()';
create function hostile.lower(text) returns text language sql
    as 'select hostile.trap(); select $1';
create function hostile.to_jsonb(anyelement) returns jsonb language sql
    as 'select hostile.trap(); select null::jsonb';
create function hostile.current_setting(text, boolean) returns text language sql
    as 'select hostile.trap(); select null::text';
create function hostile.format(text, text) returns text language sql
    as 'select hostile.trap(); select null::text';
create function hostile.to_regclass(text) returns regclass language sql
    as 'select hostile.trap(); select null::regclass';
create function hostile.same(text, text) returns boolean language sql
    as 'select hostile.trap(); select true';
create operator hostile.= (leftarg = text, rightarg = text, function = hostile.same);
create function hostile.same(uuid, uuid) returns boolean language sql
    as 'select hostile.trap(); select true';
create operator hostile.= (leftarg = uuid, rightarg = uuid, function = hostile.same);
create function hostile.same(bigint, bigint) returns boolean language sql
    as 'select hostile.trap(); select true';
create operator hostile.= (leftarg = bigint, rightarg = bigint, function = hostile.same);
create function hostile.joined(text, text) returns text language sql
    as 'select hostile.trap(); select $1';
create operator hostile.|| (leftarg = text, rightarg = text, function = hostile.joined);
"""

TEMPORARY = """
create temp table pg_class (oid oid, relname name);
create temp table pg_proc (oid oid, proname name);
create temp table pg_namespace (oid oid, nspname name);
create temp table pg_attribute (attrelid oid, attname name);
create temp table pg_roles (oid oid, rolname name);
create domain pg_temp.text as integer;
set search_path = hostile, pg_temp, pg_catalog;
"""

SAMPLES = {
    "text": "'public.sample'",
    "regclass": "'public.sample'::pg_catalog.regclass",
    "uuid": "'0190a0b0-0000-7000-8000-000000000001'",
    "timestamp with time zone": "'2026-01-01T00:00:00Z'",
    "interval": "'1 day'",
    "jsonb": "'{\"id\": 1}'",
    "json": "'{\"id\": 1}'",
    "bigint": "1",
    "integer": "1",
    "smallint": "1",
    "boolean": "false",
    "xid8": "'1'",
    "pg_snapshot": "'1:1:'",
}


def calls(conn: psycopg.Connection) -> list[tuple[str, list[str]]]:
    """Every function that somebody may call, with the types of its arguments."""
    return conn.execute("""
        select p.oid::regproc::text,
            array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as u(t, n)
                  order by n)
        from pg_proc as p
        where p.pronamespace = 'flux'::regnamespace and p.prokind = 'f'
            and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
            and (has_function_privilege('flux_reader', p.oid, 'execute')
                or has_function_privilege('flux_runtime', p.oid, 'execute'))
    """).fetchall()


def test_every_public_function_ignores_a_hostile_search_path(database):
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        conn.execute("create table public.sample (id bigint primary key, body text)")
        conn.execute("alter table public.sample owner to flux_admin")
        conn.execute(HOSTILE.encode())
        functions = calls(conn)
    assert functions
    trapped = []
    with psycopg.connect(database.app) as conn:
        conn.execute(TEMPORARY)
        for name, types in functions:
            for values in (
                ["null"] * len(types),
                [SAMPLES.get(kind, "null") for kind in types],
            ):
                typed = [f"{value}::{kind}" if kind in SAMPLES and kind != "text" else value
                         for value, kind in zip(values, types, strict=True)]  # fmt: skip
                try:
                    with conn.transaction():
                        conn.execute(f"select * from {name}({', '.join(typed)})".encode())
                        raise psycopg.Rollback
                except psycopg.Error as error:
                    if error.sqlstate == "XX999" or (error.sqlstate or "XX").startswith("XX"):
                        trapped.append(f"{name}{types}: {error}")
    assert trapped == []
