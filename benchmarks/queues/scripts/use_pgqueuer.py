"""pgqueuer, as its tuning guide says: a direct asyncpg connection for the manager, `pgq autovac`,
the pool among the shared resources, uvloop as under `pgq run`.

BENCH_BATCH is the batch size: 10 by default, "increase when jobs are short-lived". The number of
tasks is left unlimited, which is the default: a limit of 16 would force batches of at most 8. The
work is limited by its pool of 16 connections.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import driver
import pgqueuer
import uvloop
from pgqueuer.models import Job

BATCH = int(os.environ.get("BENCH_BATCH", "10"))


@asynccontextmanager
async def create() -> AsyncIterator[pgqueuer.PgQueuer]:
    """The worker's entry points."""
    connection = await asyncpg.connect()
    pool = await asyncpg.create_pool(min_size=driver.CONCURRENCY, max_size=driver.CONCURRENCY)
    manager = pgqueuer.PgQueuer(pgqueuer.AsyncpgDriver(connection), resources={"pool": pool})

    @manager.entrypoint("noop")
    async def noop(job: Job) -> None:
        pass

    @manager.entrypoint("insert_effect")
    async def insert_effect(job: Job) -> None:
        await pool.execute(
            "insert into effects (job, note) values ($1, $2)", int(job.payload or b""), "done"
        )

    @manager.entrypoint("pickup")
    async def pickup(job: Job) -> None:
        began = time.monotonic_ns()
        await pool.execute("insert into pickups values ($1, $2)", int(job.payload or b""), began)

    yield manager
    await pool.close()
    await connection.close()


def install() -> None:
    """`pgq install`, `pgq autovac` (first point of the guide's checklist)."""
    for command in ("install", "autovac"):
        subprocess.run([sys.executable, "-m", "pgqueuer", command], check=True)
    asyncio.run(_tables())


async def _tables() -> None:
    connection = await asyncpg.connect()
    await connection.execute(driver.EFFECTS)
    await connection.close()


def work() -> None:
    """What `pgq run` does."""
    uvloop.run(pgqueuer.run(create, batch_size=BATCH))


class Producer:
    """`Queries.enqueue` over asyncpg, alone or with lists."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self._open())

    async def _open(self) -> None:
        self._conn = await asyncpg.connect()
        self._queries = pgqueuer.Queries(pgqueuer.AsyncpgDriver(self._conn))

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        async def enqueue() -> None:
            for number in numbers:
                await self._queries.enqueue(job, b"%d" % number)

        self._runner.run(enqueue())

    def together(self, job: str, numbers: Sequence[int]) -> int:
        async def enqueue() -> int:
            payloads: list[bytes | None] = [b"%d" % number for number in numbers]
            async with self._conn.transaction():
                await self._queries.enqueue([job] * len(payloads), payloads, [0] * len(payloads))
                return time.monotonic_ns()

        return self._runner.run(enqueue())

    def single(self, job: str, number: int) -> int:
        async def enqueue() -> int:
            async with self._conn.transaction():
                await self._queries.enqueue(job, b"%d" % number)
                return time.monotonic_ns()

        return self._runner.run(enqueue())


if __name__ == "__main__":
    driver.run(install=install, work=work, producer=Producer)
