"""A table as it was: undone from the live one, or refused with a reason."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.sql.log import Log


def tick(log: Log) -> datetime:
    log.run("select flux.tick_snapshot()")
    at: datetime = log.value("select clock_timestamp()")
    return at


def state(log: Log, table: str, at: datetime) -> list[Any]:
    rows = log.rows("select row from flux.state_at(%s, %s)", [table, at])
    return sorted((r["row"] for r in rows), key=str)


def live(log: Log, table: str) -> list[Any]:
    rows = log.rows(f"select to_jsonb(t) as row from {table} as t")
    return sorted((r["row"] for r in rows), key=str)


def test_every_kind_of_change_is_undone(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a int, b text)",
        "insert into t select i, i, 'b' || i from generate_series(1, 9) as i",
    )
    moments = [(tick(log), live(log, "t"))]
    for step in (
        "update t set a = a + 1 where id < 5",
        "delete from t where id = 2",
        "insert into t values (2, 20, 'again'), (10, 10, null)",
        "update t set id = 11, b = 'moved' where id = 3",
        "insert into t values (3, 3, 'new')",
        "update t set id = id + 100 where id > 5",
        "truncate t",
        "insert into t values (1, 1, 'end')",
        "update t set b = null",
    ):
        log.run(step)
        moments.append((tick(log), live(log, "t")))
    for at, rows in moments:
        assert state(log, "t", at) == rows


def test_swapped_and_shifted_keys_are_undone(log: Log) -> None:
    log.run(
        "create table t (id int primary key deferrable, a text)",
        "insert into t values (1, 'one'), (2, 'two'), (3, 'three')",
    )
    moments = [(tick(log), live(log, "t"))]
    for step in (
        "update t set id = 3 - id where id < 3",
        "update t set a = a || '!'",
        "update t set id = id + 1",
        "update t set id = case id when 2 then 3 when 3 then 4 else 2 end, a = upper(a)",
    ):
        log.run(step)
        moments.append((tick(log), live(log, "t")))
    for at, rows in moments:
        assert state(log, "t", at) == rows


def test_rows_without_a_key_are_undone(log: Log) -> None:
    log.run("create table t (a int, b text)", "insert into t values (1, 'x'), (1, 'x'), (2, null)")
    moments = [(tick(log), live(log, "t"))]
    for step in (
        "update t set b = 'y' where ctid in (select ctid from t where a = 1 limit 1)",
        "update t set b = 'x', a = 2",
        "delete from t where ctid in (select ctid from t limit 2)",
        "insert into t values (2, 'x'), (5, null)",
        "update t set a = a + 1",
        "delete from t",
    ):
        log.run(step)
        moments.append((tick(log), live(log, "t")))
    for at, rows in moments:
        assert state(log, "t", at) == rows


def test_partition_moves_are_undone(log: Log) -> None:
    log.run(
        "create table t (id int, k int, a text, primary key (id, k)) partition by list (k)",
        "create table t1 partition of t for values in (1)",
        "create table t2 partition of t for values in (2)",
        "insert into t values (1, 1, 'x'), (2, 2, 'y')",
    )
    moments = [(tick(log), live(log, "t"))]
    for step in ("update t set k = 3 - k", "update t set a = 'z'", "update t set k = 1"):
        log.run(step)
        moments.append((tick(log), live(log, "t")))
    for at, rows in moments:
        assert state(log, "t", at) == rows


def test_added_and_renamed_columns_are_taken_back(log: Log) -> None:
    log.run("create table t (id int primary key, a int)", "insert into t values (1, 1)")
    first = (tick(log), live(log, "t"))
    log.run("alter table t add b int default 5", "alter table t rename a to c")
    second = (tick(log), live(log, "t"))
    log.run("update t set c = 2, b = 3")
    assert state(log, "t", first[0]) == first[1]
    assert state(log, "t", second[0]) == second[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table t drop a", "column a was dropped"),
        ("alter table t alter a type text", "rewrote"),
        ("select flux.untrack('t')", "not tracked any more"),
        ("select flux.untrack('t'); update t set a = 9; select flux.track('t')", "not recorded"),
        ("alter table t drop constraint t_pkey", "the key changed"),
        ("select flux.prune('1 microsecond')", "pruned"),
    ],
)
def test_where_it_cannot_be_right_it_says_so(log: Log, change: str, reason: str) -> None:
    log.run("create table t (id int primary key, a int)", "insert into t values (1, 1)")
    at = tick(log)
    log.run("update t set a = 2", *change.split(";"))
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        # prune takes the snapshots too; what matters here is what it says about the rows.
        conn.execute(
            "insert into flux.snapshots values (%s, (select coalesce(min(snapshot::text),"
            " '3:3:')::pg_snapshot from flux.snapshots)) on conflict do nothing", [at]
        )  # fmt: skip
    with pytest.raises(psycopg.Error, match=reason) as caught:
        state(log, "t", at)
    assert caught.value.sqlstate == "ZF006"


def test_before_tracking_and_before_any_snapshot(log: Log) -> None:
    log.run("create table t (id int primary key, a int)")
    with pytest.raises(psycopg.Error, match="no snapshot") as caught:
        state(log, "t", log.value("select now() - interval '1 day'"))
    assert caught.value.sqlstate == "ZF006"


def test_truncate_above_the_cap_is_not_crossed(log: Log) -> None:
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("update flux.settings set value = '3' where name = 'truncate_row_cap'")
    log.run("create table t (id int primary key)", "insert into t select generate_series(1, 9)")
    at = tick(log)
    log.run("truncate t", "insert into t values (1)")
    with pytest.raises(psycopg.Error, match="truncated"):
        state(log, "t", at)


def test_row_security_never_makes_it_partial(log: Log) -> None:
    log.run(
        "create table t (id int primary key)",
        "insert into t values (1), (2)",
        "alter table t enable row level security",
        "create policy p on t using (id = 1)",
        "grant select on t to flux_app",
    )
    at = tick(log)
    with psycopg.connect(log.database.app, autocommit=True) as conn:
        assert conn.execute("select count(*) from t").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            conn.execute("select * from flux.state_at('t', %s)", [at])
    assert len(state(log, "t", at)) == 2


def test_images_are_exact(log: Log) -> None:
    log.run(
        "create table t (id int primary key, n numeric, c char(4), f float8, j json)",
        "insert into t values (1, 1.50, 'a', '-0', '{\"a\" :  1}')",
        "insert into t values (2, 'NaN', null, 'Infinity', null)",
        "select flux.tick_snapshot()",
    )
    snapshot = log.value("select snapshot::text from flux.snapshots order by at desc limit 1")
    log.run("update t set n = 1.5, c = 'b', f = 0, j = '{}'", "delete from t where id = 2")
    found = log.rows("select images from flux.state_before('t', %s) order by key", [snapshot])
    assert [r["images"] for r in found] == [
        ["1", "1.50", "a   ", "-0", '{"a" :  1}'],
        ["2", "NaN", None, "Infinity", None],
    ]
