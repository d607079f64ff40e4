"""flux.similar: failures of a kind are counted, kinds that are alike found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.records import make_id, record, span
from tests.conftest import Database

Conn = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def conn(database: Database) -> Iterator[Conn]:
    with psycopg.connect(database.superuser, autocommit=True, row_factory=dict_row) as conn:
        yield conn


def fail(conn: Conn, bug: str, **fields: Any) -> UUID:
    """Record a failure of one of three kinds; the first two are alike."""
    sql = {
        "stock": "update stock set n = n - %s where id = %s",
        "shelf": "update stock set n = n - %s where id = %s",
        "mail": "select address from people where id = 7",
    }[bug]
    error = {
        "stock": {"type": "OutOfStock", "message": "none of 7 left", "fingerprint": "a" * 16},
        "shelf": {"type": "OutOfStock", "message": "none of 12 left", "fingerprint": "b" * 16},
        "mail": {"type": "HTTPError", "message": "no such host", "fingerprint": "c" * 16},
    }[bug]
    file = {"stock": "order", "shelf": "order", "mail": "mail"}[bug]
    error = {**error, "stack": [{"file": f"functions/{file}.py", "line": 3, "function": bug}]}
    spans = [span("1" * 16, None, "db", "x", 1, 2, input={"sql": sql, "params": [1, 2]})]
    given = {"to": "a@b"} if bug == "mail" else {"item": 7, "count": 2}
    values = {"function": file, "spans": spans, "input": given, **fields}
    return record(conn, outcome="error", status=500, error=error, **values)


def similar(conn: Conn, request: UUID, n: int = 10) -> list[dict[str, Any]]:
    return conn.execute("select * from flux.similar(%s::uuid, %s)", (request, n)).fetchall()


def has_vector(conn: Conn) -> bool:
    query = "select from pg_available_extensions where name = 'vector'"
    return conn.execute(query).fetchone() is not None


def test_the_same_kind_comes_first_with_its_count_and_its_first_commit(conn: Conn) -> None:
    deployments = [
        conn.execute(
            "select flux.register_deployment(%s, false, %s, '', null, '[]') as id", (c, c)
        ).fetchone()["id"]  # type: ignore[index]
        for c in ("aaa", "bbb")
    ]
    first = fail(conn, "stock", deployment=deployments[0])
    fail(conn, "stock", deployment=deployments[1])
    fail(conn, "stock", deployment=deployments[1], kind="replay")
    last = fail(conn, "stock", deployment=deployments[1])
    (row,) = similar(conn, last)
    assert (row["matched_by"], row["count"], row["is_exact"]) == ("fingerprint", 3, True)
    assert (row["first_request"], row["request_id"]) == (first, last)
    assert row["first_commit"] == "aaa" and row["first_seen"] < row["last_seen"]


@pytest.mark.parametrize("with_vector", [False, True])
def test_kinds_that_are_alike_follow_and_others_do_not(conn: Conn, with_vector: bool) -> None:
    if with_vector:
        if not has_vector(conn):
            pytest.skip("this Postgres has no vector extension")
        conn.execute("create extension vector")
    asked, alike, other = fail(conn, "stock"), fail(conn, "shelf"), fail(conn, "mail")
    signed = conn.execute("select flux.sign_failures() as n").fetchone()
    assert signed == {"n": 3 if with_vector else 0}
    rows = similar(conn, asked)
    assert [row["request_id"] for row in rows] == [asked, alike]
    assert rows[1]["matched_by"] == "features" and 0.5 < rows[1]["similarity"] < 1
    assert [row["request_id"] for row in similar(conn, asked, 1)] == [asked]
    assert [row["request_id"] for row in similar(conn, other)] == [other]


def test_signatures_are_of_kinds_and_found_by_their_index(conn: Conn) -> None:
    if not has_vector(conn):
        pytest.skip("this Postgres has no vector extension")
    conn.execute("create schema elsewhere; create extension vector schema elsewhere")
    for _ in range(5):
        fail(conn, "stock")
    # What flux_owner may not use is not there for it.
    assert conn.execute("select flux.sign_failures(1) as n").fetchone() == {"n": 0}
    conn.execute("grant usage on schema elsewhere to flux_owner")
    assert conn.execute("select flux.sign_failures(1) as n").fetchone() == {"n": 1}
    # One that is not signed yet is found all the same.
    late = fail(conn, "shelf")
    asked = fail(conn, "stock")
    assert [row["request_id"] for row in similar(conn, asked)] == [asked, late]
    assert conn.execute("select flux.sign_failures() as n").fetchone() == {"n": 1}
    assert conn.execute("select flux.sign_failures() as n").fetchone() == {"n": 0}
    assert [row["request_id"] for row in similar(conn, asked)] == [asked, late]
    counted = conn.execute("select count(*) as n from flux.signatures").fetchone()
    assert counted == {"n": 2}
    index = conn.execute(
        "select indexdef from pg_indexes where indexname = 'signatures_features_idx'"
    ).fetchone()
    assert index is not None and "USING hnsw" in index["indexdef"]
    owner = conn.execute(
        "select relowner::regrole::text as name from pg_class"
        " where oid = 'flux.signatures'::regclass"
    ).fetchone()
    assert owner == {"name": "flux_owner"}
    # Without the extension again, everything goes on.
    conn.execute("drop extension vector cascade")
    assert [row["request_id"] for row in similar(conn, asked)] == [asked, late]
    assert conn.execute("select flux.sign_failures() as n").fetchone() == {"n": 0}


def test_a_reader_may_ask_and_a_success_has_none(database: Database, conn: Conn) -> None:
    good = record(conn)
    bad = fail(conn, "mail")
    with psycopg.connect(database.app, autocommit=True, row_factory=dict_row) as app:
        assert similar(app, good) == []
        assert [row["request_id"] for row in similar(app, bad)] == [bad]
        last = app.execute("select request_id from flux.similar('@last-error', 1)").fetchone()
        assert last == {"request_id": bad}
        with pytest.raises(psycopg.Error) as caught:
            similar(app, make_id())
        assert caught.value.sqlstate == "ZF002"
        with pytest.raises(psycopg.Error) as caught:
            similar(app, bad, 0)
        assert caught.value.sqlstate == "ZF001"


def test_no_value_is_left_in_what_is_compared(conn: Conn) -> None:
    request = record(
        conn, outcome="error", input={"user": {"name": "Ann"}, "tags": ["x", 1]},
        error={"type": "E", "message": "no 'Ann' at \"home\" 12.5", "fingerprint": "f" * 16},
        spans=[span("1" * 16, None, "db", "q", 1, 2, input={
            "sql": "select *\n from t where a = 'it''s' and b = $1 and c = %(x)s and d = 42"})],
    )  # fmt: skip
    rows = conn.execute("select * from flux.failure_features(%s)", (request,)).fetchall()
    found = {(row["kind"], row["feature"]) for row in rows}
    assert ("sql", "select * from t where a = ? and b = ? and c = ? and d = ?") in found
    assert {f for k, f in found if k == "message"} == {"no", "?", "at"}
    assert {f for k, f in found if k == "input"} == {
        ".user:object", ".user.name:string", ".tags:array", ".tags[]:string", ".tags[]:number",
    }  # fmt: skip
    assert not any("ann" in feature.lower() for _, feature in found)
