"""When to look for jobs: at once because somebody said so, or when a known one is due.

Laws: a wake-up that comes while nobody waits is kept for the next `wait`; several are one; what is
due is never forgotten by what is due later.
"""

from __future__ import annotations

import math

import trio

from flux_pg.database.connection import Error
from flux_pg.database.pipeline import run_batch
from flux_pg.database.pool import Pool
from flux_pg.errors import FluxError
from flux_pg.queue.statements import notify

NOTIFY_EVERY_S = 0.1
"""NOTIFY takes a lock of the whole database at commit: one process sends no more of them."""

FLUSH_S = 1.0


class Wakeup:
    """The fetcher's alarm clock. Times are `trio.current_time`."""

    def __init__(self) -> None:
        self._woken = False
        self._due = math.inf
        self._changed = trio.Event()

    def wake(self) -> None:
        """Look now."""
        self._woken = True
        self._changed.set()

    def heard(self) -> None:
        """A notification came: look now, and once more for what came too soon after it to be told
        of (flux.notify_workers)."""
        self.wake()
        self.wake_in(1.5 * NOTIFY_EVERY_S)

    def wake_in(self, seconds: float) -> None:
        """Look in so many seconds, or before."""
        when = trio.current_time() + max(0.0, seconds)
        if when < self._due:
            self._due = when
            self._changed.set()

    async def wait(self, until: float) -> bool:
        """Wait for a reason to look, at most until a time; returns whether there is one."""
        while not self._woken:
            deadline = min(until, self._due)
            if trio.current_time() >= deadline:
                break
            self._changed = trio.Event()
            with trio.move_on_at(deadline):
                await self._changed.wait()
        reason = self._woken or trio.current_time() >= self._due
        self._woken = False
        if trio.current_time() >= self._due:
            self._due = math.inf
        return reason


class Notifier:
    """Tells the fetchers of jobs that were enqueued: ours at once, the others by NOTIFY.

    Args:
        pool: Where NOTIFY is sent.
        wakeup: The clock of this process's own fetcher.
        poll_s: Jobs that are due later than this are found in time by polling.
    """

    def __init__(self, pool: Pool, wakeup: Wakeup, poll_s: float) -> None:
        self._pool = pool
        self._wakeup = wakeup
        self._poll_s = poll_s
        self._pending = trio.Event()

    def pushed(self, delay_s: float = 0.0) -> None:
        """Jobs were committed, the first of them due in `delay_s` seconds."""
        if delay_s > 0:
            self._wakeup.wake_in(delay_s)
        else:
            self._wakeup.wake()
        if delay_s < self._poll_s:
            self._pending.set()

    async def run(self) -> None:
        """Send what is to be sent until cancelled, then once more."""
        try:
            while True:
                await self._pending.wait()
                await self._send()
                await trio.sleep(NOTIFY_EVERY_S)
        finally:
            # A short-lived process (`flux invoke`) enqueues and ends.
            if self._pending.is_set():
                with trio.move_on_after(FLUSH_S) as grace:
                    grace.shield = True
                    await self._send()

    async def _send(self) -> None:
        self._pending = trio.Event()
        try:
            async with self._pool.connection() as conn:
                await run_batch(conn, [notify()])
        except (Error, FluxError):
            return  # a hint only: whoever missed it polls
