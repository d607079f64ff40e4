"""Requests replayed on other code: what is fixed, what broke, what the record does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


READ = """
@define_function
async def total(ctx: Context, id: int) -> dict:
    row = await ctx.db.fetch_one("select n from counters where id = %s", [id])
    {rest}
"""


async def record(lab: Lab, rest: str, **given: Any) -> Any:
    async with lab.recording(READ.format(rest=rest)) as harness:
        await harness.call("total", **(given or {"id": 1}))
        return harness.last


async def test_a_fix_is_seen(lab: Lab) -> None:
    request = await record(lab, 'return {"n": 1 / row["n"]}')
    lab.rewrite(READ.format(rest='return {"n": 0 if not row["n"] else 1 / row["n"]}'))
    replayed = await lab.replay(request)
    assert (replayed.verdict, replayed.result.response) == ("fixed", {"n": 0})


async def test_a_fix_gets_further_than_the_record(lab: Lab) -> None:
    request = await record(lab, 'raise ValueError("too early")')
    lab.rewrite(READ.format(rest='return {"at": str(ctx.now()), "id": str(ctx.uuid())}'))
    replayed = await lab.replay(request)
    assert replayed.verdict == "fixed", replayed
    assert replayed.result.supplied == ["clock ctx.now", "uuid ctx.uuid"]
    again = await lab.replay(request)
    assert again.result.response == replayed.result.response


async def test_what_broke_is_seen(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(READ.format(rest='return {"n": row["missing"]}'))
    replayed = await lab.replay(request)
    assert replayed.verdict == "regressed"
    assert replayed.result.error is not None
    assert replayed.result.error.type == "KeyError"


async def test_another_result_is_seen(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(READ.format(rest='return {"n": row["n"] + 1}'))
    assert (await lab.replay(request)).verdict == "changed"


async def test_another_statement_diverges_with_both_sides(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(
        READ.format(rest='return {"n": row["n"]}').replace("select n from", "select n, id from")
    )
    replayed = await lab.replay(request)
    assert replayed.verdict == "diverged"
    first = replayed.result.first_divergence
    assert first is not None
    assert first["reason"] == "different"
    assert first["recorded"]["sql"] == "select n from counters where id = %s"
    assert first["now"]["sql"] == "select n, id from counters where id = %s"
    assert first["recorded"]["params"] == first["now"]["params"] == [1]


async def test_a_swallowed_divergence_is_still_the_first(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    swallowing = """
@define_function
async def total(ctx: Context, id: int) -> dict:
    try:
        await ctx.db.query("select 1")
    except Exception:
        pass
    return {"n": 0}
"""
    lab.rewrite(swallowing)
    replayed = await lab.replay(request)
    assert replayed.verdict == "diverged"
    assert replayed.result.first_divergence is not None


async def test_a_statement_no_longer_made_diverges(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    head = "@define_function\nasync def total(ctx: Context, id: int) -> dict:\n"
    lab.rewrite(head + "    return {'n': 0}")
    replayed = await lab.replay(request)
    assert replayed.result.first_divergence is not None
    assert replayed.result.first_divergence["reason"] == "unused"
    assert replayed.result.first_divergence["now"] is None


async def test_a_clock_asked_once_more_diverges_where_the_run_was_whole(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(READ.format(rest='return {"n": row["n"], "at": str(ctx.now())}'))
    replayed = await lab.replay(request)
    first = replayed.result.first_divergence
    assert first is not None
    assert (first["reason"], first["recorded"]) == ("missing", None)
    assert first["now"] == {"kind": "clock", "name": "ctx.now"}


async def test_a_function_that_is_gone_or_refuses_is_a_problem(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite("@define_function\nasync def other(ctx: Context) -> dict:\n    return {}")
    gone = await lab.replay(request)
    assert gone.result.problem is not None
    assert gone.result.problem["code"] == "no-function"
    assert gone.result.replay_id is None
    lab.rewrite(READ.format(rest="return {}").replace("id: int", "id: int, more: str"))
    refused = await lab.replay(request)
    assert refused.result.problem is not None
    assert refused.result.problem["code"] == "input-refused"


async def test_code_that_does_not_load_is_said(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite("import nothing_of_that_name")
    async with lab.child() as child:
        assert child.functions == ()
        assert "nothing_of_that_name" in child.errors[0].message
        result = await child.replay(lab.load(request))
        assert result.problem is not None


async def test_a_process_that_dies_is_an_answer(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(READ.format(rest="import os; os._exit(7)"))
    replayed = await lab.replay(request)
    assert replayed.result.outcome == "crashed"
    assert replayed.verdict == "regressed"


async def test_a_loop_that_never_ends_is_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_pg.replay.engine._GRACE_S", 0.5)
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(
        READ.format(rest="while True: pass").replace(
            "@define_function", "@define_function(timeout=0.5)"
        )
    )
    replayed = await lab.replay(request)
    assert replayed.result.outcome == "timeout"


async def test_what_user_code_prints_is_passed_on(lab: Lab) -> None:
    request = await record(lab, 'return {"n": row["n"]}')
    lab.rewrite(READ.format(rest='print("hello from here", flush=True); return {"n": row["n"]}'))
    await lab.replay(request)
    assert b"hello from here" in lab.output


COSTLY = """
@define_function(max_cost=5)
async def costly(ctx: Context) -> list:
    return await ctx.db.query("select count(*) from generate_series(1, 100000)")
"""


@pytest.mark.parametrize("mode", ["recorded", "in-place"])
async def test_a_statement_refused_for_its_cost_is_refused_again(lab: Lab, mode: Any) -> None:
    async with lab.recording(COSTLY) as harness:
        await harness.call("costly")
        assert harness.execution()["error"]["type"] == "TooCostly"
    replayed = await lab.replay(harness.last, mode)
    assert replayed.verdict == "same", replayed
    lab.rewrite(COSTLY.replace("100000", "10"))
    assert (await lab.replay(harness.last, mode)).verdict == (
        "diverged" if mode == "recorded" else "fixed"
    )
