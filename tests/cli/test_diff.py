"""`flux trace diff` on requests that ran for real."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.conftest import Flux
from tests.cli.diff_runs import make_run, repeat, seeded, uuid_text
from tests.cli.records import SPAN, make_id, record, span
from tests.conftest import Database
from tests.runtime.application import Harness, open_project

FUNCTIONS = """
import datetime
import time
import uuid

@define_function(path="/order")
async def order(ctx, item: int, note: str = "", fails: bool = False, extra: bool = False):
    now = datetime.datetime.now(datetime.UTC)
    row = await ctx.db.fetch_one(
        "insert into users (email, plan) values (%s, %s) returning id, email",
        (f"{uuid.uuid4()}@shop", note),
    )
    if extra:
        await ctx.db.query("select n from counters where id = %s", (item,))
    await ctx.db.execute("update users set plan = %s where id = %s", ("pro", row["id"]))
    async with trio.open_nursery() as nursery:
        async def look(number):
            await ctx.db.query("select id from counters where id = %s", (number,))
        for number in (1, 2, 3):
            nursery.start_soon(look, number)
    ctx.log.info("ordered", user=row["id"])
    if fails:
        raise ValueError(f"no {item} left")
    return {"id": row["id"], "at": now.isoformat(), "t": time.time(), "item": item}
"""


@pytest.fixture
async def app(tmp_path: Path, database18: Database) -> AsyncIterator[Harness]:
    async with open_project(tmp_path / "shop", database18, FUNCTIONS) as harness:
        yield harness


async def run(app: Harness, **input: Any) -> str:
    await app.call("order", **input)
    return str(app.last)


def shown(flux: Flux, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = flux("trace", "diff", *arguments, "--json")
    document: dict[str, Any] = json.loads(result.out)
    assert "error" not in document, result
    return result.code, document


def in_sql(app: Harness, first: str, second: str) -> list[dict[str, Any]]:
    """flux.diff as the unprivileged login sees it."""
    with psycopg.connect(app.database.app, row_factory=dict_row) as conn:
        return conn.execute("select * from flux.diff(%s, %s)", (first, second)).fetchall()


async def test_psql_gives_the_same_answer(flux: Flux, app: Harness) -> None:
    calls: list[dict[str, Any]] = [
        {"item": 3}, {"item": 3}, {"item": 3, "fails": True}, {"item": 3, "fails": True},
        {"item": 3, "note": "y"}, {"item": 4}, {"item": 3, "extra": True},
    ]  # fmt: skip
    ids = [await run(app, **call) for call in calls]
    for first in ids:
        for second in ids:
            rows = in_sql(app, first, second)
            _, document = shown(flux, first, second)
            assert (rows[0]["path"], rows[0]["change"]) == ("verdict", document["verdict"]), rows
            told = {
                (entry["path"], place)
                for entry in document["spans"]
                for side in ("a", "b")
                for place in (entry[side] or {}).get("values", ())
            }
            found = {
                (row["path"], row["place"])
                for row in rows
                if row["change"] == "changed" and not row["path"].startswith("public.")
            }
            # The document has one value where psql has one for each thing in it.
            assert {path for path, _ in told} == {path for path, _ in found}, (told, found)
            alone = sorted(
                (row["path"], row["change"]) for row in rows
                if row["change"][:4] == "only" and not row["path"].startswith("public.")
            )  # fmt: skip
            assert alone == sorted(
                (entry["path"], entry["change"]) for entry in document["spans"]
                if entry["change"][:4] == "only"
            )  # fmt: skip


async def test_the_same_request_twice_is_identical(flux: Flux, app: Harness) -> None:
    first, second = await run(app, item=3), await run(app, item=3)
    code, document = shown(flux, first, second)
    assert (code, document["verdict"]) == (0, "IDENTICAL"), document
    assert set(document) == {"schema", "verdict", "spans", "mutations", "volatile"}
    assert document["schema"] == "flux.diff/1"
    for entry in document["spans"]:
        assert set(entry) == {"path", "change", "a", "b", "delta_us"}
    assert {entry["change"] for entry in document["spans"]} <= {"same", "moved"}
    assert {entry["kind"] for entry in document["volatile"]} == {"uuid", "time", "sequence"}
    assert [row["change"] for row in document["mutations"]] == ["same", "same"]
    page = flux("trace", "diff", first, second)
    assert page.code == 0
    assert page.out.startswith("IDENTICAL  they did the same\n")
    assert "FIRST DIFFERENCE" not in page.out and "2 row changes the same" in page.out
    assert flux("trace", "diff", first, first).code == 0


async def test_a_failure_is_a_regression_and_the_other_way_round_a_fix(
    flux: Flux, app: Harness
) -> None:
    good, bad = await run(app, item=3), await run(app, item=3, fails=True)
    code, document = shown(flux, good, bad)
    assert (code, document["verdict"]) == (1, "REGRESSED")
    assert document["spans"][0]["b"]["values"]["error"]["message"] == "no 3 left"
    assert shown(flux, bad, good)[0] == 0
    assert shown(flux, bad, good)[1]["verdict"] == "FIXED"
    page = flux("trace", "diff", good[-8:], "@last-error")
    assert page.code == 1
    assert page.out.startswith("REGRESSED  A did not fail, B did\n")
    assert page.err == f"hint: flux why {bad[-8:]}\n"


async def test_what_differs_is_shown_with_what_came_first(flux: Flux, app: Harness) -> None:
    first, second = await run(app, item=3, note="x"), await run(app, item=3, note="y", extra=True)
    code, document = shown(flux, first, second)
    assert (code, document["verdict"]) == (1, "CHANGED")
    changes = {entry["path"]: entry for entry in document["spans"] if entry["change"] != "same"}
    assert changes["request"]["a"]["values"] == {"input.note": "x"}
    assert changes["request"]["b"]["values"] == {"input.note": "y", "input.extra": True}
    assert changes["function order > db insert into users"]["b"]["values"] == {
        "input.params[1]": "y"
    }
    only = [entry for entry in document["spans"] if entry["change"] == "only_b"]
    assert [entry["b"]["name"] for entry in only] == ["select from counters"]
    (row,) = [row for row in document["mutations"] if row["change"] != "same"][:1]
    assert row["a"]["values"] == {"new.plan": "x"}
    page = flux("trace", "diff", first, second)
    lines = page.out.splitlines()
    at = lines.index("FIRST DIFFERENCE")
    assert lines[at + 1 : at + 5] == [
        "  request", "  input.note", '    A  "x"', '    B  "y"',
    ]  # fmt: skip
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in page.out


def test_selectors_and_errors_are_those_of_trace(flux: Flux, conn: Any) -> None:
    first = record(conn, deployment=None)
    running = make_id()
    conn.execute("select flux.begin_request(%s, 5, 1000)", (running,))
    assert flux("trace", "diff", str(first), "@last").code == 0
    missing = flux("trace", "diff", str(first), "ffffffff")
    assert missing.code == 3 and "no request ffffffff" in missing.err
    assert flux("trace", "diff", str(first), "zz").code == 2
    assert flux("trace", "diff", str(first)).code == 2
    unknown = flux("trace", "diff", str(first), f"abcd1234:{first}", "--json")
    assert unknown.code == 3
    assert json.loads(unknown.out)["error"]["code"] == "no-replay"
    assert "flux trace diff" in flux("trace", "diff", "--help").out
    assert "flux trace diff" in flux("trace", "--help").out


def test_a_request_that_still_runs_is_refused(flux: Flux, conn: Any) -> None:
    first = record(conn)
    with conn.transaction():
        second = record(conn)
        conn.execute(
            "update flux.execution_log set state = 'running', outcome = null where request_id = %s",
            (second,),
        )
    refused = flux("trace", "diff", str(first), str(second))
    assert refused.code == 2 and "still running" in refused.err


def test_a_missing_part_of_a_record_is_said_and_is_no_identity(flux: Flux, conn: Any) -> None:
    first, second = record(conn), record(conn, incomplete="row changes not captured")
    page = flux("trace", "diff", str(first), str(second))
    assert page.code == 1
    assert "row changes not captured" in page.out
    assert "what is missing from a record cannot be compared" in page.out


def test_hostile_values_reach_no_terminal(flux: Flux, conn: psycopg.Connection[Any]) -> None:
    spans = [
        [span("a" * 16, None, "function", "f", 0, 10, output={"\x1b[31m": f"\x1b]0;{n}\x07"})]
        for n in ("one", "two")
    ]
    ids = [str(record(conn, spans=one)) for one in spans]
    page = flux("trace", "diff", *ids)
    assert page.code == 1 and "\x1b" not in page.out and "\\x1b" in page.out


def changed_somehow(rng: random.Random, spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Other spans: one left out, one with another result, two that changed places, or none."""
    spans = copy.deepcopy(spans)
    for _ in range(rng.randrange(3)):
        one = rng.choice(spans[1:] or spans)
        kind = rng.randrange(3)
        if kind == 0 and len(spans) > 2:
            gone = {one["span_id"]}
            spans = [s for s in spans if not {s["span_id"], s["parent_span_id"]} & gone]
        elif kind == 1:
            one["output"] = {"taken": uuid_text(rng)} if rng.random() < 0.5 else {"n": 77}
        else:
            one["start_us"] = rng.randrange(20_000)
    return spans


def test_psql_gives_the_same_verdict_on_random_records(flux: Flux, conn: Any) -> None:
    rng = seeded()
    verdicts = set()
    for _ in range(25):
        run = make_run(rng, spans=rng.randrange(1, 12))
        fields: dict[str, Any] = {"function": "order", "kind": "invoke", "path": ""}
        spans = [dict(span) for span in run.spans]
        other = [dict(span) for span in repeat(rng, run).spans]
        ids = [
            str(record(conn, spans=one, input=run.input, **fields))
            for one in (spans, changed_somehow(rng, other))
        ]
        for a, b in (ids, ids[::-1]):
            rows = conn.execute("select * from flux.diff(%s, %s)", (a, b)).fetchall()
            _, document = shown(flux, a, b)
            assert rows[0][1] == document["verdict"], (rows, document)
            verdicts.add(rows[0][1])
    assert verdicts == {"IDENTICAL", "CHANGED"}


async def test_two_requests_over_http_differ_by_nothing_of_who_called(
    flux: Flux, conn: Any
) -> None:
    ids = []
    for port, traced in (("40784", "1" * 32), ("40790", "2" * 32)):
        root = span(
            SPAN, None, "gateway", "gateway.request", 0, 900,
            input={"method": "POST", "path": "/order", "client": f"127.0.0.1:{port}", "query": {},
                   "headers": {"traceparent": f"00-{traced}-{'a' * 16}-01", "host": "shop"}},
            attributes={"received_us": int(port) % 100, "body_bytes": 3},
        )  # fmt: skip
        ids.append(str(record(conn, spans=[root])))
    code, document = shown(flux, *ids)
    assert (code, document["verdict"]) == (0, "IDENTICAL"), document
    assert {entry["kind"] for entry in document["volatile"]} == {"caller"}
    rows = conn.execute("select * from flux.diff(%s, %s)", ids).fetchall()
    assert rows[0][1] == "IDENTICAL", rows
