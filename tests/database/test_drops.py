"""Databases are dropped, whatever the other processes of the server are at."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from flux_pg.database.drops import drop_database
from tests.conftest import Database, Server

PATIENCE_S = 60.0


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "it never came to that"


def waits_for(conn: psycopg.Connection, pid: int, event: str) -> bool:
    row = conn.execute("select wait_event from pg_stat_activity where pid = %s", (pid,)).fetchone()
    return row == (event,)


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^(?:ShdPnd|SigPnd):\t(\w+)$", status, re.M)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def exists(server: Server, name: str) -> bool:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        found = conn.execute("select from pg_database where datname = %s", (name,))
        return found.rowcount == 1


def test_a_process_that_forgot_the_barrier_is_asked_again(
    server: Server, database: Database
) -> None:
    """Its statement is cancelled in the moment in which it is asked."""
    doomed = server.create_database(flux=False)
    with (
        psycopg.connect(database.superuser) as holder,
        psycopg.connect(database.superuser, autocommit=True) as forgetful,
        psycopg.connect(server.dsn(), autocommit=True) as watcher,
        psycopg.connect(server.dsn(), autocommit=True) as conn,
    ):
        pid = forgetful.info.backend_pid
        holder.execute("create table held ()")
        holder.commit()
        holder.execute("lock table held")
        forgetful.execute("set lock_timeout = '500ms'")

        def wait_for_the_lock() -> None:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                forgetful.execute("select from held")

        waiting = threading.Thread(target=wait_for_the_lock)
        waiting.start()
        wait_until(lambda: waits_for(watcher, pid, "relation"))
        os.kill(pid, signal.SIGSTOP)
        try:
            gone: list[bool] = []
            dropping = threading.Thread(
                target=lambda: gone.append(drop_database(conn, doomed.name, (4, 20)))
            )
            dropping.start()
            wait_until(lambda: waits_for(watcher, conn.info.backend_pid, "ProcSignalBarrier"))
            wait_until(lambda: is_pending(pid, signal.SIGALRM))
        finally:
            os.kill(pid, signal.SIGCONT)
        waiting.join()
        dropping.join()
        assert gone == [True]
        assert not exists(server, doomed.name)
        assert forgetful.execute("select 1").fetchone() == (1,)


def test_a_process_that_waits_for_its_client_is_disconnected(
    server: Server, database: Database
) -> None:
    doomed = server.create_database(flux=False)
    with (
        psycopg.connect(database.superuser, autocommit=True) as silent,
        psycopg.connect(server.dsn(), autocommit=True) as conn,
    ):
        silent.execute("create table filled (i int)")
        copying = silent.cursor().copy("copy filled from stdin")
        copying.__enter__()
        assert drop_database(conn, doomed.name, (0.5, 20))
        assert not exists(server, doomed.name)
        with pytest.raises(psycopg.OperationalError):
            copying.__exit__(None, None, None)


def test_what_cannot_be_dropped_is_left_to_the_next_try(server: Server, database: Database) -> None:
    doomed = server.create_database(flux=False)
    with (
        psycopg.connect(database.superuser, autocommit=True) as stopped,
        psycopg.connect(server.dsn(), autocommit=True) as conn,
    ):
        os.kill(stopped.info.backend_pid, signal.SIGSTOP)
        try:
            assert not drop_database(conn, doomed.name, (0.3, 0.3))
            assert exists(server, doomed.name)
        finally:
            os.kill(stopped.info.backend_pid, signal.SIGCONT)
        assert drop_database(conn, doomed.name)
        assert not exists(server, doomed.name)
        assert conn.execute("show statement_timeout").fetchone() == ("0",)
