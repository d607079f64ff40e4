"""Boundaries of a real function in a real run: all of the user's are in the record, none of the
runtime's, and what is in the record is enough to run the function again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psycopg

from flux_pg.runtime.boundaries.log import BoundaryLog
from flux_pg.runtime.boundaries.serving import Serving
from flux_pg.runtime.boundaries.tasks import ensure_task_paths
from tests.conftest import Database
from tests.runtime.application import open_project

from .conftest import running
from .test_http import Handler, web

__all__ = ["web"]

FUNCTIONS = """
import datetime, logging, os, random, secrets, uuid
from time import time

import httpx

async def gather(base):
    seen = {}

    async def work(number):
        async with httpx.AsyncClient(base_url=base) as client:
            reply = await client.post("/echo", content=str(uuid.uuid4()))
        seen[number] = [reply.text, random.randint(1, 10**9)]

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(work, number)
    logging.getLogger(__name__).info("not a boundary")
    return {
        "time": time(),
        "now": datetime.datetime.now(datetime.UTC).isoformat(),
        "pin": secrets.token_hex(4),
        "home": os.environ["HOME"],
        "key": os.environ["FLUX_TEST_API_KEY"],
        "thread": (await trio.to_thread.run_sync(uuid.uuid4)).hex,
        "seen": [seen[number] for number in range(4)],
    }

@define_function
async def everything(ctx: Context, base: str):
    await ctx.db.execute("insert into users (email) values ('a')")
    return await gather(base)

@define_function
async def only_database(ctx: Context):
    await ctx.db.table("users").insert({"email": "b"})
    async with ctx.db.transaction():
        await ctx.db.query("select pg_sleep(0.01)")
    await trio.sleep(0)
    return await ctx.db.query("select count(*) from users")
"""


async def test_the_record_holds_the_users_boundaries_and_serves_them(
    tmp_path: Path, database: Database, web: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FLUX_TEST_API_KEY", "hunter2")
    with psycopg.connect(database.superuser) as conn:
        # As on a server that has been up: making partitions locks what requests write to.
        conn.execute("select flux.ensure_partitions()")
    async with open_project(tmp_path, database, FUNCTIONS) as harness:
        reply = await harness.call("only_database")
        assert reply.outcome == "ok", reply.body
        assert harness.execution()["boundaries"] is None
        reply = await harness.call("everything", base=web)
        assert reply.outcome == "ok", reply.body
        first = json.loads(reply.body)
        row = harness.execution()
        assert row["complete"], row["incomplete_reason"]
        spans = harness.spans()
        gather = next(
            module.gather
            for name, module in list(sys.modules.items())
            if name.startswith("flux_functions")
        )
    document = row["boundaries"]
    assert "hunter2" not in json.dumps(document)
    assert {entry[1] for entry in document["entries"]} == {
        "clock", "environment", "http", "random", "uuid"
    }  # fmt: skip
    https = [span for span in spans if span["kind"] == "http"]
    assert len(https) == 4
    assert all(span["attributes"]["transaction_open"] for span in https)
    sent = {headers["traceparent"].split("-")[2] for _, _, headers, _ in Handler.seen}
    assert sent == {span["span_id"] for span in https}

    # The redacted variable is the one thing that a replay cannot have: put it back for this test.
    ensure_task_paths()
    for entry in document["entries"]:
        if entry[2] == "FLUX_TEST_API_KEY":
            entry[3:] = ["=", ["hunter2"]]
    serving = Serving(document)
    with running(BoundaryLog(serving)):
        second = await gather(web)
    assert serving.first_divergence is None, serving.first_divergence
    assert second == first
    assert len(Handler.seen) == 4
