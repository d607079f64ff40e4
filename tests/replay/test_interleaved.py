"""What is laid to others who committed meanwhile, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.conftest import Database, Server
from tests.replay.conftest import Lab, make_lab
from tests.replay.fidelity_service import open_service
from tests.replay.test_incident import play
from tests.runtime.application import SCHEMA, Harness

SHOP = """
import psycopg

@define_function
async def bump(ctx: Context, id: int, by: int = 1) -> dict:
    await ctx.db.execute("update counters set n = n + %s where id = %s", [by, id])
    return {}

@define_function
async def look(ctx: Context, id: int) -> dict:
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    return {"n": row["n"]}

@define_function
async def meet(ctx: Context, id: int) -> dict:
    await ctx.db.query("select 1 as one")
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    await ctx.db.table("users").insert({"email": f"saw {row['n']}"})
    return {"n": row["n"]}

@define_function
async def sum_up(ctx: Context) -> dict:
    await ctx.db.query("select 1 as one")
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    row = await ctx.db.fetch_one("select sum(n)::int as n from counters")
    return {"n": row["n"]}

@define_function
async def call_meet(ctx: Context, id: int) -> dict:
    return {"of": await ctx.call("meet", {"id": id})}

@define_function
async def tell(ctx: Context, id: int) -> dict:
    await ctx.db.query("select 1 as one")
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    answer = await ctx.http.post("{url}/count", json={"n": row["n"]})
    return answer.json()

@define_function
async def note(ctx: Context, name: str) -> dict:
    row = await ctx.db.fetch_one("insert into users (email) values (%s) returning plan", [name])
    return row

@define_function
async def lower(ctx: Context, id: int) -> dict:
    for by in (1000, 1):
        try:
            async with ctx.db.transaction():
                await ctx.db.execute("update counters set n = n - %s where id = %s", [by, id])
        except psycopg.errors.CheckViolation:
            pass
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    return {"n": row["n"]}

@define_function
async def enter(ctx: Context, wait: bool = False) -> dict:
    await ctx.db.query("select 1 as one")
    if wait:
        await ctx.db.query("select pg_advisory_xact_lock(7)")
    await ctx.db.execute("insert into entries (amount) values (1)")
    return {}

@define_function
async def slow_note(ctx: Context, name: str) -> dict:
    await ctx.db.query("select 1 as one")
    await ctx.db.query("select pg_advisory_xact_lock(7)")
    row = await ctx.db.fetch_one("insert into users (email) values (%s) returning plan", [name])
    return row
"""


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


@asynccontextmanager
async def held(harness: Harness, lab: Lab, function: str, **given: Any) -> AsyncIterator[None]:
    """A request that waits, its snapshot taken, while the block runs."""
    with psycopg.connect(lab.database.admin, autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(7)")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(harness.call, function, **given))
            waits = "select 1 from pg_locks where locktype = 'advisory' and not granted"
            with trio.fail_after(60):
                while not harness.rows(waits):
                    await trio.sleep(0.01)
            yield
            conn.execute("select pg_advisory_unlock(7)")


async def test_other_code_is_not_excused_by_a_busy_neighbour(lab: Lab, pg18: Server) -> None:
    async with lab.recording(SHOP) as harness, held(harness, lab, "meet", id=1):
        await harness.call("bump", id=1)
    found = (await play(lab, pg18, chained=False)).by_function
    assert (found["bump"].verdict, found["meet"].verdict) == ("same", "interleaved")
    lab.rewrite(SHOP.replace('f"saw {', 'f"saw about {'))
    found = (await play(lab, pg18, chained=False)).by_function
    assert (found["bump"].verdict, found["meet"].verdict) == ("same", "changed")


@pytest.mark.parametrize("function", ["call_meet", "sum_up"])
async def test_a_change_elsewhere_takes_no_excuse_away(
    lab: Lab, pg18: Server, function: str
) -> None:
    # Behind `function` in the order of commits: its first statement must not see what came later.
    code = SHOP.replace('await ctx.db.query("select 1 as one")', FIRST)
    given = {} if function == "sum_up" else {"id": 1}
    async with lab.recording(code) as harness:
        await harness.call("note", name="x")
        async with held(harness, lab, function, **given):
            await harness.call("bump", id=1)
    lab.rewrite(code.replace("[name]", '["not " + name]', 1))
    found = (await play(lab, pg18)).by_function
    assert (found["note"].verdict, found[function].verdict) == ("changed", "interleaved")


FIRST = 'await ctx.db.fetch_one("select n from counters where id = 1")'


async def test_what_earlier_replays_did_otherwise_is_not_laid_to_others(
    lab: Lab, pg18: Server
) -> None:
    code = SHOP.replace('await ctx.db.query("select 1 as one")', FIRST)
    async with lab.recording(code) as harness:
        await harness.call("bump", id=2)
        async with held(harness, lab, "meet", id=2):
            await harness.call("bump", id=1)
        await harness.call("look", id=2)
    lab.rewrite(code.replace("[by, id]", "[by + (id == 2), id]"))
    found = (await play(lab, pg18)).by_function
    # The row of its other statement is not the one that somebody changed while it ran.
    assert found["look"].verdict == "changed"
    alone = (await play(lab, pg18, chained=False, functions=["meet"])).replays
    assert [one.verdict for one in alone] == ["same"]


async def test_what_is_asked_of_others_because_of_a_row_is_laid_to_who_wrote_it(
    lab: Lab, pg18: Server
) -> None:
    with open_service() as service:
        code = SHOP.replace("{url}", service.url)
        async with lab.recording(code) as harness, held(harness, lab, "tell", id=1):
            await harness.call("bump", id=1)
    (one,) = (await play(lab, pg18, chained=False, functions=["tell"])).replays
    assert one.verdict == "interleaved", one
    lab.rewrite(code.replace('json={"n"', 'json={"m"'))
    (one,) = (await play(lab, pg18, chained=False, functions=["tell"])).replays
    assert one.verdict == "diverged", one


async def test_a_default_that_changed_is_not_laid_to_others(lab: Lab, pg18: Server) -> None:
    async with lab.recording(SHOP, schema=SCHEMA) as harness:
        async with held(harness, lab, "slow_note", name="a"):
            await harness.call("note", name="b")
        with psycopg.connect(lab.database.admin, autocommit=True) as conn:
            conn.execute("alter table users alter column plan set default 'gold'")
    found = (await play(lab, pg18)).by_function
    assert {one.verdict for one in found.values()} == {"changed"}


async def test_who_waited_for_a_row_is_laid_to_who_held_it(lab: Lab, pg18: Server) -> None:
    async with lab.recording(SHOP) as harness:
        await harness.call("bump", id=1, by=5)
        with psycopg.connect(lab.database.admin) as conn:
            async with trio.open_nursery() as nursery:
                conn.execute("update counters set n = n + 10 where id = 1")
                nursery.start_soon(partial(harness.call, "lower", id=1))
                waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
                with trio.fail_after(60):
                    while not harness.rows(waits):
                        await trio.sleep(0.01)
                conn.commit()
    (one,) = (await play(lab, pg18, functions=["lower"])).replays
    assert one.run.response == {"n": 14}
    # In a chain it finds the row as it was once it had waited; then it failed on an older one.
    assert one.verdict == "interleaved", one.comparison.differences


ENTRIES = """
create table entries (id int primary key generated always as identity, amount int not null);
create table totals (id int primary key, amount int not null);
insert into totals values (1, 0);
create function add_up() returns trigger language plpgsql as
$$ begin update totals set amount = amount + new.amount; return null; end $$;
create trigger add_up after insert on entries for each row execute function add_up();
"""


async def test_what_only_a_row_change_shows_is_laid_to_who_changed_the_row(
    lab: Lab, pg18: Server
) -> None:
    async with (
        lab.recording(SHOP, schema=SCHEMA + ENTRIES) as harness,
        held(harness, lab, "enter", wait=True),
    ):
        await harness.call("enter")
    found = [one.verdict for one in (await play(lab, pg18, chained=False)).replays]
    assert found == ["interleaved", "same"]
    with psycopg.connect(lab.database.admin, autocommit=True) as conn:
        conn.execute(ENTRIES[ENTRIES.index("create function") : ENTRIES.index("create trigger")]
                     .replace("create function", "create or replace function")
                     .replace("new.amount", "new.amount * 2"))  # fmt: skip
    assert "changed" in [one.verdict for one in (await play(lab, pg18)).replays]


DRAWN = """
@define_function
async def draw(ctx: Context, id: int) -> dict:
    row = await ctx.db.fetch_one("select random() as r, n from counters where id = %s", [id])
    await ctx.db.execute("insert into drawn (r) values (%s)", [row["r"]])
    told = await ctx.db.fetch_one("insert into drawn (r) values (random()) returning made, r")
    return {"r": row["r"], "n": row["n"], "made": told["made"]}

@define_function
async def toss(ctx: Context) -> dict:
    row = await ctx.db.fetch_one("select floor(random() * 1000000)::int as n")
    for number in range(1 + row["n"] % 1000):
        ctx.log.info(str(number))
    return {}
"""
DRAWN_TABLE = """
create table drawn (
    id int primary key generated always as identity, r float8,
    made int not null default floor(random() * 1000000)
);
"""


async def test_what_the_database_draws_is_no_change(lab: Lab, pg18: Server) -> None:
    async with lab.recording(DRAWN, schema=SCHEMA + DRAWN_TABLE) as harness:
        for id in (1, 2):
            await harness.call("draw", id=id)
        await harness.call("toss")
    *drawn, toss = (await play(lab, pg18)).replays
    assert [one.verdict for one in drawn] == ["same", "same"]
    assert all("function draw > output.made" in one.varies for one in drawn)
    # What is done because of such a value is told apart, not excused.
    assert toss.verdict == "changed"
    assert any("select floor" in place for place in toss.varies), toss.varies
    lab.rewrite(DRAWN.replace('"n": row["n"]', '"n": -1'))
    assert {one.verdict for one in (await play(lab, pg18)).replays} == {"changed"}
