"""Workers that die with jobs: every attempt has its record, and every job goes on or is dead."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from flux_pg.config import Settings
from flux_pg.runtime.events import WorkerExited, WorkerReady
from flux_pg.runtime.process import Tuning
from tests.conftest import Database
from tests.queue.jobs import SCHEMA
from tests.runtime.processes import Running, kill, make_project, supervised, until

FUNCTIONS = """
import os
import time
import trio
from flux_pg import Backoff, define_function

QUICK = Backoff(base_s=0.05, factor=1)

@define_function(backoff=QUICK)
async def note(ctx, text: str) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {}

@define_function(backoff=QUICK)
async def once_slow(ctx) -> dict:
    await ctx.db.execute("insert into notes (text) values ('slow')")
    if ctx.job.attempt == 1:
        await trio.sleep(600)
    return {}

@define_function(backoff=QUICK, max_attempts=2)
async def poison(ctx) -> dict:
    await ctx.db.execute("insert into notes (text) values ('poison')")
    os._exit(7)

@define_function(backoff=QUICK, max_attempts=2, timeout=1)
async def spin(ctx) -> dict:
    while ctx.job.attempt == 1:
        pass
    return {}

@define_function
async def half_a_second(ctx) -> dict:
    await ctx.db.execute("insert into notes (text) values ('half')")
    await trio.sleep(0.5)
    return {}
"""

# A machine that is busy with other tests is no blocked loop.
QUICK = Tuning(stuck_after_s=30, first_delay_s=0.02)
IMPATIENT = replace(QUICK, stuck_after_s=0.6)
Run = Callable[..., AbstractAsyncContextManager[Running]]


class Queue:
    """The database as the tests look at it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self, query: str, *params: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._database.superuser, row_factory=dict_row) as conn:
            return conn.execute(query, params or None).fetchall()

    def enqueue(self, function: str, payload: str = "{}") -> str:
        with psycopg.connect(self._database.admin, autocommit=True) as conn:
            row = conn.execute("select flux.enqueue(%s, %s::jsonb)", (function, payload)).fetchone()
        assert row is not None
        return str(row[0])

    def state(self, job_id: str) -> str:
        return str(self.rows("select state from flux.jobs where job_id = %s", job_id)[0]["state"])

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        return self.rows(
            "select * from flux.executions where job_id = %s order by attempt, started_at", job_id
        )

    async def is_in(self, job_id: str, *states: str) -> None:
        await until(lambda: self.state(job_id) in states)

    def notes(self) -> list[str]:
        return sorted(row["text"] for row in self.rows("select text from notes"))


@pytest.fixture
def queue(database18: Database) -> Queue:
    with psycopg.connect(database18.admin) as conn:
        conn.execute(SCHEMA)
    return Queue(database18)


@pytest.fixture
def node(tmp_path: Path, database18: Database) -> Run:
    """Runs a node: a supervisor with its workers, in a project directory of its own."""

    @asynccontextmanager
    async def run(name: str = "a", tuning: Tuning = QUICK, **settings: Any) -> Any:
        async with supervised(project(tmp_path / name, database18, **settings), tuning) as running:
            yield running

    return run


def project(folder: Path, database: Database, **settings: Any) -> Settings:
    folder.mkdir()
    made = make_project(folder)
    (folder / "functions" / "version").unlink()
    (folder / "functions" / "jobs.py").write_text(FUNCTIONS)
    return replace(made, database_url=database.app, **{"queue_poll_s": 1.0, **settings})


def worker_of(running: Running) -> Any:
    (worker,) = (one for one in running.supervisor._workers if one.served)
    return worker


async def test_a_job_whose_worker_is_killed_is_tried_again_at_once(
    node: Run, queue: Queue, tmp_path: Path
) -> None:
    async with node(lease_s=600) as running:
        job_id = queue.enqueue("once_slow")
        worker = worker_of(running)
        await until(lambda: len(worker.running()) == 1)
        kill(worker.pid)
        await queue.is_in(job_id, "succeeded")
    first, second = queue.attempts(job_id)
    assert (first["outcome"], second["outcome"]) == ("crashed", "ok")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert "SIGKILL" in first["error"]["message"]
    assert first["trace_id"] == second["trace_id"]
    assert queue.notes() == ["slow"]


async def test_a_job_that_kills_its_worker_ends_among_the_dead(node: Run, queue: Queue) -> None:
    async with node(lease_s=600):
        job_id = queue.enqueue("poison")
        await queue.is_in(job_id, "dead")
        # The others go on.
        other = queue.enqueue("note", '{"text": "alive"}')
        await queue.is_in(other, "succeeded")
    assert [one["outcome"] for one in queue.attempts(job_id)] == ["crashed", "crashed"]
    assert queue.notes() == ["alive"]


async def test_what_a_dead_worker_had_claimed_and_not_begun_goes_back_uncounted(
    node: Run, queue: Queue, database18: Database
) -> None:
    async with node(lease_s=600, job_concurrency=1) as running:
        slow = queue.enqueue("once_slow")
        worker = worker_of(running)
        await until(lambda: len(worker.running()) == 1)
        waiting = queue.enqueue("note", '{"text": "waited"}')
        # As if its fetcher had it in hand when the worker died.
        with psycopg.connect(database18.superuser, autocommit=True) as conn:
            conn.execute(
                "select * from flux.claim_jobs(%s, array['note'], 1, '10 minutes')",
                [worker.journal_path.stem],
            )
        assert queue.state(waiting) == "running"
        kill(worker.pid)
        await queue.is_in(waiting, "succeeded")
        await queue.is_in(slow, "succeeded")
    assert [one["attempt"] for one in queue.attempts(waiting)] == [1]


async def test_a_job_of_a_node_that_is_gone_is_taken_over_when_its_lease_ends(
    node: Run, queue: Queue, tmp_path: Path, database18: Database
) -> None:
    async with node("b", lease_s=2.0) as second, node("a", lease_s=2.0) as first:
        # On whichever node it runs: stopped, it is as silent as a machine without power.
        job_id = queue.enqueue("once_slow")
        workers = [worker_of(first), worker_of(second)]
        await until(lambda: any(worker.running() for worker in workers))
        (silent,) = [worker for worker in workers if worker.running()]
        silent._tuning = replace(QUICK, stuck_after_s=600)
        kill(silent.pid, signal.SIGSTOP)
        await queue.is_in(job_id, "succeeded")
        kill(silent.pid, signal.SIGCONT)
        # It comes back to a job that is not its own any more, and keeps nothing of it.
        await until(lambda: not silent.running())
    lost, taken = queue.attempts(job_id)
    assert (lost["outcome"], taken["outcome"]) == ("crashed", "ok")
    assert queue.notes() == ["slow"]


async def test_a_job_that_blocks_the_loop_costs_its_worker_and_is_tried_again(
    node: Run, queue: Queue
) -> None:
    async with node(tuning=IMPATIENT, lease_s=600) as running:
        job_id = queue.enqueue("spin")
        await running.events.wait(WorkerExited)
        await queue.is_in(job_id, "succeeded")
    assert [one["outcome"] for one in queue.attempts(job_id)] == ["crashed", "ok"]
    assert "blocked at functions/jobs.py" in queue.attempts(job_id)[0]["error"]["message"]


async def test_a_reload_finishes_what_runs_and_loses_nothing(node: Run, queue: Queue) -> None:
    async with node(workers=2, job_concurrency=2) as running:
        jobs = [queue.enqueue("half_a_second") for _ in range(12)]
        running.supervisor.reload()
        await running.events.wait(WorkerReady, count=4)
        for job_id in jobs:
            await queue.is_in(job_id, "succeeded")
    for job_id in jobs:
        assert [one["outcome"] for one in queue.attempts(job_id)] == ["ok"]
    assert queue.notes() == ["half"] * 12


async def test_no_jobs_run_where_they_are_switched_off(node: Run, queue: Queue) -> None:
    async with node("a", jobs="off"):
        job_id = queue.enqueue("note", '{"text": "later"}')
        with trio.move_on_after(1.5):
            await queue.is_in(job_id, "running", "succeeded")
        assert queue.state(job_id) == "ready"
    async with node("b"):
        await queue.is_in(job_id, "succeeded")


@pytest.mark.parametrize("mode", ["on", "off"])
async def test_jobs_survive_a_restart_of_the_server(
    node: Run, queue: Queue, database18: Database, mode: str
) -> None:
    async with node(recording=mode, lease_s=5):
        jobs = [queue.enqueue("half_a_second") for _ in range(30)]
        await until(lambda: "half" in queue.notes() or any(map(_runs(queue), jobs)))
        with psycopg.connect(database18.server.dsn(), autocommit=True) as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = %s and pid <> pg_backend_pid()",
                [database18.name],
            )
        for job_id in jobs:
            await queue.is_in(job_id, "succeeded")
    # Once for each job, whatever was lost on the way.
    assert queue.notes() == ["half"] * 30
    if mode == "on":
        for job_id in jobs:
            assert [one["outcome"] for one in queue.attempts(job_id)][-1] == "ok"


def _runs(queue: Queue) -> Callable[[str], bool]:
    return lambda job_id: queue.state(job_id) == "running"
