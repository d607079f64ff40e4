"""Whatever a function raises, returns, logs or leaves open: a record and a reply, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Database

from .application import Harness, open_project

FUNCTIONS = """
@define_function
async def surrogate_refusal(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('a')")
    raise HttpError(400, "bad \\ud800 \\x00 text", details={"at": "\\ud800"})

@define_function
async def surrogate_error(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('a')")
    raise ValueError("bad \\ud800 \\x00 text")

@define_function
async def status_is_text(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('a')")
    raise HttpError("400", object(), code=3)

kept = []

@define_function(transaction=False)
async def leaves_a_block_open(ctx: Context):
    kept.append(ctx.db.transaction())
    await kept[0].__aenter__()
    await ctx.db.execute("insert into users (email) values ('open')")

@define_function
async def logs_anything(ctx: Context, password: str):
    ctx.log.error(ValueError("as it is"))
    ctx.log.info("fields", message="m", level="l", self="s")
    with ctx.span("work", name="n", kind="k"):
        pass

@define_function
async def backslashes(ctx: Context):
    return {"six": "\\\\u0000", "nul": "\\x00", "seven": "\\\\\\x00"}

@define_function
def in_a_thread(ctx: Context):
    ctx.db.execute("insert into users (email) values ('thread')")
    ctx.log.info("there")

@define_function
async def several_errors(ctx: Context):
    async def fail(error):
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, ValueError("one"))
        nursery.start_soon(fail, KeyError("two"))

@define_function
async def long_message(ctx: Context):
    raise ValueError("x" * 20_000)

@define_function
async def composed(ctx: Context):
    from psycopg import sql
    await ctx.db.query(sql.SQL("select 1"))

@define_function
async def asyncio_sleep(ctx: Context):
    import asyncio
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asyncio.sleep, 0)
"""


@pytest.fixture
async def flux(tmp_path: Path, database: Database):  # type: ignore[no-untyped-def]
    async with open_project(tmp_path, database, FUNCTIONS, pool_size=2) as harness:
        yield harness
        # The housekeeping's own connection comes back by itself.
        for _ in range(3):
            await harness.call("backslashes")
        assert harness.application._pool.stats().in_use <= 1


@pytest.mark.parametrize(
    ("function", "status"),
    [("surrogate_refusal", 400), ("surrogate_error", 500), ("status_is_text", 500)],
)
async def test_texts_that_cannot_be_encoded_are_recorded_and_answered(
    flux: Harness, function: str, status: int
) -> None:
    reply = await flux.call(function)
    assert reply.status_code == status
    json.loads(reply.body)
    assert flux.execution()["outcome"] == "error"
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]


async def test_a_transaction_that_was_never_ended_is_rolled_back_and_recorded(
    flux: Harness,
) -> None:
    await flux.call("leaves_a_block_open")
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]
    assert flux.rows("select from users") == []


async def test_log_takes_any_message_and_any_field(flux: Harness) -> None:
    reply = await flux.call("logs_anything", password="hunter2pw")
    assert reply.status_code == 200
    names = [(s["name"], s["input"], s["attributes"]) for s in flux.spans()]
    assert ("as it is", None, {"level": "error"}) in names
    assert ("fields", {"message": "m", "level": "l", "self": "s"}, {"level": "info"}) in names
    assert ("work", None, {"name": "n", "kind": "k"}) in names


async def test_only_nul_is_shown_as_its_symbol(flux: Harness) -> None:
    await flux.call("backslashes")
    assert flux.execution()["response"] == {
        "six": "\\u0000", "nul": "␀\ufe0e", "seven": "\\␀\ufe0e"
    }  # fmt: skip


async def test_spans_of_a_function_in_a_thread_say_its_line(flux: Harness) -> None:
    await flux.call("in_a_thread")
    places = {s["kind"]: s["location"] for s in flux.spans()}
    assert places["db"]["function"] == places["log"]["function"] == "in_a_thread"
    assert places["db"]["line"] == places["log"]["line"] - 1


async def test_no_error_of_a_group_is_dropped(flux: Harness) -> None:
    await flux.call("several_errors")
    error = flux.execution()["error"]
    assert "KeyError: 'two'" in error["detail"] or "ValueError: one" in error["detail"]


async def test_a_message_that_is_cut_says_so(flux: Harness) -> None:
    await flux.call("long_message")
    assert "12000 more" in flux.execution()["error"]["message"]


async def test_sql_that_is_no_text_is_refused_in_plain_words(flux: Harness) -> None:
    await flux.call("composed")
    error = flux.execution()["error"]
    assert error["type"] == "StatementRefused"
    assert "SQL" in error["message"] and "as_string" in error["hint"]


async def test_asyncio_below_a_nursery_is_explained(flux: Harness) -> None:
    await flux.call("asyncio_sleep")
    error = flux.execution()["error"]
    assert "asyncio" in error["message"] and "Trio" in error["hint"]
    assert error["stack"][-1]["function"] == "asyncio_sleep"
