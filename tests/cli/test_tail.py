"""`flux tail`: each request once, with its row changes, as it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from flux_pg.cli.feed import Feed, Filter
from flux_pg.cli.session import connect
from tests.cli.conftest import Flux, spawn
from tests.cli.records import make_id, record, run_request
from tests.conftest import Database


def test_lines_hold_what_happened(flux: Flux, conn: Any) -> None:
    conn.execute("create table public.stock (id int primary key, n int)")
    conn.execute("select flux.track('public.stock')")
    good = run_request(conn, "insert into public.stock values (7, 1)", duration_us=3000)
    bad = run_request(
        conn, "update public.stock set n = 2", fails=True, duration_us=12400,
        error={"type": "ValueError", "message": "no\nmore"},
    )  # fmt: skip
    shown = flux("tail", "--no-follow")
    assert shown.code == 0 and shown.err == ""
    lines = shown.out.splitlines()
    path = "POST /order" + " " * 37
    assert lines[0][10:] == f"{path}  200   3.00 ms  {str(good)[-8:]}"
    assert lines[1] == "          + INSERT stock 7  n 1"
    assert lines[2][10:] == f"{path}  500   12.4 ms  {str(bad)[-8:]}"
    assert lines[3] == f"          ValueError: no  → flux why {str(bad)[-8:]}"
    assert lines[4] == "          ~ UPDATE stock 7  n 1 → 2  (rolled back)"


def test_filters(flux: Flux, conn: Any) -> None:
    ok, error = record(conn), record(conn, outcome="error", status=500)
    other = record(conn, function="other", status=404, outcome="error")
    old = record(conn, request_id=make_id(1_600_000_000_000))
    record(conn, kind="replay")

    def ids(*arguments: str) -> list[UUID]:
        lines = flux("tail", "--no-follow", "--json", *arguments).out.splitlines()
        return [UUID(json.loads(line)["request_id"]) for line in lines]

    assert ids() == [old, ok, error, other]
    assert ids("other") == [other]
    assert ids("--errors-only") == [error, other]
    assert ids("--status", "5xx") == [error]
    assert ids("--status", "200-404") == [old, ok, other]
    assert ids("--since", "1h") == [ok, error, other]
    assert ids("--until", "1h") == [old]
    assert ids("--since", "2020-01-01..2020-12-31") == [old]
    assert ids("-n", "2") == [error, other]
    assert ids("-n", "0") == []


def test_a_feed_shows_each_request_once_also_those_that_ended_late(
    database18: Database, conn: Any
) -> None:
    with connect(database18.app) as database:
        feed = Feed(database, Filter())

        def polled() -> list[UUID]:
            return [UUID(row["request_id"]) for row in feed.poll()]

        slow = make_id()
        first = record(conn)
        assert polled() == [first]
        assert polled() == []
        record(conn, request_id=slow)
        second = record(conn)
        assert polled() == [slow, second]
        feed._far_at = 0.0
        assert polled() == []


def test_a_far_look_finds_what_ran_for_minutes(database18: Database, conn: Any) -> None:
    with connect(database18.app) as database:
        feed = Feed(database, Filter())
        began = datetime.now(UTC) - timedelta(minutes=2)
        feed._begin = began - timedelta(minutes=1)
        assert list(feed.poll()) == []
        late = record(conn, request_id=make_id(int(began.timestamp() * 1000)))
        assert list(feed.poll()) == []
        feed._far_at = 0.0
        assert [row["request_id"] for row in feed.poll()] == [str(late)]


def test_a_running_request_is_shown_when_it_has_ended(database18: Database, conn: Any) -> None:
    with connect(database18.app) as database:
        feed = Feed(database, Filter())
        request = make_id()
        record(conn, request_id=request)
        conn.execute("update flux.execution_log set state = 'running', outcome = null")
        assert list(feed.poll()) == []
        conn.execute("update flux.execution_log set state = 'completed', outcome = 'ok'")
        assert [row["request_id"] for row in feed.poll()] == [str(request)]


def test_tail_follows(tmp_path: Path, database18: Database, conn: Any) -> None:
    process = spawn("tail", "--json", cwd=tmp_path, DATABASE_URL=database18.app)
    assert process.stdout is not None and process.stderr is not None
    try:
        assert "waiting" in process.stderr.readline()
        request = record(conn)
        assert json.loads(process.stdout.readline())["request_id"] == str(request)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_database_that_goes_away_ends_tail_with_its_code(
    tmp_path: Path, database18: Database, conn: Any
) -> None:
    process = spawn("tail", cwd=tmp_path, DATABASE_URL=database18.app)
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'flux'"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "lost the database" in err and "Traceback" not in err


def test_polling_reads_only_the_newest_records(database18: Database, conn: Any) -> None:
    from flux_pg.cli import feed

    window = {"since": datetime.now(UTC), "until": None, **Filter().parameters()}
    with psycopg.connect(database18.app) as plain:
        plain.execute("set enable_seqscan = off")  # the table is too small to need its index
        plan = plain.execute(("explain " + feed._IDS).encode(), window).fetchall()
    assert "request_id" in "".join(row[0] for row in plan if "Index" in row[0]), plan


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_terminal(
    flux: Flux, conn: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    record(conn, outcome="error", path="/a" * 200, error={"type": "E" * 90, "message": "m" * 500})
    shown = flux("tail", "--no-follow").out
    limit = max(width, 60)
    assert max(map(len, shown.splitlines())) <= limit


def test_a_function_that_nobody_knows_is_not_waited_for(flux: Flux, conn: Any) -> None:
    record(conn, function="order")
    refused = flux("tail", "ordr")
    assert refused.code == 3 and "there is no function ordr" in refused.err
    assert flux("tail", "order", "--no-follow").code == 0


def test_an_answer_to_options_is_no_failure(flux: Flux, conn: Any) -> None:
    record(conn, outcome="error", status=204, error={"type": "Refused", "message": "GET, POST"})
    conn.execute("update flux.execution_log set refused_by = 'route.options'")
    shown = flux("tail", "--no-follow").out
    assert "204" in shown and "flux why" not in shown
