"""flux.seen_versions: who wrote the version of a row that a request saw, and nobody else."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from tests.cli.records import make_id, record
from tests.sql.log import Log


@pytest.fixture
def stock(log: Log) -> Log:
    log.run(
        "create table stock (id int primary key, n int, note text default 'new')",
        "select flux.track('stock')",
    )
    return log


def write(log: Log, *statements: str, request: UUID | None = None) -> str:
    request = request or make_id()
    log.as_request(str(request), *statements)
    return str(request)


def reader(log: Log, snapshot: str | None = None) -> UUID:
    """Record a request that began now."""
    request = make_id()
    record(log.conn, request_id=request, duration_us=60_000_000)
    if snapshot is not None:
        run_as_superuser(
            log, "update flux.execution_log set snapshot = %s where request_id = %s",
            [snapshot, request],
        )  # fmt: skip
    return request


def run_as_superuser(log: Log, query: str, params: list[Any]) -> None:
    import psycopg

    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute(query.encode(), params)


def snapshot(log: Log) -> str:
    return str(log.value("select pg_current_snapshot()::text"))


def seen(log: Log, request: UUID, table: str, key: Any, **values: str | None) -> dict[str, Any]:
    """Writer (request id, or None for psql) of each column that was read."""
    number = log.value("select table_id from flux.tracked_tables where table_name = %s", [table])
    reads = [{"table_id": number, "key": key, "values": values, "used": []}]
    found = log.value("select flux.seen_versions(%s, %s)", [request, json.dumps(reads)])
    return {c["column"]: c["request_id"] for row in found for c in row["columns"]}


def test_the_version_in_the_snapshot_counts_and_later_ones_do_not(stock: Log) -> None:
    made = write(stock, "insert into stock values (1, 5)")
    changed = write(stock, "update stock set n = 6 where id = 1")
    at = snapshot(stock)
    request = reader(stock, at)
    for n in range(20):
        write(stock, f"update stock set n = {n + 100} where id = 1")
    assert seen(stock, request, "stock", {"id": "1"}, n="6", note="new") == {
        "n": changed, "note": made,
    }  # fmt: skip


def test_a_later_version_counts_if_it_holds_what_was_read(stock: Log) -> None:
    """Under read committed a statement sees what was committed after the transaction began."""
    write(stock, "insert into stock values (1, 5)")
    request = reader(stock, snapshot(stock))
    meanwhile = write(stock, "update stock set n = 7 where id = 1")
    write(stock, "update stock set n = 8 where id = 1")
    assert seen(stock, request, "stock", {"id": "1"}, n="7") == {"n": meanwhile}


def test_a_value_that_the_log_does_not_explain_is_laid_on_nobody(stock: Log) -> None:
    write(stock, "insert into stock values (1, 5)")
    request = reader(stock, snapshot(stock))
    assert seen(stock, request, "stock", {"id": "1"}, n="99") == {}
    assert seen(stock, request, "stock", {"id": "1"}, n=None) == {}
    assert seen(stock, request, "stock", {"id": "2"}, n="5") == {}
    assert seen(stock, request, "stock", {"id": "no number"}, n="5") == {}


def test_a_row_that_was_deleted_and_made_again_has_the_second_writer(stock: Log) -> None:
    write(stock, "insert into stock values (1, 5)", "update stock set n = 6 where id = 1")
    write(stock, "delete from stock where id = 1")
    gone = reader(stock, snapshot(stock))
    again = write(stock, "insert into stock values (1, 6)")
    request = reader(stock, snapshot(stock))
    assert seen(stock, request, "stock", {"id": "1"}, n="6", note="new") == {
        "n": again, "note": again,
    }  # fmt: skip
    # What was not there when the first one looked can only be what came later.
    assert seen(stock, gone, "stock", {"id": "1"}, n="5") == {}


def test_a_write_from_outside_flux_is_told_as_such(stock: Log) -> None:
    stock.run("insert into stock values (1, 5)")
    request = reader(stock, snapshot(stock))
    assert seen(stock, request, "stock", {"id": "1"}, n="5") == {"n": None}


def test_composite_keys_and_null(log: Log) -> None:
    log.run(
        "create table lines (o int, l text, qty numeric, primary key (o, l))",
        "select flux.track('lines')",
    )
    made = write(log, "insert into lines values (1, 'a,b', null), (1, 'c', 1.50)")
    request = reader(log, snapshot(log))
    assert seen(log, request, "lines", {"o": "1", "l": "a,b"}, qty=None) == {"qty": made}
    assert seen(log, request, "lines", {"o": "1", "l": "c"}, qty="1.50") == {"qty": made}


def test_an_unknown_request_is_said_to_be_so(stock: Log) -> None:
    with pytest.raises(Exception, match="no request") as caught:
        seen(stock, make_id(), "stock", {"id": "1"}, n="5")
    assert getattr(caught.value, "sqlstate", None) == "ZF002"
