"""What a statement may cost: the ceiling is asked of Postgres before it runs, the rows counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database

from .application import Harness, open_project

FUNCTIONS = """
from flux_pg import TooCostly, TooManyRows


@define_function(max_rows=3)
async def lists(ctx: Context, upto: int):
    return await ctx.db.query("select id from counters where id <= %s order by id", [upto])


@define_function(max_rows=3)
async def changes_many(ctx: Context):
    return await ctx.db.execute("update counters set n = n + 1")


@define_function(max_rows=3)
async def returns_too_many(ctx: Context, heed: bool = True):
    try:
        await ctx.db.query("update counters set n = n + 1 returning id")
    except TooManyRows as error:
        if heed:
            raise
        return error.code
    return "unreachable"


@define_function(max_cost=1000)
async def crosses(ctx: Context, email: str, heed: bool = True):
    await ctx.db.execute("insert into users (email) values (%s)", [email])
    try:
        await ctx.db.query(
            "insert into users (email) select a.n || %s from generate_series(1, 100000) as a (n)"
            " join generate_series(1, 1000) as b on b %% 2 = a.n %% 2", [email],
        )
    except TooCostly as error:
        if heed:
            raise
    rows = await ctx.db.query("select email from users where email = %(email)s", {"email": email})
    await ctx.db.execute("create temporary table t () on commit drop")
    return [await ctx.db.fetch_one("show transaction_isolation"), rows]


@define_function(max_cost=1000)
async def mistakes(ctx: Context):
    await ctx.db.query("select nothing from nowhere")


@define_function
async def as_the_project_says(ctx: Context):
    return await ctx.db.query("select id from counters")
"""


@pytest.fixture
async def flux(tmp_path: Path, database18: Database):  # type: ignore[no-untyped-def]
    async with open_project(tmp_path, database18, FUNCTIONS, max_rows=5) as harness:
        yield harness


def statement(flux: Harness, word: str) -> dict[str, Any]:
    """The one step whose SQL holds a word."""
    found = [span for span in flux.spans() if word in json.dumps(span["input"]) and span["input"]]
    (span,) = [span for span in found if span["kind"] == "db"]
    return span


async def test_as_many_rows_as_the_limit_are_returned(flux: Harness) -> None:
    reply = await flux.call("lists", upto=3)
    assert json.loads(reply.body) == [{"id": 1}, {"id": 2}, {"id": 3}]


async def test_more_rows_than_the_limit_are_an_error_that_names_both(flux: Harness) -> None:
    assert (await flux.call("lists", upto=4)).status_code == 500
    error = flux.execution()["error"]
    assert error["type"] == "TooManyRows"
    assert "returned 4 rows, and the limit is 3" in error["message"]
    assert statement(flux, "counters")["error"]["type"] == "TooManyRows"


async def test_rows_that_are_changed_and_not_returned_do_not_count(flux: Harness) -> None:
    assert json.loads((await flux.call("changes_many")).body) == 10


@pytest.mark.parametrize(("heed", "status", "sum_"), [(True, 500, 0), (False, 200, 10)])
async def test_a_write_that_returns_too_many_rows_has_happened_in_its_transaction(
    flux: Harness, heed: bool, status: int, sum_: int
) -> None:
    assert (await flux.call("returns_too_many", heed=heed)).status_code == status
    assert flux.rows("select sum(n)::int from counters") == [{"sum": sum_}]
    assert len(flux.mutations()) == 10


async def test_the_limit_of_the_project_holds_where_a_function_has_none(flux: Harness) -> None:
    assert (await flux.call("as_the_project_says")).status_code == 500
    assert "returned 10 rows, and the limit is 5" in flux.execution()["error"]["message"]


async def test_a_statement_above_the_ceiling_does_not_run_and_its_plan_is_recorded(
    flux: Harness,
) -> None:
    assert (await flux.call("crosses", email="secret@x")).status_code == 500
    error = flux.execution()["error"]
    assert error["type"] == "TooCostly"
    assert "was not run: its plan costs" in error["message"]
    assert "the ceiling is 1,000" in error["message"]
    plan = statement(flux, "generate_series")["attributes"]["plan"]
    assert plan["Node Type"] == "ModifyTable"
    assert plan["Plans"][0]["Total Cost"] > 1000
    assert "secret@x" not in json.dumps(plan)
    assert [change["new"]["email"] for change in flux.mutations()] == ["secret@x"]


async def test_a_function_can_go_on_after_a_refusal(flux: Harness) -> None:
    reply = await flux.call("crosses", email="a@x", heed=False)
    level = {"transaction_isolation": "read committed"}
    assert json.loads(reply.body) == [level, [{"email": "a@x"}]]
    assert flux.rows("select email from users") == [{"email": "a@x"}]


async def test_what_postgres_does_not_accept_fails_as_it_would_without_a_ceiling(
    flux: Harness,
) -> None:
    assert (await flux.call("mistakes")).status_code == 500
    assert flux.execution()["error"]["sqlstate"] == "42P01"
