"""Time in a replay that waits for nothing outside: a pause is over as soon as all else is idle.

A request that slept or ran into its limit is replayed at once. Real time passes while a thread of
user code works or the parent is asked, since neither can be seen to be idle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import trio
from trio.testing import MockClock

IDLE_S = 0.005
"""So long nothing may happen before the clock jumps to the next deadline."""

_busy = [0]


def make_idle_clock() -> MockClock:
    """A clock that jumps over pauses. One for the process; made before its loop."""
    _watch_threads()
    return MockClock(rate=1.0, autojump_threshold=IDLE_S)


@contextmanager
def busy() -> Iterator[None]:
    """Within it the clock of this loop does not jump, if it is one that does."""
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        yield
        return
    _busy[0] += 1
    clock.autojump_threshold = float("inf")
    try:
        yield
    finally:
        _busy[0] -= 1
        if not _busy[0]:
            clock.autojump_threshold = IDLE_S


def _watch_threads() -> None:
    original = trio.to_thread.run_sync

    @wraps(original)
    async def run_sync(*args: Any, **kwargs: Any) -> Any:
        with busy():
            return await original(*args, **kwargs)

    vars(trio.to_thread)["run_sync"] = run_sync
