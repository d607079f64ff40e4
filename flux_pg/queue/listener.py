"""LISTEN: hears of new jobs and of cancellations at once. Only a convenience: everything that it
tells of is also found by polling, and it may be silent without anybody noticing at first.

A connection that is cut says so, and is opened again; what was missed meanwhile is looked for then.
One whose peer fell silent (a firewall that forgets connections, a proxy that hangs) is found out in
three ways: the system's keep-alive, a question now and then, and a question whenever polling finds
a job that nobody had told of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import trio

from flux_pg.database.connection import Connection, Error
from flux_pg.queue.statements import CANCEL_CHANNEL, CHANNEL, SCHEDULES_CHANNEL

CHECK_EVERY_S = 60.0
ANSWER_WITHIN_S = 3.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
_KEEP_ALIVE: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Listener:
    """See the module.

    Args:
        conninfo: A direct connection: behind a transaction pooler nothing would be heard.
        on_jobs: Called when there may be new jobs, also after every time of not listening.
        on_cancel: Called with the id of a job that is to be cancelled.
        on_schedules: Called when schedules may have changed.
        chance: A random number from 0 to 1 each call.
    """

    def __init__(
        self,
        conninfo: str,
        on_jobs: Callable[[], None],
        on_cancel: Callable[[str], None],
        on_schedules: Callable[[], None],
        chance: Callable[[], float],
    ) -> None:
        self._conninfo = conninfo
        self._on_jobs = on_jobs
        self._on_cancel = on_cancel
        self._on_schedules = on_schedules
        self._chance = chance
        self._hearing = trio.CancelScope()
        self.listens = False

    def doubt(self) -> None:
        """Ask the connection whether it is alive: something was not heard of."""
        self._hearing.cancel()

    async def run(self) -> None:
        """Listen until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            with suppress(Error, OSError):
                await self._listen()
            pause_s = FIRST_PAUSE_S if self.listens else min(LONGEST_PAUSE_S, 2 * pause_s)
            self.listens = False
            await trio.sleep(pause_s * (0.5 + self._chance() / 2))

    async def _listen(self) -> None:
        conn = await Connection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=5,
            application_name="flux listen",
            **_KEEP_ALIVE,
        )
        try:
            conn.cancel_grace_s = ANSWER_WITHIN_S
            await conn.execute(f"listen {CHANNEL}")
            await conn.execute(f"listen {CANCEL_CHANNEL}")
            await conn.execute(f"listen {SCHEDULES_CHANNEL}")
            self.listens = True
            # Whatever was enqueued while nobody listened.
            self._on_jobs()
            self._on_schedules()
            alive = True
            while alive:
                await self._hear(conn)
                alive = await conn.is_alive(ANSWER_WITHIN_S)
        finally:
            conn.drop()

    async def _hear(self, conn: Connection[Any]) -> None:
        """Pass on what is heard, until it is time to ask whether anybody is there."""
        with trio.CancelScope() as self._hearing:
            async with aclosing(conn.notifies(timeout=CHECK_EVERY_S)) as heard:
                async for notification in heard:
                    if notification.channel == CANCEL_CHANNEL:
                        self._on_cancel(notification.payload)
                    elif notification.channel == SCHEDULES_CHANNEL:
                        self._on_schedules()
                    else:
                        self._on_jobs()
