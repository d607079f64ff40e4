"""A server that goes away: killed backends, stops, restarts, and a peer that falls silent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
import trio

from flux_pg.database.connection import Connection
from flux_pg.database.pipeline import run_batch
from tests.conftest import Database
from tests.database.cancelling import eventually, nothing_leaks
from tests.database.proxy import Proxy

Conn = Connection[Any]


def terminate(bare: Database, pid: int) -> None:
    with psycopg.connect(bare.superuser, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (pid,))


async def by_execute(conn: Conn) -> None:
    await conn.execute("select pg_sleep(60)")


async def by_batch(conn: Conn) -> None:
    (await run_batch(conn, [("begin", None), ("select pg_sleep(60)", None)])).check()


async def by_transaction(conn: Conn) -> None:
    async with conn.transaction():
        await conn.execute("select pg_sleep(60)")


async def by_pipeline(conn: Conn) -> None:
    async with conn.pipeline():
        await conn.execute("select pg_sleep(60)")


async def by_copy(conn: Conn) -> None:
    async with conn.cursor().copy("copy (select pg_sleep(60)) to stdout") as copy:
        await copy.read()


async def by_stream(conn: Conn) -> None:
    async for _ in conn.cursor().stream("select pg_sleep(60)"):
        pass


async def by_notifies(conn: Conn) -> None:
    await conn.execute("listen probe")
    async for _ in conn.notifies():
        pass


USERS = [by_execute, by_batch, by_transaction, by_pipeline, by_copy, by_stream, by_notifies]


@pytest.mark.parametrize("use", USERS, ids=lambda u: u.__name__)
async def test_backend_killed_in_the_middle_is_an_operational_error(
    bare: Database, use: Callable[[Conn], Awaitable[None]]
) -> None:
    with nothing_leaks():
        conn: Conn = await Connection.connect(bare.superuser, autocommit=True)
        pid = conn.pgconn.backend_pid
        caught: list[psycopg.Error] = []

        async def run() -> None:
            try:
                await use(conn)
            except psycopg.OperationalError as exc:
                caught.append(exc)

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await trio.to_thread.run_sync(terminate, bare, pid)
        assert caught
        assert conn.closed
        assert conn.in_doubt
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("select 1")
        await conn.close()


@pytest.mark.parametrize("use", USERS[:-1], ids=lambda u: u.__name__)
async def test_backend_killed_while_idle_fails_the_next_use(
    bare: Database, use: Callable[[Conn], Awaitable[None]]
) -> None:
    conn: Conn = await Connection.connect(bare.superuser, autocommit=True)
    assert not conn.has_unread()
    terminate(bare, conn.pgconn.backend_pid)
    await eventually(conn.has_unread)
    with trio.fail_after(50), pytest.raises(psycopg.OperationalError):
        await use(conn)
    assert conn.closed
    await conn.close()


async def cancel_when_heard(scope: trio.CancelScope, proxy: Proxy) -> None:
    await proxy.swallowed.wait()
    scope.cancel()


@pytest.mark.parametrize("use", USERS[:6], ids=lambda u: u.__name__)
async def test_peer_that_falls_silent_is_left_in_bounded_time(
    bare: Database, use: Callable[[Conn], Awaitable[None]]
) -> None:
    proxy = Proxy(bare.superuser)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        info = psycopg.conninfo.make_conninfo(
            bare.superuser, host="127.0.0.1", port=proxy.port, hostaddr="", connect_timeout=60
        )
        conn: Conn = await Connection.connect(info, autocommit=True)
        conn.cancel_grace_s = 0.3
        proxy.forwarding = trio.Event()
        began = trio.current_time()
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_heard, scope, proxy)
            await use(conn)
        assert scope.cancelled_caught
        assert trio.current_time() - began < 30
        assert conn.closed
        nursery.cancel_scope.cancel()


async def test_connect_through_a_silent_peer_times_out(bare: Database) -> None:
    proxy = Proxy(bare.superuser)
    proxy.forwarding = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            await Connection.connect(
                bare.superuser, host="127.0.0.1", port=proxy.port, connect_timeout=2
            )
        nursery.cancel_scope.cancel()
