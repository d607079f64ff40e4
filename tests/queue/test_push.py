"""`ctx.queue.push`: a job is there if and only if the transaction that enqueued it commits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.queue.jobs import Jobs, run_jobs, until

FUNCTIONS = """
import datetime

@define_function
async def note(ctx: Context, text: str, **more) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {}

@define_function
async def fails(ctx: Context) -> dict:
    await ctx.queue.push("note", {"text": "never"})
    raise ValueError("no")

@define_function
async def gives_up_a_block(ctx: Context) -> dict:
    kept = await ctx.queue.push("note", {"text": "kept"})
    try:
        async with ctx.db.transaction():
            await ctx.queue.push("note", {"text": "never"})
            raise ValueError("no")
    except ValueError:
        pass
    return {"job_id": kept}

@define_function
async def gives_up_a_call(ctx: Context) -> dict:
    try:
        await ctx.call("fails")
    except ValueError:
        pass
    return {}

@define_function(transaction=False)
async def in_parts(ctx: Context) -> dict:
    first = await ctx.queue.push("note", {"text": "first"})
    try:
        async with ctx.db.transaction():
            await ctx.queue.push("note", {"text": "never"})
            raise ValueError("no")
    except ValueError:
        pass
    async with ctx.db.transaction():
        second = await ctx.queue.push("note", {"text": "second"})
    return {"jobs": [first, second]}

@define_function
def plain(ctx: Context) -> dict:
    with ctx.db.transaction():
        return {"job_id": ctx.queue.push("note", {"text": "plain"})}

@define_function
async def chain(ctx: Context, depth: int) -> dict:
    if depth:
        await ctx.queue.push("chain", {"depth": depth - 1})
    return {}

@define_function
async def push_each(ctx: Context, priorities: list[int]) -> dict:
    for priority in priorities:
        await ctx.queue.push("note", {"text": str(priority)}, priority=priority, delay=0.3)
    return {}

@define_function
async def push(ctx: Context, function: str = "note", payload: dict | None = None,
               options: dict | None = None) -> dict:
    options = dict(options or {})
    if "run_in" in options:
        later = datetime.timedelta(seconds=options.pop("run_in"))
        options["run_at"] = datetime.datetime.now(datetime.UTC) + later
    return {"job_id": await ctx.queue.push(function, payload or {"text": "x"}, **options)}

@define_function
async def goes_on(ctx: Context) -> dict:
    refused = []
    for wrong in ({"function": "nobody"}, {"delay": -1}, {"priority": 1.5}, {"max_attempts": 0},
                  {"delay": 1, "run_at": ctx.now()}, {"run_at": datetime.datetime(2030, 1, 1)},
                  {"payload": [1]}, {"payload": {"text": object()}}, {"payload": {"a": "\\0"}},
                  {"idempotency_key": ""}, {"payload": {}}, {"payload": {"text": 7}}):
        try:
            await ctx.queue.push(wrong.pop("function", "note"), wrong.pop("payload", None), **wrong)
        except Exception as error:
            refused.append(type(error).__name__)
    return {"refused": refused, "job_id": await ctx.queue.push("note", {"text": "fine"})}
"""


async def settled(jobs: Jobs) -> list[str]:
    """The notes once nothing is in the queue any more."""
    await until(lambda: not jobs.rows("select job_id from flux.job_queue"))
    return sorted(row["text"] for row in jobs.rows("select text from notes"))


@pytest.mark.parametrize(
    ("function", "notes"),
    [
        ("fails", []),
        ("gives_up_a_block", ["kept"]),
        ("gives_up_a_call", []),
        ("in_parts", ["first", "second"]),
        ("plain", ["plain"]),
    ],
)
async def test_a_job_exists_iff_what_enqueued_it_was_committed(
    tmp_path: Path, database18: Database, function: str, notes: list[str]
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        await jobs.call(function)
        assert await settled(jobs) == notes
        assert len(jobs.rows("select job_id from flux.jobs")) == len(notes)


async def test_a_chain_of_jobs_is_one_trace(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        await jobs.call("chain", depth=3)
        requests = "select * from flux.executions where function = 'chain' order by request_id"
        await until(lambda: len(jobs.rows(requests)) == 4)
        executions = jobs.rows(requests)
        assert len({one["trace_id"] for one in executions}) == 1
        for before, after in pairwise(executions):
            assert after["parent_request_id"] == before["request_id"]
            (pushed,) = [
                span
                for span in jobs.harness.spans(before["request_id"])
                if (span["kind"], span["name"]) == ("queue", "chain")
            ]
            assert after["parent_span_id"] == pushed["span_id"]
            assert pushed["output"] == {"job_id": str(after["job_id"])}


@pytest.mark.parametrize("options", [{"delay": "3s"}, {"run_in": 3.0}])
async def test_a_delayed_job_runs_when_it_is_due(
    tmp_path: Path, database18: Database, options: dict[str, Any]
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS, queue_poll_s=60) as jobs:
        reply = await jobs.call("push", options=options)
        assert jobs.job(reply.value["job_id"])["state"] == "delayed"
        assert (await jobs.ended(reply.value["job_id"]))["state"] == "succeeded"
        (attempt,) = jobs.attempts(reply.value["job_id"])
        job = jobs.job(reply.value["job_id"])
        late_s = (attempt["started_at"] - job["run_at"]).total_seconds()
        assert 0 <= late_s < 30  # sooner than the poll


async def test_the_same_key_is_the_same_job(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        replies = [
            await jobs.call("push", options={"idempotency_key": "order 7"}) for _ in range(3)
        ]
        assert len({reply.value["job_id"] for reply in replies}) == 1
        assert await settled(jobs) == ["x"]


async def test_a_higher_priority_goes_first(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(
        tmp_path, database18, FUNCTIONS, job_concurrency=1, queue_poll_s=60
    ) as jobs:
        await jobs.call("push_each", priorities=[0, 5, -5])
        await until(lambda: len(jobs.rows("select * from notes")) == 3)
        notes = [row["text"] for row in jobs.rows("select text from notes order by id")]
        # The one that woke the fetcher may have been due alone.
        assert notes in (["5", "0", "-5"], ["0", "5", "-5"])


async def test_a_mistake_is_refused_and_costs_nothing(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        reply = await jobs.call("goes_on")
        assert reply.outcome == "ok", reply
        assert reply.value["refused"] == [
            "NotFoundError",
            *["UsageError"] * 9,
            *["InputRefused"] * 2,
        ]
        assert await settled(jobs) == ["fine"]


async def test_secrets_of_a_payload_are_in_no_record(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        payload = {"text": "hello", "password": "hunter2-hunter2"}
        reply = await jobs.call("push", payload=payload)
        await jobs.ended(reply.value["job_id"])
        for table in ("executions", "spans"):
            found = jobs.rows(f"select t::text as text from flux.{table} as t")
            assert found
            assert not [row for row in found if "hunter2" in row["text"]]


async def test_a_push_is_a_span_with_its_line(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        await jobs.call("push", options={"priority": 3, "delay": "1h"})
        (span,) = [one for one in jobs.harness.spans() if one["kind"] == "queue"]
        assert span["input"] == {"payload": {"text": "x"}, "priority": 3, "delay_s": 3600.0}
        assert span["location"]["file"] == "functions/main.py"


async def test_a_lone_push_takes_two_round_trips_and_no_notify_in_its_transaction(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS) as jobs:
        sent_at = "select last_value from flux.jobs_notified_at"
        before = jobs.rows(sent_at)
        await jobs.call("push")
        await settled(jobs)
        assert jobs.rows(sent_at) == before
