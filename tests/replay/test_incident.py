"""`flux incident replay` as a person uses it: what ran in a window, on the code of today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from flux_pg.replay.incident import open_incident
from flux_pg.replay.incident_selection import Wanted, select_requests
from flux_pg.replay.judging import Replayed
from tests.conftest import Database, Server
from tests.queue.jobs import run_jobs
from tests.replay.conftest import Lab, make_lab
from tests.runtime.application import SCHEMA

COUNTER = """
@define_function
async def add(ctx: Context, id: int, amount: int) -> dict:
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    {check}
    rows = await ctx.db.query(
        "update counters set n = n + %s where id = %s returning n", [amount{wrong}, id]
    )
    return {{"n": rows[0]["n"]}}

@define_function
async def total(ctx: Context) -> dict:
    row = await ctx.db.fetch_one("select sum(n) as n from counters")
    return {{"n": int(row["n"])}}
"""
PLAIN = COUNTER.format(check="", wrong="")


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


def flux(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "FLUX_"))
    }
    environment |= {"DATABASE_URL": lab.database.app, "FLUX_ADMIN_URL": lab.database.admin}
    (lab.folder / "flux.toml").touch()
    return subprocess.run(
        [sys.executable, "-m", "flux_pg", *arguments, "-C", str(lab.folder)],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@dataclass
class Played:
    """What came of an incident."""

    replays: list[Replayed]
    notes: list[str]

    @property
    def verdicts(self) -> list[str]:
        return [one.verdict for one in self.replays]

    @property
    def by_function(self) -> dict[str | None, Replayed]:
        return {one.run.function: one for one in self.replays}

    def __str__(self) -> str:
        told = [
            (one.run.function, one.verdict, one.result.first_divergence, one.result.response)
            for one in self.replays
            if one.verdict != "same"
        ]
        return "\n".join(map(str, [*self.notes, *told]))


async def play(lab: Lab, server: Server, *, chained: bool = True, **wanted: Any) -> Played:
    """Replay what ran, in this process."""
    settings = replace(lab.settings, admin_url=lab.database.superuser)
    with (
        psycopg.connect(lab.database.app, autocommit=True) as conn,
        psycopg.connect(lab.database.app, autocommit=True) as write_conn,
    ):
        requests = select_requests(conn, Wanted(**wanted)).requests
        async with open_incident(
            settings, lab.database.app, "as-of", requests, conn=conn, write_conn=write_conn,
            chained=chained, on_output=lab.output.extend, server=server.launcher,
        ) as incident:  # fmt: skip
            with trio.fail_after(120):
                replays = await incident.play(lambda _: None)
            return Played(replays, incident.skipped)


async def test_what_ran_in_a_window_does_the_same_on_the_same_code(lab: Lab) -> None:
    async with lab.recording(PLAIN) as harness:
        for amount in range(1, 6):
            await harness.call("add", id=1, amount=amount)
            await harness.call("total")
        done = flux(lab, "incident", "replay", "--since", "1h", "--json")
        document = json.loads(done.stdout)
        assert done.returncode == 0, done
        assert (document["schema"], document["mode"]) == ("flux.replay/1", "as-of")
        assert (document["chained"], document["egress"]) == (True, "enforced")
        assert document["summary"] == {"same": 10}
        assert [one["function"] for one in document["requests"]] == ["add", "total"] * 5
        (row,) = harness.rows("select n from counters where id = 1")
        assert row["n"] == 15
        replays = "select count(*) as n from flux.executions where kind = 'replay'"
        assert harness.rows(replays) == [{"n": 10}]
        lab.rewrite(COUNTER.format(check="", wrong=" + 1"))
        done = flux(lab, "incident", "replay", "1h..now", "--recorded", "--function", "add")
        assert done.returncode == 5, done
        assert "5 requests: 5 diverged" in done.stdout
        nothing = flux(lab, "incident", "replay", "1h..now", "--function", "nobody")
        assert nothing.returncode == 3, nothing


SHOP = """
@define_function
async def order(ctx: Context, name: str, lines: int = 2) -> dict:
    user = await ctx.db.table("users").insert({{"email": name, "plan": "{plan}"}})
    for line in range(lines):
        await ctx.db.execute("insert into entries (note) values (%s)", [f"{{name}} {{line}}"])
    return {{"id": user["id"]}}

@define_function
async def plan(ctx: Context, id: int) -> dict:
    row = await ctx.db.fetch_one("select email, plan from users where id = %s", [id])
    if row["plan"] == "broken":
        raise ValueError("a plan that nobody has")
    return row
"""
ENTRIES = "create table entries (id bigint primary key generated always as identity, note text)"


async def test_a_fixed_writer_fixes_a_later_reader_but_not_one_that_is_alone(
    lab: Lab, pg18: Server
) -> None:
    async with lab.recording(SHOP.format(plan="broken"), schema=SCHEMA + ENTRIES) as harness:
        for name in ("a", "b", "c"):
            reply = await harness.call("order", name=name)
            await harness.call("plan", id=json.loads(reply.body)["id"])
    lab.rewrite(SHOP.format(plan="free"))
    played = await play(lab, pg18)
    assert played.verdicts == ["changed", "fixed"] * 3, played
    # The keys are what they were.
    assert [one.result.response for one in played.replays[1::2]] == [
        {"email": name, "plan": "free"} for name in ("a", "b", "c")
    ]
    alone = await play(lab, pg18, chained=False)
    assert alone.verdicts == ["changed", "same"] * 3, alone


async def test_what_others_did_meanwhile_is_done_again(lab: Lab, pg18: Server) -> None:
    async with lab.recording(PLAIN) as harness:
        for round in range(4):
            await harness.call("add", id=1, amount=1)
            with psycopg.connect(lab.database.admin, autocommit=True) as conn:
                conn.execute("update counters set n = n + 10 where id = 1")
                conn.execute("insert into counters values (%s, 100)", (20 + round,))
            await harness.call("total")
    played = await play(lab, pg18, functions=["total"])
    assert (played.verdicts, played.notes) == (["same"] * 4, []), played
    lab.rewrite(COUNTER.format(check="", wrong=" + 1"))
    played = await play(lab, pg18, functions=["add"])
    assert played.verdicts == ["changed"] * 4
    # The row is not as it was when the others changed it.
    assert "public.counters 1 is not as it was then" in played.notes[0]
    assert [one.result.response["n"] for one in played.replays] == [2, 4, 6, 8]


LOST_UPDATE = (
    PLAIN
    + """
@define_function
async def slow_add(ctx: Context, id: int, amount: int) -> dict:
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    await ctx.db.execute("update counters set n = %s where id = %s", [row["n"] + amount, id])
    return {"n": row["n"] + amount}
"""
)


async def test_what_committed_while_a_request_ran_is_named(lab: Lab, pg18: Server) -> None:
    async with lab.recording(LOST_UPDATE) as harness:
        with psycopg.connect(lab.database.admin, autocommit=True) as conn:
            conn.execute("select pg_advisory_lock(7)")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(harness.call, "slow_add", id=1, amount=1))
                waits = "select 1 from pg_locks where locktype = 'advisory' and not granted"
                with trio.fail_after(60):
                    while not harness.rows(waits):
                        await trio.sleep(0.01)
                await harness.call("add", id=1, amount=5)
                adder = str(harness.last)
                conn.execute("select pg_advisory_unlock(7)")
        await harness.call("total")
        (row,) = harness.rows("select n from counters where id = 1")
        assert row["n"] == 1  # the 5 is lost
    for chained in (True, False):
        found = (await play(lab, pg18, chained=chained)).by_function
        assert found["slow_add"].verdict == "interleaved"
        cause = found["slow_add"].cause
        assert cause is not None
        assert (cause["table"], cause["key"]) == ("public.counters", ["1"])
        assert cause["request_id"] == adder
        assert (found["add"].verdict, found["total"].verdict) == ("same", "same")


RETRIED = """
@define_function(isolation="repeatable read")
async def retried(ctx: Context, id: int) -> dict:
    now = ctx.now()
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    await ctx.db.execute("update counters set n = %s where id = %s", [row["n"] + 1, id])
    return {"n": row["n"] + 1, "now": str(now), "r": ctx.random()}
"""


async def test_a_race_that_was_lost_is_lost_again(lab: Lab, pg18: Server) -> None:
    async with lab.recording(RETRIED) as harness:
        with psycopg.connect(lab.database.admin, autocommit=True) as conn:
            conn.execute("select pg_advisory_lock(7)")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(harness.call, "retried", id=1))
                waits = "select 1 from pg_locks where locktype = 'advisory' and not granted"
                with trio.fail_after(60):
                    while not harness.rows(waits):
                        await trio.sleep(0.01)
                conn.execute("update counters set n = 5 where id = 1")
                conn.execute("select pg_advisory_unlock(7)")
    (one,) = (await play(lab, pg18)).replays
    # What the first attempt read was gone when the second one came: the others had committed.
    assert (one.verdict, one.result.response) == ("interleaved", one.run.response)
    assert one.cause is not None
    assert (one.cause["actor"], one.cause["key"]) == ("flux_admin", ["1"])


JOBS = """
@define_function
async def signup(ctx: Context, email: str) -> dict:
    user = await ctx.db.table("users").insert({"email": email, "plan": "PLAN"})
    await ctx.queue.push("welcome", {"id": user["id"]})
    return {"id": user["id"]}

@define_function(max_attempts=1)
async def welcome(ctx: Context, id: int) -> dict:
    row = await ctx.db.fetch_one("select plan from users where id = %s", [id])
    if row["plan"] == "broken":
        raise ValueError("no such plan")
    return {"job": str(ctx.job.id), "attempt": ctx.job.attempt, "of": ctx.job.max_attempts}
"""


async def test_jobs_are_replayed_as_part_of_their_trace_when_asked(lab: Lab, pg18: Server) -> None:
    broken = JOBS.replace("PLAN", "broken")
    async with run_jobs(lab.folder, lab.database, broken, SCHEMA) as jobs:
        await jobs.call("signup", email="a@example.com")
        request = str(jobs.harness.last)
        (row,) = jobs.rows("select job_id from flux.jobs")
        await jobs.ended(str(row["job_id"]))
    lab.rewrite(JOBS.replace("PLAN", "free"))
    played = await play(lab, pg18, ids=[request])
    assert played.verdicts == ["changed"], played
    done = flux(lab, "replay", request, "--with-jobs", "--json")
    signup, welcome = json.loads(done.stdout)["requests"]
    assert (signup["verdict"], welcome["verdict"]) == ("changed", "fixed"), done
    assert welcome["now"]["response"]["job"] == str(row["job_id"])
    played = await play(lab, pg18, ids=[request], with_jobs=True, chained=False)
    assert played.verdicts == ["changed", "same"], played


async def test_a_job_that_was_refused_for_its_input_is_refused_again(
    lab: Lab, pg18: Server
) -> None:
    async with run_jobs(lab.folder, lab.database, JOBS, SCHEMA) as jobs:
        jobs.rows("select flux.tick_snapshot()::text")
        wrong = jobs.enqueue("welcome", payload={"id": "one"})
        right = jobs.enqueue("welcome", payload={"id": 1})
        assert (await jobs.ended(wrong))["state"] == "dead"
        await jobs.ended(right)
        wrong_id, right_id = (str(jobs.attempts(one)[0]["request_id"]) for one in (wrong, right))
    for mode in ("--recorded", "--as-of"):
        done = flux(lab, "replay", wrong_id, mode, "--json")
        (one,) = json.loads(done.stdout)["requests"]
        assert (one["verdict"], one["now"]["error"]["type"]) == ("same", "InputRefused"), done
        assert done.returncode == 1
    lab.rewrite(
        JOBS.replace("id: int)", "id: str)").replace("where id = %s", "where id::text = %s")
    )
    played = await play(lab, pg18, ids=[wrong_id, right_id], chained=False)
    found = {one.run.request_id: one for one in played.replays}
    now = found[right_id].result.error
    assert now is not None
    assert now.type == "InputRefused"
    assert found[wrong_id].result.error != found[wrong_id].run.error


CRASHES = (
    PLAIN
    + """
@define_function
async def quits(ctx: Context) -> dict:
    await ctx.db.execute("update counters set n = 9 where id = 9")
    if ctx.is_replay:
        import os
        os._exit(3)
    return {}
"""
)


async def test_a_request_that_ends_the_process_ends_no_other_one(lab: Lab, pg18: Server) -> None:
    async with lab.recording(CRASHES) as harness:
        for id in (1, 2):
            await harness.call("add", id=id, amount=1)
        await harness.call("quits")
        for id in (3, 4):
            await harness.call("add", id=id, amount=1)
    played = await play(lab, pg18)
    found = [(one.run.function, one.verdict) for one in played.replays]
    assert sorted(found) == [("add", "same")] * 4 + [("quits", "regressed")], played
    problem = played.by_function["quits"].result.problem
    assert problem is not None
    assert problem["code"] == "crashed"
