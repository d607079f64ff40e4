"""The line that a record blames is the line that a person would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database

from .application import open_project

FUNCTIONS = """
import asyncio
import time

class Future:
    def __await__(self):
        yield 3  # Trio knows no such thing

async def sleep():
    value = 1
    await asyncio.sleep(1)  # sleep

@define_function
async def direct(ctx: Context):
    value = 1
    await asyncio.sleep(1)  # direct

@define_function
async def foreign(ctx: Context):
    value = 1
    await Future()  # foreign

@define_function
async def in_a_task(ctx: Context):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)

@define_function(timeout=1)
async def waits(ctx: Context):
    value = 1
    await trio.sleep_forever()  # waits

@define_function(timeout=1.5)
def waits_in_a_thread(ctx: Context):
    ctx.db.execute("select 1")  # waits_in_a_thread
    time.sleep(3)
"""


@pytest.mark.parametrize(
    ("function", "mark"),
    [
        ("direct", "# direct"),
        ("foreign", "yield 3"),
        ("in_a_task", "# sleep"),
        ("waits", "# waits\n"),
        ("waits_in_a_thread", "# waits_in_a_thread"),
    ],
)
async def test_the_innermost_line_is_the_place(
    tmp_path: Path, database18: Database, function: str, mark: str
) -> None:
    async with open_project(tmp_path, database18, FUNCTIONS) as harness:
        await harness.call(function)
        place: Any = harness.execution()["error"]["stack"][-1]
    (source,) = (tmp_path / "functions").glob("*.py")
    assert mark in source.read_text().splitlines(keepends=True)[place["line"] - 1]
