"""What psycopg's connection promises still holds when Trio drives it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from flux_pg.database.connection import Connection
from tests.conftest import Database
from tests.database.cancelling import eventually, nothing_leaks, open_sockets

Conn = Connection[Any]


@pytest.fixture
async def conn(bare: Database) -> AsyncIterator[Conn]:
    opened: Conn = await Connection.connect(bare.superuser, autocommit=True)
    yield opened
    await opened.close()


async def fetch(conn: Conn, query: str, *params: object) -> list[Any]:
    return await (await conn.execute(query, params or None)).fetchall()


async def test_rows_parameters_and_row_factories(conn: Conn) -> None:
    assert await fetch(conn, "select %s::int + 1, %s::text", 1, "é") == [(2, "é")]
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute("select %(a)s::int as a", {"a": 5})
    assert await cursor.fetchall() == [{"a": 5}]


async def test_error_leaves_an_autocommit_connection_idle(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await conn.execute("select 1/0")
    assert conn.is_clean()


async def test_transaction_commits_and_rolls_back(conn: Conn) -> None:
    await conn.execute("create temp table t (a int)")
    async with conn.transaction():
        await conn.execute("insert into t values (1)")
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute("insert into t values (2)")
                raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("insert into t values (3)")
            raise ZeroDivisionError
    async with conn.transaction(force_rollback=True):
        await conn.execute("insert into t values (4)")
    assert await fetch(conn, "select a from t") == [(1,)]


async def test_without_autocommit_a_statement_opens_a_transaction(bare: Database) -> None:
    async with await Connection.connect(bare.superuser) as conn:
        await conn.execute("create table t (a int)")
        await conn.rollback()
        await conn.execute("create table t (b int)")
    assert conn.closed
    with psycopg.connect(bare.superuser) as other:
        other.execute("select b from t")


async def test_pipeline_answers_in_order(conn: Conn) -> None:
    async with conn.pipeline():
        cursors = [await conn.execute("select %s::int", (i,)) for i in range(500)]
        assert [await c.fetchone() for c in cursors] == [(i,) for i in range(500)]
    assert conn.is_clean()


async def test_pipeline_with_both_buffers_full_does_not_deadlock(conn: Conn) -> None:
    big = "x" * 500_000
    with trio.fail_after(60):
        async with conn.pipeline():
            cursors = [await conn.execute("select %s::text", (big,)) for _ in range(20)]
            assert [len((await c.fetchone() or "")[0]) for c in cursors] == [500_000] * 20


async def test_error_in_a_pipeline_aborts_the_rest(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with conn.pipeline():
            await conn.execute("select 1/0")
            await conn.execute("select 1")
    assert conn.is_clean()
    assert await fetch(conn, "select 1") == [(1,)]


async def test_executemany_returns_rows(conn: Conn) -> None:
    cursor = conn.cursor()
    await cursor.executemany("select %s::int", [(i,) for i in range(50)], returning=True)
    results = [await result.fetchall() async for result in cursor.results()]
    assert results == [[(i,)] for i in range(50)]


async def test_copy_in_and_out(conn: Conn) -> None:
    await conn.execute("create temp table t (a int, b text)")
    rows = [(i, "é" * 100) for i in range(20_000)]
    async with conn.cursor().copy("copy t from stdin") as copy:
        for row in rows:
            await copy.write_row(row)
    async with conn.cursor().copy("copy (select * from t order by a) to stdout") as copy:
        copy.set_types(["int4", "text"])
        assert [row async for row in copy.rows()] == rows


async def test_copy_in_with_an_exception_copies_nothing(conn: Conn) -> None:
    await conn.execute("create temp table t (a int)")
    with pytest.raises(ZeroDivisionError):
        async with conn.cursor().copy("copy t from stdin") as copy:
            await copy.write_row((1,))
            raise ZeroDivisionError
    assert conn.is_clean()
    assert await fetch(conn, "select count(*) from t") == [(0,)]


async def test_copy_out_left_early_keeps_the_connection(conn: Conn) -> None:
    async with conn.cursor().copy("copy (select generate_series(1, 1000000)) to stdout") as copy:
        assert await copy.read() == b"1\n"
    assert conn.is_clean()
    assert await fetch(conn, "select 1") == [(1,)]


@pytest.mark.parametrize("size", [1, 7])
async def test_stream_reads_rows_as_they_come(conn: Conn, size: int) -> None:
    async with aclosing(conn.cursor().stream("select generate_series(1, 1000)", size=size)) as rows:
        assert [row async for row in rows] == [(i,) for i in range(1, 1001)]
    assert conn.is_clean()


async def test_stream_left_early_stops_the_query(conn: Conn) -> None:
    # Rows of 9 kB: the server sends what fills its buffer, and then sleeps.
    query = """select i, repeat('x', 9000), pg_sleep(case when i > 9 then 60 else 0 end)
        from generate_series(1, 99) i"""
    with trio.fail_after(50):
        async with aclosing(conn.cursor().stream(query)) as rows:
            async for row in rows:
                if row[0] == 5:
                    break
    assert conn.is_clean()
    assert await fetch(conn, "select 1") == [(1,)]


async def test_stream_reports_an_error_of_the_server(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with aclosing(
            conn.cursor().stream("select 1/(3-i) from generate_series(1, 5) i")
        ) as rows:
            async for _ in rows:
                pass
    assert conn.is_clean()


async def test_server_cursor_scrolls(conn: Conn) -> None:
    async with conn.transaction(), conn.cursor("c", scrollable=True) as cursor:
        await cursor.execute("select generate_series(1, 300)")
        assert await cursor.fetchmany(2) == [(1,), (2,)]
        await cursor.scroll(100, mode="absolute")
        assert await cursor.fetchone() == (101,)
        assert len([row async for row in cursor]) == 199


async def test_notifications_arrive_while_waiting_and_while_busy(
    conn: Conn, bare: Database
) -> None:
    other: Conn = await Connection.connect(bare.superuser, autocommit=True)
    await conn.execute("listen probe")
    await other.execute("notify probe, 'early'")
    await conn.execute("select 1")
    heard: list[str] = []
    async with trio.open_nursery() as nursery, aclosing(conn.notifies(stop_after=2)) as source:
        nursery.start_soon(other.execute, "notify probe, 'late'")
        async for notification in source:
            heard.append(notification.payload)
    assert heard == ["early", "late"]
    async with aclosing(conn.notifies(timeout=0)) as source:
        assert [n async for n in source] == []
    await other.close()


async def test_prepared_statements_survive_a_rollback(conn: Conn) -> None:
    for _ in range(7):
        await conn.execute("select %s::int", (1,))
    await conn.execute("create table t (a int)")
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("drop table t")
            raise ZeroDivisionError
    names = await fetch(conn, "select name from pg_prepared_statements")
    await conn.execute("select %s::int", (1,))
    assert await fetch(conn, "select name from pg_prepared_statements") == names


async def test_statement_that_went_stale_is_prepared_afresh(conn: Conn, bare: Database) -> None:
    await conn.execute("create table t (a int)")
    for _ in range(7):
        assert await fetch(conn, "select * from t where a > %s", 0) == []
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute("alter table t add b int")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        await conn.execute("select * from t where a > %s", (0,))
    for _ in range(7):
        assert await fetch(conn, "select * from t where a > %s", 0) == []


async def test_prepared_statements_are_bounded(conn: Conn) -> None:
    conn.prepared_max = 5
    conn.prepare_threshold = 0
    for i in range(40):
        await conn.execute(f"select {i}")
    count = (await fetch(conn, "select count(*) from pg_prepared_statements"))[0][0]
    assert count <= 7


async def test_two_tasks_take_turns(conn: Conn) -> None:
    answers: list[int] = []

    async def one(i: int) -> None:
        answers.append((await fetch(conn, "select %s::int", i))[0][0])

    async with trio.open_nursery() as nursery:
        for i in range(50):
            nursery.start_soon(one, i)
    assert sorted(answers) == list(range(50))


async def test_cancelled_waiter_for_the_connection_leaves_the_queue(conn: Conn) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.execute, "select pg_sleep(0.2)")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.02) as scope:
            await conn.execute("select 1")
        assert scope.cancelled_caught
    assert conn.lock.is_free()
    assert await fetch(conn, "select 1") == [(1,)]


async def test_using_the_connection_inside_its_own_copy_is_an_error(conn: Conn) -> None:
    async with conn.cursor().copy("copy (select 1) to stdout") as copy:
        with pytest.raises(RuntimeError, match="already using"):
            await conn.execute("select 1")
        assert await copy.read() == b"1\n"
        assert await copy.read() == b""


async def test_long_copy_lets_other_tasks_run(conn: Conn) -> None:
    turns = 0
    async with trio.open_nursery() as nursery:

        async def neighbour() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(neighbour)
        async with conn.pipeline():
            for i in range(2000):
                await conn.execute("select %s::int", (i,))
        nursery.cancel_scope.cancel()
    assert turns > 3


async def test_close_while_another_task_waits_wakes_it(conn: Conn) -> None:
    caught: list[Exception] = []

    async def sleeper() -> None:
        try:
            await conn.execute("select pg_sleep(60)")
        except psycopg.OperationalError as exc:
            caught.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        await conn.close()
    assert caught
    assert conn.in_doubt


async def test_cancel_safe_stops_the_statement_of_another_task(conn: Conn, bare: Database) -> None:
    query = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    pid = conn.pgconn.backend_pid
    canceled: list[psycopg.Error] = []

    async def sleeper() -> None:
        try:
            await conn.execute("select pg_sleep(60)")
        except psycopg.errors.QueryCanceled as exc:
            canceled.append(exc)

    with psycopg.connect(bare.superuser, autocommit=True) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            await eventually(lambda: other.execute(query, (pid,)).fetchone() is not None)
            await conn.cancel_safe()
    assert canceled
    assert conn.is_clean()


async def test_connect_names_every_address_that_failed() -> None:
    with nothing_leaks(), pytest.raises(psycopg.OperationalError) as caught:
        await Connection.connect("host=127.0.0.1,127.0.0.2 port=1,2 dbname=x connect_timeout=2")
    assert "127.0.0.1:1" in str(caught.value)
    assert "127.0.0.2:2" in str(caught.value)


async def test_connect_resolves_names_without_blocking(bare: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="cannot resolve host"):
        await Connection.connect("host=no-such-host.invalid dbname=x connect_timeout=5")


async def test_connect_gives_up_on_a_silent_server() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    before = open_sockets()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        await Connection.connect(f"host=127.0.0.1 port={port} connect_timeout=2")
    assert open_sockets() == before
    await listener.aclose()


async def test_backend_is_gone_after_close(bare: Database) -> None:
    conn: Conn = await Connection.connect(bare.superuser)
    pid = conn.pgconn.backend_pid
    await conn.execute("select 1")
    await conn.close()
    await conn.close()
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        query = "select 1 from pg_stat_activity where pid = %s"
        await eventually(lambda: other.execute(query, (pid,)).fetchone() is None)
