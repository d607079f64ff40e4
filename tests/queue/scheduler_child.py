"""A process that is a scheduler and nothing else; argv: connection string, deployment.

Says `ready` once it reads schedules; ends with its standard input.
"""

from __future__ import annotations

import sys

import trio

from flux_pg.database.pool import Pool
from flux_pg.queue.scheduler import Scheduler


async def main(conninfo: str, deployment: str) -> None:
    pool = Pool(conninfo, max_size=2)
    scheduler = Scheduler(pool, int(deployment), [], complete=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run)
        print("ready", flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            scheduler.wake()
        nursery.cancel_scope.cancel()


trio.run(main, *sys.argv[1:])
