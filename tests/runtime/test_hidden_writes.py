"""Writes that no text tells of (a view, a policy, a name that shadows a pure function) are recorded
as rolled back when their transaction fails, or the record says that they may be missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flux_pg.runtime import statements
from tests.conftest import Database

from .application import SCHEMA, Harness, open_project

FUNCTIONS = """
READS = {
    "view": "select * from counted",
    "over_a_view": "select * from counted_twice",
    "policy": "select * from guarded",
    "shadow": "select round('2'::text)",
    "domain": "select '1'::checked",
    "dotted": "select (counters).touch from counters where id = 1",
}


@define_function
async def raises(ctx: Context, how: str):
    await ctx.db.query(READS[how])
    raise ValueError("no")


@define_function
async def fails(ctx: Context, how: str):
    await ctx.db.query(READS[how])
    await ctx.db.query("select 1 / 0")


@define_function
async def writes_and_fails(ctx: Context, how: str):
    await ctx.db.execute("insert into users (email) values ('a')")
    await ctx.db.query("select n from counters where id = 1")
    await ctx.db.query(READS[how])
    await ctx.db.query("select 1 / 0")


@define_function
async def fails_in_a_block(ctx: Context, how: str):
    try:
        async with ctx.db.transaction():
            await ctx.db.query(READS[how])
            await ctx.db.query("select 1 / 0")
    except Exception:
        pass


@define_function
async def raises_in_a_block(ctx: Context, how: str):
    try:
        async with ctx.db.transaction():
            await ctx.db.query(READS[how])
            raise ValueError("no")
    except ValueError:
        pass


@define_function
async def reads_and_fails(ctx: Context):
    await ctx.db.query("select n as round, abs(n) from counters as c where id = 1")
    await ctx.db.query("select * from plain_view")
    await ctx.db.query("select 1 / 0")
"""

HIDDEN = """
create function count_it() returns int language sql volatile as
    'update public.counters set n = n + 1 where id = 2 returning n';
create view counted as select count_it() as n;
create view counted_twice as select * from (select n from counted) as c;
create view plain_view as select c.n, lower('A') as a from counters as c;
create table guarded (id int);
insert into guarded values (1);
alter table guarded enable row level security;
alter table guarded force row level security;
create policy counts on guarded using (count_it() > 0);
create function round(text) returns int language sql volatile as 'select public.count_it()';
create domain checked as int check (count_it() + value > 0);
create function touch(counters) returns int language sql volatile as 'select public.count_it()';
grant update on counters to flux_app;
grant select on guarded to flux_app;
"""

WAYS = ["view", "over_a_view", "policy", "shadow", "domain", "dotted"]


@pytest.fixture(autouse=True)
def nothing_learnt() -> None:
    statements.forget_writers()


@pytest.fixture
async def flux(tmp_path: Path, database18: Database) -> AsyncIterator[Harness]:
    async with open_project(tmp_path, database18, FUNCTIONS, SCHEMA + HIDDEN) as harness:
        yield harness


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("function", ["raises", "raises_in_a_block"])
async def test_a_hidden_write_is_recorded_when_the_function_fails(
    flux: Harness, function: str, how: str
) -> None:
    await flux.call(function, how=how)
    (change,) = flux.mutations()
    assert (change["outcome"], change["op"]) == ("rolled_back", "UPDATE")
    assert flux.execution()["complete"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("function", ["fails", "writes_and_fails", "fails_in_a_block"])
async def test_a_hidden_write_before_an_sql_error_is_missed_once_and_then_known(
    flux: Harness, function: str, how: str
) -> None:
    await flux.call(function, how=how)
    first = flux.execution()
    assert not first["complete"]
    assert "row changes not captured" in first["incomplete_reason"]
    before = len(flux.mutations())
    await flux.call(function, how=how)
    assert flux.execution()["complete"]
    changes = flux.mutations()[before:]
    assert [c["outcome"] for c in changes if c["table"] == "counters"] == ["rolled_back"]


async def test_plain_reads_before_an_error_leave_a_complete_record(flux: Harness) -> None:
    await flux.call("reads_and_fails")
    assert flux.execution()["complete"]
