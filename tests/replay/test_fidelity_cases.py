"""Single cases in which a replay was once not what the recording was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from flux_pg.records import ErrorRecord, SpanRecord
from flux_pg.replay.compare import compare_replay
from flux_pg.replay.record import Record, Trail
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.redaction import Redactor
from tests.conftest import Database
from tests.replay.conftest import Lab, Replayed, make_lab
from tests.replay.fidelity_service import open_service
from tests.replay.test_engine_outside import over_http


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


BLOCKS = """
import psycopg

@define_function(transaction=False)
async def deferred(ctx: Context) -> dict:
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("insert into children values (1, 999)")
    except psycopg.errors.ForeignKeyViolation as error:
        return {"told": str(error), "constraint": error.diag.constraint_name}

@define_function
async def swallowed(ctx: Context) -> dict:
    try:
        async with ctx.db.transaction():
            try:
                await ctx.db.query("select 1 / 0")
            except psycopg.errors.DivisionByZero:
                pass
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate, "n": (await ctx.db.fetch_one("select 1 as n"))["n"]}

@define_function
def plainly(ctx: Context) -> dict:
    try:
        with ctx.db.transaction():
            try:
                ctx.db.query("select 1 / 0")
            except psycopg.errors.DivisionByZero:
                pass
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate}

@define_function
async def inner(ctx: Context) -> str:
    try:
        await ctx.db.query("select 1 / 0")
    except psycopg.errors.DivisionByZero:
        return "fine"

@define_function
async def outer(ctx: Context) -> dict:
    try:
        await ctx.call("inner")
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate}
"""


@pytest.mark.parametrize("function", ["deferred", "swallowed", "plainly", "outer"])
async def test_a_block_that_could_not_be_committed_cannot_be_in_a_replay(
    lab: Lab, function: str
) -> None:
    async with lab.recording(BLOCKS, dev=False) as harness:
        await harness.call(function)
        replayed = await lab.replay(harness.last)
        assert replayed.recorded.outcome == "ok", replayed.recorded.error
        assert replayed.verdict == "same", str(replayed)
        failed = [s for s in replayed.recorded.spans if (s.kind, s.name) == ("db", "commit")]
        assert all(span.error is not None and span.location is not None for span in failed)
        assert len(failed) == (function != "outer")


SECRETS = """
import os

@define_function
async def reads(ctx: Context) -> dict:
    key = os.environ["SOME_API_KEY"]
    return {"right": key == "sesame", "wrong": ctx.env.get("SOME_API_KEY") == "open",
            "api_key": key, "there": "SOME_API_KEY" in os.environ}
"""


async def test_a_secret_of_the_environment_can_be_compared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    async with lab.recording(SECRETS) as harness:
        await harness.call("reads")
    monkeypatch.delenv("SOME_API_KEY")
    replayed = await lab.replay(harness.last)
    assert replayed.result.first_divergence is None
    assert replayed.result.response == replayed.recorded.response
    assert replayed.result.response["right"] is True
    assert replayed.result.response["wrong"] is False


SENT = """
import datetime

@define_function
async def sends(ctx: Context) -> dict:
    return {"at": ctx.now(), "bytes": b"\\x00\\xff", "nan": float("nan"), "set": {1},
            "span": datetime.timedelta(days=1, seconds=2), "pair": (1, None)}

@define_function
async def replies(ctx: Context) -> Response:
    return Response(201, {}, {"at": ctx.now(), "bytes": b"\\x00\\xff"})
"""


@pytest.mark.parametrize("function", ["sends", "replies"])
async def test_the_record_has_what_was_sent(lab: Lab, function: str) -> None:
    async with lab.recording(SENT) as harness:
        reply = await harness.call(function)
        response = harness.execution()["response"]
    sent = json.loads(reply.body)
    assert response == (sent if function == "sends" else {**response, "body": sent})
    replayed = await lab.replay(harness.last)
    assert replayed.verdict == "same"
    assert replayed.result.response == response


ECHOES = """
@define_function(method="POST")
async def echo(ctx: Context, text: str) -> dict:
    ctx.log.info(text)
    if text.startswith("stop"):
        raise ValueError(text)
    body = ctx.request.json() if ctx.request else None
    return {"text": text, "length": len(text), "zero": "\\x00" in text, "body": body}
"""


@pytest.mark.parametrize("text", ["a\0b", "\0\ufe0e", "\u2400", "\u2400\ufe0e\ufe0e", "stop \0"])
async def test_what_postgres_cannot_keep_is_given_again(lab: Lab, text: str) -> None:
    async with lab.recording(ECHOES) as harness:
        await harness.call("echo", text=text)
        ids = [harness.last, await over_http(harness, "POST", "/echo", json={"text": text})]
    for request_id in ids:
        replayed = await lab.replay(request_id)
        assert replayed.verdict == "same", str(replayed)
        assert replayed.result.response == replayed.recorded.response
        if replayed.recorded.outcome == "ok":
            assert replayed.result.response["text"] == text
            assert replayed.result.response["length"] == len(text)


NOT_NULL = """
@define_function
async def add(ctx: Context, text: str | None) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [text])
    return {}
"""
NOTES = (
    "create table notes (id bigint primary key generated always as identity, text text not null)"
)


async def test_a_key_that_a_failed_insert_drew_is_another_one_each_time(lab: Lab) -> None:
    async with lab.recording(NOT_NULL, schema=NOTES) as harness:
        await harness.call("add", text=None)
    first = await lab.replay(harness.last, "in-place")
    assert first.recorded.error != first.result.error
    assert first.verdict == "same", str(first)


FOLLOWS = """
import httpx

@define_function
async def follows(ctx: Context) -> dict:
    async with httpx.AsyncClient(follow_redirects=True) as client:
        return (await client.get("{url}/redirect")).json()

@define_function
async def fails(ctx: Context) -> dict:
    raise HttpError(409, "no") if "{url}" else ValueError()
"""


async def test_a_cookie_that_an_answer_set_goes_out_again(lab: Lab) -> None:
    with open_service() as service:
        async with lab.recording(FOLLOWS.format(url=service.url)) as harness:
            await harness.call("follows")
        replayed = await lab.replay(harness.last)
    assert replayed.recorded.response["knows"] is True
    assert replayed.verdict == "same", str(replayed)
    assert replayed.result.response == replayed.recorded.response


async def test_a_failure_is_told_with_the_id_of_the_request_and_not_of_its_replay(lab: Lab) -> None:
    async with lab.recording(FOLLOWS.format(url="http://127.0.0.1:9")) as harness:
        await harness.call("fails")
    replayed = await lab.replay(harness.last)
    assert replayed.result.response == replayed.recorded.response
    assert replayed.result.response["error"]["request_id"] == str(harness.last)


TASKS = """
@define_function
async def race(ctx: Context, n: int) -> dict:
    order = []
    async def run(number):
        await trio.sleep(ctx.random() / 200)
        await ctx.db.query("select %s::int as n", [number])
        order.append(number)
        await ctx.db.query("select pg_sleep(%s)", [ctx.random() / 500])
        order.append(-number)
    async with trio.open_nursery() as nursery:
        for number in range(1, n + 1):
            nursery.start_soon(run, number)
    return {"order": order}

@define_function
async def fetches(ctx: Context, n: int) -> dict:
    order = []
    async def run(number):
        answer = await ctx.http.get("{url}/status/200")
        order.append([number, answer.json()["number"]])
    async with trio.open_nursery() as nursery:
        for number in range(n):
            nursery.start_soon(run, number)
    return {"order": order}

@define_function
async def writes(ctx: Context, n: int) -> dict:
    async def run(number):
        await ctx.db.execute("insert into users (email) values (%s)", [f"{number} {ctx.uuid()}"])
    async with trio.open_nursery() as nursery:
        for number in range(n):
            nursery.start_soon(run, number)
    rows = await ctx.db.query("select id, email from users order by id desc limit %s", [n])
    first = min(row["id"] for row in rows)
    return {"order": [[row["id"] - first, row["email"]] for row in rows]}

@define_function
async def below(ctx: Context, depth: int) -> dict:
    await ctx.db.execute("update counters set n = n + 1 where id = 1")
    return {"below": await ctx.call("below", {"depth": depth - 1})} if depth else {}
"""


@pytest.mark.parametrize("mode", ["recorded", "in-place"])
async def test_tasks_end_in_the_order_in_which_they_did(lab: Lab, mode: Any) -> None:
    # On a database that goes on, `writes` would read what its first run has written.
    functions = ["race", "fetches", "writes"] if mode == "recorded" else ["race", "fetches"]
    with open_service() as service:
        async with lab.recording(TASKS.replace("{url}", service.url)) as harness:
            ids = []
            for function in functions * 3:
                await harness.call(function, n=6)
                ids.append(harness.last)
    async with lab.child(mode) as child:
        for request_id in ids:
            recorded = lab.load(request_id)
            result = await child.replay(recorded)
            assert result.response == recorded.response, recorded.function
            assert result.first_divergence is None


async def test_what_a_called_function_called_is_in_the_record_of_a_replay(lab: Lab) -> None:
    async with lab.recording(TASKS) as harness:
        await harness.call("below", depth=3)
        for mode, changed in (("recorded", None), ("in-place", 4)):
            replayed = await lab.replay(harness.last, mode)  # type: ignore[arg-type]
            assert replayed.result.mutations is None or len(replayed.result.mutations) == changed
            (row,) = harness.rows(
                "with recursive r as (select request_id from flux.executions where request_id = %s"
                " union all select e.request_id from flux.executions as e join r"
                " on e.parent_request_id = r.request_id) select count(*) as runs from r",
                replayed.result.replay_id,
            )
            assert row["runs"] == 4


CALLS = """
@define_function
async def inner(ctx: Context, n: int) -> dict:
    await ctx.db.query("select %s::int as n", [n])
    return {}

@define_function
async def middle(ctx: Context, n: int) -> dict:
    return await ctx.call("inner", {"n": n})

@define_function
async def outer(ctx: Context) -> dict:
    await ctx.call("inner", {"n": 1})
    return await ctx.call("middle", {"n": 2})
"""


@pytest.mark.parametrize("mode", ["recorded", "in-place"])
async def test_what_a_called_function_does_otherwise_is_a_change(lab: Lab, mode: Any) -> None:
    async with lab.recording(CALLS) as harness:
        await harness.call("outer")
    replayed = await lab.replay(harness.last, mode)
    assert replayed.verdict == "same", str(replayed)
    lab.rewrite(CALLS.replace("[n])", "[n + 1])"))
    replayed = await lab.replay(harness.last, mode)
    assert replayed.verdict == ("diverged" if mode == "recorded" else "changed")
    compared = compare_replay(replayed.recorded, replayed.result)
    steps = [path for path, *_ in compared.differences if "input" in path]
    assert steps[0].startswith("function outer > call inner > function inner > db"), steps


LIMITED = """
import time

@define_function(timeout=0.5)
async def slow_when_replayed(ctx: Context) -> dict:
    if ctx.is_replay:
        time.sleep(0.7)  # a slow machine
    await ctx.db.query("select 1")
    await trio.sleep(0.1)
    return {}

@define_function(timeout=0.5)
async def too_long(ctx: Context) -> dict:
    await ctx.db.query("select 1")
    await trio.sleep(60)

@define_function(timeout=0.5)
def too_long_in_a_thread(ctx: Context) -> dict:
    ctx.db.query("select 1")
    time.sleep(1)
    ctx.db.query("select 2")
"""


async def test_no_limit_is_reached_that_was_not_reached_then(lab: Lab) -> None:
    async with lab.recording(LIMITED) as harness, lab.child() as child:
        for function in ("slow_when_replayed", "too_long", "too_long_in_a_thread"):
            await harness.call(function)
            recorded = lab.load(harness.last)
            replayed = Replayed(recorded, await child.replay(recorded))
            assert replayed.verdict == "same", str(replayed)


CONFLICTS = """
@define_function(isolation="serializable")
async def conflicts(ctx: Context, how: str) -> dict:
    rows = await ctx.db.query("select n from counters where id <= 2 order by id")
    if how == "statement":
        await ctx.db.query("select pg_sleep(1)")
    await ctx.db.execute("update counters set n = n + 1 where id = 1")
    if how == "commit":
        await ctx.db.query("select pg_sleep(1)")
    return {"rows": [row["n"] for row in rows]}
"""


@pytest.mark.parametrize("how", ["statement", "commit"])
async def test_what_was_run_again_after_a_conflict_is_in_a_replay(lab: Lab, how: str) -> None:
    async with lab.recording(CONFLICTS) as harness, trio.open_nursery() as nursery:
        ids: list[str] = []

        async def send() -> None:
            ids.append(await over_http(harness, "POST", "/conflicts", json={"how": how}))

        nursery.start_soon(send)
        waiting = "select from pg_stat_activity where wait_event = 'PgSleep'"
        with trio.fail_after(60):
            while not harness.rows(waiting):
                await trio.sleep(0.01)
        conflict = (
            "update counters set n = n + 1 where id = 1"
            if how == "statement"
            else "update counters set n = (select n from counters where id = 1) + 1 where id = 2"
        )
        with psycopg.connect(lab.database.superuser) as conn:
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            conn.execute(conflict)
    tries = [s for s in lab.load(ids[0]).spans if s.kind == "function"]
    assert len(tries) == 2
    replayed = await lab.replay(ids[0])
    assert replayed.verdict == "same", str(replayed.result.first_divergence)
    assert len([s for s in replayed.result.spans if s.kind == "function"]) == 2


def test_each_try_has_its_own_error_of_commit() -> None:
    def span(kind: str, error: str = "") -> SpanRecord:
        failed = ErrorRecord("SerializationFailure", error, sqlstate="40001") if error else None
        return SpanRecord("1", None, kind, kind, 0, error=failed)

    spans = [
        span("function", "conflict"), span("db"),
        span("function", "conflict"), span("db", "conflict"),
        span("function", "conflict"), span("db"),
        span("function"), span("db", "conflict"),
    ]  # fmt: skip
    run = RecordedRun(request_id="1", trace_id="1", kind="http", function="f", spans=spans)
    record = Record(run, Redactor(), Trail(), lambda _: False)
    errors = [error and error.message for error in record.attempt_errors()]
    assert errors == ["conflict", None, "conflict", None]
