"""Law 5 on the real thing: functions, gateway, database, and processes that are killed."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from flux_pg.runtime.events import CrashedRequests, WorkerExited, WorkerReady, WorkerStuck
from flux_pg.runtime.process import Tuning
from tests.conftest import Database
from tests.runtime.processes import Running, kill, make_project, supervised, until

FUNCTIONS = """
import os
import trio
from flux_pg import define_function

@define_function
async def greet(ctx, name: str) -> dict:
    await ctx.db.execute("insert into greetings (name) values (%s)", [name])
    return {"hello": name}

@define_function
async def wait(ctx, seconds: float) -> dict:
    await ctx.db.execute("insert into greetings (name) values ('wait')")
    await trio.sleep(seconds)
    return {}

@define_function(timeout=8)
async def spin(ctx) -> dict:
    while True:
        pass

@define_function
async def die(ctx) -> dict:
    os._exit(5)
"""


@pytest.fixture
def real(tmp_path: Path, database18: Database) -> Callable[..., Any]:
    """A running server of a project with `FUNCTIONS` on a real database."""
    with psycopg.connect(database18.admin) as conn:
        conn.execute("create table greetings (id bigint generated always as identity, name text)")

    @asynccontextmanager
    async def run(stuck_after_s: float = 30, **settings: Any) -> AsyncIterator[Running]:
        if not (tmp_path / "functions").exists():
            run.settings = make_project(tmp_path)  # type: ignore[attr-defined]
            (tmp_path / "functions" / "version").unlink()
            (tmp_path / "functions" / "greetings.py").write_text(FUNCTIONS)
        settings = replace(
            run.settings,
            database_url=database18.app,
            **settings,  # type: ignore[attr-defined]
        )
        async with supervised(settings, Tuning(stuck_after_s=stuck_after_s)) as running:
            yield running

    return run


def executions(database: Database) -> list[dict[str, Any]]:
    with psycopg.connect(database.superuser, row_factory=dict_row) as conn:
        return conn.execute(
            "select request_id, function, outcome, error, input, state from flux.executions"
            " order by request_id"
        ).fetchall()


async def post(port: int, path: str, body: str) -> bytes:
    """Send a request and return whatever comes back."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        await stream.send_all(
            f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        try:
            async for part in stream:
                received += part
        except trio.BrokenResourceError:
            pass
    return received


async def test_requests_are_served_and_recorded(
    real: Callable[..., Any], database18: Database
) -> None:
    async with real(workers=2) as running:
        answers = [await post(running.port, "/greet", '{"name": "ann"}') for _ in range(5)]
        assert all(b"200" in answer.split(b"\r\n")[0] for answer in answers)
    assert [row["outcome"] for row in executions(database18)] == ["ok"] * 5


async def test_the_requests_of_a_killed_worker_are_crashed(
    real: Callable[..., Any], database18: Database, tmp_path: Path
) -> None:
    async with real() as running:
        await post(running.port, "/greet", '{"name": "ann"}')
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, running.port, "/wait", '{"seconds": 60}')
            nursery.start_soon(post, running.port, "/wait", '{"seconds": 61}')
            (worker,) = running.supervisor._workers
            await until(lambda: len(worker.running()) == 2)
            kill(worker.pid)
            crashed = await running.events.wait(CrashedRequests)
        assert len(crashed.request_ids) == 2
        await running.events.wait(WorkerReady, count=2)
        assert b"200" in await post(running.port, "/greet", '{"name": "bob"}')
    rows = executions(database18)
    assert [row["outcome"] for row in rows] == ["ok", "crashed", "crashed", "ok"]
    assert {str(row["request_id"]) for row in rows[1:3]} == set(crashed.request_ids)
    assert sorted(row["input"]["seconds"] for row in rows[1:3]) == [60, 61]
    assert "was killed by SIGKILL" in rows[1]["error"]["message"]
    with psycopg.connect(database18.superuser) as conn:
        names = conn.execute("select name from greetings order by id").fetchall()
    assert names == [("ann",), ("bob",)]
    assert not list((tmp_path / ".flux" / "journal").iterdir())


async def test_a_function_that_blocks_the_loop_is_named(
    real: Callable[..., Any], database18: Database
) -> None:
    async with real(stuck_after_s=0.6) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, running.port, "/spin", "{}")
            stuck = await running.events.wait(WorkerStuck)
            await running.events.wait(WorkerReady, count=2)
            # Its successor answers while the blocked one is still there.
            assert b"200" in await post(running.port, "/greet", '{"name": "ann"}')
            assert not running.events.of(WorkerExited)
            await running.events.wait(CrashedRequests)
        assert re.fullmatch(r"functions/greetings\.py:(19|20) in spin", stuck.place)
    rows = executions(database18)
    assert [(row["function"], row["outcome"]) for row in rows] == [
        ("spin", "crashed"),
        ("greet", "ok"),
    ]
    assert "event loop was blocked at functions/greetings.py:" in rows[0]["error"]["message"]
    (place,) = rows[0]["error"]["stack"]
    assert stuck.place == f"{place['file']}:{place['line']} in {place['function']}"


async def test_a_function_that_ends_its_process_is_crashed(
    real: Callable[..., Any], database18: Database
) -> None:
    async with real() as running:
        await post(running.port, "/die", "{}")
        await running.events.wait(CrashedRequests)
    (row,) = executions(database18)
    assert (row["function"], row["outcome"], row["state"]) == ("die", "crashed", "completed")
    assert "exited with status 5" in row["error"]["message"]


async def test_a_request_in_flight_finishes_when_the_server_is_told_to_end(
    real: Callable[..., Any], database18: Database
) -> None:
    answers: list[bytes] = []

    async def ask(port: int) -> None:
        answers.append(await post(port, "/wait", '{"seconds": 0.5}'))

    async with real() as running, trio.open_nursery() as nursery:
        nursery.start_soon(ask, running.port)
        (worker,) = running.supervisor._workers
        await until(lambda: len(worker.running()) == 1)
        running.supervisor.end(signal.SIGTERM)
    assert b"200" in answers[0].split(b"\r\n")[0]
    assert [row["outcome"] for row in executions(database18)] == ["ok"]
