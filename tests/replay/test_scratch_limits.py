"""What a scratch database refuses, what it leaves out, and that the source does not notice."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import psycopg
import pytest
import trio

from flux_pg.replay.scratch_sequences import next_value
from flux_pg.replay.scratch_source import SourceSequence
from tests.conftest import Database, Server
from tests.replay.scratch import dump, rows, run, scratch_of, snapshot, value

TABLE = ("create table t (id int primary key, a text)", "insert into t values (1, 'x'), (2, 'y')")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table t drop a", "column a was dropped"),
        ("alter table t alter a type int using length(a)", "rewrote"),
        ("select flux.untrack('t')", "not tracked"),
        ("select flux.untrack('t'); delete from t; select flux.track('t')", "not recorded"),
        ("alter table t drop constraint t_pkey", "the key changed"),
    ],
)
async def test_a_table_that_cannot_be_had_is_named_and_closed(
    database18: Database, pg18: Server, tmp_path: Path, change: str, reason: str
) -> None:
    run(database18.admin, *TABLE, "create table other (id int primary key)")
    at = snapshot(database18.admin)
    run(database18.admin, "update t set a = 'z'", *change.split(";"))
    async with scratch_of(database18, at, pg18, tmp_path) as scratch:
        (refused,) = scratch.refused
        assert refused.table == "public.t"
        assert reason in refused.reason
        assert scratch.reason_for("t") == refused.reason
        for statement in ("select * from t", "insert into t values (9)", "delete from t"):
            for login in (scratch.database_url, scratch.admin_url):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    run(login, statement)
        run(scratch.database_url, "insert into other values (1)")


async def test_a_materialized_view_and_an_untracked_schema_are_closed(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(
        database18.admin,
        *TABLE,
        "create materialized view m as select * from t",
        "create schema apart",
        "create table apart.u (id int)",
    )
    async with scratch_of(database18, snapshot(database18.admin), pg18, tmp_path) as scratch:
        assert [one.table for one in scratch.refused] == ["apart.u", "public.m"]
        assert rows(scratch.database_url, "select id from t") == [(1,), (2,)]


async def test_columns_that_came_later_are_not_there(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(database18.admin, *TABLE)
    at = snapshot(database18.admin)
    run(
        database18.admin,
        "alter table t add b int not null default 5",
        "alter table t rename a to c",
        "alter table t add a int",
        "update t set c = 'new', b = 6, a = 7",
        "insert into t values (3, 'w', 8, 9)",
    )
    async with scratch_of(database18, at, pg18, tmp_path) as scratch:
        assert scratch.refused == ()
        assert rows(scratch.database_url, "select to_jsonb(t)::text from t") == [
            ('{"a": "x", "id": 1}',),
            ('{"a": "y", "id": 2}',),
        ]


async def test_above_the_limit_only_recorded_and_changed_rows_are_there(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(
        database18.admin,
        "create table large (id int primary key, a text)",
        "create table pairs (a int, b text, c int, primary key (a, b))",
        "create table small (id int primary key)",
        "insert into large select i, repeat('x', 500) from generate_series(1, 5000) as i",
        "insert into pairs select i, 'k' || i % 10, i from generate_series(1, 20000) as i",
        "insert into small values (1)",
    )
    at = snapshot(database18.admin)
    request = str(uuid.uuid4())
    with psycopg.connect(database18.superuser) as conn:
        conn.execute(
            "insert into flux.execution_log (request_id, trace_id, root_span_id, kind, started_at,"
            " state, outcome, snapshot, input)"
            " values (%s, %s, 1, 'http', now(), 'completed', 'ok', %s, %s)",
            (request, request, at, json.dumps({"id": 17, "pair": [40, "k0"], "text": "no key"})),
        )
    run(
        database18.admin,
        "update large set a = 'changed' where id in (3, 4)",
        "delete from large where id = 5",
        "insert into large values (6000, 'new')",
        "update pairs set c = 0 where a = 7",
    )
    async with scratch_of(
        database18, at, pg18, tmp_path, limit_bytes=100_000, request_ids=[request]
    ) as scratch:
        assert scratch.partial
        assert sorted(scratch.partial_tables) == ["public.large", "public.pairs"]
        there = rows(scratch.database_url, "select id, left(a, 1) from large")
        # 40 is a value of its record, though no key of this table: a row too many does no harm.
        assert there == [(17, "x"), (3, "x"), (4, "x"), (40, "x"), (5, "x")]
        pairs = rows(scratch.database_url, "select * from pairs")
        assert (7, "k7", 7) in pairs
        assert (40, "k0", 40) in pairs
        assert len(pairs) < 20
        assert rows(scratch.database_url, "select * from small") == [(1,)]


async def test_the_source_is_neither_changed_nor_locked(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    """Writers go on while it is made, and what they commit is not in it."""
    run(
        database18.admin,
        *TABLE,
        "create table counts (id bigint generated always as identity primary key, n int)",
    )
    at, told = snapshot(database18.admin), dump(database18.superuser)
    before = value(database18.superuser, "select count(*) from flux.snapshots")
    stop, written = threading.Event(), []

    def write() -> None:
        with psycopg.connect(database18.admin, autocommit=True) as conn:
            conn.execute("set lock_timeout = '2s'")
            while not stop.is_set():
                conn.execute("insert into counts (n) values (1)")
                conn.execute("update t set a = a || '!' where id = 1")
                conn.execute("delete from counts where id % 3 = 0")
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        async with scratch_of(database18, at, pg18, tmp_path) as scratch:
            assert dump(scratch.admin_url) == told
            assert written
            run(scratch.database_url, "update t set a = 'replayed'", "insert into t values (9)")
            names = "select count(*) from flux.mutations where new ->> 'a' = 'replayed'"
            assert value(database18.admin, names) == 0
    finally:
        stop.set()
        writer.join()
    assert value(database18.admin, "select count(*) from t where a = 'replayed'") == 0
    # Only what the writers' own traffic brings.
    assert value(database18.superuser, "select count(*) from flux.snapshots") >= before
    left = "select count(*) from pg_database where datname like 'flux\\_scratch\\_%'"
    assert value(pg18.dsn(), left) == 0


async def test_cancelled_it_leaves_nothing_behind(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    run(database18.admin, "create table t as select generate_series(1, 100000) as i")
    at = snapshot(database18.admin)
    run(database18.admin, "update t set i = i + 1")
    with trio.move_on_after(1.0) as scope:
        async with scratch_of(database18, at, pg18, tmp_path):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    left = "select count(*) from pg_database where datname like 'flux\\_scratch\\_%'"
    assert value(pg18.dsn(), left) == 0


@pytest.mark.parametrize(
    ("last", "drawn", "greatest", "wanted"),
    [
        (None, [], None, (1, False)),
        (9, [], 9, (9, True)),
        (9, [(7, False), (8, False)], 6, (7, False)),
        (9, [(7, False), (8, True)], 6, (8, False)),  # its own wins
        (9, [(2, False), (9, False)], 8, (9, False)),  # 2 was written by hand
        (9, [(5000, False)], 9, (9, True)),
    ],
)
def test_a_sequence_stands_where_it_stood(
    last: int | None, drawn: list[tuple[int, bool]], greatest: int | None, wanted: tuple[int, bool]
) -> None:
    sequence = SourceSequence(1, "s", 1, 1, last, [])
    assert next_value(sequence, drawn, greatest) == wanted
