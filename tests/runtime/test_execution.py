"""The recording contract, one request at a time: what was committed, what was rolled back, and
that the record says which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Database

from .application import open_project

FUNCTIONS = """
import psycopg

@define_function
async def create(ctx: Context, email: str) -> dict:
    user = await ctx.db.table("users").insert({"email": email})
    await ctx.db.execute("update counters set n = n + 1 where id = %s", [1])
    count = await ctx.db.fetch_one("select n from counters where id = 1")
    return {"id": user["id"], "n": count["n"]}

@define_function
async def fail_after_writes(ctx: Context, email: str):
    await ctx.db.table("users").insert({"email": email})
    await ctx.db.execute("update counters set n = n + 1 where id = 1")
    raise ValueError("no good")

@define_function
async def sql_error_after_writes(ctx: Context):
    await ctx.db.table("users").insert({"email": "a"})
    await ctx.db.execute("update counters set n = n + 1 where id = 1")
    await ctx.db.execute("update counters set n = -1 where id = 2")

@define_function
async def deferred(ctx: Context):
    await ctx.db.execute("insert into children values (1, 999)")
    return "never"

@define_function
async def swallowed(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('x')")
    try:
        await ctx.db.execute("select 1/0")
    except Exception:
        pass
    return "ok"

@define_function
async def block(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('kept')")
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("insert into users (email) values ('lost')")
            await ctx.db.execute("select 1/0")
    except Exception:
        pass
    await ctx.db.execute("insert into users (email) values ('after')")
    return "ok"

@define_function(timeout=1.5)
async def slow(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('slow')")
    await ctx.db.execute("select pg_sleep(60)")

@define_function
async def nothing(ctx: Context):
    return {"hello": "world"}

@define_function
def plain(ctx: Context, email: str):
    with ctx.db.transaction():
        row = ctx.db.table("users").insert({"email": email})
    return row

@define_function(transaction=False)
async def several(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('one')")
    async with ctx.db.transaction():
        await ctx.db.execute("insert into users (email) values ('two')")
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("insert into users (email) values ('three')")
            raise KeyError("x")
    except KeyError:
        pass
    return await ctx.db.query("select email from users order by id")

@define_function
async def caller(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('caller')")
    try:
        await ctx.call("fail_after_writes", {"email": "callee"})
    except ValueError:
        pass
    return await ctx.call("create", {"email": "second"})

@define_function
async def refuses(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('gone')")
    raise HttpError(409, "already there")

@define_function
async def many(ctx: Context):
    for number in range(100):
        await ctx.db.execute("insert into users (email) values (%s)", [f"m{number}"])
    await ctx.db.execute("select 1/0")

@define_function
async def fail_at_once(ctx: Context) -> dict:
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("update counters set n = -1 where id = 1")
    except psycopg.errors.CheckViolation:
        await ctx.db.execute("update counters set n = n + 1 where id = 1")
    return {}

@define_function
async def commit_itself(ctx: Context):
    await ctx.db.execute("insert into users (email) values ('x')")
    await ctx.db.execute("commit")
"""


@pytest.fixture
async def flux(tmp_path: Path, database: Database):  # type: ignore[no-untyped-def]
    async with open_project(tmp_path, database, FUNCTIONS) as harness:
        yield harness


def emails(harness) -> list[str]:  # type: ignore[no-untyped-def]
    return [row["email"] for row in harness.rows("select email from users order by id")]


async def test_success_commits_rows_and_record_together(flux) -> None:
    reply = await flux.call("create", email="ann@example.com")
    assert reply.status_code == 200
    assert json.loads(reply.body) == {"id": 1, "n": 1}
    record = flux.execution()
    assert (record["outcome"], record["state"], record["complete"]) == ("ok", "completed", True)
    assert record["snapshot"] is not None
    mutations = flux.mutations()
    assert [(m["op"], m["table"], m["outcome"]) for m in mutations] == [
        ("INSERT", "users", "committed"),
        ("UPDATE", "counters", "committed"),
    ]
    assert {m["xid"] for m in mutations} == set(record["xids"])
    spans = {span["span_id"]: span for span in flux.spans()}
    assert [spans[m["span_id"]]["name"] for m in mutations] == [
        "insert into users",
        "update counters",
    ]
    assert all(s["location"]["file"] == "functions/main.py" for s in spans.values())


async def test_the_snapshot_is_known_although_the_first_statement_failed(flux) -> None:
    await flux.call("fail_at_once")
    record = flux.execution()
    assert (record["outcome"], len(record["xids"])) == ("ok", 1)
    (seen,) = flux.rows(
        "select pg_visible_in_snapshot(%s::text::xid8, %s::text::pg_snapshot) as own",
        str(record["xids"][0]), str(record["snapshot"]),
    )
    assert seen["own"] is False



async def test_raised_error_keeps_row_changes_as_rolled_back(flux) -> None:
    reply = await flux.call("fail_after_writes", email="x")
    assert reply.status_code == 500
    record = flux.execution()
    assert record["outcome"] == "error"
    assert record["error"]["type"] == "ValueError"
    assert record["error"]["stack"][-1]["file"] == "functions/main.py"
    assert [(m["op"], m["outcome"]) for m in flux.mutations()] == [
        ("INSERT", "rolled_back"),
        ("UPDATE", "rolled_back"),
    ]
    assert record["complete"]
    assert emails(flux) == []


async def test_sql_error_keeps_what_was_written_before_it(flux) -> None:
    reply = await flux.call("sql_error_after_writes")
    assert reply.status_code == 500
    record = flux.execution()
    assert record["error"]["type"] == "CheckViolation"
    assert record["error"]["sqlstate"] == "23514"
    assert [m["op"] for m in flux.mutations()] == ["INSERT", "UPDATE"]
    failed = [span for span in flux.spans() if span["status"] == "error" and span["kind"] == "db"]
    assert "n = -1" in failed[0]["input"]["sql"]


async def test_deferred_constraint_fails_before_commit(flux) -> None:
    reply = await flux.call("deferred")
    assert reply.status_code == 500
    record = flux.execution()
    assert record["error"]["type"] == "ForeignKeyViolation"
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]
    assert record["complete"]


async def test_swallowed_sql_error_is_a_failure_as_nothing_was_committed(flux) -> None:
    reply = await flux.call("swallowed")
    assert reply.status_code == 500
    assert flux.execution()["outcome"] == "error"
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]
    assert emails(flux) == []


async def test_block_rolls_back_alone_and_is_recorded(flux) -> None:
    reply = await flux.call("block")
    assert reply.status_code == 200
    assert emails(flux) == ["kept", "after"]
    assert [(m["new"]["email"], m["outcome"]) for m in flux.mutations()] == [
        ("kept", "committed"),
        ("lost", "rolled_back"),
        ("after", "committed"),
    ]


async def test_timeout_stops_the_statement_and_keeps_row_changes(flux) -> None:
    reply = await flux.call("slow")
    assert reply.status_code == 504
    record = flux.execution()
    assert record["outcome"] == "timeout"
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]


async def test_request_without_database_is_recorded(flux) -> None:
    reply = await flux.call("nothing")
    assert reply.body == b'{"hello":"world"}'
    assert flux.execution()["outcome"] == "ok"
    assert flux.execution()["xids"] == []


async def test_plain_function_blocks_in_a_thread(flux) -> None:
    reply = await flux.call("plain", email="t")
    assert json.loads(reply.body)["email"] == "t"
    assert [m["outcome"] for m in flux.mutations()] == ["committed"]


async def test_several_transactions_are_one_record(flux) -> None:
    reply = await flux.call("several")
    assert [row["email"] for row in json.loads(reply.body)] == ["one", "two"]
    record = flux.execution()
    assert (record["state"], record["outcome"]) == ("completed", "ok")
    assert len(record["xids"]) == 2
    assert [(m["new"]["email"], m["outcome"]) for m in flux.mutations()] == [
        ("one", "committed"),
        ("two", "committed"),
        ("three", "rolled_back"),
    ]


async def test_called_functions_have_records_of_their_own(flux) -> None:
    reply = await flux.call("caller")
    assert reply.status_code == 200
    children = flux.rows(
        "select * from flux.executions where parent_request_id = %s order by started_at", flux.last
    )
    assert [(c["function"], c["kind"], c["outcome"]) for c in children] == [
        ("fail_after_writes", "call", "error"),
        ("create", "call", "ok"),
    ]
    assert [m["outcome"] for m in flux.mutations(children[0]["request_id"])] == [
        "rolled_back",
        "rolled_back",
    ]
    assert [m["outcome"] for m in flux.mutations(children[1]["request_id"])] == [
        "committed",
        "committed",
    ]
    assert emails(flux) == ["caller", "second"]


async def test_http_error_is_a_recorded_refusal(flux) -> None:
    reply = await flux.call("refuses")
    assert reply.status_code == 409
    assert json.loads(reply.body)["error"]["message"] == "already there"
    assert flux.execution()["status_code"] == 409
    assert [m["outcome"] for m in flux.mutations()] == ["rolled_back"]


async def test_row_changes_past_the_savepoint_budget_are_kept(flux) -> None:
    await flux.call("many")
    assert len(flux.mutations()) == 100
    assert flux.execution()["complete"]


async def test_transaction_control_is_refused_with_a_way_out(flux) -> None:
    await flux.call("commit_itself")
    record = flux.execution()
    assert record["error"]["type"] == "StatementRefused"
    assert "ctx.db.transaction" in record["error"]["hint"]
    assert emails(flux) == []
