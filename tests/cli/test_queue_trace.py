"""Jobs in flux.trace, flux.why and their pages: the hand-off is part of the record."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.cli.conftest import Flux
from tests.cli.jobs import PUSH, claim, declare, enqueue, place, run, settle
from tests.cli.records import TRACE
from tests.conftest import Database


@pytest.fixture
def connection(database: Database) -> Any:
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        declare(conn, "send", "other")
        yield conn


@pytest.fixture
def reader(database: Database) -> Any:
    """The unprivileged login, with a search path made to deceive."""
    with psycopg.connect(database.app, autocommit=True) as conn:
        conn.execute("create temp table executions (request_id text)")
        conn.execute("create temp table jobs (job_id text)")
        conn.execute("set search_path = pg_temp, public")
        yield conn


def one(conn: Any, query: str, *arguments: Any) -> Any:
    return conn.execute(query, arguments).fetchone()[0]


def trace(conn: Any, request_id: UUID) -> dict[str, Any]:
    document: dict[str, Any] = one(conn, "select flux.trace(%s::uuid)", request_id)
    return document


def test_a_request_names_the_jobs_it_enqueued_with_every_attempt(
    connection: Any, reader: Any
) -> None:
    request, (job, second) = place(connection, "send", "other")
    first = run(connection, error="no route", retry_in_s=0)
    last = run(connection, wait_us=250, duration_us=900)
    document = trace(reader, request)
    found = {entry["job_id"]: entry for entry in document["jobs"]}
    assert set(found) == {str(job), str(second)}
    sent = found[str(job)]
    assert (sent["span_id"], sent["state"], sent["attempt"]) == (PUSH, "succeeded", 2)
    assert sent["enqueued_by"] == {"request_id": str(request), "span_id": PUSH}
    assert [
        (a["request_id"], a["attempt"], a["outcome"], a["wait_us"], a["duration_us"])
        for a in sent["attempts"]
    ] == [
        (str(first.token), 1, "error", 3120, 12000),
        (str(last.token), 2, "ok", 250, 900),
    ]  # fmt: skip
    assert sent["attempts"][0]["error"] == {"type": "SendError", "message": "no route"}
    waiting = found[str(second)]
    assert (waiting["state"], waiting["attempts"]) == ("ready", [])
    assert waiting["span_id"] == f"{int(PUSH, 16) + 1:016x}"


def test_an_attempt_names_its_job_and_who_enqueued_it(connection: Any, reader: Any) -> None:
    request, (job,) = place(connection, "send")
    first = run(connection, error="no route", retry_in_s=0)
    last = run(connection)
    document = trace(reader, last.token)
    assert document["trace_id"] == TRACE and document["kind"] == "job"
    assert document["parent"] == {
        "request_id": str(request), "span_id": PUSH, "kind": "http", "function": "place",
        "method": "POST", "path": "/place", "outcome": "ok",
    }  # fmt: skip
    assert document["job"]["job_id"] == str(job)
    ids = [attempt["request_id"] for attempt in document["job"]["attempts"]]
    assert ids == [str(first.token), str(last.token)]
    why = one(reader, "select flux.why(%s::uuid)", first.token)
    assert why["job"]["job_id"] == str(job) and why["parent"]["request_id"] == str(request)


def test_a_job_enqueued_with_sql_alone_is_found(connection: Any, reader: Any) -> None:
    job = enqueue(connection)
    attempt = run(connection)
    document = trace(reader, attempt.token)
    assert document["parent"] is None
    assert document["job"]["enqueued_by"] == {"request_id": None, "span_id": None}
    assert one(reader, "select flux.resolve_request(%s)", str(job)) == attempt.token


def test_a_running_attempt_is_told(connection: Any, reader: Any) -> None:
    request, (job,) = place(connection, "send")
    attempt = claim(connection)
    (entry,) = trace(reader, request)["jobs"]
    assert (entry["job_id"], entry["state"]) == (str(job), "running")
    (running,) = entry["attempts"]
    assert running["request_id"] == str(attempt.token)
    assert running["outcome"] is None and running["duration_us"] is None
    assert 0 <= running["wait_us"] < 60_000_000


def test_a_push_that_met_an_earlier_job_shows_that_one(connection: Any, reader: Any) -> None:
    _, (job,) = place(connection, "send", idempotency_key="k")
    second, (same,) = place(connection, "send", idempotency_key="k")
    assert same == job
    (entry,) = trace(reader, second)["jobs"]
    assert (entry["job_id"], entry["span_id"]) == (str(job), PUSH)
    assert entry["enqueued_by"]["request_id"] != str(second)


def test_an_output_that_is_no_job_id_does_no_harm(connection: Any, reader: Any) -> None:
    request, _ = place(connection, "send")
    attempt = run(connection)
    assert trace(reader, attempt.token)["jobs"] == []
    connection.execute(
        "update flux.span_packs set spans = replace(spans::text, '\"output\"', '\"ignored\"')::json"
        " where request_id = %s",
        (request,),
    )
    assert len(trace(reader, request)["jobs"]) == 1


def test_the_job_that_died_last_is_named_by_a_word(connection: Any, reader: Any) -> None:
    with pytest.raises(psycopg.Error, match="there is no dead job") as nothing:
        one(reader, "select flux.trace('@last-dead')")
    assert nothing.value.sqlstate == "ZF002"
    enqueue(connection)
    run(connection, error="no route", retry_in_s=0)
    run(connection, error="no route")
    enqueue(connection)
    last = run(connection, error="no route")
    enqueue(connection)
    run(connection)
    for selector in ("@last-dead", "@Last-Dead "):
        assert one(reader, "select flux.trace(%s)", selector)["request_id"] == str(last.token)
        assert one(reader, "select flux.why(%s)", selector)["request_id"] == str(last.token)


def test_a_job_stands_for_its_last_attempt_and_for_why_its_last_failed_one(
    connection: Any, reader: Any
) -> None:
    _, (job,) = place(connection, "send")
    with pytest.raises(psycopg.Error, match="has no attempt on record: it is ready") as nothing:
        one(reader, "select flux.trace(%s::text)", str(job))
    assert nothing.value.sqlstate == "ZF002"
    failed = run(connection, error="no route", retry_in_s=0)
    last = run(connection)
    for selector in (str(job), job.hex, str(job)[-8:]):
        assert one(reader, "select flux.resolve_request(%s)", selector) == last.token
        found = one(reader, "select flux.why(%s::text)", selector)
        assert found["request_id"] == str(failed.token)
        assert one(reader, "select flux.resolve_job(%s)", selector) == job


def test_selectors_of_jobs(connection: Any, reader: Any) -> None:
    def found(selector: str) -> Any:
        return one(reader, "select flux.resolve_job(%s)", selector)

    def state_of(selector: str) -> str | None:
        with pytest.raises(psycopg.Error) as caught:
            found(selector)
        return caught.value.sqlstate

    assert state_of("@last") == "ZF002"
    assert state_of("@last-dead") == "ZF002"
    first = enqueue(connection)
    run(connection, error="no")
    second = enqueue(connection)
    assert found("@last") == second
    assert found("@last-dead") == first
    assert found(str(first)[:-1]) == first
    assert state_of("0" * 31) == "ZF002"
    for selector in ("", "abc", "xyz!", "'; --", "0" * 33):
        assert state_of(selector) == "ZF001", selector


def test_the_waterfall_shows_jobs_under_the_span_that_enqueued_them(flux: Flux, conn: Any) -> None:
    declare(conn, "send", "other", max_attempts=2)
    request, (job, second) = place(conn, "send", "other")
    first = run(conn, error="no route", retry_in_s=0)
    last = run(conn, error="still none")
    shown = flux("trace", str(request))
    assert shown.code == 0, shown.err
    lines = [line.strip(" │") for line in shown.out.splitlines()]
    at = next(i for i, line in enumerate(lines) if "queue send " in line)
    assert lines[at + 1] == f"» job send {str(job)[-8:]}  dead after attempt 2 of 2"
    assert lines[at + 2] == (
        f"attempt 1  error  waited 3.12 ms  ran 12.0 ms  → {str(first.token)[-8:]}"
        "  SendError: no route"
    )
    assert lines[at + 3].startswith("attempt 2  error") and "still none" in lines[at + 3]
    assert f"» job other {str(second)[-8:]}  ready" in lines
    run(conn, "other")
    shown = flux("trace", str(request))
    assert f"other {str(second)[-8:]}  succeeded  waited 3.12 ms  ran 12.0 ms" in shown.out
    own = flux("trace", str(job))
    assert own.out.splitlines()[0] == "job send attempt 2/2  error  12.0 ms"
    assert f"job {str(job)[-8:]}  dead  waited 3.12 ms before it began" in own.out
    assert f"enqueued by POST /place  → {str(request)[-8:]}" in own.out
    assert "  queue.job  " in own.out and "parent missing" not in own.out
    assert f"→ {str(first.token)[-8:]}  SendError: no route" in own.out
    assert f"flux why {str(last.token)[-8:]}" in own.err
    why = flux("why", str(job))
    assert why.code == 0
    assert f"enqueued by POST /place  → {str(request)[-8:]}" in why.out
    assert f"flux queue retry {str(job)[-8:]}" in why.out
    document = json.loads(flux("trace", str(request), "--json").out)
    assert [entry["function"] for entry in document["jobs"]] == ["send", "other"]


def test_an_attempt_is_not_taken_for_a_call(flux: Flux, conn: Any) -> None:
    declare(conn, "send")
    request, _ = place(conn, "send")
    run(conn)
    assert flux("trace", str(request)).out.count("»") == 1


def test_tail_tells_attempts_and_what_becomes_of_the_job(flux: Flux, conn: Any) -> None:
    declare(conn, "send", max_attempts=2)
    place(conn, "send")
    first = run(conn, error="no route", retry_in_s=0)
    shown = flux("tail", "--no-follow").out
    assert "job send attempt 1/2" in shown
    assert "SendError: no route  again in " in shown
    assert f"s  → flux why {str(first.token)[-8:]}" in shown
    second = claim(conn)
    settle(conn, second, "still none")
    shown = flux("tail", "--no-follow").out
    assert f"SendError: no route  → flux why {str(first.token)[-8:]}" in shown
    assert f"SendError: still none  dead  → flux why {str(second.token)[-8:]}" in shown
    enqueue(conn)
    run(conn)
    shown = flux("tail", "--no-follow", "-n", "1").out
    assert "job send  " in shown and " ok  " in shown and "attempt" not in shown
    line = json.loads(flux("tail", "--no-follow", "-n", "1", "--json").out)
    assert (line["job"]["attempt"], line["job"]["max_attempts"]) == (1, 2)
    assert line["job"]["state"] == "succeeded"
