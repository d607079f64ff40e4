"""`flux incident replay` as a person uses it: what ran in a window, on the code of today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.conftest import Database
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


def incident(lab: Lab, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document."""
    done = flux(lab, "incident", "replay", *arguments, "--json")
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        raise AssertionError(done) from None


def shortly(document: dict[str, Any]) -> str:
    """What an assertion that fails shows."""
    told = [
        (one["function"], one["verdict"], one["first_divergence"], one["problem"], one["now"])
        for one in document["requests"]
        if one["verdict"] != "same"
    ]
    return "\n".join(map(str, [document["summary"], document["notes"], *told[:5]]))


def verdicts(document: dict[str, Any]) -> list[str]:
    return [one["verdict"] for one in document["requests"]]


async def test_what_ran_in_a_window_does_the_same_on_the_same_code(lab: Lab) -> None:
    async with lab.recording(PLAIN) as harness:
        for amount in range(1, 6):
            await harness.call("add", id=1, amount=amount)
            await harness.call("total")
        code, document = incident(lab, "--since", "1h")
        assert code == 0, shortly(document)
        assert verdicts(document) == ["same"] * 10
        assert (document["schema"], document["mode"]) == ("flux.replay/1", "as-of")
        assert (document["chained"], document["egress"]) == (True, "enforced")
        code, document = incident(lab, "1h..now", "--recorded", "--function", "total")
        assert (code, document["summary"]) == (0, {"same": 5})
        (row,) = harness.rows("select n from counters where id = 1")
        assert row["n"] == 15


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
ENTRIES = "create table entries (id bigint generated always as identity primary key, note text)"


async def test_a_fixed_writer_fixes_a_later_reader_and_keys_stay_what_they_were(lab: Lab) -> None:
    async with lab.recording(SHOP.format(plan="broken"), schema=SCHEMA + ENTRIES) as harness:
        for name in ("a", "b", "c"):
            reply = await harness.call("order", name=name)
            await harness.call("plan", id=json.loads(reply.body)["id"])
        lab.rewrite(SHOP.format(plan="free"))
        code, document = incident(lab, "1h..now")
        assert verdicts(document) == ["changed", "fixed"] * 3, shortly(document)
        assert [one["now"]["response"] for one in document["requests"]][1::2] == [
            {"email": name, "plan": "free"} for name in ("a", "b", "c")
        ]
        assert code == 1


async def test_what_others_did_meanwhile_is_done_again(lab: Lab) -> None:
    async with lab.recording(PLAIN) as harness:
        for round in range(4):
            await harness.call("add", id=1, amount=1)
            with psycopg.connect(lab.database.admin, autocommit=True) as conn:
                conn.execute("update counters set n = n + 10 where id = 1")
                conn.execute("insert into counters values (%s, 100)", (20 + round,))
            await harness.call("total")
        code, document = incident(lab, "1h..now")
        assert (code, document["summary"], document["notes"]) == (0, {"same": 8}, []), shortly(
            document
        )
        code, document = incident(lab, "1h..now", "--function", "total")
        assert (code, document["summary"], document["notes"]) == (0, {"same": 4}, []), shortly(
            document
        )
        lab.rewrite(COUNTER.format(check="", wrong=" + 1"))
        code, document = incident(lab, "1h..now", "--function", "add")
        assert (code, document["summary"]) == (1, {"changed": 4})
        # The row is not as it was when the others changed it.
        assert "public.counters 1 is not as it was then" in document["notes"][0]
        responses = [one["now"]["response"]["n"] for one in document["requests"]]
        assert responses == [2, 4, 6, 8]


async def test_each_request_alone_finds_what_was_recorded_before_it(lab: Lab) -> None:
    async with lab.recording(SHOP.format(plan="broken"), schema=SCHEMA + ENTRIES) as harness:
        for name in ("a", "b", "c"):
            reply = await harness.call("order", name=name)
            await harness.call("plan", id=json.loads(reply.body)["id"])
        lab.rewrite(SHOP.format(plan="free"))
        _, document = incident(lab, "1h..now", "--isolated")
        assert document["chained"] is False
        assert verdicts(document) == ["changed", "same"] * 3, shortly(document)
        lab.rewrite(SHOP.format(plan="broken"))
        _, document = incident(lab, "1h..now", "--isolated")
        assert verdicts(document) == ["same"] * 6, shortly(document)


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


@pytest.mark.parametrize("how", ["--chained", "--isolated"])
async def test_what_committed_while_a_request_ran_is_named(lab: Lab, how: str) -> None:
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
        code, document = incident(lab, "1h..now", how)
        found = {one["function"]: one for one in document["requests"]}
        assert found["slow_add"]["verdict"] == "interleaved", shortly(document)
        cause = found["slow_add"]["interleaved_with"]
        assert (cause["table"], cause["key"]) == ("public.counters", ["1"])
        assert cause["request_id"] == adder
        assert (found["add"]["verdict"], found["total"]["verdict"]) == ("same", "same")
        assert code == 0


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


async def test_jobs_are_replayed_as_part_of_their_trace_when_asked(lab: Lab) -> None:
    broken = JOBS.replace("PLAN", "broken")
    async with run_jobs(lab.folder, lab.database, broken, SCHEMA) as jobs:
        reply = await jobs.call("signup", email="a@example.com")
        request = str(jobs.harness.last)
        assert json.loads(reply.body) == {"id": 1}
        (row,) = jobs.rows("select job_id from flux.jobs")
        await jobs.ended(str(row["job_id"]))
        lab.rewrite(JOBS.replace("PLAN", "free"))
        code, document = incident(lab, request)
        assert verdicts(document) == ["changed"], shortly(document)
        code, document = incident(lab, request, "--with-jobs")
        assert verdicts(document) == ["changed", "fixed"], shortly(document)
        assert document["requests"][1]["now"]["response"]["job"] == str(row["job_id"])
        done = flux(lab, "replay", request, "--with-jobs", "--isolated", "--json")
        assert verdicts(json.loads(done.stdout)) == ["changed", "same"], done
        attempt = jobs.attempts(str(row["job_id"]))[0]["request_id"]
        done = flux(lab, "replay", str(attempt), "--json")
        assert verdicts(json.loads(done.stdout)) == ["same"], done
        assert code == 1


CRASHES = PLAIN + """
@define_function
async def quits(ctx: Context) -> dict:
    await ctx.db.execute("update counters set n = 9 where id = 9")
    import os, sys
    if "flux_pg.replay.child" in sys.modules or sys.argv[0].endswith("child.py"):
        os._exit(3)
    return {}
"""


async def test_a_request_that_ends_the_process_ends_no_other_one(lab: Lab) -> None:
    async with lab.recording(CRASHES) as harness:
        for id in (1, 2):
            await harness.call("add", id=id, amount=1)
        await harness.call("quits")
        for id in (3, 4):
            await harness.call("add", id=id, amount=1)
        code, document = incident(lab, "1h..now")
        found = [(one["function"], one["verdict"]) for one in document["requests"]]
        assert sorted(found) == [("add", "same")] * 4 + [("quits", "regressed")], shortly(document)
        (gone,) = (one for one in document["requests"] if one["function"] == "quits")
        assert gone["problem"]["code"] == "crashed"
        assert code == 1
