"""Jobs for tests, enqueued, claimed and settled through the functions that workers call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.cli.records import SPAN, TRACE, make_id, record, signed, span

WORKER = uuid4()
PUSH = "e" * 16
"""The span of the push in `place`."""

Connection = psycopg.Connection[Any]


def declare(conn: Connection, *names: str, max_attempts: int = 5) -> None:
    """Make functions known to the queue."""
    functions = [{"name": name, "max_attempts": max_attempts} for name in names]
    conn.execute("select flux.declare_functions(null, %s::jsonb)", (json.dumps(functions),))


def enqueue(
    conn: Connection, function: str = "send", payload: dict[str, Any] | None = None, **more: Any
) -> UUID:
    """Enqueue a job; keyword arguments are those of flux.enqueue without `p_`."""
    named = "".join(f", p_{name} => %s" for name in more)
    query = f"select flux.enqueue(%s, %s::jsonb{named})"
    found = conn.execute(
        query.encode(), (function, json.dumps(payload or {}), *more.values())
    ).fetchone()
    assert found is not None
    job_id: UUID = found[0]
    return job_id


def place(conn: Connection, *functions: str, **more: Any) -> tuple[UUID, list[UUID]]:
    """Record a request `place` that pushes a job of each function, in one transaction.

    Returns:
        The request and the jobs.
    """
    request_id = make_id()
    spans = [
        span(SPAN, None, "gateway.request", "POST /place", 0, 9000),
        span("b" * 16, SPAN, "function", "place", 300, 8000),
    ]
    with conn.transaction():
        job_ids = []
        for number, function in enumerate(functions):
            span_id = f"{int(PUSH, 16) + number:016x}"
            conn.execute(
                "select set_config('flux.request_id', %s, true),"
                " set_config('flux.span_id', %s, true)",
                (str(request_id), str(signed(span_id))),
            )
            job_ids.append(enqueue(conn, function, trace_id=UUID(TRACE), **more))
            push = span(span_id, "b" * 16, "queue", function, 5000 + number * 100, 90)
            spans.append({**push, "output": {"job_id": str(job_ids[-1])}})
        record(conn, request_id=request_id, function="place", path="/place", spans=spans)
    return request_id, job_ids


@dataclass(frozen=True)
class Attempt:
    """A job that was claimed; its token is the id of the attempt's request."""

    job_id: UUID
    function: str
    token: UUID
    attempt: int
    trace_id: UUID
    parent: UUID | None
    parent_span: int | None


def claim(conn: Connection, *functions: str) -> Attempt:
    """Claim the next job that is due."""
    row = conn.execute(
        "select c.job_id, c.function, c.lease_token, c.attempt, c.trace_id, c.parent_request_id,"
        " c.parent_span_id from flux.claim_jobs(%s, %s, 1) as c",
        (WORKER, list(functions or ("send",))),
    ).fetchone()
    assert row is not None, "no job is due"
    return Attempt(*row)


def settle(
    conn: Connection,
    attempt: Attempt,
    error: str | None = None,
    *,
    retry_in_s: float | None = None,
    wait_us: int = 3120,
    duration_us: int = 12000,
    outcome: str | None = None,
    input: Any = None,
) -> None:
    """End an attempt as a worker does: the job's row, then the record, in one transaction."""
    failure = {"type": "SendError", "message": error} if error else None
    parent_span = None
    if attempt.parent_span:
        parent_span = f"{attempt.parent_span % (1 << 64):016x}"
    root = span(SPAN, parent_span, "queue", "queue.job", 0, duration_us)
    if error:
        root |= {"status": "error", "error": failure}
    root["attributes"] = {
        "job_id": str(attempt.job_id), "attempt": attempt.attempt, "wait_us": wait_us,
    }  # fmt: skip
    with conn.transaction():
        if failure is None:
            conn.execute("select flux.complete_job(%s, %s)", (attempt.job_id, attempt.token))
        else:
            conn.execute(
                "select flux.fail_job(%s, %s, %s::json, now() + %s * interval '1 second')",
                (attempt.job_id, attempt.token, json.dumps(failure), retry_in_s),
            )
        record(
            conn, request_id=attempt.token, function=attempt.function, path="", kind="job",
            outcome=outcome or ("error" if error else "ok"), status=None, error=failure,
            spans=[root], job_id=attempt.job_id, attempt=attempt.attempt, parent=attempt.parent,
            parent_span=parent_span,
            duration_us=duration_us, input=input, trace_id=attempt.trace_id,
        )  # fmt: skip


def run(conn: Connection, function: str = "send", error: str | None = None, **more: Any) -> Attempt:
    """Claim the next job and end its attempt."""
    attempt = claim(conn, function)
    settle(conn, attempt, error, **more)
    return attempt
