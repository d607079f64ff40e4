"""No library: a table with leases, and a transaction for each job, on asyncpg and uvloop.

The reference for what it costs on this machine that a job's effects and its completion commit
together, job by job, when nothing is recorded and nothing is retried. Jobs are leased in batches,
as Flux does, so that a job's own transaction is BEGIN, its INSERT, the completion and COMMIT.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

import asyncpg
import driver
import uvloop

BATCH = 64
POLL_S = 5.0

TABLES = """
create table jobs (
    id bigint generated always as identity primary key,
    kind text not null,
    number bigint not null,
    lease timestamptz
);
create index on jobs (id) where lease is null;
create function wake() returns trigger language plpgsql as
    $$ begin perform pg_notify('jobs', ''); return null; end $$;
create trigger wake after insert on jobs for each statement execute function wake();
"""
CLAIM = """
update jobs set lease = now() + interval '30 s' where id in (
    select id from jobs where lease is null order by id limit $1 for update skip locked
) returning id, kind, number
"""
EFFECTS = {
    "insert_effect": "insert into effects (job, note) values ($1, 'done')",
    "pickup": "insert into pickups values ($1, $2)",
}


def install() -> None:
    """Create the queue and the tables of the work."""
    asyncio.run(_install())


async def _install() -> None:
    connection = await asyncpg.connect()
    await connection.execute(driver.EFFECTS + TABLES)
    await connection.close()


def work() -> None:
    """Drain, then wait for a notification."""
    uvloop.run(_work())


async def _work() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    listener, fetcher = await asyncpg.connect(), await asyncpg.connect()
    pool = await asyncpg.create_pool(min_size=driver.CONCURRENCY, max_size=driver.CONCURRENCY)
    heard = asyncio.Event()
    await listener.add_listener("jobs", lambda *_: heard.set())
    waiting: asyncio.Queue[asyncpg.Record] = asyncio.Queue(BATCH)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(driver.CONCURRENCY):
                tasks.create_task(_run_jobs(pool, waiting))
            while True:
                heard.clear()
                jobs = await fetcher.fetch(CLAIM, BATCH)
                for job in jobs:
                    await waiting.put(job)
                if not jobs:
                    await asyncio.wait([asyncio.create_task(heard.wait())], timeout=POLL_S)
    except asyncio.CancelledError:
        pass


async def _run_jobs(pool: asyncpg.Pool, waiting: asyncio.Queue[asyncpg.Record]) -> None:
    while True:
        job = await waiting.get()
        began = time.monotonic_ns()
        async with pool.acquire() as connection, connection.transaction():
            if job["kind"] != "noop":
                values = [job["number"], began] if job["kind"] == "pickup" else [job["number"]]
                await connection.execute(EFFECTS[job["kind"]], *values)
            await connection.execute("delete from jobs where id = $1", job["id"])


class Producer:
    """Inserts rows."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._connection = self._runner.run(self._open())

    async def _open(self) -> asyncpg.Connection:
        return await asyncpg.connect()

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._runner.run(self._insert(job, [number]))

    def together(self, job: str, numbers: Sequence[int]) -> int:
        return self._runner.run(self._commit(job, numbers))

    def single(self, job: str, number: int) -> int:
        return self._runner.run(self._commit(job, [number]))

    async def _insert(self, job: str, numbers: Sequence[int]) -> None:
        await self._connection.execute(
            "insert into jobs (kind, number) select $1, unnest($2::bigint[])", job, list(numbers)
        )

    async def _commit(self, job: str, numbers: Sequence[int]) -> int:
        async with self._connection.transaction():
            await self._insert(job, numbers)
            return time.monotonic_ns()


if __name__ == "__main__":
    driver.run(install=install, work=work, producer=Producer)
