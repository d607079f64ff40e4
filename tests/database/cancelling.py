"""Cancel a task at its n-th await, for every n; and what must be true afterwards."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import trio
from psycopg.pq import PipelineStatus, TransactionStatus

from flux_pg.database.connection import Connection

QUIET = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)


class CancelAtAwait(trio.abc.Instrument):
    """Cancels `scope` when the task has suspended itself for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, number: int) -> None:
        self.task, self.scope, self.number = task, scope, number
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.count += 1
            if self.count == self.number:
                self.scope.cancel()


@dataclass
class Attempt:
    """One run of a scenario that was cancelled at await `number`."""

    number: int
    cancelled: bool = False
    reached: bool = False
    error: Exception | None = None


async def cancel_at(number: int, scenario: Callable[[], Awaitable[object]]) -> Attempt:
    """Run the scenario, cancelled at its n-th await; `reached` tells whether it has that many."""
    attempt = Attempt(number)
    with trio.CancelScope() as scope:
        task = trio.lowlevel.current_task()
        instrument = CancelAtAwait(task, scope, number)
        trio.lowlevel.add_instrument(instrument)
        try:
            await scenario()
        except psycopg.Error as exc:
            attempt.error = exc
        finally:
            trio.lowlevel.remove_instrument(instrument)
            attempt.reached = instrument.count >= number
    attempt.cancelled = scope.cancelled_caught
    return attempt


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return count


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """Sockets and tasks are as many after the block as before."""
    sockets = open_sockets()
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield
    assert open_sockets() == sockets
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def assert_truthful(conn: Connection[tuple[object, ...]]) -> None:
    """The connection is closed, or it is quiet and works."""
    if conn.closed:
        return
    assert conn.pgconn.transaction_status in QUIET
    assert conn.pgconn.pipeline_status == PipelineStatus.OFF
    assert conn.lock.is_free()
    await conn.rollback()
    answer = await conn.execute("select 'alive'")
    assert await answer.fetchall() == [("alive",)]
    await conn.rollback()
    assert conn.is_clean()


async def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Poll a condition of the outside world that sends no event."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.005)
