"""What a statement's text says about it: refused, read-only, its summary."""

from __future__ import annotations

import pytest

from flux_pg.runtime.statements import StatementRefused, inspect_statement


@pytest.mark.parametrize(
    "sql",
    [
        "begin",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "start transaction",
        "commit",
        "end",
        "rollback",
        "rollback to savepoint flux_1",
        "abort",
        "savepoint x",
        "release x",
        "prepare transaction 'x'",
        "commit prepared 'x'",
        "set role postgres",
        "set local role postgres",
        "set session authorization postgres",
        "SET search_path = evil",
        "set session statement_timeout = 0",
        "set transaction isolation level serializable",
        "reset all",
        "discard all",
        "listen x",
        "unlisten *",
        "copy users from stdin",
        "select lastval()",
        "set local transaction isolation level serializable",
        "/* innocent */ commit",
        "-- innocent\n commit",
        "/* nested /* comment */ */ rollback",
        "  \n\t commit ;",
    ],
)
def test_statements_that_would_leave_flux_without_its_transaction_are_refused(sql: str) -> None:
    with pytest.raises(StatementRefused) as refused:
        inspect_statement(sql)
    assert refused.value.hint


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "select * from users where id = %s",
        "select count(*) from users",
        "select coalesce(max(n), 0) from counters where id in (select id from users)",
        "values (1), (2)",
        "with u as (select * from users) select * from u",
        "show timezone",
        "explain select 1",
    ],
)
def test_plain_reads_are_known_to_be_reads(sql: str) -> None:
    assert inspect_statement(sql).reads_only


@pytest.mark.parametrize(
    "sql",
    [
        "insert into users default values",
        "select my_function()",
        "select nextval('s')",
        'select "My Function"()',
        "with d as (delete from users returning *) select * from d",
        "explain analyze delete from users",
        "select * into copy_of_users from users",
        "call p()",
        "do $$ begin end $$",
        "update users set email = 'x'",
        "merge into users using x on true when matched then delete",
        "truncate users",
    ],
)
def test_whatever_may_write_counts_as_a_write(sql: str) -> None:
    assert not inspect_statement(sql).reads_only


@pytest.mark.parametrize(
    ("sql", "summary"),
    [
        ("INSERT INTO users (a) VALUES (1)", "insert into users"),
        ('update only "app"."users" set a = 1', "update app.users"),
        ("delete from users", "delete from users"),
        ("select a from users u join x on true", "select from users"),
        ("select 1", "select"),
        ("/* hint */ truncate table users", "truncate users"),
        ("vacuum", "vacuum"),
        ("", "statement"),
    ],
)
def test_span_names_are_short_and_free_of_values(sql: str, summary: str) -> None:
    assert inspect_statement(sql).summary == summary


@pytest.mark.parametrize(
    ("sql", "leaves"),
    [
        ("select 1", False),
        ("create temporary table t (a int)", True),
        ("select pg_advisory_lock(1)", True),
        ("select set_config('x.y', '1', false)", True),
        ("declare c cursor with hold for select 1", True),
        ("prepare p as select 1", True),
        ("insert into temperatures values (1)", False),
    ],
)
def test_what_could_reach_the_next_request_is_noticed(sql: str, leaves: bool) -> None:
    assert inspect_statement(sql).leaves_state is leaves
