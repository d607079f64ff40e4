"""Jobs from enqueue to completion: effects, record and completion are one transaction."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Database
from tests.queue.jobs import run_jobs

NOTE = """
@define_function
async def note(ctx: Context, text: str) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {"attempt": ctx.job.attempt, "id": ctx.job.id}

@define_function
async def ask(ctx: Context, text: str) -> dict:
    return {"job_id": await ctx.queue.push("note", {"text": text})}
"""


async def test_a_pushed_job_runs_once_and_is_recorded(tmp_path: Path, database: Database) -> None:
    async with run_jobs(tmp_path, database, NOTE) as jobs:
        reply = await jobs.call("ask", text="hello")
        job_id = reply.value["job_id"]
        asked = jobs.harness.last
        job = await jobs.ended(job_id)
        assert job["state"] == "succeeded"
        assert jobs.rows("select text from notes") == [{"text": "hello"}]
        (attempt,) = jobs.attempts(job_id)
        assert (attempt["kind"], attempt["outcome"], attempt["attempt"]) == ("job", "ok", 1)
        assert attempt["response"] == {"attempt": 1, "id": job_id}
        assert attempt["parent_request_id"] == asked
        assert attempt["trace_id"] == jobs.harness.execution(asked)["trace_id"]
        (mutation,) = jobs.harness.mutations(attempt["request_id"])
        assert (mutation["table"], mutation["outcome"]) == ("notes", "committed")


async def test_a_job_enqueued_from_sql_runs(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, NOTE) as jobs:
        job_id = jobs.enqueue("note", payload={"text": "from sql"})
        assert (await jobs.ended(job_id))["state"] == "succeeded"
        (attempt,) = jobs.attempts(job_id)
        root, function, query = jobs.harness.spans(attempt["request_id"])
        assert (root["kind"], root["name"]) == ("queue", "queue.job")
        assert root["attributes"]["job_id"] == job_id
        assert root["attributes"]["wait_us"] >= 0
        assert function["parent_span_id"] == root["span_id"]
        assert query["parent_span_id"] == function["span_id"]
