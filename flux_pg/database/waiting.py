"""How a task waits for a socket or for its turn, in Trio; knows nothing of psycopg."""

from __future__ import annotations

import enum
import select
from time import monotonic

import trio
from trio.lowlevel import checkpoint_if_cancelled, wait_readable, wait_writable

READABLE = 1  # the values that psycopg's generators yield and are sent
WRITABLE = 2

# A generator that never has to wait (COPY from a full buffer, a psycopg pipeline) would starve the
# other tasks: past this much time of such work, the next call yields first.
MAX_BUSY_S = 0.005


class OnCancel(enum.Enum):
    """What a cancellation does to the protocol generator in flight."""

    CANCEL = enum.auto()
    """Cancel the statement on the server, then drain it."""
    FINISH = enum.auto()
    """Carry on to the end, for a limited time."""
    ABANDON = enum.auto()
    """Raise at once: whoever opened the block (COPY, stream) puts the protocol right."""


class Fairness:
    """When somebody last began to work without waiting; 0 after every real wait.

    One for all connections of a process, since what starves the others is their sum.
    """

    __slots__ = ("busy_since",)

    def __init__(self) -> None:
        self.busy_since = 0.0

    def note(self, waited: bool) -> None:
        """A call ended, having waited for the socket or not."""
        if waited:
            self.busy_since = 0.0
        elif not self.busy_since:
            self.busy_since = monotonic()

    async def yield_if_busy(self) -> None:
        """Let the others run, if they have been kept waiting. Then it is a cancel point."""
        if monotonic() - self.busy_since > MAX_BUSY_S:
            await trio.lowlevel.checkpoint()
            self.busy_since = 0.0


fairness = Fairness()


class Lock:
    """A mutex that does not yield when free; trio.Lock always does, at 10 to 20 % of throughput."""

    __slots__ = ("_owner", "_waiters")

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiters = trio.lowlevel.ParkingLot()

    def acquire_nowait(self) -> bool:
        """Take it if it is free."""
        if self._owner is not None:
            return False
        self._owner = trio.lowlevel.current_task()
        return True

    async def __aenter__(self) -> None:
        if self.acquire_nowait():
            return
        if self._owner is trio.lowlevel.current_task():
            raise RuntimeError(
                "this task is already using the connection (a COPY, stream() or notifies() is open)"
            )
        await self._waiters.park()  # the releaser has made us the owner

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    def is_free(self) -> bool:
        return self._owner is None

    def release(self) -> None:
        """Hand over to the first waiter, in the same step: nobody can slip in between."""
        self._owner = None
        for task in self._waiters.unpark(count=1):
            self._owner = task


def poll_ready(fd: int, want: int) -> int:
    """What of `want` is ready right now, without waiting."""
    poller = select.poll()
    mask = (select.POLLIN if want & READABLE else 0) | (select.POLLOUT if want & WRITABLE else 0)
    poller.register(fd, mask)
    ready = 0
    for _, event in poller.poll(0):
        # An error or hang-up counts as ready for what was asked: libpq then finds out which.
        ready |= READABLE if event & ~select.POLLOUT else 0
        ready |= WRITABLE if event & ~select.POLLIN else 0
    return ready & want


async def wait_ready(fd: int, want: int) -> int:
    """Wait for the socket; always a checkpoint unless writing is possible at once.

    Cancellation: nothing has happened; it can be called again.

    Raises:
        OSError: The descriptor is no good.
        trio.ClosedResourceError: It was closed by another task.
    """
    if want != READABLE and (ready := poll_ready(fd, want)):
        return ready
    if want == READABLE:
        await wait_readable(fd)
    elif want == WRITABLE:
        await wait_writable(fd)
    else:
        want = await _wait_either(fd)
    fairness.busy_since = 0.0
    return want


async def _wait_either(fd: int) -> int:
    """Wait until it is readable or writable: both buffers are full, so this is rare."""
    ready = 0

    async def readable() -> None:
        nonlocal ready
        await wait_readable(fd)
        ready |= READABLE
        nursery.cancel_scope.cancel()

    async def writable() -> None:
        nonlocal ready
        await wait_writable(fd)
        ready |= WRITABLE
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(readable)
            nursery.start_soon(writable)
    except BaseExceptionGroup as group:
        await checkpoint_if_cancelled()  # a plain Cancelled, if that is what it was
        raise trio.ClosedResourceError from group
    return ready
