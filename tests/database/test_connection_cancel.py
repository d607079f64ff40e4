"""The laws of cancellation of flux_pg/database/connection.py, at every await."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio

from flux_pg.database.connection import Connection
from flux_pg.database.pipeline import run_batch
from tests.conftest import Database
from tests.database.cancelling import (
    assert_truthful,
    cancel_at,
    eventually,
    nothing_leaks,
    open_sockets,
)

Conn = Connection[Any]
PATIENCE_S = 60.0
"""What a busy machine may need to answer a cancellation, and less than any statement here lasts."""
INSERT = "insert into probe.marks select %s from pg_sleep(%s)"
BIG = "select repeat('x', 1000) from generate_series(1, 20000)"


@pytest.fixture
def dsn(bare: Database) -> str:
    with psycopg.connect(bare.superuser, autocommit=True) as conn:
        conn.execute("create schema probe")
        conn.execute("create table probe.marks (mark text)")
    return bare.superuser


@pytest.fixture
def witness(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


def marks(witness: psycopg.Connection[Any], mark: str) -> int:
    row = witness.execute("select count(*) from probe.marks where mark = %s", (mark,)).fetchone()
    assert row is not None
    return int(row[0])


def is_running(witness: psycopg.Connection[Any], pid: int) -> bool:
    query = "select 1 from pg_stat_activity where pid = %s and state = 'active'"
    return witness.execute(query, (pid,)).fetchone() is not None


def waits(witness: psycopg.Connection[Any], pid: int, event: str) -> bool:
    query = "select 1 from pg_stat_activity where pid = %s and wait_event = %s"
    return witness.execute(query, (pid, event)).fetchone() is not None


async def autocommit_insert(conn: Conn, mark: str) -> None:
    await conn.execute(INSERT, (mark, 0.002))


async def block(conn: Conn, mark: str) -> None:
    async with conn.transaction():
        await conn.execute(INSERT, (mark, 0.001))


async def nested_block(conn: Conn, mark: str) -> None:
    async with conn.transaction():
        async with conn.transaction():
            await conn.execute(INSERT, (mark, 0))
        await conn.execute("select 1")


async def piped_block(conn: Conn, mark: str) -> None:
    async with conn.pipeline(), conn.transaction():
        await conn.execute("select 1")
        cursor = await conn.execute(INSERT, (mark, 0.001))
        await cursor.fetchall() if cursor.description else None


async def copy_in(conn: Conn, mark: str) -> None:
    async with conn.cursor().copy("copy probe.marks from stdin") as copy:
        await copy.write_row((mark,))
        for _ in range(4000):
            await copy.write(b"filler" * 200 + b"\n")


async def batch(conn: Conn, mark: str) -> None:
    statements = [("begin", None), ("select 1", None), (INSERT, (mark, 0.001)), ("commit", None)]
    (await run_batch(conn, statements)).check()


async def implicit_batch(conn: Conn, mark: str) -> None:
    (await run_batch(conn, [("select 1", None), (INSERT, (mark, 0.001))])).check()


async def finishing_batch(conn: Conn, mark: str) -> None:
    statements = [("begin", None), (INSERT, (mark, 0.001)), ("commit", None)]
    (await run_batch(conn, statements, finish=True)).check()


async def many(conn: Conn, mark: str) -> None:
    async with conn.transaction():
        filler = [("filler" * 10,) for _ in range(200)]
        rows = [(mark,), *filler]
        await conn.cursor().executemany("insert into probe.marks values (%s)", rows)


WRITERS = [
    autocommit_insert,
    block,
    nested_block,
    piped_block,
    copy_in,
    batch,
    implicit_batch,
    finishing_batch,
    many,
]


@pytest.mark.parametrize("scenario", WRITERS, ids=lambda s: s.__name__)
async def test_write_cancelled_at_any_await_tells_the_truth(
    dsn: str,
    witness: psycopg.Connection[Any],
    scenario: Callable[[Conn, str], Awaitable[None]],
) -> None:
    for number in range(1, 200):
        with nothing_leaks():
            conn: Conn = await Connection.connect(dsn, autocommit=True)
            pid = conn.pgconn.backend_pid
            mark = uuid.uuid4().hex
            conn.cancel_grace_s = PATIENCE_S
            with trio.fail_after(2 * PATIENCE_S):
                attempt = await cancel_at(number, lambda m=mark, c=conn: scenario(c, m))
            assert scenario in (piped_block, many) or not conn.in_doubt
            if attempt.cancelled and not conn.in_doubt:
                await eventually(lambda p=pid: not is_running(witness, p))
                assert marks(witness, mark) == 0, f"told cancelled at {number}, yet committed"
            elif not attempt.cancelled:
                assert attempt.error is None
                assert marks(witness, mark) == 1, f"told done at {number}, yet not committed"
            await assert_truthful(conn)
            await conn.close()
        if not attempt.reached:
            return
    raise AssertionError("the scenario has no end")


async def manual_commit(conn: Conn, mark: str) -> None:
    await conn.execute(INSERT, (mark, 0))
    await conn.commit()


async def connection_block(conn: Conn, mark: str) -> None:
    async with conn:
        await conn.execute(INSERT, (mark, 0))


@pytest.mark.parametrize("scenario", [manual_commit, connection_block], ids=lambda s: s.__name__)
async def test_implicit_transaction_cancelled_at_any_await_tells_the_truth(
    dsn: str,
    witness: psycopg.Connection[Any],
    scenario: Callable[[Conn, str], Awaitable[None]],
) -> None:
    for number in range(1, 50):
        with nothing_leaks():
            conn: Conn = await Connection.connect(dsn)
            mark = uuid.uuid4().hex
            attempt = await cancel_at(number, lambda m=mark, c=conn: scenario(c, m))
            await assert_truthful(conn)
            await conn.close()
            assert not conn.in_doubt
            assert marks(witness, mark) == (0 if attempt.cancelled else 1)
        if not attempt.reached:
            return


async def copy_out(conn: Conn) -> None:
    async with conn.cursor().copy(f"copy ({BIG}) to stdout") as copy:
        async for _ in copy:
            pass


async def stream(conn: Conn) -> None:
    async with aclosing(conn.cursor().stream(BIG)) as rows:
        async for _ in rows:
            pass


async def server_cursor(conn: Conn) -> None:
    async with conn.transaction(), conn.cursor("c") as cursor:
        await cursor.execute(BIG)
        while await cursor.fetchmany(4000):
            pass


async def big_result(conn: Conn) -> None:
    await conn.execute(BIG)


async def big_parameters(conn: Conn) -> None:
    await run_batch(conn, [("select %s::text", ("x" * 3_000_000,))] * 3)


READERS = [copy_out, stream, server_cursor, big_result, big_parameters]


@pytest.mark.parametrize("scenario", READERS, ids=lambda s: s.__name__)
async def test_reading_cancelled_at_any_await_keeps_the_connection(
    dsn: str, witness: psycopg.Connection[Any], scenario: Callable[[Conn], Awaitable[None]]
) -> None:
    step = 1
    number = 1
    while True:
        with nothing_leaks():
            conn: Conn = await Connection.connect(dsn, autocommit=True)
            pid = conn.pgconn.backend_pid
            conn.cancel_grace_s = PATIENCE_S
            with trio.fail_after(2 * PATIENCE_S):
                attempt = await cancel_at(number, lambda c=conn: scenario(c))
            assert attempt.error is None
            assert not conn.closed, f"lost at await {number}"
            await assert_truthful(conn)
            assert not is_running(witness, pid)
            await conn.close()
        if not attempt.reached:
            return
        number += step
        step += number // 20  # hundreds of awaits: every one at first, then samples


async def test_connect_cancelled_at_any_await_leaves_no_socket(dsn: str) -> None:
    address = f"{dsn} connect_timeout=60"
    before = open_sockets()
    for number in range(1, 50):
        opened: list[Conn] = []

        async def scenario(opened: list[Conn] = opened) -> None:
            opened.append(await Connection.connect(address))

        attempt = await cancel_at(number, scenario)
        for conn in opened:
            await conn.close()
        assert open_sockets() == before
        if not attempt.reached:
            assert opened
            return
        assert attempt.cancelled or opened


async def test_notifies_cancelled_keeps_the_connection(dsn: str) -> None:
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    await conn.execute("listen probe")
    for number in range(1, 4):

        async def listen() -> None:
            async with aclosing(conn.notifies()) as notifications:
                async for _ in notifications:
                    raise AssertionError("nobody notified")

        attempt = await cancel_at(number, listen) if number == 1 else await _cancel_soon(listen)
        assert attempt
        await assert_truthful(conn)
    await conn.close()


@asynccontextmanager
async def cancelled_when(condition: Callable[[], bool]) -> AsyncIterator[trio.CancelScope]:
    """Cancel the block once the condition holds."""
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await eventually(condition)
                scope.cancel()

            nursery.start_soon(cancel)
            yield scope


async def _cancel_soon(scenario: Callable[[], Awaitable[None]]) -> bool:
    with trio.move_on_after(0.01) as scope:
        await scenario()
    return scope.cancelled_caught


async def test_a_cancelled_scope_sends_nothing(dsn: str, witness: psycopg.Connection[Any]) -> None:
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    for scenario in (autocommit_insert, batch, block, copy_in, piped_block):
        with trio.CancelScope() as scope:
            scope.cancel()
            await scenario(conn, "never")
        assert scope.cancelled_caught
        if conn.closed:  # a pipeline that was entered
            conn = await Connection.connect(dsn, autocommit=True)
    assert marks(witness, "never") == 0
    await conn.close()


async def test_rollback_runs_in_a_cancelled_scope(
    dsn: str, witness: psycopg.Connection[Any]
) -> None:
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    with trio.CancelScope() as scope:
        async with conn.transaction():
            await conn.execute(INSERT, ("undone", 0))
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert conn.is_clean()
    assert marks(witness, "undone") == 0
    await conn.close()


async def test_statement_that_ignores_the_cancel_closes_in_bounded_time(
    dsn: str, witness: psycopg.Connection[Any]
) -> None:
    witness.execute(
        """create function probe.stubborn() returns void language plpgsql as $$
        begin
            for i in 1..200 loop
                begin perform pg_sleep(0.2); exception when query_canceled then null; end;
            end loop;
        end $$"""
    )
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    conn.cancel_grace_s = 0.5
    pid = conn.pgconn.backend_pid
    began = trio.current_time()
    async with cancelled_when(lambda: waits(witness, pid, "PgSleep")) as scope:
        await conn.execute("select probe.stubborn()")
    assert scope.cancelled_caught
    assert trio.current_time() - began < 30  # it takes 40 s
    assert conn.closed
    assert conn.in_doubt
    witness.execute("select pg_terminate_backend(%s)", (pid,))


async def test_cancel_that_comes_before_the_statement_has_begun_is_sent_again(dsn: str) -> None:
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    for _ in range(30):

        async def sleep() -> None:
            await conn.execute("select pg_sleep(60)")

        conn.cancel_grace_s = PATIENCE_S
        with trio.fail_after(PATIENCE_S / 2):
            attempt = await cancel_at(1, sleep)
        assert attempt.cancelled
        await assert_truthful(conn)
    assert not conn.closed
    await conn.close()


async def test_cancelled_pipeline_leaves_nothing_running_on_the_server(
    dsn: str, witness: psycopg.Connection[Any]
) -> None:
    pids: list[int] = []
    for _ in range(10):
        conn: Conn = await Connection.connect(dsn, autocommit=True)
        pids.append(conn.pgconn.backend_pid)

        async def sleep(conn: Conn = conn) -> None:
            async with conn.pipeline():
                cursor = await conn.execute("select pg_sleep(60)")
                await cursor.fetchone()

        attempt = await cancel_at(1, sleep)
        assert attempt.cancelled
        assert conn.closed
    await eventually(lambda: not any(is_running(witness, pid) for pid in pids))


async def test_commit_in_flight_is_finished_when_cancelled(
    dsn: str, witness: psycopg.Connection[Any]
) -> None:
    witness.execute(
        """create function probe.slow() returns trigger language plpgsql as $$
        begin perform pg_advisory_xact_lock(7); return null; end $$;
        create constraint trigger slow after insert on probe.marks
            deferrable initially deferred for each row execute function probe.slow()"""
    )
    witness.execute("select pg_advisory_lock(7)")
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    pid = conn.pgconn.backend_pid

    async def release(scope: trio.CancelScope) -> None:
        while not scope.cancel_called:
            await trio.sleep(0.005)
        await trio.testing.wait_all_tasks_blocked(0.01)
        witness.execute("select pg_advisory_unlock(7)")

    async with (
        trio.open_nursery() as nursery,
        cancelled_when(lambda: waits(witness, pid, "advisory")) as scope,
    ):
        nursery.start_soon(release, scope)
        async with conn.transaction():
            await conn.execute("insert into probe.marks values ('kept')")
        assert scope.cancel_called
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert conn.is_clean()
    assert marks(witness, "kept") == 1
    await conn.close()


async def test_commit_that_outlives_the_grace_is_in_doubt(
    dsn: str, witness: psycopg.Connection[Any]
) -> None:
    witness.execute(
        """create function probe.slow() returns trigger language plpgsql as $$
        begin perform pg_sleep(30); return null; end $$;
        create constraint trigger slow after insert on probe.marks
            deferrable initially deferred for each row execute function probe.slow()"""
    )
    conn: Conn = await Connection.connect(dsn, autocommit=True)
    conn.cancel_grace_s = 0.2
    pid = conn.pgconn.backend_pid
    async with (
        cancelled_when(lambda: waits(witness, pid, "PgSleep")) as scope,
        conn.transaction(),
    ):
        await conn.execute("insert into probe.marks values ('who knows')")
    assert scope.cancelled_caught
    assert conn.closed
    assert conn.in_doubt
    witness.execute("select pg_terminate_backend(%s)", (pid,))


@pytest.mark.parametrize("seed", range(3))
async def test_random_cancellations_never_lie(
    dsn: str, witness: psycopg.Connection[Any], seed: int
) -> None:
    chance = random.Random(seed)
    conn: Conn | None = None
    for _ in range(60):
        if conn is None or conn.closed:
            conn = await Connection.connect(dsn, autocommit=True)
        scenario = chance.choice(WRITERS)
        mark = uuid.uuid4().hex
        with trio.move_on_after(chance.random() * 0.01) as scope:
            await scenario(conn, mark)
        if scope.cancelled_caught and not conn.in_doubt:
            assert marks(witness, mark) == 0, (seed, scenario.__name__)
        elif not scope.cancelled_caught:
            assert marks(witness, mark) == 1, (seed, scenario.__name__)
        await assert_truthful(conn)
    assert conn is not None
    await conn.close()
