"""Requests replayed from their record, on the same code and on other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Database
from tests.replay.conftest import Lab, Replayed, make_lab


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


SIGNUP = """
import datetime, random, uuid

@define_function
async def signup(ctx: Context, email: str) -> dict:
    user = await ctx.db.table("users").insert({"email": email})
    rows = await ctx.db.query("select id, email, plan from users where id = %s", [user["id"]])
    return {"user": rows[0], "at": datetime.datetime.now().isoformat(), "r": random.random(),
            "u": str(uuid.uuid4()), "id": ctx.request_id}
"""


async def test_a_request_is_replayed_from_its_record(lab: Lab) -> None:
    async with lab.recording(SIGNUP) as harness:
        await harness.call("signup", email="a@example.com")
        replayed = await lab.replay(harness.last)
        assert replayed.result.first_divergence is None, replayed.result
        assert replayed.verdict == "same", replayed.result
        assert replayed.result.response == replayed.recorded.response
        row = harness.execution(replayed.result.replay_id)
        assert row["kind"] == "replay"
        assert row["replay_of"] == harness.last
        assert len(harness.rows("select * from users")) == 1


MIX = """
import os, time, secrets, threading
import httpx

@define_function
async def reads_clock(ctx: Context) -> dict:
    started = time.time()
    await trio.sleep(3)
    return {"t": started, "now": ctx.now(), "s": secrets.token_hex(4), "m": time.monotonic_ns(),
            "env": os.environ.get("HOME"), "ctx_env": ctx.env.get("HOME"), "r": ctx.random()}

@define_function
async def parallel(ctx: Context) -> dict:
    found = {}
    async def one(n):
        async with ctx.span("part"):
            rows = await ctx.db.query("select %s::int as n", [n])
            found[n] = [rows[0]["n"], time.time_ns()]
    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(one, n)
    return found

@define_function
def plain(ctx: Context, n: int = 1) -> dict:
    with ctx.db.transaction():
        ctx.db.execute("update counters set n = n + %s where id = 1", [n])
    row = ctx.db.fetch_one("select n from counters where id = 1")
    return {"n": row["n"], "t": time.time()}

@define_function
async def inner(ctx: Context, n: int) -> dict:
    await ctx.db.execute("update counters set n = %s where id = 2", [n])
    return {"n": n, "r": ctx.random(), "id": ctx.request_id}

@define_function
async def outer(ctx: Context) -> list:
    return [await ctx.call("inner", {"n": n}) for n in range(3)]

@define_function
async def pushes(ctx: Context) -> dict:
    job = await ctx.queue.push("inner", {"n": 5}, delay="1h")
    return {"job": job}

@define_function
async def duplicate(ctx: Context) -> dict:
    await ctx.db.table("users").insert({"email": "x@y"})
    try:
        async with ctx.db.transaction():
            await ctx.db.table("users").insert({"email": "x@y"})
    except Exception as error:
        return {"sqlstate": error.sqlstate, "constraint": error.diag.constraint_name,
                "told": str(error)}

@define_function
async def fails(ctx: Context) -> dict:
    await ctx.db.execute("update counters set n = 7 where id = 3")
    await ctx.db.execute("update counters set n = -1 where id = 3")

@define_function
async def deferred(ctx: Context) -> dict:
    await ctx.db.execute("insert into children values (1, 999)")
    return {"ok": True}

@define_function(timeout=1.5)
async def slow(ctx: Context) -> dict:
    await ctx.db.query("select pg_sleep(5)")

@define_function(timeout=1.5)
async def sleeps(ctx: Context) -> dict:
    await ctx.db.query("select 1")
    await trio.sleep(60)

@define_function(transaction=False)
async def parts(ctx: Context) -> dict:
    await ctx.db.execute("update counters set n = n + 1 where id = 4")
    async with ctx.db.transaction():
        await ctx.db.execute("update counters set n = n + 1 where id = 5")
    return {"n": (await ctx.db.fetch_one("select n from counters where id = 5"))["n"]}

@define_function
async def types(ctx: Context) -> dict:
    row = await ctx.db.fetch_one("select 1.50::numeric as a, now() as b, array[1,2] as c,"
        " '{\\"k\\": [1, null]}'::jsonb as d, null::text as e, true as f, '1 day'::interval as g,"
        " gen_random_uuid() as h, '\\\\x00ff'::bytea as i, 1.1::float8 as j")
    return {name: repr(value) for name, value in row.items()}

@define_function
async def raises(ctx: Context, n: int) -> dict:
    if n:
        raise HttpError(409, "taken", details={"n": n})
    raise ValueError("no")
"""

CALLS = {
    "reads_clock": {}, "parallel": {}, "plain": {"n": 2}, "outer": {}, "pushes": {},
    "duplicate": {}, "fails": {}, "deferred": {}, "slow": {}, "sleeps": {}, "parts": {},
    "types": {}, "raises": {"n": 1}, "inner": {"n": 3},
}  # fmt: skip


async def test_every_kind_of_request_is_replayed_the_same(lab: Lab) -> None:
    async with lab.recording(MIX, dev=False) as harness:
        requests = {}
        for function, given in CALLS.items():
            await harness.call(function, **given)
            requests[function] = harness.last
        jobs = harness.rows("select count(*) from flux.jobs")
        state = harness.rows("select * from counters order by id")
        async with lab.child() as child:
            for function, request_id in requests.items():
                recorded = lab.load(request_id)
                replayed = Replayed(recorded, await child.replay(recorded))
                assert replayed.verdict == "same", (function, said(replayed))
                row = harness.execution(replayed.result.replay_id)
                assert (row["kind"], row["replay_of"]) == ("replay", request_id)
                assert row["outcome"] == recorded.outcome
        assert harness.rows("select count(*) from flux.jobs") == jobs
        assert harness.rows("select * from counters order by id") == state
        calls = harness.rows(
            "select * from flux.executions where kind = 'replay' and parent_request_id is not null"
        )
        assert len(calls) == 3
        assert all(call["replay_of"] is not None for call in calls)


IN_PLACE = ["reads_clock", "parallel", "plain", "outer", "pushes", "fails", "deferred", "parts"]


async def test_requests_are_replayed_in_place(lab: Lab) -> None:
    async with lab.recording(MIX, dev=False) as harness:
        requests = {}
        for function in IN_PLACE:
            await harness.call(function, **CALLS[function])
            requests[function] = harness.last
        jobs = harness.rows("select count(*) from flux.jobs")
        async with lab.child("in-place") as child:
            assert child.egress == "enforced"
            for function, request_id in requests.items():
                recorded = lab.load(request_id)
                result = await child.replay(recorded)
                assert result.first_divergence is None, (function, result)
                assert result.outcome == recorded.outcome, (function, result)
                row = harness.execution(result.replay_id)
                assert (row["kind"], row["replay_of"]) == ("replay", request_id)
                if function == "plain":
                    assert result.response["n"] == 4
                    assert result.mutations is not None
                    assert [one["op"] for one in result.mutations] == ["UPDATE"]
        assert harness.rows("select count(*) from flux.jobs") == jobs


def said(replayed: Replayed) -> object:
    """What a failing test shows."""
    result, recorded = replayed.result, replayed.recorded
    return (
        result.first_divergence, result.problem, result.outcome, result.response, result.error,
        recorded.response, recorded.error,
    )  # fmt: skip
