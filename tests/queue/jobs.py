"""A project whose jobs run in this process, against a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import trio

from flux_pg.queue.workers import JobWorkers
from tests.conftest import Database
from tests.runtime.application import Harness, open_project

SCHEMA = """
create table notes (id bigint primary key generated always as identity, text text not null);
"""
PATIENCE_S = 60.0


class Jobs:
    """An open application that runs jobs."""

    def __init__(self, harness: Harness, workers: JobWorkers) -> None:
        self.harness = harness
        self.workers = workers
        self.application = harness.application
        self.database = harness.database
        self.call = harness.call
        self.rows = harness.rows

    def enqueue(self, function: str, **options: Any) -> str:
        """`flux.enqueue` from somewhere else, committed; options as its parameters."""
        names = ", ".join(f"p_{name} => %({name})s" for name in options)
        text = f"select flux.enqueue(%(f)s{', ' if names else ''}{names})"
        options = {
            name: psycopg.types.json.Jsonb(value) if isinstance(value, dict) else value
            for name, value in options.items()
        }
        with psycopg.connect(self.database.admin, autocommit=True) as conn:
            row = conn.execute(text, {"f": function, **options}).fetchone()
        assert row is not None
        return str(row[0])

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as people see it; empty if there is none."""
        found = self.rows("select * from flux.jobs where job_id = %s", job_id)
        return found[0] if found else {}

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """The records of its attempts, oldest first."""
        return self.rows(
            "select * from flux.executions where job_id = %s order by attempt, started_at", job_id
        )

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job once it is finished."""
        await until(lambda: self.job(job_id).get("state") in ("succeeded", "dead", "cancelled"))
        return self.job(job_id)


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds.

    Raises:
        trio.TooSlowError: It does not.
    """
    with trio.fail_after(patience_s):
        while not condition():
            await trio.sleep(0.01)


@asynccontextmanager
async def run_jobs(
    folder: Path, database: Database, functions: str, schema: str = SCHEMA, **settings: Any
) -> AsyncIterator[Jobs]:
    """A project whose jobs run; they are drained at the end."""
    async with (
        open_project(folder, database, functions, schema, **settings) as harness,
        trio.open_nursery() as nursery,
    ):
        (workers,) = (one for one in harness.application.work if isinstance(one, JobWorkers))
        nursery.start_soon(workers.run)
        yield Jobs(harness, workers)
        await workers.drain(2.0)
