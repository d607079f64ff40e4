"""run_batch: several statements, one round trip, one known end."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.types.json import Jsonb

from flux_pg.database.connection import Connection
from flux_pg.database.pipeline import Statement, run_batch
from tests.conftest import Database

Conn = Connection[Any]


@pytest.fixture
async def conn(bare: Database) -> AsyncIterator[Conn]:
    opened: Conn = await Connection.connect(bare.superuser, autocommit=True)
    yield opened
    assert opened.closed or opened.pgconn.pipeline_status == PipelineStatus.OFF
    await opened.close()


async def prepared(conn: Conn) -> list[str]:
    query = "select statement from pg_prepared_statements order by 1"
    return [row[0] for row in (await run_batch(conn, [Statement(query, prepare=False)]))[0].rows]


async def test_results_have_rows_columns_types_status_and_text(conn: Conn) -> None:
    batch = await run_batch(
        conn,
        [
            ("create temp table t (a int, b timestamptz)", None),
            ("insert into t values (%s, %s), (2, null)", (1, datetime.datetime(2024, 5, 1))),
            ("select a, b is null as empty, '1.50'::numeric n from t order by a", None),
            Statement("update t set a = $1 where a = $2", [5, 2], native=True),
            ("select %(x)s::text || %(x)s, '%%'", {"x": "é"}),
            ("select '%d'", None),
        ],
    )
    assert [r.status for r in batch.check()] == [
        "CREATE TABLE",
        "INSERT 0 2",
        "SELECT 2",
        "UPDATE 1",
        "SELECT 1",
        "SELECT 1",
    ]
    assert [r.rowcount for r in batch] == [-1, 2, 2, 1, 1, 1]
    rows = batch[2]
    assert rows.columns == ("a", "empty", "n")
    assert rows.types == (23, 16, 1700)
    assert [row[:2] for row in rows.rows] == [(1, False), (2, True)]
    assert rows.raw_rows == [(b"1", b"f", b"1.50"), (b"2", b"t", b"1.50")]
    assert batch[4].rows == [("éé", "%")]
    assert batch[5].rows == [("%d",)]
    assert batch[0].rows == []


async def test_values_of_many_types_come_back_as_they_went(conn: Conn) -> None:
    values: list[object] = [
        None,
        True,
        2**40,
        1.5,
        "text",
        b"\x00\xff",
        uuid.uuid4(),
        datetime.date(2024, 2, 29),
        [1, 2, 3],
        {"a": [None, "é"]},
    ]
    params = [Jsonb(v) if isinstance(v, dict) else v for v in values]
    casts = "text bool int8 float8 text bytea uuid date int[] jsonb".split()
    query = "select " + ", ".join(f"%s::{cast}" for cast in casts)
    for _ in range(7):  # unprepared and prepared
        batch = await run_batch(conn, [(query, params)])
        assert list(batch.check()[0].rows[0]) == values


async def test_batch_takes_one_round_trip(conn: Conn, bare: Database) -> None:
    waits = 0

    class Waits(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal waits
            waits += timeout > 0

    statements: list[Any] = [("begin", None), *[("select %s::int", (i,)) for i in range(3)]]
    for _ in range(8):
        waits = 0
        instrument = Waits()
        trio.lowlevel.add_instrument(instrument)
        (await run_batch(conn, [*statements, ("commit", None)])).check()
        trio.lowlevel.remove_instrument(instrument)
        assert waits == 1  # also in the run that prepares


async def test_failure_names_the_statement_and_aborts_the_rest(conn: Conn) -> None:
    batch = await run_batch(
        conn, [("begin", None), ("select 1", None), ("select 1/0", None), ("commit", None)]
    )
    assert batch.failed_at == 2
    assert isinstance(batch.error, psycopg.errors.DivisionByZero)
    assert [r.aborted for r in batch] == [False, False, False, True]
    assert [r.error is None for r in batch] == [True, True, False, True]
    assert batch[1].rows == [(1,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        batch.check()
    assert conn.pgconn.transaction_status == TransactionStatus.INERROR
    (await run_batch(conn, [("rollback", None)])).check()
    assert conn.is_clean()


async def test_batch_outside_a_transaction_happens_whole_or_not_at_all(conn: Conn) -> None:
    await conn.execute("create temp table t (a int primary key)")
    await run_batch(conn, [("insert into t values (1)", None), ("select 1/0", None)])
    assert (await run_batch(conn, [("select count(*) from t", None)]))[0].rows == [(0,)]


async def test_deferred_constraint_that_fails_at_commit_is_the_commits_error(conn: Conn) -> None:
    await conn.execute("create temp table t (a int unique deferrable initially deferred)")
    insert = ("insert into t values (1)", None)
    batch = await run_batch(conn, [("begin", None), insert, insert, ("commit", None)])
    assert batch.failed_at == 3
    assert isinstance(batch.error, psycopg.errors.UniqueViolation)
    assert conn.is_clean()


async def test_bad_parameters_send_nothing(conn: Conn) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        await run_batch(conn, [("begin", None), ("select %s", (1, 2))])
    with pytest.raises(psycopg.ProgrammingError, match="65535"):
        await run_batch(
            conn, [("begin", None), (f"select {', '.join(['%s'] * 70_000)}", (1,) * 70_000)]
        )
    with pytest.raises(psycopg.ProgrammingError):
        await run_batch(conn, [("begin", None), ("select %s", (object(),))])
    assert conn.is_clean()


async def test_composed_and_long_and_native_statements(conn: Conn) -> None:
    many = "select " + ", ".join(["%s::int"] * 1600)
    batch = await run_batch(
        conn,
        [
            (sql.SQL("select {} as {}").format(1, sql.Identifier("x y")), None),
            (many, list(range(1600))),
            Statement("select $1::text, $2::int + $2::int", ["50%s", 2], native=True),
            (b"select 1", None),
        ],
    )
    assert batch.check()[0].columns == ("x y",)
    assert batch[1].rows == [tuple(range(1600))]
    assert batch[2].rows == [("50%s", 4)]


async def test_two_commands_in_one_statement_are_refused(conn: Conn) -> None:
    batch = await run_batch(conn, [("select 1; select 2", None)])
    assert isinstance(batch.error, psycopg.errors.SyntaxError)
    assert conn.is_clean()


async def test_copy_is_refused_and_costs_the_connection(conn: Conn) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="COPY"):
        await run_batch(conn, [("copy (select 1) to stdout", None)])
    assert conn.closed


async def test_inside_a_psycopg_pipeline_it_is_refused(conn: Conn) -> None:
    async with conn.pipeline():
        with pytest.raises(psycopg.ProgrammingError):
            await run_batch(conn, [("select 1", None)])


async def test_inside_a_transaction_block_it_takes_part(conn: Conn) -> None:
    await conn.execute("create temp table t (a int)")
    async with conn.transaction(force_rollback=True):
        (await run_batch(conn, [("insert into t values (1)", None)])).check()
    assert (await run_batch(conn, [("select * from t", None)]))[0].rows == []


async def test_repeated_statements_are_prepared_at_the_threshold(conn: Conn) -> None:
    conn.prepare_threshold = 2
    for uses in range(1, 5):
        await run_batch(conn, [("select %s::int", (1,)), Statement("select 1", prepare=False)])
        assert await prepared(conn) == (["select $1::int"] if uses > 2 else [])


async def test_without_a_threshold_nothing_is_prepared(conn: Conn) -> None:
    conn.prepare_threshold = None
    for _ in range(10):
        await run_batch(conn, [("select %s::int", (1,))])
    assert await prepared(conn) == []


async def test_statement_prepared_twice_in_one_batch(conn: Conn) -> None:
    conn.prepare_threshold = 0
    batch = await run_batch(conn, [("select %s::int", (i,)) for i in range(3)])
    assert [r.rows for r in batch.check()] == [[(0,)], [(1,)], [(2,)]]
    assert await prepared(conn) == ["select $1::int"]


async def test_a_batch_that_was_not_sent_has_prepared_nothing(conn: Conn) -> None:
    for _ in range(conn.prepare_threshold + 2):
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            await run_batch(conn, [("select 6", None), ("select %s", [object()])])
    for _ in range(3):
        assert (await run_batch(conn, [("select 6", None)])).check()[0].rows == [(6,)]


async def test_failed_statement_stays_prepared_and_unparsed_one_does_not(conn: Conn) -> None:
    conn.prepare_threshold = 0
    for _ in range(3):
        batch = await run_batch(conn, [("select 1 / %s::int", (0,)), ("select 7", None)])
        assert batch.failed_at == 0
        batch = await run_batch(conn, [("select nonsense", None)])
        assert isinstance(batch.error, psycopg.errors.UndefinedColumn)
    assert (await run_batch(conn, [("select 7", None)])).check()[0].rows == [(7,)]
    assert await prepared(conn) == ["select 1 / $1::int", "select 7"]


async def test_savepoint_is_rolled_back_in_the_batch_after_the_failure(conn: Conn) -> None:
    """Closing what could not be prepared must not disturb a failed transaction."""
    conn.prepare_threshold = 0
    (await run_batch(conn, [("begin", None), ("create temp table t (a int)", None)])).check()
    for i in range(4):
        save = [("savepoint s", None), ("insert into t values (%s)", (i,))]
        batch = await run_batch(conn, [*save, ("select nonsense", None)])
        assert batch.failed_at == 2
        assert conn.pgconn.transaction_status == TransactionStatus.INERROR
        again = [("rollback to savepoint s", None), ("insert into t values (%s)", (i,))]
        (await run_batch(conn, again)).check()
    tail = await run_batch(conn, [("select count(*) from t", None), ("commit", None)])
    assert tail.check()[0].rows == [(4,)]
    assert conn.is_clean()


async def test_ddl_of_another_session_costs_one_error_not_all(conn: Conn, bare: Database) -> None:
    conn.prepare_threshold = 0
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute("create table t (a int)")
        assert (await run_batch(conn, [("select * from t", None)])).check()[0].columns == ("a",)
        other.execute("alter table t add b int")
    assert (await run_batch(conn, [("select * from t", None)])).failed_at == 0
    again = await run_batch(conn, [("select * from t", None)])
    assert again.check()[0].columns == ("a", "b")


async def test_prepared_statements_lost_by_a_pooler_are_prepared_again(conn: Conn) -> None:
    conn.prepare_threshold = 0
    await run_batch(conn, [("select 1", None)])
    conn.pgconn.exec_(b"deallocate all")  # behind our back
    batch = await run_batch(conn, [("select 1", None)])
    assert isinstance(batch.error, psycopg.errors.InvalidSqlStatementName)
    assert (await run_batch(conn, [("select 1", None)])).check()[0].rows == [(1,)]


async def test_prepared_statements_of_batches_are_bounded(conn: Conn) -> None:
    conn.prepare_threshold = 0
    conn.prepared_max = 5
    for i in range(50):
        (await run_batch(conn, [(f"select {i}", None)])).check()
    assert len(await prepared(conn)) <= 7


async def test_large_parameters_and_results_do_not_deadlock(conn: Conn) -> None:
    big = "x" * 3_000_000
    with trio.fail_after(60):
        batch = await run_batch(conn, [("select %s::text", (big,)) for _ in range(8)])
    assert [len(r.rows[0][0]) for r in batch.check()] == [3_000_000] * 8


async def test_statement_timeout_is_an_error_not_a_cancellation(conn: Conn) -> None:
    batch = await run_batch(
        conn,
        [
            ("begin", None),
            ("select set_config('statement_timeout', '50', true)", None),
            ("select pg_sleep(30)", None),
            ("commit", None),
        ],
    )
    assert batch.failed_at == 2
    assert isinstance(batch.error, psycopg.errors.QueryCanceled)
    await conn.rollback()


async def test_finishing_batch_runs_in_a_cancelled_scope(conn: Conn) -> None:
    await conn.execute("create temp table t (a int)")
    (await run_batch(conn, [("begin", None), ("insert into t values (1)", None)])).check()
    with trio.CancelScope() as scope:
        scope.cancel()
        tail = await run_batch(
            conn, [("select pg_sleep(0.1)", None), ("commit", None)], finish=True
        )
        assert tail.check()[1].status == "COMMIT"
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert conn.is_clean()
    assert (await run_batch(conn, [("select a from t", None)]))[0].rows == [(1,)]


async def test_finishing_batch_is_bounded_and_in_doubt(conn: Conn) -> None:
    conn.cancel_grace_s = 0.2
    with trio.move_on_after(0.05) as scope:
        await run_batch(conn, [("select pg_sleep(60)", None)], finish=True)
    assert scope.cancelled_caught
    assert conn.closed
    assert conn.in_doubt


async def test_notifications_that_come_with_a_batch_are_kept(conn: Conn) -> None:
    await conn.execute("listen probe")
    heard: list[str] = []
    conn.add_notify_handler(lambda n: heard.append(n.payload))
    await run_batch(conn, [("notify probe, 'hello'", None)])
    await run_batch(conn, [("select 1", None)])
    assert heard == ["hello"]


async def test_empty_statement_is_nothing(conn: Conn) -> None:
    batch = await run_batch(conn, [("", None)])
    assert batch.check()[0].status == ""
    assert batch[0].rows == []
