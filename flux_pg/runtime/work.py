"""What a worker does beside answering requests: jobs and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio


class Work(Protocol):
    """One kind of work that a worker does for as long as it serves."""

    async def run(self) -> None:
        """Work until cancelled, or until `drain` was called. Raises nothing but Cancelled."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take on nothing new; returns when nothing runs any more.

        What still runs after `timeout_s` is cancelled (and recorded so).
        """
        ...


async def drain_all(works: Sequence[Work], timeout_s: float) -> None:
    """Drain everything at once."""
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work.drain, timeout_s)
