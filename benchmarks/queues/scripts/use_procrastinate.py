"""procrastinate, as its documentation says: async tasks, a pool of concurrency plus one.

"The shorter your average job execution time, the more your pool will need to contain as many
connections as your concurrency (plus one)" (Discussions, size of the pool). The work has a pool
of its own, as an application would have. Jobs are kept, which is the default.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import driver
import procrastinate
import psycopg
import psycopg_pool

app = procrastinate.App(connector=procrastinate.PsycopgConnector(max_size=driver.CONCURRENCY + 1))
pool = psycopg_pool.AsyncConnectionPool(
    min_size=driver.CONCURRENCY, kwargs={"autocommit": True}, open=False
)


@app.task(name="noop")
async def noop(number: int) -> None:
    """Do nothing."""


@app.task(name="insert_effect")
async def insert_effect(number: int) -> None:
    """Make one durable INSERT."""
    async with pool.connection() as conn:
        await conn.execute("insert into effects (job, note) values (%s, %s)", (number, "done"))


@app.task(name="pickup")
async def pickup(number: int) -> None:
    """Write down when the job began."""
    began = time.monotonic_ns()
    async with pool.connection() as conn:
        await conn.execute("insert into pickups values (%s, %s)", (number, began))


def install() -> None:
    """Apply the schema."""
    with app.open():
        app.schema_manager.apply_schema()
    with psycopg.connect() as conn:
        conn.execute(driver.EFFECTS)


def work() -> None:
    """One worker; it installs its own signal handlers."""
    asyncio.run(_work())


async def _work() -> None:
    async with pool, app.open_async():
        await app.run_worker_async(concurrency=driver.CONCURRENCY)


class Producer:
    """`defer` one at a time, `batch_defer` for many, both on the own connection where needed."""

    def __init__(self) -> None:
        app.open()
        self._conn = psycopg.connect()

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        task = app.tasks[job]
        for number in numbers:
            task.defer(number=number)

    def together(self, job: str, numbers: Sequence[int]) -> int:
        task = app.tasks[job].configure(connection=self._conn)
        task.batch_defer(*({"number": number} for number in numbers))
        return self._commit()

    def single(self, job: str, number: int) -> int:
        app.tasks[job].configure(connection=self._conn).defer(number=number)
        return self._commit()

    def _commit(self) -> int:
        committing = time.monotonic_ns()
        self._conn.commit()
        return committing


if __name__ == "__main__":
    driver.run(install=install, work=work, producer=Producer)
