"""The child processes of an incident: one for each hash seed, begun when it is needed.

A child that died, or that cannot be stopped, is replaced for the requests that come after.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import trio

from flux_pg.replay.engine import Child, Replay

Open = Callable[[str | None], AbstractAsyncContextManager[Child]]


@dataclass
class Children:
    """Gives the child for a hash seed. Make it with `open_children`."""

    open: Open
    nursery: trio.Nursery
    on_open: Callable[[Child], None]
    _running: dict[str | None, tuple[Child, trio.CancelScope]] = field(default_factory=dict)
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def get(self, seed: str | None) -> Child:
        """The child for a hash seed.

        Raises:
            FluxError: It cannot start.
        """
        async with self._lock:
            if seed not in self._running:
                self._running[seed] = await self.nursery.start(self._keep, seed)
                self.on_open(self._running[seed][0])
            return self._running[seed][0]

    def give_up(self, child: Child) -> None:
        """End a child; the next who asks gets another one."""
        for seed, (known, scope) in list(self._running.items()):
            if known is child:
                del self._running[seed]
                scope.cancel()

    async def _keep(
        self, seed: str | None,
        task_status: trio.TaskStatus[tuple[Child, trio.CancelScope]] = trio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        with trio.CancelScope() as scope:
            async with self.open(seed) as child:
                task_status.started((child, scope))
                await trio.sleep_forever()


@asynccontextmanager
async def open_children(
    open_one: Open, on_open: Callable[[Child], None]
) -> AsyncIterator[Children]:
    """Children that end with the block."""
    async with trio.open_nursery() as nursery:
        yield Children(open_one, nursery, on_open)
        nursery.cancel_scope.cancel()


class Written:
    """Writes the records of replays to the live database: whatever waits, in one transaction."""

    def __init__(self, at_most: int) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[Child, Replay]](at_most)

    async def put(self, child: Child, replay: Replay) -> None:
        """Have a replay's record written, in good time."""
        await self._send.send((child, replay))

    def close(self) -> None:
        """There will be no more; `run` ends once all is written."""
        self._send.close()

    async def run(self) -> None:
        """Write until `close`."""
        async for first in self._receive:
            waiting = [first]
            while True:
                try:
                    waiting.append(self._receive.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            for child in {id(child): child for child, _ in waiting}.values():
                await child.write([replay for owner, replay in waiting if owner is child])
