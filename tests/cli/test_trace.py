"""flux.trace and `flux trace`: the document, the waterfall, selectors."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.cli.conftest import Flux
from tests.cli.records import (
    SPAN,
    TRACE,
    make_id,
    record,
    run_request,
    span,
    spans_of_a_failure,
)
from tests.conftest import Database

HEAD = [
    "schema", "request_id", "trace_id", "kind", "function", "method", "path", "outcome",
    "status_code", "started_at", "duration_us",
]  # fmt: skip
SPAN_KEYS = {
    "span_id", "parent_span_id", "kind", "name", "start_us", "duration_us", "status", "input",
    "output", "error", "location",
}  # fmt: skip
MUTATION_KEYS = {
    "seq", "span_id", "schema", "table", "pk", "op", "old", "new", "changed", "outcome", "at",
}  # fmt: skip


@pytest.fixture
def connection(database: Database) -> Any:
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        yield conn


@pytest.fixture
def reader(database: Database) -> Any:
    """The unprivileged login, with a search path made to deceive."""
    with psycopg.connect(database.app, autocommit=True) as conn:
        conn.execute("create temp table executions (request_id text)")
        conn.execute("set search_path = pg_temp, public")
        yield conn


def one(conn: Any, query: str, *arguments: Any) -> Any:
    row = conn.execute(query, arguments).fetchone()
    return row[0]


def test_the_document_has_the_contract_s_keys(connection: Any, reader: Any) -> None:
    connection.execute("create table public.stock (id int primary key, n int)")
    connection.execute("select flux.track('public.stock')")
    request = run_request(
        connection, "insert into public.stock values (7, 1)", spans=spans_of_a_failure(),
        span_id="c" * 16,
    )  # fmt: skip
    document = one(reader, "select flux.trace(%s::uuid)", request)
    assert list(document)[: len(HEAD)] == HEAD
    assert set(document) - set(HEAD) == {
        "spans", "mutations", "jobs", "parent", "job", "complete", "incomplete_reason",
    }  # fmt: skip
    assert document["schema"] == "flux.trace/1"
    assert document["request_id"] == str(request)
    assert document["trace_id"] == TRACE
    assert document["complete"] is True and document["jobs"] == []
    assert document["started_at"].endswith("Z")
    assert len(document["spans"]) == 5
    for entry in document["spans"]:
        assert set(entry) - {"attributes"} == SPAN_KEYS
    (mutation,) = document["mutations"]
    assert set(mutation) == MUTATION_KEYS
    assert mutation["pk"] == {"id": 7} and mutation["new"] == {"id": 7, "n": 1}
    assert (mutation["span_id"], mutation["op"]) == ("c" * 16, "INSERT")
    assert mutation["outcome"] == "committed"


def test_a_time_zone_of_the_session_changes_nothing(connection: Any) -> None:
    request = record(connection)
    before = one(connection, "select flux.trace(%s::uuid)", request)
    connection.execute("set timezone = 'Asia/Kathmandu'; set datestyle = 'German'")
    assert one(connection, "select flux.trace(%s::uuid)", request) == before


def test_selectors_find_a_request_by_either_end(connection: Any, reader: Any) -> None:
    first, second = record(connection), record(connection)

    def found(selector: str) -> Any:
        return one(reader, "select flux.resolve_request(%s)", selector)

    assert found(str(first)) == first
    assert found(first.hex.upper()) == first
    assert found(str(first)[:-1]) == first
    assert found(str(first)[-8:]) == first
    assert found(str(second)[-14:]) == second
    assert found("@last") == second
    assert found(TRACE) == first
    with pytest.raises(psycopg.Error) as nothing:
        found("@last-error")
    assert nothing.value.sqlstate == "ZF002"
    failed = record(connection, outcome="timeout")
    record(connection, kind="call", outcome="error")
    record(connection)
    assert found("@last-error") == failed


@pytest.mark.parametrize("selector", ["", "xyz!", "abc", "@first", "0" * 33, "';--", "%" * 8])
def test_a_bad_selector_is_an_invalid_argument(reader: Any, selector: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        one(reader, "select flux.resolve_request(%s)", selector)
    assert caught.value.sqlstate == "ZF001"


def test_an_ambiguous_beginning_lists_the_candidates(connection: Any) -> None:
    ids = [record(connection, request_id=make_id(0x01A203000000 + n)) for n in range(12)]
    with pytest.raises(psycopg.Error) as caught:
        one(connection, "select flux.resolve_request(%s)", "01a20300")
    assert caught.value.sqlstate == "ZF001"
    detail = caught.value.diag.message_detail or ""
    assert sum(str(request) in detail for request in ids) == 8
    assert detail.rstrip().endswith("…")


def test_an_ambiguous_end_lists_the_candidates_but_eight_digits_take_the_newest_hour(
    connection: Any,
) -> None:
    old = record(connection, request_id=make_id(1_600_000_000_000, "00001234abcd"))
    new = record(connection, request_id=make_id(None, "00011234abcd"))
    with pytest.raises(psycopg.Error, match="ambiguous"):
        one(connection, "select flux.resolve_request(%s)", "abcd")
    assert one(connection, "select flux.resolve_request(%s)", "1234abcd") == new
    assert one(connection, "select flux.resolve_request(%s)", "00001234abcd") == old


def test_a_request_that_is_not_there_is_not_found(reader: Any) -> None:
    for query in ("select flux.trace(%s::uuid)", "select flux.why(%s::uuid)"):
        with pytest.raises(psycopg.Error) as caught:
            one(reader, query, UUID(int=5))
        assert caught.value.sqlstate == "ZF002"


def test_trace_prints_the_tree_and_the_row_changes(flux: Flux, conn: Any) -> None:
    conn.execute("create table public.stock (id int primary key, n int)")
    conn.execute("select flux.track('public.stock')")
    request = run_request(
        conn, "insert into public.stock values (7, 1)", spans=spans_of_a_failure(),
        span_id="c" * 16, fails=True, duration_us=12400,
    )  # fmt: skip
    shown = flux("trace", "@last")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == "POST /order  500 error  12.4 ms"
    assert lines[1].startswith(f"{request}  order  ")
    assert lines[3].startswith("  gateway.request POST /order ███")
    assert "  ├─ gateway.route route" in shown.out
    assert "     │     + INSERT stock 7  n 1  (rolled back)" in shown.out
    assert "           CheckViolation: violates check (SQLSTATE 23514)" in shown.out
    assert lines[-1] == "1 row change, rolled back"
    assert shown.err == f"hint: flux why {str(request)[-8:]}\n"
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in shown.out


def test_trace_as_json_is_what_psql_gives(flux: Flux, conn: Any) -> None:
    request = record(conn, spans=spans_of_a_failure())
    document = json.loads(flux("trace", str(request), "--json").out)
    assert document == one(conn, "select flux.trace(%s::text)", str(request))


def test_trace_slow_leaves_out_fast_spans_and_says_so(flux: Flux, conn: Any) -> None:
    record(conn, spans=spans_of_a_failure())
    shown = flux("trace", "@last", "--slow", "1ms").out
    assert "gateway.route" not in shown and "insert into orders" in shown
    assert "1 faster span not shown" in shown


def test_trace_exports(flux: Flux, conn: Any) -> None:
    record(conn, spans=spans_of_a_failure())
    assert flux("trace", "@last", "--flame").out.startswith("<svg xmlns")
    exported = json.loads(flux("trace", "@last", "--otlp").out)
    spans = exported["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert spans[0]["traceId"] == TRACE and spans[0]["spanId"] == SPAN
    both = flux("trace", "@last", "--otlp", "--flame")
    assert (both.code, both.out) == (2, "")


def test_an_incomplete_record_says_so(flux: Flux, conn: Any) -> None:
    record(conn, incomplete="row changes not captured", spans=[])
    shown = flux("trace", "@last").out
    assert "incomplete: row changes not captured" in shown
    assert "no spans were recorded" in shown


def test_recorded_names_cannot_command_the_terminal(flux: Flux, conn: Any) -> None:
    evil = "/\x1b]0;owned\x07\u202e"
    record(conn, path=evil, spans=[span(SPAN, None, "gateway", evil, 0, 5)])
    for command in (["trace", "@last"], ["why", "@last"], ["tail", "--no-follow"]):
        shown = flux(*command)
        assert shown.code == 0
        assert not set(shown.out) & {"\x1b", "\x07", "\u202e"}


def test_an_outbound_call_shows_its_status_and_that_a_transaction_was_open(
    flux: Flux, conn: Any
) -> None:
    record(conn, spans=[
        span(SPAN, None, "function", "order", 0, 900),
        span("a" * 16, SPAN, "http", "GET pay.example/charge", 100, 700,
             output={"status": 503}, attributes={"transaction_open": True}),
        span("b" * 16, SPAN, "http", "GET pay.example/state", 800, 50, output={"status": 200}),
    ])  # fmt: skip
    shown = flux("trace", "@last").out
    assert "http GET pay.example/charge → 503" in shown
    assert "http GET pay.example/state → 200" in shown
    assert shown.count("in an open transaction: its row locks are held meanwhile") == 1
