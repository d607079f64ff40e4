"""Who may do what to the log, and what hostile roles get."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.sql.log import Log


def denied(conn: psycopg.Connection, statement: str, state: str = "42501") -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    assert caught.value.sqlstate == state, caught.value


@pytest.fixture
def stranger(log: Log) -> Iterator[psycopg.Connection]:
    """A role with rights of its own schema only."""
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute(
            "do $$ begin create role stranger login; exception when duplicate_object then end $$"
        )
        conn.execute("create schema stranger authorization stranger")
    dsn = log.database.server.dsn("postgres", log.database.name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session authorization stranger")
        yield conn


def test_a_writer_needs_no_right_on_the_log(log: Log, stranger: psycopg.Connection) -> None:
    log.run("create table t (id int primary key)", "grant all on t to stranger")
    stranger.execute("insert into t values (1)")
    stranger.execute("truncate t")
    assert [m["op"] for m in log.mutations("t")] == ["INSERT", "TRUNCATE"]
    assert log.mutations("t")[0]["session_user"] == "stranger"
    for statement in (
        "select * from flux.mutations",
        "select * from flux.mutation_log",
        "insert into flux.mutation_log default values",
        "delete from flux.mutation_log",
        "select * from flux.history('t', '1')",
        "select flux.record_attempted(null, null)",
        "select flux.redaction_key()",
        "select flux.redact_text('x')",
        "select value from flux.settings",
    ):
        denied(stranger, statement)


def test_a_writer_cannot_forge(log: Log, stranger: psycopg.Connection) -> None:
    log.run("create table t (id int primary key)")
    denied(stranger, "select flux.record_truncated_row(1, array['1'], array['1'], null)", "ZF003")
    stranger.execute("create table stranger.x (id int)")
    stranger.execute(
        """create function stranger.f() returns trigger language plpgsql as $$
        declare v boolean;
        begin
            v := flux.record_truncated_row(1, array['1'], array['1'], null);
            return null;
        end $$"""
    )
    stranger.execute(
        "create trigger f after insert on stranger.x for each row execute function stranger.f()"
    )
    denied(stranger, "insert into stranger.x values (1)", "ZF003")
    stranger.execute("drop trigger f on stranger.x")
    stranger.execute(
        "create trigger f after insert on stranger.x for each row execute function flux.record_1()"
    )
    denied(stranger, "insert into stranger.x values (1)", "ZF003")
    denied(stranger, "select flux.make_recorder('t')", "ZF003")
    denied(stranger, "select flux.end_tracking('t')", "ZF003")
    denied(stranger, "select flux.untrack('t')")
    denied(stranger, "select * from flux.prune('1 second')", "ZF003")
    assert log.mutations("t") == []


def test_a_hostile_search_path_and_temp_tables_change_nothing(
    log: Log, stranger: psycopg.Connection
) -> None:
    log.run("create table t (id int primary key, a text)", "grant all on t to stranger")
    for statement in (
        "create temp table mutation_log (id int)",
        "create temp table pg_class (oid oid, relname name)",
        "create temp table pg_trigger (x int)",
        """create function stranger.int4out(int) returns text language sql
        as $$ select 'forged' $$""",
        """create function stranger.nextval(regclass) returns bigint language plpgsql
        as $$ begin raise 'ran as %', current_user; end $$""",
        "set search_path = stranger, pg_temp, public, pg_catalog",
        "insert into public.t values (1, 'x')",
        "update public.t set a = 'y'",
        "truncate public.t",
    ):
        stranger.execute(statement.encode())
    assert log.ops("t") == [
        ("INSERT", None, {"id": 1, "a": "x"}),
        ("UPDATE", {"a": "x"}, {"a": "y"}),
        ("TRUNCATE", {"id": 1, "a": "y"}, None),
    ]


def test_code_of_a_user_never_runs_as_the_owner_of_the_log(
    log: Log, stranger: psycopg.Connection
) -> None:
    # A domain's check, a cast and an operator of the user's own, each of which would tell.
    for statement in (
        """create function stranger.tell(int) returns boolean language plpgsql as $$
        begin
            if current_user <> 'stranger' then raise 'ran as %', current_user; end if;
            return true;
        end $$""",
        "create domain stranger.told as int check (stranger.tell(value))",
        "create type stranger.pair as (a stranger.told, b text)",
        """create function stranger.pair_text(stranger.pair) returns text language plpgsql as $$
        begin
            if current_user <> 'stranger' then raise 'ran as %', current_user; end if;
            return 'cast';
        end $$""",
        "create cast (stranger.pair as text) with function stranger.pair_text(stranger.pair)"
        " as implicit",
        """create function stranger.pair_eq(stranger.pair, stranger.pair) returns boolean
        language plpgsql as $$
        begin
            if current_user <> 'stranger' then raise 'ran as %', current_user; end if;
            return true;
        end $$""",
        "create operator stranger.= (leftarg = stranger.pair, rightarg = stranger.pair,"
        " function = stranger.pair_eq)",
        "create table stranger.t (id stranger.told primary key, p stranger.pair)",
        "select flux.track('stranger.t')",
        "insert into stranger.t values (1, row(1, 'x'))",
        "update stranger.t set p = row(1, 'y')",
        "update stranger.t set id = 2",
        "delete from stranger.t",
    ):
        stranger.execute(statement.encode())
    with psycopg.connect(log.database.admin, autocommit=True) as reader:
        row = reader.execute("select new -> 'p' from flux.mutations where op = 'INSERT'").fetchone()
        assert row == ({"a": 1, "b": "x"},)
        assert len(reader.execute("select * from flux.history('stranger.t', '2')").fetchall()) == 4


def test_redacted_columns_leave_no_trace(log: Log) -> None:
    log.run(
        "create table users (id int primary key, password_hash text, api_token text unique)",
        "insert into users values (1, 'hunter2', 'tok-1'), (2, 'hunter2', null)",
        "update users set password_hash = 'hunter3' where id = 1",
        "truncate users",
    )
    with psycopg.connect(log.database.superuser) as conn:
        stored = conn.execute("select m::text from flux.mutation_log as m").fetchall()
    assert "hunter" not in str(stored) and "tok-1" not in str(stored)
    first, second, changed = log.mutations("users")[:3]
    assert first["new"]["password_hash"].startswith("redacted:")
    assert len(first["new"]["password_hash"]) == len("redacted:") + 16
    assert first["new"]["password_hash"] == second["new"]["password_hash"]
    assert changed["new"]["password_hash"] != first["new"]["password_hash"]
    assert second["new"]["api_token"] is None


def test_a_redacted_key_is_found_by_its_value(log: Log) -> None:
    log.run(
        "create table sessions (token text primary key, a int)",
        "insert into sessions values ('tok-1', 1)",
        "update sessions set a = 2",
        "truncate sessions",
    )
    ops = [h["op"] for h in log.history("sessions", "tok-1")]
    assert ops == ["INSERT", "UPDATE", "TRUNCATE"]


def test_new_redaction_rules_reach_the_recorders(log: Log) -> None:
    log.run("create table t (id int primary key, iban text)")
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("insert into flux.redactions (pattern) values ('iban')")
    assert log.rows("select * from flux.track_missing()") == [
        {"relation": "public.t", "action": "refreshed"}
    ]
    log.run("insert into t values (1, 'DE00')")
    assert log.mutations("t")[0]["new"]["iban"].startswith("redacted:")


def test_every_object_of_the_log_is_described(log: Log) -> None:
    assert (
        log.rows(
            """select p.proname from pg_proc as p where p.pronamespace = 'flux'::regnamespace
        and (obj_description(p.oid, 'pg_proc') is null
            or not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false))"""
        )
        == []
    )
    assert (
        log.rows(
            """select c.relname, a.attname from pg_class as c
        left join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'flux'::regnamespace and c.relkind in ('r', 'p', 'v')
            and not c.relispartition
            and (col_description(c.oid, a.attnum) is null
                or obj_description(c.oid, 'pg_class') is null)"""
        )
        == []
    )
