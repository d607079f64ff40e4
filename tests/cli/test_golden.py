"""Whole pages, as they look in a terminal of 80 and of 120 columns. Change them with open eyes."""

from __future__ import annotations

from typing import Any

import pytest

from flux_pg.cli import git
from flux_pg.cli.style import Style
from flux_pg.cli.trace import render
from flux_pg.cli.why import Page
from tests.cli.records import SPAN, span, spans_of_a_failure

REQUEST = "01a20328-ad98-75e0-9c18-2906988ce991"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def document() -> dict[str, Any]:
    empty = {"input": None, "output": None, "error": None, "location": None, "status": "ok"}
    return {
        "schema": "flux.trace/1", "request_id": REQUEST, "trace_id": "4" * 32, "kind": "http",
        "function": "order", "method": "POST", "path": "/order", "outcome": "error",
        "status_code": 500, "started_at": "2026-05-01T10:00:00.123456Z", "duration_us": 12400,
        "spans": [{**empty, **one} for one in spans_of_a_failure()]
        + [{**empty, **span("e" * 16, "b" * 16, "call", "notify", 11500, 300)}],
        "mutations": [
            {"seq": 1, "span_id": "c" * 16, "schema": "public", "table": "orders",
             "pk": {"id": 1}, "op": "INSERT", "old": None,
             "new": {"id": 1, "item": 7, "note": "two 本 please"},
             "changed": ["id", "item", "note"],
             "outcome": "rolled_back", "at": "2026-05-01T10:00:00.125Z"},
            {"seq": 2, "span_id": "d" * 16, "schema": "depot", "table": "stock",
             "pk": {"shelf": "A", "item": 7}, "op": "UPDATE", "old": {"left": 0},
             "new": {"left": -1}, "changed": ["left"], "outcome": "rolled_back",
             "at": "2026-05-01T10:00:00.126Z"},
        ],
        "jobs": [], "complete": True, "incomplete_reason": None,
    }  # fmt: skip


CHILD = {
    "request_id": "01a20328-0000-7000-8000-00001a2b3c4d", "span_id": "e" * 16, "kind": "call",
    "function": "notify", "outcome": "ok", "duration_us": 280,
}  # fmt: skip

TRACE_80 = """\
POST /order  500 error  12.4 ms
01a20328-ad98-75e0-9c18-2906988ce991  order  2026-05-01 10:00:00

  gateway.request POST /order ████████████████████████████████████████  12.4 ms
  ├─ gateway.route route      ▏                                           15 µs
  └─ function order           ██████████████████████████████████████▍   11.9 ms
     │  CheckViolation: violates check (SQLSTATE 23514)
     ├─ db insert into orders   ██████▊                                 2.10 ms
     │     + INSERT orders 1  item 7, note "two 本 please"  (rolled back)
     ├─ db update stock                 █████████████████████████▊      8.00 ms
     │     CheckViolation: violates check (SQLSTATE 23514)
     │     sql     update stock set left = left - $1 where shelf = $2 and item …
     │     params  1, "A", 7
     │     ~ UPDATE depot.stock {"shelf": "A", "item": 7}  left …  (rolled back)
     └─ call notify                                                ▉     300 µs
           » call notify 1a2b3c4d ok 280 µs

2 row changes, rolled back"""


def test_trace_in_80_columns() -> None:
    assert render(document(), [CHILD], Style(False), 80) == TRACE_80


def test_trace_in_120_columns_has_room_for_the_change() -> None:
    page = render(document(), [CHILD], Style(False), 120)
    assert '~ UPDATE depot.stock {"shelf": "A", "item": 7}  left 0 → -1  (rolled back)' in page
    assert max(map(len, page.splitlines())) <= 120


WHY_80 = """\
POST /order  500 error  12.4 ms
01a20328-ad98-75e0-9c18-2906988ce991  order  2026-05-01 10:00:00

ROOT CAUSE
  CheckViolation: violates check
  SQLSTATE 23514
  detail Failing row contains (7, -1).
  in span db update stock
  sql     update stock set left = left - $1 where shelf = $2 and item = $3
  params  1, "A", 7

LOCATION
  functions/order.py:9 in order
      9 │     await ctx.db.execute(sql)
  81d2a38489  Ann Öst  2026-04-30 08:00  Sell what we have

INPUT
  item  7

EXECUTION GRAPH
  gateway.request POST /order ████████████████████████████████████████  12.4 ms
  ├─ gateway.route route      ▏                                           15 µs
  └─ function order           ██████████████████████████████████████▍   11.9 ms
     │  CheckViolation: violates check (SQLSTATE 23514)
     ├─ db insert into orders   ██████▊                                 2.10 ms
     ├─ db update stock                 █████████████████████████▊      8.00 ms
     │     CheckViolation: violates check (SQLSTATE 23514)
     └─ call notify                                                ▉     300 µs

DATA CHANGES
  rolled back: 2 row changes, never became visible
    + INSERT orders 1  item 7, note "two 本 please"
    ~ UPDATE depot.stock {"shelf": "A", "item": 7}
        left: 0 → -1

CHANGED SINCE LAST SUCCESS
  order has no earlier success on record

SUGGESTIONS
  The values break a check constraint of the table; the detail shows the row.
  flux trace 988ce991               every step with its latency"""


def test_why_in_80_columns() -> None:
    from datetime import UTC, datetime

    trace = document()
    told = {
        **{name: trace[name] for name in trace if name != "spans"},
        "input": {"item": 7},
        "root_cause": {
            "type": "CheckViolation", "message": "violates check", "span_id": "d" * 16,
            "fingerprint": "f", "sqlstate": "23514", "detail": "Failing row contains (7, -1).",
            "hint": None, "refused_by": None, "stack": [],
        },
        "location": {"file": "functions/order.py", "line": 9, "function": "order",
                     "commit": "81d2a384891", "dirty": False, "author": None},
        "called": [], "previous": [], "last_success": None,
        "suggestions": [
            {"text": "The values break a check constraint of the table; the detail shows the row.",
             "command": None},
            {"text": "every step with its latency", "command": "flux trace 988ce991"},
        ],
    }  # fmt: skip
    line = git.Line(
        "    await ctx.db.execute(sql)", "81d2a384891", "Ann Öst", "ann@example.org",
        datetime(2026, 4, 30, 8, tzinfo=UTC), "Sell what we have",
    )  # fmt: skip
    assert Page(told, trace, line, Style(False), 80).render() == WHY_80


def test_colour_changes_no_letter() -> None:
    import re

    painted = render(document(), [CHILD], Style(True), 80)
    assert "\x1b[31m" in painted
    plain = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert [line.rstrip() for line in plain.splitlines()] == TRACE_80.splitlines()


def test_a_span_that_lies_outside_its_parent_is_still_drawn() -> None:
    broken = {**document(), "spans": [
        span(SPAN, None, "gateway", "gateway.request", 0, 100),
        span("a" * 16, SPAN, "db", "late", 5000, 10),
        span("b" * 16, "f" * 16, "db", "lost parent", 50, 10),
    ], "mutations": []}  # fmt: skip
    page = render(broken, [], Style(False), 80)
    assert "└─ db late" in page and "db lost parent (parent missing)" in page
