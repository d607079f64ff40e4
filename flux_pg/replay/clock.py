"""Time in a replay that waits for nothing outside: a pause is over as soon as all else is idle.

A request that slept or ran into its limit is replayed at once. What the replay itself needs takes
no time: on a slow machine, or beside others, no limit may be reached that was not reached then.
Real time passes while a thread of user code works or the parent is asked, since neither can be seen
to be idle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import trio
from trio.testing import MockClock

IDLE_S = 0.005
"""So long nothing may happen before the clock jumps to the next deadline."""

_busy = [0]


def run_at_once(main: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """`trio.run` with such a clock. Once in a process."""
    _watch_threads()
    clock = MockClock(rate=0.0, autojump_threshold=IDLE_S)
    trio.run(main, *args, clock=clock, instruments=[_ThreadTime(clock)])


class _ThreadTime(trio.abc.Instrument):
    """While somebody else works, time passes where the loop waits for them; not where it runs."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if _busy[0]:
            self._clock.rate = 0.0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if _busy[0]:
            self._clock.rate = 1.0

    def before_io_wait(self, timeout: float) -> None:
        if _busy[0] and timeout <= 0:
            self._clock.rate = 0.0


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
            clock.autojump_threshold, clock.rate = IDLE_S, 0.0


def _watch_threads() -> None:
    original = trio.to_thread.run_sync

    @wraps(original)
    async def run_sync(*args: Any, **kwargs: Any) -> Any:
        with busy():
            return await original(*args, **kwargs)

    vars(trio.to_thread)["run_sync"] = run_sync
