"""Blocks and calls of tasks that run at once: each keeps or loses its own rows, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Database

from .application import Harness, open_project

FUNCTIONS = """
@define_function(timeout=1.5)
async def waits_for_a_sibling(ctx: Context, other: str):
    first_in, second_done = trio.Event(), trio.Event()

    async def first():
        # the block that holds up
        async with ctx.db.transaction():
            await ctx.db.execute("insert into users (email) values ('first')")
            first_in.set()
            await second_done.wait()

    async def second():
        await first_in.wait()
        if other == "block":
            async with ctx.db.transaction():
                pass
        elif other == "call":
            await ctx.call("only_slow", {})
        else:
            await ctx.db.query("select 1")
        second_done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)


@define_function(timeout=1.5)
async def only_slow(ctx: Context):
    async with ctx.db.transaction():
        await trio.sleep(60)


async def at_once(ctx, first_fails):
    first_in, second_asked = trio.Event(), trio.Event()

    async def first():
        try:
            async with ctx.db.transaction():
                await ctx.db.execute("insert into users (email) values ('first')")
                first_in.set()
                await second_asked.wait()
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked()
                if first_fails:
                    raise KeyError("first")
        except KeyError:
            pass

    async def second():
        await first_in.wait()
        second_asked.set()
        async with ctx.db.transaction():
            await ctx.db.execute("insert into users (email) values ('second')")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)

@define_function
async def two_blocks(ctx: Context):
    await at_once(ctx, True)

@define_function(transaction=False)
async def two_transactions(ctx: Context):
    await at_once(ctx, True)

@define_function
async def statement_beside_a_block(ctx: Context):
    inside = trio.Event()

    async def block():
        try:
            async with ctx.db.transaction():
                await ctx.db.execute("insert into users (email) values ('block')")
                inside.set()
                await trio.testing.wait_all_tasks_blocked()
                raise KeyError
        except KeyError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(block)
        await inside.wait()
        await ctx.db.execute("insert into users (email) values ('beside')")

@define_function
async def tasks_inside_a_block(ctx: Context):
    async def nested(email):
        async with ctx.db.transaction():
            await ctx.db.execute("insert into users (email) values (%s)", [email])

    async with ctx.db.transaction(), trio.open_nursery() as nursery:
        nursery.start_soon(nested, "one")
        nursery.start_soon(nested, "two")

@define_function
async def insert_then_fail(ctx: Context, email: str):
    await ctx.db.execute("insert into users (email) values (%s)", [email])
    await trio.testing.wait_all_tasks_blocked()
    raise ValueError(email)

@define_function
async def insert(ctx: Context, email: str):
    await ctx.db.execute("insert into users (email) values (%s)", [email])
    await trio.testing.wait_all_tasks_blocked()

@define_function
async def two_calls(ctx: Context):
    async def failing():
        try:
            await ctx.call("insert_then_fail", {"email": "failed"})
        except ValueError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing)
        nursery.start_soon(ctx.call, "insert", {"email": "kept"})

@define_function
def nested_in_a_thread(ctx: Context):
    with ctx.db.transaction():
        ctx.db.execute("insert into users (email) values ('outer')")
        try:
            with ctx.db.transaction():
                ctx.db.execute("insert into users (email) values ('inner')")
                raise KeyError
        except KeyError:
            pass

@define_function
async def outlived_block(ctx: Context):
    async with trio.open_nursery() as nursery:
        inside, leave = trio.Event(), trio.Event()

        async def nested():
            async with ctx.db.transaction():
                await ctx.db.execute("insert into users (email) values ('nested')")
                inside.set()
                await leave.wait()

        try:
            async with ctx.db.transaction():
                await ctx.db.execute("insert into users (email) values ('outer')")
                nursery.start_soon(nested)
                await inside.wait()
                raise KeyError
        except KeyError:
            leave.set()

@define_function
async def returns_no_json(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('no json')")
    return object()

@define_function
async def survives_no_json(ctx: Context):
    try:
        await ctx.call("returns_no_json")
    except Exception as error:
        return type(error).__name__

@define_function
async def endless(ctx: Context):
    await ctx.call("endless")

@define_function
async def asks_outside(ctx: Context):
    try:
        await ctx.http.get("http://127.0.0.1:1/")
    except Exception:
        pass

@define_function
async def conflicts_after_a_call(ctx: Context):
    await ctx.call("asks_outside")
    await ctx.db.execute("do $$ begin raise exception using errcode = '40001'; end $$")

@define_function(isolation="serializable")
async def serializable(ctx: Context):
    row = await ctx.db.fetch_one("select current_setting('transaction_isolation') as level")
    return row["level"]

@define_function
async def asks_for_more(ctx: Context):
    return await ctx.call("serializable")

@define_function(transaction=False)
async def asks_in_its_own(ctx: Context):
    return await ctx.call("serializable")

@define_function(transaction=False)
async def writes_through_a_view(ctx: Context):
    return await ctx.db.query("select * from writing_view")
"""

SCHEMA = """
create table users (id int primary key generated always as identity, email text unique);
create function write_it() returns int language sql volatile
    as $$ insert into users (email) values ('view') returning id $$;
create view writing_view as select write_it() as id;
"""


@pytest.fixture
async def flux(tmp_path: Path, database: Database):  # type: ignore[no-untyped-def]
    functions = "import trio.testing\n" + FUNCTIONS
    async with open_project(tmp_path, database, functions, schema=SCHEMA) as harness:
        yield harness


def emails(flux: Harness) -> list[str]:
    return [row["email"] for row in flux.rows("select email from users order by id")]


def changes(flux: Harness) -> set[tuple[str, str]]:
    return {(row["new"]["email"], row["outcome"]) for row in flux.mutations()}


@pytest.mark.parametrize("function", ["two_blocks", "two_transactions"])
async def test_a_failing_block_takes_only_its_own_rows_along(flux: Harness, function: str) -> None:
    reply = await flux.call(function)
    assert reply.status_code == 200
    assert emails(flux) == ["second"]
    assert changes(flux) == {("first", "rolled_back"), ("second", "committed")}


async def test_a_statement_beside_a_block_is_not_rolled_back_with_it(flux: Harness) -> None:
    assert (await flux.call("statement_beside_a_block")).status_code == 200
    assert emails(flux) == ["beside"]


async def test_tasks_started_inside_a_block_run_in_it(flux: Harness) -> None:
    assert (await flux.call("tasks_inside_a_block")).status_code == 200
    assert sorted(emails(flux)) == ["one", "two"]


async def test_calls_at_once_keep_and_lose_their_own_rows(flux: Harness) -> None:
    assert (await flux.call("two_calls")).status_code == 200
    assert emails(flux) == ["kept"]
    outcomes = flux.rows("select function, outcome from flux.executions where kind = 'call'")
    assert {(row["function"], row["outcome"]) for row in outcomes} == {
        ("insert_then_fail", "error"),
        ("insert", "ok"),
    }


async def test_blocks_nest_in_a_thread(flux: Harness) -> None:
    assert (await flux.call("nested_in_a_thread")).status_code == 200
    assert emails(flux) == ["outer"]


async def test_a_block_that_outlives_the_one_around_it_cannot_commit(flux: Harness) -> None:
    reply = await flux.call("outlived_block")
    assert reply.status_code == 500
    assert flux.execution()["error"]["type"] == "InFailedSqlTransaction"
    assert emails(flux) == []


async def test_rows_of_a_call_that_returned_no_json_are_rolled_back_and_recorded(
    flux: Harness,
) -> None:
    reply = await flux.call("survives_no_json")
    assert json.loads(reply.body) == "NotJson"
    assert emails(flux) == []
    (called,) = flux.rows("select * from flux.executions where kind = 'call'")
    assert (called["function"], called["outcome"]) == ("returns_no_json", "error")
    assert [m["outcome"] for m in flux.mutations(called["request_id"])] == ["rolled_back"]


async def test_endless_calls_end_with_an_error_that_says_so(flux: Harness) -> None:
    await flux.call("endless")
    assert "call itself" in flux.execution()["error"]["hint"]


async def test_a_called_function_that_asked_the_outside_is_not_run_again(flux: Harness) -> None:
    await flux.call("conflicts_after_a_call")
    assert flux.execution()["error"]["sqlstate"] == "40001"
    assert [span["kind"] for span in flux.spans()].count("function") == 1


async def test_a_call_that_needs_a_stronger_isolation_is_refused(flux: Harness) -> None:
    await flux.call("asks_for_more")
    assert "serializable" in flux.execution()["error"]["message"]


async def test_a_call_outside_a_transaction_has_its_own_isolation(flux: Harness) -> None:
    assert json.loads((await flux.call("asks_in_its_own")).body) == "serializable"


async def test_a_write_hidden_in_a_view_is_noted_with_its_transaction(flux: Harness) -> None:
    await flux.call("writes_through_a_view")
    assert emails(flux) == ["view"]
    assert {m["xid"] for m in flux.mutations()} == set(flux.execution()["xids"])


@pytest.mark.parametrize("other", ["block", "statement", "call"])
async def test_tasks_that_wait_for_each_other_are_told_so_when_their_time_is_over(
    flux: Harness, other: str, tmp_path: Path
) -> None:
    reply = await flux.call("waits_for_a_sibling", other=other)
    assert reply.status_code == 504
    error = flux.execution()["error"]
    assert error["type"] == "TimedOut"
    said = "a task was waiting for the end of another task's ctx.db.transaction() block"
    assert said in error["message"]
    lines = (tmp_path / "functions" / "main.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "the block that holds up" in text)
    assert f"(functions/main.py:{line + 1})" in error["message"]
    assert flux.execution()["complete"] and emails(flux) == []


async def test_function_that_is_only_slow_is_told_nothing_of_tasks(flux: Harness) -> None:
    await flux.call("only_slow")
    assert flux.execution()["error"]["message"].endswith("its limit of 1.5 s")
