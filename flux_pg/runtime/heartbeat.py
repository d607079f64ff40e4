"""The heartbeat: how a supervisor sees that a worker's loop is blocked although its process lives.

A worker's loop counts up in a page that it shares with its supervisor. A loop that is blocked by
`while True: pass`, a stopped process and a lost machine core all look the same: the count stands
still. Only the supervisor's own watching time counts, so that a supervisor (or a whole process
group, or a laptop) that was asleep does not blame its workers.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

import trio

INTERVAL_S = 0.1
"""How often a worker's loop counts up."""

_COUNT = struct.Struct("<Q")
_PAGE = mmap.PAGESIZE


def shared_page() -> int:
    """Return the descriptor of a zeroed page that a child process can inherit."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("flux-heartbeat")
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, _PAGE)
    return descriptor


class Heartbeat:
    """A worker's end of the page. The descriptor may be closed afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, _PAGE)
        self._count = 0

    def beat(self) -> None:
        """Count up once."""
        self._count += 1
        _COUNT.pack_into(self._page, 0, self._count)

    async def run(self) -> None:
        """Count up until cancelled; a task of the loop that is to be watched."""
        while True:
            self.beat()
            await trio.sleep(INTERVAL_S)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


class Pulse:
    """A supervisor's end of the page: for how long the count has stood still.

    Args:
        descriptor: The page; may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, _PAGE, access=mmap.ACCESS_READ)
        self._stillness = Stillness()

    def still_s(self, now: float) -> float:
        """Look once, and return for how many seconds the loop has not been seen to move."""
        return self._stillness.observe(_COUNT.unpack_from(self._page)[0], now)

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


class Stillness:
    """How long a count has stood still, in time that the observer itself was awake. Pure.

    Args:
        longest_step_s: The most that one look may add; a longer gap is the observer's own absence.
    """

    def __init__(self, longest_step_s: float = 3 * INTERVAL_S) -> None:
        self._longest_step_s = longest_step_s
        self._count: int | None = None
        self._seen_at = 0.0
        self._still_s = 0.0

    def observe(self, count: int, now: float) -> float:
        """Take in one look at the count at the time `now`; returns the seconds of stillness."""
        if count == self._count:
            self._still_s += min(now - self._seen_at, self._longest_step_s)
        else:
            self._still_s = 0.0
        self._count, self._seen_at = count, now
        return self._still_s
