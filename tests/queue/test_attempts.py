"""How attempts end: what is kept, what is tried again, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio

from tests.conftest import Database
from tests.queue.jobs import run_jobs, until

FUNCTIONS = """
from flux_pg import Backoff

QUICK = Backoff(base_s=0.02, factor=1)

@define_function(backoff=QUICK, max_attempts=3)
async def flaky(ctx: Context, works_at: int) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [f"try {ctx.job.attempt}"])
    if ctx.job.attempt < works_at:
        raise ValueError(f"not yet: {ctx.job.attempt}")
    return {}

@define_function(backoff=QUICK, max_attempts=2, timeout=0.2)
async def slow(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('slow')")
    await trio.sleep(30)
    return {}

@define_function
async def endless(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('begun')")
    await trio.sleep(600)
    return {}

@define_function(transaction=False, backoff=QUICK, max_attempts=2)
async def parts(ctx: Context, fail: bool = False) -> dict:
    await ctx.db.execute("insert into notes (text) values ('first')")
    async with ctx.db.transaction():
        await ctx.db.execute("insert into notes (text) values ('second')")
    if fail:
        raise ValueError("after both")
    return {}

@define_function
async def inner(ctx: Context, text: str) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {"job": ctx.job is not None}

@define_function
async def outer(ctx: Context) -> dict:
    return await ctx.call("inner", {"text": "called"})

@define_function
def plain(ctx: Context, text: str) -> dict:
    ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {"attempt": ctx.job.attempt}

@define_function
async def nothing(ctx: Context) -> dict:
    return {}

@define_function(isolation="serializable")
async def strict(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) select 'n' || count(*) from notes")
    await trio.sleep(1.1)
    return {}
"""


async def test_a_failed_attempt_is_rolled_back_and_tried_again(
    tmp_path: Path, database: Database
) -> None:
    async with run_jobs(tmp_path, database, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("flaky", payload={"works_at": 3})
        job = await jobs.ended(job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 3)
        attempts = jobs.attempts(job_id)
        assert [one["outcome"] for one in attempts] == ["error", "error", "ok"]
        assert len({one["request_id"] for one in attempts}) == 3
        assert jobs.rows("select text from notes") == [{"text": "try 3"}]
        lost = jobs.harness.mutations(attempts[0]["request_id"])
        assert [one["outcome"] for one in lost] == ["rolled_back"]


async def test_a_job_that_always_fails_is_dead_and_can_be_tried_again(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("flaky", payload={"works_at": 4})
        job = await jobs.ended(job_id)
        assert (job["state"], job["attempt"]) == ("dead", 3)
        assert job["last_error"]["message"] == "not yet: 3"
        assert jobs.rows("select text from notes") == []
        with psycopg.connect(jobs.database.admin) as conn:
            conn.execute("select flux.retry_job(%s)", [job_id])
        await until(lambda: len(jobs.attempts(job_id)) == 6)


async def test_a_job_over_its_time_limit_is_tried_again_and_dies(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("slow")
        assert (await jobs.ended(job_id))["state"] == "dead"
        assert [one["outcome"] for one in jobs.attempts(job_id)] == ["timeout", "timeout"]
        assert jobs.rows("select text from notes") == []


async def test_a_running_job_can_be_cancelled(tmp_path: Path, database: Database) -> None:
    async with run_jobs(tmp_path, database, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("endless")
        await until(lambda: jobs.workers._held.running)
        with psycopg.connect(jobs.database.admin) as conn:
            conn.execute("select flux.cancel_job(%s)", [job_id])
        assert (await jobs.ended(job_id))["state"] == "cancelled"
        (attempt,) = jobs.attempts(job_id)
        assert attempt["outcome"] == "cancelled"
        assert jobs.rows("select text from notes") == []


async def test_a_cancellation_is_seen_without_listen(tmp_path: Path, database18: Database) -> None:
    # Nothing is heard from a server that does not exist.
    settings = {"listen_url": "host=/nonexistent", "lease_s": 0.6, "queue_poll_s": 0.2}
    async with run_jobs(tmp_path, database18, FUNCTIONS, **settings) as jobs:
        job_id = jobs.enqueue("endless")
        await until(lambda: jobs.workers._held.running)
        with psycopg.connect(jobs.database.admin) as conn:
            conn.execute("select flux.cancel_job(%s)", [job_id])
        assert (await jobs.ended(job_id))["state"] == "cancelled"


async def test_a_job_with_transactions_of_its_own_is_completed_with_its_record(
    tmp_path: Path, database: Database
) -> None:
    async with run_jobs(tmp_path, database, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("parts")
        assert (await jobs.ended(job_id))["state"] == "succeeded"
        (attempt,) = jobs.attempts(job_id)
        assert (attempt["state"], attempt["outcome"]) == ("completed", "ok")
        failing = jobs.enqueue("parts", payload={"fail": True})
        assert (await jobs.ended(failing))["state"] == "dead"
        assert [one["outcome"] for one in jobs.attempts(failing)] == ["error", "error"]
        # What committed before the failure stands: that is what such a function asked for.
        assert len(jobs.rows("select text from notes")) == 6


async def test_a_job_may_call_functions(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("outer")
        assert (await jobs.ended(job_id))["state"] == "succeeded"
        (attempt,) = jobs.attempts(job_id)
        assert attempt["response"] == {"job": False}
        (called,) = jobs.rows(
            "select * from flux.executions where parent_request_id = %s", attempt["request_id"]
        )
        assert (called["kind"], called["outcome"], called["job_id"]) == ("call", "ok", None)


@pytest.mark.parametrize(
    ("function", "payload"), [("plain", {"text": "x"}), ("nothing", {}), ("strict", {})]
)
async def test_every_kind_of_function_can_be_a_job(
    tmp_path: Path, database18: Database, function: str, payload: dict[str, str]
) -> None:
    # The heartbeat must not make the completion of a serializable transaction fail.
    async with run_jobs(tmp_path, database18, FUNCTIONS, lease_s=1.5) as jobs:
        job_id = jobs.enqueue(function, payload=payload)
        assert (await jobs.ended(job_id))["state"] == "succeeded"
        assert [one["outcome"] for one in jobs.attempts(job_id)] == ["ok"]


@pytest.mark.parametrize("payload", [{"works_at": "three"}, {}])
async def test_an_input_that_does_not_fit_is_not_tried_again(
    tmp_path: Path, database18: Database, payload: dict[str, str]
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("flaky", payload=payload)
        job = await jobs.ended(job_id)
        assert (job["state"], job["attempt"]) == ("dead", 1)
        (attempt,) = jobs.attempts(job_id)
        assert attempt["error"]["type"] == "InputRefused"
        assert "works_at" in attempt["error"]["message"]


async def test_jobs_run_without_recording(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS, recording="off") as jobs:
        job_id = jobs.enqueue("flaky", payload={"works_at": 2})
        nothing = jobs.enqueue("nothing")
        parts = jobs.enqueue("parts")
        for one in (job_id, nothing, parts):
            assert (await jobs.ended(one))["state"] == "succeeded"
        assert jobs.attempts(job_id) == []
        texts = {row["text"] for row in jobs.rows("select text from notes")}
        assert texts == {"try 2", "first", "second"}


async def test_what_runs_at_the_end_is_finished_and_what_waits_goes_back(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS, job_concurrency=1) as jobs:
        running = jobs.enqueue("strict")
        await until(lambda: jobs.workers._held.running)
        waiting = jobs.enqueue("nothing")
        jobs.workers._hand_out(await jobs.workers._control.claim(1))
        assert jobs.job(waiting)["state"] == "running"  # for all that others know
        await jobs.workers.drain(60)
        assert jobs.job(running)["state"] == "succeeded"
        job = jobs.job(waiting)
        assert (job["state"], job["attempt"]) == ("ready", 0)


async def test_what_outlasts_the_drain_is_recorded_and_not_counted(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        job_id = jobs.enqueue("endless", max_attempts=1)
        await until(lambda: jobs.workers._held.running)
        with trio.fail_after(60):
            await jobs.workers.drain(0.1)
        job = jobs.job(job_id)
        assert (job["state"], job["attempt"]) == ("ready", 0)
        (cut_short,) = jobs.attempts(job_id)
        assert cut_short["outcome"] == "cancelled"
        assert job["last_request_id"] == cut_short["request_id"]
