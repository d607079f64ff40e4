"""The pool: its laws under load, cancellation, broken connections and a server that goes away."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from flux_pg.database.connection import Connection
from flux_pg.database.embedded import SUPERUSER, EmbeddedServer
from flux_pg.database.pipeline import run_batch
from flux_pg.database.pool import Pool, PoolClosed, PoolTimeout
from flux_pg.errors import UsageError
from tests.conftest import FAST, Database
from tests.database.cancelling import cancel_at, eventually, nothing_leaks
from tests.database.proxy import Proxy

Conn = Connection[Any]


@pytest.fixture
async def pool(bare: Database) -> AsyncIterator[Pool]:
    async with Pool(bare.superuser, max_size=3, timeout_s=10) as made:
        yield made


def backends(bare: Database) -> int:
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        query = """select count(*) from pg_stat_activity
            where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'"""
        row = other.execute(query, (bare.name,)).fetchone()
        assert row is not None
        return int(row[0])


def terminate_all(bare: Database) -> None:
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute(
            """select pg_terminate_backend(pid, 5000) from pg_stat_activity
            where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'""",
            (bare.name,),
        )


async def ask(pool: Pool) -> None:
    async with pool.connection() as conn:
        assert await (await conn.execute("select 1")).fetchall() == [(1,)]


async def test_never_more_than_max_size_and_each_has_one_owner(pool: Pool, bare: Database) -> None:
    owned: set[Conn] = set()
    most = 0

    async def use() -> None:
        nonlocal most
        async with pool.connection() as conn:
            assert conn not in owned
            owned.add(conn)
            most = max(most, len(owned))
            await conn.execute("select pg_sleep(0.002)")
            owned.remove(conn)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(use)
    stats = pool.stats()
    assert most == 3
    assert backends(bare) == 3
    assert (stats.acquired, stats.opened, stats.idle, stats.in_use) == (60, 3, 3, 0)
    assert stats.waited_s > 0


async def test_the_one_used_last_is_used_next(pool: Pool) -> None:
    async with pool.connection() as first, pool.connection():
        pass
    for _ in range(5):
        async with pool.connection() as again:
            assert again is first


async def test_waiters_are_served_in_order(pool: Pool) -> None:
    order: list[int] = []
    held = [await pool.acquire() for _ in range(3)]

    async def wait(i: int) -> None:
        async with pool.connection():
            order.append(i)

    async with trio.open_nursery() as nursery:
        for i in range(10):
            nursery.start_soon(wait, i)
            await wait_all_tasks_blocked()
        assert pool.stats().waiting == 10
        await pool.release(held.pop())
    for conn in held:
        await pool.release(conn)
    assert order == list(range(10))


async def test_timeout_names_size_and_waiters(pool: Pool) -> None:
    held = [await pool.acquire() for _ in range(3)]
    with pytest.raises(PoolTimeout, match=r"within 0\.05 s: 3 of 3 in use, 0 others waiting") as e:
        await pool.acquire(0.05)
    assert e.value.hint
    assert pool.stats().timeouts == 1
    for conn in held:
        await pool.release(conn)
    await ask(pool)


async def test_releasing_twice_is_refused(pool: Pool) -> None:
    conn = await pool.acquire()
    await pool.release(conn)
    with pytest.raises(UsageError):
        await pool.release(conn)
    assert pool.stats().idle == 1


async def test_open_transaction_is_rolled_back_when_it_comes_back(
    pool: Pool, bare: Database
) -> None:
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute("create table t (a int)")
    for statement in ("insert into t values (1)", "select 1/0"):
        async with pool.connection() as conn:
            await run_batch(conn, [("begin", None), (statement, None)])
        async with pool.connection() as again:
            assert again is conn
            assert conn.is_clean()
            assert await (await conn.execute("select * from t")).fetchall() == []


async def test_connection_left_in_the_middle_of_something_is_closed(pool: Pool) -> None:
    async with pool.connection() as conn:
        rows = conn.cursor().stream("select generate_series(1, 1000000)")
        assert await anext(rows) == (1,)
    assert conn.closed
    await rows.aclose()
    async with pool.connection() as conn:
        conn.pgconn.enter_pipeline_mode()
    assert conn.closed
    await ask(pool)
    assert pool.stats().dropped == 2


async def test_connection_cancelled_in_a_pipeline_is_not_reused(pool: Pool) -> None:
    async with pool.connection() as conn:
        with trio.CancelScope() as scope:
            async with conn.pipeline():
                await conn.execute("select pg_sleep(30)")
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert conn.closed
    await ask(pool)


async def test_configure_runs_once_for_each_connection(bare: Database) -> None:
    configured: list[Conn] = []

    async def configure(conn: Conn) -> None:
        configured.append(conn)
        await conn.execute("set application_name = 'probe'")

    async with Pool(bare.superuser, max_size=2, configure=configure) as pool:
        for _ in range(5):
            async with pool.connection() as a, pool.connection() as b:
                assert {a, b} == set(configured)
    assert len(configured) == 2


async def test_configure_that_raises_leaks_nothing(bare: Database) -> None:
    async def broken(conn: Conn) -> None:
        raise ZeroDivisionError

    with nothing_leaks():
        async with Pool(bare.superuser, max_size=1, configure=broken) as pool:
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    await pool.acquire()
            assert pool.stats().size == 0


async def test_configure_that_fails_in_sql_is_the_cause_of_the_timeout(bare: Database) -> None:
    async def broken(conn: Conn) -> None:
        await conn.execute("select no_such_function()")

    async with Pool(bare.superuser, max_size=1, configure=broken) as pool:
        with pytest.raises(PoolTimeout, match="no_such_function") as caught:
            await pool.acquire(3.0)
        assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedFunction)


async def test_killed_backends_are_replaced_without_an_error(pool: Pool, bare: Database) -> None:
    async with pool.connection() as a, pool.connection() as b, pool.connection() as c:
        old = {a, b, c}
    terminate_all(bare)
    await eventually(lambda: all(conn.has_unread() for conn in old))
    for _ in range(5):
        async with pool.connection() as conn:
            assert conn not in old
            await conn.execute("select 1")
    assert pool.stats().size <= 3


async def test_connection_that_breaks_in_use_is_dropped_and_wakes_a_waiter(
    pool: Pool, bare: Database
) -> None:
    held = [await pool.acquire() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, pool)
        await wait_all_tasks_blocked()
        await held[0].close()
        await pool.release(held[0])
    for conn in held[1:]:
        await pool.release(conn)
    assert pool.stats().dropped == 1


async def test_notification_on_an_idle_connection_does_not_cost_it(
    pool: Pool, bare: Database
) -> None:
    async with pool.connection() as conn:
        await conn.execute("listen probe")
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute("notify probe")
    await eventually(conn.has_unread)
    async with pool.connection() as again:
        assert again is conn


async def test_idle_for_long_is_asked_first_and_for_too_long_is_closed(bare: Database) -> None:
    async with Pool(bare.superuser, max_size=1, check_idle_s=0) as pool:
        await ask(pool)
        async with pool.connection() as conn:
            await conn.execute("select 1")
        assert pool.stats().opened == 1
        pool.max_idle_s = 0
        async with pool.connection() as other:
            assert other is not conn
        assert conn.closed


async def test_connection_past_its_lifetime_is_closed_when_it_comes_back(bare: Database) -> None:
    async with Pool(bare.superuser, max_size=1, max_lifetime_s=0) as pool:
        for _ in range(3):
            await ask(pool)
        stats = pool.stats()
        assert (stats.opened, stats.dropped, stats.size) == (3, 3, 0)


@pytest.mark.parametrize("busy", [False, True])
async def test_checkout_cancelled_at_any_await_loses_nothing(bare: Database, busy: bool) -> None:
    for number in range(1, 60):
        with nothing_leaks():
            async with Pool(bare.superuser, max_size=1, check_idle_s=0) as pool:
                held = await pool.acquire() if busy else None
                if not busy and number % 2:
                    await ask(pool)  # so that there is one to be asked

                async def give_back(held: Conn | None = held, pool: Pool = pool) -> None:
                    if held is not None:
                        await wait_all_tasks_blocked()
                        await pool.release(held)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(give_back)
                    attempt = await cancel_at(number, lambda p=pool: ask(p))
                with trio.fail_after(60):
                    await ask(pool)
                stats = pool.stats()
                assert (stats.in_use, stats.waiting) == (0, 0)
                assert stats.size <= 1
        if not attempt.reached:
            return


@pytest.mark.parametrize("seed", range(2))
async def test_random_cancellations_lose_no_connection(bare: Database, seed: int) -> None:
    chance = random.Random(seed)
    async with Pool(bare.superuser, max_size=3) as pool:

        async def use() -> None:
            for _ in range(20):
                with trio.move_on_after(chance.random() * 0.02):
                    async with pool.connection() as conn:
                        await run_batch(conn, [("begin", None), ("select pg_sleep(0.002)", None)])
                        if chance.random() < 0.1:
                            await conn.close()

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(use)
        stats = pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.size == stats.idle <= 3
        async with pool.connection(), pool.connection(), pool.connection():
            pass


async def test_closing_waits_for_owners_and_refuses_others(bare: Database) -> None:
    pool = Pool(bare.superuser, max_size=1)
    finished = False
    refused: list[PoolClosed] = []

    async def owner() -> None:
        nonlocal finished
        async with pool.connection() as conn:
            owns.set()
            await conn.execute("select pg_sleep(0.2)")
            finished = True

    async def waiter() -> None:
        try:
            await ask(pool)
        except PoolClosed as exc:
            refused.append(exc)

    owns = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner)
        await owns.wait()
        nursery.start_soon(waiter)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()  # closing is not interrupted
            await pool.aclose()
        assert finished
    assert refused
    with pytest.raises(PoolClosed):
        await pool.acquire()
    assert pool.stats().size == 0
    await eventually(lambda: backends(bare) == 0)


async def test_closing_is_bounded_and_stops_what_still_runs(bare: Database) -> None:
    pool = Pool(bare.superuser, max_size=1)
    broken: list[psycopg.Error] = []

    async def owner() -> None:
        async with pool.connection() as conn:
            try:
                await conn.execute("select pg_sleep(60)")
            except psycopg.Error as exc:
                broken.append(exc)

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner)
            await eventually(lambda: pool.stats().in_use == 1)
            await wait_all_tasks_blocked(0.05)
            await pool.aclose(drain_timeout_s=0.1)
    assert broken
    await eventually(lambda: backends(bare) == 0)


async def test_silent_peer_is_left_for_a_new_connection(bare: Database) -> None:
    proxy = Proxy(bare.superuser)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        options = {"host": "127.0.0.1", "port": proxy.port, "connect_timeout": 2}
        async with Pool(
            bare.superuser, max_size=1, check_idle_s=0, check_timeout_s=0.2, **options
        ) as pool:
            await ask(pool)
            proxy.forwarding = trio.Event()
            began = trio.current_time()
            with pytest.raises(PoolTimeout):
                await pool.acquire(0.5)
            assert trio.current_time() - began < 2
            proxy.forwarding.set()
            await ask(pool)
            assert pool.stats().size == 1
        nursery.cancel_scope.cancel()


async def test_crash_of_the_whole_server_is_survived(tmp_path: Path) -> None:
    """kill -9 of one backend makes Postgres end them all and recover."""
    async with EmbeddedServer(tmp_path / "s", settings=FAST) as server:
        dsn = server.dsn(SUPERUSER, "postgres")
        async with Pool(dsn, max_size=3, timeout_s=30) as pool:
            async with pool.connection() as a, pool.connection() as b, pool.connection() as c:
                old = (a, b, c)
                os.kill(a.pgconn.backend_pid, signal.SIGKILL)
                with pytest.raises(psycopg.OperationalError):
                    await b.execute("select pg_sleep(30)")
                assert b.closed
            await eventually(lambda: all(conn.closed or conn.has_unread() for conn in old))
            async with trio.open_nursery() as nursery:
                for _ in range(9):
                    nursery.start_soon(ask, pool)
            assert pool.stats().in_use == 0


async def test_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "s", settings=FAST)
    await server.start()
    dsn = server.dsn(SUPERUSER, "postgres")
    try:
        async with Pool(dsn, max_size=2, timeout_s=30, backoff_s=(0.02, 0.2)) as pool:
            async with pool.connection(), pool.connection():
                pass
            await server.stop()
            with pytest.raises(PoolTimeout, match="connecting failed") as caught:
                await pool.acquire(0.3)
            assert isinstance(caught.value.__cause__, psycopg.OperationalError)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(ask, pool)
                await wait_all_tasks_blocked(0.01)
                await server.start()
            stats = pool.stats()
            assert (stats.in_use, stats.waiting) == (0, 0)
            assert 1 <= stats.size <= 2
    finally:
        await server.stop()


async def test_while_the_server_is_away_one_task_tries_with_growing_pauses(
    autojump_clock: MockClock,
) -> None:
    attempts: list[float] = []
    trying = 0

    async def refuse(*_: object, **__: object) -> Conn:
        nonlocal trying
        trying += 1
        assert trying == 1 or not attempts
        attempts.append(trio.current_time())
        await trio.sleep(0.01)
        trying -= 1
        raise psycopg.OperationalError("nobody there")

    pool = Pool("", max_size=8, connect=refuse, backoff_s=(0.1, 2.0), jitter=lambda: 1.0)
    failed = 0

    async def knock(i: int) -> None:
        nonlocal failed
        with pytest.raises(PoolTimeout, match="nobody there"):
            await pool.acquire(10 + i)
        failed += 1

    await _first_failure(pool)
    async with trio.open_nursery() as nursery:
        for i in range(6):
            nursery.start_soon(knock, i)
    assert failed == 6
    gaps = [b - a for a, b in pairwise(attempts)]
    assert all(gap <= 2.1 for gap in gaps)
    assert len(attempts) < 16  # 15 seconds and six impatient tasks
    assert gaps[-1] > 1.9
    assert pool.stats().size == 0


async def _first_failure(pool: Pool) -> None:
    with pytest.raises(PoolTimeout):
        await pool.acquire(0.02)


async def test_waiter_whose_turn_it_was_passes_it_on(autojump_clock: MockClock) -> None:
    """Who was to try next gives up: another must wake at the right time, not never."""
    attempts: list[float] = []

    async def refuse(*_: object, **__: object) -> Conn:
        attempts.append(trio.current_time() - began)
        await trio.sleep(0.5)
        raise psycopg.OperationalError("nobody there")

    async def knock(after_s: float, patience_s: float) -> None:
        await trio.sleep(after_s)
        with pytest.raises(PoolTimeout):
            await pool.acquire(patience_s)

    pool = Pool("", max_size=2, connect=refuse, backoff_s=(2.0, 2.0), jitter=lambda: 1.0)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(knock, 0, 0.6)  # fails at 0.5: nobody tries before 2.5
        nursery.start_soon(knock, 2.5, 0.8)  # tries, fails at 3.0, leaves at 3.3
        nursery.start_soon(knock, 2.6, 1.4)  # next in turn, leaves at 4.0
        nursery.start_soon(knock, 2.7, 3.0)  # must try at 5.0
    assert attempts == pytest.approx([0, 2.5, 5.0])
