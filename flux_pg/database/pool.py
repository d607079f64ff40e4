"""A small pool of connections: bounded, last in first out, each connection with one owner.

Laws:

1. A connection is in exactly one place: idle, out with one owner, or being opened by the task that
   counted it. `size` is the sum, never above `max_size`.
2. Nothing broken is handed out twice: what comes back not clean is rolled back or closed, what
   looks suspicious at checkout (bytes on an idle socket, idle for long) is asked first.
3. A waiter that is cancelled loses nothing: a connection is handed over in the same step in which
   its waiter stops being cancellable.
4. While the server is away one task at a time tries again, with a growing, jittered pause; the
   others wait for it until their own deadline.

The pool starts no tasks: connections are opened by whoever needs one, so it has no life of its own
to supervise and any nursery may own it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import outcome
import trio

from flux_pg.database.connection import Connection, Error
from flux_pg.database.pipeline import Statement, run_batch
from flux_pg.errors import DatabaseUnreachable, UsageError

AnyConnection = Connection[Any]


PATIENCE_S = 3.0
"""A server that restarts is waited for. One that has been away for longer than this is down, and
nobody waits for it longer than FAIL_FAST_S until it is back."""

FAIL_FAST_S = 0.5


class PoolTimeout(DatabaseUnreachable):
    """No connection could be had in time; the message says how many there are and who waits."""

    code = "pool-timeout"


class PoolClosed(DatabaseUnreachable):
    """The pool is closed or closing."""

    code = "pool-closed"


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment of the pool; counters are since it was made.

    Attributes:
        size: Connections that exist or are being opened.
        idle: Of these, ready in the pool.
        in_use: Of these, with an owner.
        waiting: Tasks that wait for one.
        acquired: Checkouts that succeeded.
        opened: Connections opened.
        dropped: Connections closed, for whatever reason.
        connect_failures: Attempts to connect that failed.
        timeouts: Checkouts that ran into their deadline.
        waited_s: Seconds that checkouts spent waiting, connecting included.
    """

    size: int
    max_size: int
    idle: int
    in_use: int
    waiting: int
    acquired: int
    opened: int
    dropped: int
    connect_failures: int
    timeouts: int
    waited_s: float


class Pool:
    """Connections to one database.

    Args:
        conninfo: Where to connect.
        max_size: The most connections at any moment.
        configure: Called once with each new connection, before its first owner has it.
        timeout_s: How long a checkout waits unless it says otherwise.
        max_lifetime_s: A connection older than this is closed when it comes back (less up to a
            tenth, at random, so that they do not all end together).
        max_idle_s: A connection unused for this long is closed.
        check_idle_s: A connection unused for this long is asked before it is handed out.
        check_timeout_s: How long that question, or a clean-up, may take.
        backoff_s: First and longest pause between attempts to connect.
        reopens: Whether connections can be opened later; if not, one is emptied to be forgotten.
        connect: How to connect; keyword arguments of `Connection.connect` are in `options`.
        jitter: A random number from 0 to 1 each call.
        options: Passed to `connect`; `autocommit` is True unless given.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        max_size: int = 8,
        configure: Callable[[AnyConnection], Awaitable[None]] | None = None,
        timeout_s: float = 10.0,
        max_lifetime_s: float = 3600.0,
        max_idle_s: float = 600.0,
        check_idle_s: float = 30.0,
        check_timeout_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.05, 5.0),
        reopens: bool = True,
        connect: Callable[..., Awaitable[AnyConnection]] = Connection.connect,
        jitter: Callable[[], float] = random.Random().random,  # noqa: B008
        **options: Any,
    ) -> None:
        self.conninfo = conninfo
        self.max_size = max_size
        self.timeout_s = timeout_s
        self.max_lifetime_s = max_lifetime_s
        self.max_idle_s = max_idle_s
        self.check_idle_s = check_idle_s
        self.check_timeout_s = check_timeout_s
        self._configure = configure
        self._reopens = reopens
        self._connect = connect
        self._options: dict[str, Any] = {"autocommit": True, **options}
        self._jitter = jitter
        self._backoff_s = backoff_s
        self._idle: deque[tuple[AnyConnection, float]] = deque()  # newest last, with its time
        self._out: set[AnyConnection] = set()
        self._expires: dict[AnyConnection, float] = {}
        self._opening = 0
        self._waiters: deque[trio.lowlevel.Task] = deque()
        self._failures = 0  # in a row
        self._failing_since = 0.0
        self._last_failure: Error | OSError | None = None
        self._retry_at = 0.0
        self._probing = False  # somebody tries to connect after failures
        self._closing = False
        self._drained: trio.Event | None = None  # set once closed and nothing is out
        self._acquired = self._opened = self._dropped = 0
        self._connect_failures = self._timeouts = 0
        self._waited_s = 0.0

    # Checking out

    @asynccontextmanager
    async def connection(self, timeout_s: float | None = None) -> AsyncIterator[AnyConnection]:
        """A connection for the length of the block; see `acquire` and `release`."""
        conn = await self.acquire(timeout_s)
        try:
            yield conn
        finally:
            await self.release(conn)

    async def acquire(self, timeout_s: float | None = None) -> AnyConnection:
        """A connection that is the caller's until `release`; idle, and not in a transaction.

        Cancellation: the caller owns nothing, the pool has lost nothing.

        Raises:
            PoolTimeout: None could be had within `timeout_s` seconds; its cause is why the last
                attempt to connect failed, if one did.
            PoolClosed: The pool is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        if self._idle and not self._waiters:
            conn, since = self._idle[-1]
            now = trio.current_time()
            if now - since < self.check_idle_s and not conn.closed and not conn.has_unread():
                self._idle.pop()
                return self._hand_out(conn)
        return await self._acquire_slowly(self.timeout_s if timeout_s is None else timeout_s)

    def _hand_out(self, conn: AnyConnection) -> AnyConnection:
        self._out.add(conn)
        self._acquired += 1
        return conn

    async def _acquire_slowly(self, timeout_s: float) -> AnyConnection:
        began = trio.current_time()
        if self._failures and began - self._failing_since > PATIENCE_S:
            timeout_s = min(timeout_s, FAIL_FAST_S)
        found = False
        try:
            with trio.move_on_after(timeout_s) as patience:
                conn = await self._find()
                found = True
        finally:
            self._waited_s += trio.current_time() - began
            if not found:
                self._wake(1)  # it may have been our turn to try
        if patience.cancelled_caught:
            self._timeouts += 1
            raise self._timeout(timeout_s) from self._last_failure
        return conn

    def _timeout(self, timeout_s: float) -> PoolTimeout:
        stats = self.stats()
        message = (
            f"no database connection within {timeout_s:g} s: {stats.in_use} of {self.max_size} "
            f"in use, {stats.waiting} others waiting"
        )
        if self._failures:
            return PoolTimeout(
                f"{message}; connecting failed {self._failures} times, last: {self._last_failure}",
                "check that Postgres is up and reachable (flux doctor)",
            )
        return PoolTimeout(message, "raise pool_size, or look for requests that hold one for long")

    async def _find(self) -> AnyConnection:
        """An idle connection, a new one, or the next that comes back."""
        turns = 0
        while True:
            self._check_open()
            while self._idle:
                if (conn := await self._take_idle()) is not None:
                    return self._hand_out(conn)
            if self._size() < self.max_size and self._may_connect():
                if (conn := await self._open()) is not None:
                    return self._hand_out(conn)
                continue
            if (conn := await self._wait_turn(front=turns > 0)) is not None:
                return conn
            turns += 1

    async def _take_idle(self) -> AnyConnection | None:
        """The connection used last, asked first if it looks suspicious; None if it was no good."""
        conn, since = self._idle.pop()
        now = trio.current_time()
        if conn.closed or now >= self._expires[conn] or now - since > self.max_idle_s:
            self._drop(conn)
            return None
        if now - since < self.check_idle_s and not conn.has_unread():
            return conn
        alive = False
        self._opening += 1
        try:
            alive = await conn.is_alive(self.check_timeout_s)
        finally:
            self._opening -= 1
            if not alive:
                self._drop(conn)
        return conn if alive else None

    # Opening

    def _size(self) -> int:
        return len(self._idle) + len(self._out) + self._opening

    def _may_connect(self) -> bool:
        if not self._failures:
            return True
        return not self._probing and trio.current_time() >= self._retry_at

    async def _open(self) -> AnyConnection | None:
        """Connect and configure; None if that failed, which sets when to try again."""
        conn: AnyConnection | None = None
        ready = False
        self._opening += 1
        self._probing = self._failures > 0
        try:
            conn = await self._connect(self.conninfo, **self._options)
            if self._configure is not None:
                await self._configure(conn)
                if not conn.is_clean():
                    raise UsageError("configure left a new connection in a transaction")
            ready = not self._closing
        except (Error, OSError) as exc:
            self._note_failure(exc)
        finally:
            self._opening -= 1
            self._probing = False
            if conn is not None and not ready:
                conn.drop()
            if not ready:
                self._wake(1)
        return self._note_opened(conn) if conn is not None and ready else None

    def _note_failure(self, exc: Error | OSError) -> None:
        shortest, longest = self._backoff_s
        pause = min(longest, shortest * 2 ** min(self._failures, 30))
        if not self._failures:
            self._failing_since = trio.current_time()
        self._failures += 1
        self._connect_failures += 1
        self._last_failure = exc
        self._retry_at = trio.current_time() + pause * (0.5 + self._jitter() / 2)

    def _note_opened(self, conn: AnyConnection) -> AnyConnection:
        self._opened += 1
        lifetime = self.max_lifetime_s * (1 - self._jitter() / 10)
        self._expires[conn] = trio.current_time() + lifetime
        if self._failures:
            self._failures = 0
            self._last_failure = None
            self._wake(len(self._waiters))
        return conn

    # Waiting

    async def _wait_turn(self, *, front: bool) -> AnyConnection | None:
        """Wait for a connection that comes back, or (None) for a reason to look again."""
        task = trio.lowlevel.current_task()

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._waiters.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        may_probe = self._failures and not self._probing and self._size() < self.max_size
        if front:
            self._waiters.appendleft(task)
        else:
            self._waiters.append(task)
        given: AnyConnection | None = None
        if not may_probe:
            given = await trio.lowlevel.wait_task_rescheduled(abort)
            return given
        with trio.move_on_at(self._retry_at):
            given = await trio.lowlevel.wait_task_rescheduled(abort)
        return given

    def _wake(self, count: int) -> None:
        """Have the first waiters look again."""
        for _ in range(min(count, len(self._waiters))):
            trio.lowlevel.reschedule(self._waiters.popleft(), outcome.Value(None))

    # Giving back

    async def release(self, conn: AnyConnection) -> None:
        """Give back what `acquire` gave. What is open is rolled back; a broken one is closed.

        Cancellation: not a cancel point, and no checkpoint if the connection comes back clean.

        Raises:
            UsageError: The caller does not own this connection (or released it before).
        """
        if conn not in self._out:
            raise UsageError("released a database connection that was not checked out")
        if not conn.is_clean() and not conn.closed:
            await conn.restore()
        self._out.discard(conn)
        now = trio.current_time()
        if self._closing or conn.closed or now >= self._expires[conn]:
            self._drop(conn)
        elif self._waiters:
            trio.lowlevel.reschedule(self._waiters.popleft(), outcome.Value(self._hand_out(conn)))
        else:
            self._idle.append((conn, now))
            if now - self._idle[0][1] > self.max_idle_s:
                self._drop(self._idle.popleft()[0])
        if self._drained is not None and not self._out:
            self._drained.set()

    async def forget(self, conn: AnyConnection) -> None:
        """Let nothing that its owner set for the session reach the next one; then release it."""
        if not self._reopens and not conn.closed:
            if not conn.is_clean():
                await conn.restore()
            if not conn.closed:
                (await run_batch(conn, [Statement("discard all", prepare=False)])).check()
                if self._configure is not None:
                    await self._configure(conn)
        elif not conn.closed:
            await conn.close()
        await self.release(conn)

    def _drop(self, conn: AnyConnection) -> None:
        """Close one that is counted nowhere any more; there is room for another."""
        conn.drop()
        self._expires.pop(conn, None)
        self._dropped += 1
        self._wake(1)

    # Closing

    def _check_open(self) -> None:
        if self._closing:
            raise PoolClosed("the database pool is closed", "the server is shutting down")

    async def aclose(self, *, drain_timeout_s: float = 5.0) -> None:
        """Refuse new owners, wait for the present ones, then close everything.

        Cancellation: not a cancel point; bounded by `drain_timeout_s`, after which connections
        still out are stopped on the server and closed under their owners.
        """
        self._closing = True
        self._wake(len(self._waiters))
        while self._idle:
            self._drop(self._idle.pop()[0])
        if self._out:
            self._drained = trio.Event()
            deadline = trio.current_time() + drain_timeout_s
            with trio.CancelScope(shield=True, deadline=deadline):
                await self._drained.wait()
        async with trio.open_nursery() as nursery:
            for conn in self._out:
                nursery.start_soon(conn.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def stats(self) -> PoolStats:
        """How the pool is doing now."""
        return PoolStats(
            size=self._size(),
            max_size=self.max_size,
            idle=len(self._idle),
            in_use=len(self._out),
            waiting=len(self._waiters),
            acquired=self._acquired,
            opened=self._opened,
            dropped=self._dropped,
            connect_failures=self._connect_failures,
            timeouts=self._timeouts,
            waited_s=self._waited_s,
        )
