"""Execution records for tests, written through the functions that the runtime itself calls."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

SPAN = "00f067aa0ba902b7"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


_last_ms = 0


def make_id(milliseconds: int | None = None, tail: str | None = None) -> UUID:
    """A UUIDv7 of a given moment (by default now, each later than the last one), its last digits
    given or random."""
    global _last_ms  # noqa: PLW0603
    if milliseconds is None:
        milliseconds = _last_ms = max(int(time.time() * 1000), _last_ms + 1)
    at = milliseconds
    digits = f"{at:012x}7" + os.urandom(2).hex()[:3] + "8" + os.urandom(8).hex()[:15]
    return UUID(digits[: 32 - len(tail)] + tail if tail else digits)


def signed(span_id: str | None) -> int | None:
    """A span id as the bigint that is stored."""
    if span_id is None:
        return None
    number = int(span_id, 16)
    return number - (1 << 64) if number >> 63 else number


def span(
    span_id: str, parent: str | None, kind: str, name: str, start: int, length: int, **more: Any
) -> dict[str, Any]:
    """One span as the runtime writes it."""
    return {
        "span_id": span_id, "parent_span_id": parent, "kind": kind, "name": name,
        "start_us": start, "duration_us": length, **more,
    }  # fmt: skip


def spans_of_a_failure() -> list[dict[str, Any]]:
    """Gateway, function, one statement that worked, one that did not."""
    place = {"file": "functions/order.py", "line": 9, "function": "order"}
    error = {"type": "CheckViolation", "message": "violates check", "sqlstate": "23514"}
    return [
        span(SPAN, None, "gateway.request", "POST /order", 0, 12400),
        span("a" * 16, SPAN, "gateway.route", "route", 20, 15),
        span("b" * 16, SPAN, "function", "order", 300, 11900, status="error", error=error),
        span("c" * 16, "b" * 16, "db", "insert into orders", 900, 2100, location=place),
        span("d" * 16, "b" * 16, "db", "update stock", 3400, 8000, status="error", error=error,
             location=place, input={
                 "sql": "update stock set left = left - $1\n  where shelf = $2 and item = $3",
                 "params": [1, "A", 7]}),
    ]  # fmt: skip


def record(
    conn: psycopg.Connection[Any],
    *,
    request_id: UUID | None = None,
    function: str | None = "order",
    outcome: str = "ok",
    status: int | None = 200,
    error: dict[str, Any] | None = None,
    spans: list[dict[str, Any]] | None = None,
    deployment: int | None = None,
    incomplete: str | None = None,
    input: Any = None,
    path: str = "/order",
    kind: str = "http",
    duration_us: int = 12400,
    parent: UUID | None = None,
    parent_span: str | None = None,
    job_id: UUID | None = None,
    attempt: int = 1,
    trace_id: UUID | None = None,
) -> UUID:
    """Write one completed execution in the connection's transaction; returns its id."""
    request_id = request_id or make_id()
    spans = spans if spans is not None else [span(SPAN, None, "gateway.request", path, 0, 12400)]
    started = datetime.fromtimestamp(int(request_id.hex[:12], 16) / 1000, UTC)
    values = [
        request_id, trace_id or UUID(TRACE), int(SPAN, 16), parent, signed(parent_span),
        job_id, kind, function, "POST" if path else None, path or None,
        json.dumps(input) if input is not None else None, None, None, started, duration_us,
        "completed", outcome, status, None, json.dumps(error) if error else None, "python",
        deployment, attempt, None, None, None, incomplete, json.dumps(spans), False,
    ]  # fmt: skip
    types = (
        "uuid uuid bigint uuid bigint uuid text text text text json text text timestamptz bigint"
        " text text integer json json text bigint integer uuid pg_snapshot json text json boolean"
    ).split()
    marks = ", ".join(f"%s::{name}" for name in types)
    conn.execute(f"select flux.record_request({marks})".encode(), values)
    return request_id


def run_request(
    conn: psycopg.Connection[Any],
    *statements: str,
    fails: bool = False,
    span_id: str = SPAN,
    **fields: Any,
) -> UUID:
    """Run statements as one request and record it; if it fails, its work is rolled back and kept
    as attempted."""
    request_id: UUID = fields.pop("request_id", None) or make_id()
    attempted = None
    with conn.transaction() as transaction:
        conn.execute(
            "select set_config('flux.request_id', %s, true), set_config('flux.span_id', %s, true)",
            (str(request_id), str(signed(span_id))),
        )
        for statement in statements:
            conn.execute(statement.encode())
        if fails:
            row = conn.execute("select flux.collect_attempted(%s)::text as a", (request_id,))
            attempted = next(iter(row.fetchone() or ()), None)
            raise psycopg.Rollback(transaction)
        record(conn, request_id=request_id, **fields)
    if fails:
        with conn.transaction():
            record(conn, request_id=request_id, **{"outcome": "error", "status": 500, **fields})
            conn.execute("select flux.record_attempted(%s, %s)", (request_id, attempted))
    return request_id
