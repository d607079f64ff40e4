"""What is too large, forgotten or chained: how the record says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Database

from .application import Harness, open_project

FUNCTIONS = """
@define_function
async def large(ctx: Context, n: int):
    return "x" * n

@define_function
async def forgotten(ctx: Context):
    return ctx.db.query("select 1")

@define_function
async def chained(ctx: Context):
    try:
        {}["missing"]
    except KeyError as error:
        raise RuntimeError("no such setting") from error
"""


@pytest.fixture
async def flux(tmp_path: Path, database18: Database):  # type: ignore[no-untyped-def]
    async with open_project(
        tmp_path, database18, FUNCTIONS, record_value_limit_bytes=1000
    ) as harness:
        yield harness


async def test_a_response_over_the_limit_is_sent_whole_and_recorded_as_omitted(
    flux: Harness,
) -> None:
    reply = await flux.call("large", n=5000)
    assert len(reply.body) == 5002
    record = flux.execution()
    assert record["response"]["omitted"]["bytes"] == 5002
    assert not record["complete"]
    assert "5002 bytes" in record["incomplete_reason"]


async def test_a_response_within_the_limit_is_recorded_whole(flux: Harness) -> None:
    await flux.call("large", n=500)
    assert flux.execution()["response"] == "x" * 500
    assert flux.execution()["complete"]


async def test_a_forgotten_await_is_named(flux: Harness) -> None:
    reply = await flux.call("forgotten")
    assert reply.status_code == 500
    assert "`await` is missing" in flux.execution()["error"]["message"]


async def test_what_an_error_was_raised_from_is_recorded(flux: Harness) -> None:
    await flux.call("chained")
    assert flux.execution()["error"]["causes"] == ["KeyError: 'missing'"]
