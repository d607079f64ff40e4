"""Single cases in which a replay was once not what the recording was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.replay.conftest import Lab, make_lab
from tests.replay.fidelity_service import open_service


@pytest.fixture
def lab(tmp_path: Path, database18: Database) -> Lab:
    return make_lab(tmp_path, database18)


BLOCKS = """
import psycopg

@define_function(transaction=False)
async def deferred(ctx: Context) -> dict:
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("insert into children values (1, 999)")
    except psycopg.errors.ForeignKeyViolation as error:
        return {"told": str(error), "constraint": error.diag.constraint_name}

@define_function
async def swallowed(ctx: Context) -> dict:
    try:
        async with ctx.db.transaction():
            try:
                await ctx.db.query("select 1 / 0")
            except psycopg.errors.DivisionByZero:
                pass
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate, "n": (await ctx.db.fetch_one("select 1 as n"))["n"]}

@define_function
def plainly(ctx: Context) -> dict:
    try:
        with ctx.db.transaction():
            try:
                ctx.db.query("select 1 / 0")
            except psycopg.errors.DivisionByZero:
                pass
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate}

@define_function
async def inner(ctx: Context) -> str:
    try:
        await ctx.db.query("select 1 / 0")
    except psycopg.errors.DivisionByZero:
        return "fine"

@define_function
async def outer(ctx: Context) -> dict:
    try:
        await ctx.call("inner")
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate}
"""


@pytest.mark.parametrize("function", ["deferred", "swallowed", "plainly", "outer"])
async def test_a_block_that_could_not_be_committed_cannot_be_in_a_replay(
    lab: Lab, function: str
) -> None:
    async with lab.recording(BLOCKS, dev=False) as harness:
        await harness.call(function)
        replayed = await lab.replay(harness.last)
        assert replayed.recorded.outcome == "ok", replayed.recorded.error
        assert replayed.verdict == "same", str(replayed)
        failed = [s for s in replayed.recorded.spans if (s.kind, s.name) == ("db", "commit")]
        assert all(span.error is not None and span.location is not None for span in failed)
        assert len(failed) == (function != "outer")


SECRETS = """
import os

@define_function
async def reads(ctx: Context) -> dict:
    key = os.environ["SOME_API_KEY"]
    return {"right": key == "sesame", "wrong": ctx.env.get("SOME_API_KEY") == "open",
            "api_key": key, "there": "SOME_API_KEY" in os.environ}
"""


async def test_a_secret_of_the_environment_can_be_compared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    async with lab.recording(SECRETS) as harness:
        await harness.call("reads")
    monkeypatch.delenv("SOME_API_KEY")
    replayed = await lab.replay(harness.last)
    assert replayed.result.first_divergence is None
    assert replayed.result.response == replayed.recorded.response
    assert replayed.result.response["right"] is True
    assert replayed.result.response["wrong"] is False


SENT = """
import datetime

@define_function
async def sends(ctx: Context) -> dict:
    return {"at": ctx.now(), "bytes": b"\\x00\\xff", "nan": float("nan"), "set": {1},
            "span": datetime.timedelta(days=1, seconds=2), "pair": (1, None)}

@define_function
async def replies(ctx: Context) -> Response:
    return Response(201, {}, {"at": ctx.now(), "bytes": b"\\x00\\xff"})
"""


@pytest.mark.parametrize("function", ["sends", "replies"])
async def test_the_record_has_what_was_sent(lab: Lab, function: str) -> None:
    async with lab.recording(SENT) as harness:
        reply = await harness.call(function)
        response = harness.execution()["response"]
    sent = json.loads(reply.body)
    assert response == (sent if function == "sends" else {**response, "body": sent})
    replayed = await lab.replay(harness.last)
    assert replayed.verdict == "same"
    assert replayed.result.response == response


FOLLOWS = """
import httpx

@define_function
async def follows(ctx: Context) -> dict:
    async with httpx.AsyncClient(follow_redirects=True) as client:
        return (await client.get("{url}/redirect")).json()

@define_function
async def fails(ctx: Context) -> dict:
    raise HttpError(409, "no") if "{url}" else ValueError()
"""


async def test_a_cookie_that_an_answer_set_goes_out_again(lab: Lab) -> None:
    with open_service() as service:
        async with lab.recording(FOLLOWS.format(url=service.url)) as harness:
            await harness.call("follows")
        replayed = await lab.replay(harness.last)
    assert replayed.recorded.response["knows"] is True
    assert replayed.verdict == "same", str(replayed)
    assert replayed.result.response == replayed.recorded.response


async def test_a_failure_is_told_with_the_id_of_the_request_and_not_of_its_replay(lab: Lab) -> None:
    async with lab.recording(FOLLOWS.format(url="http://127.0.0.1:9")) as harness:
        await harness.call("fails")
    replayed = await lab.replay(harness.last)
    assert replayed.result.response == replayed.recorded.response
    assert replayed.result.response["error"]["request_id"] == str(harness.last)
