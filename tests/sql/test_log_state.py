"""A table as it was: undone from the live one, or refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
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


def row_at(log: Log, table: str, key: Any, at: datetime) -> Any:
    pk = json.dumps(key) if isinstance(key, dict) else str(key)
    return log.value('select "row" from flux.row_at(%s, %s, %s)', [table, pk, at])


def check_moments(
    log: Log, table: str, key: tuple[str, ...], moments: list[tuple[datetime, list[Any]]]
) -> None:
    """The whole table at each moment, and each row that it ever had."""
    keys = {tuple(row[k] for k in key) for _, rows in moments for row in rows}
    for at, rows in moments:
        assert state(log, table, at) == rows
        there = {tuple(row[k] for k in key): row for row in rows}
        for values in keys:
            found = row_at(log, table, dict(zip(key, values, strict=True)), at)
            assert found == there.get(values), f"{values} at {at}"


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
    check_moments(log, "t", ("id",), moments)


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
    check_moments(log, "t", ("id",), moments)


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
    check_moments(log, "t", ("id", "k"), moments)


def test_added_and_renamed_columns_are_taken_back(log: Log) -> None:
    log.run("create table t (id int primary key, a int)", "insert into t values (1, 1)")
    first = (tick(log), live(log, "t"))
    log.run("alter table t add b int default 5", "alter table t rename a to c")
    second = (tick(log), live(log, "t"))
    log.run("update t set c = 2, b = 3")
    check_moments(log, "t", ("id",), [first, second])


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
    for question in (lambda: state(log, "t", at), lambda: row_at(log, "t", 1, at)):
        with pytest.raises(psycopg.Error, match=reason) as caught:
            question()
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
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            conn.execute("select * from flux.row_at('t', '2', %s)", [at])
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


def test_one_row_says_which_moment_it_is_of_even_if_there_was_none(log: Log) -> None:
    log.run("create table t (id int primary key, a int)", "insert into t values (1, 1)")
    ticked = log.value("select flux.tick_snapshot()")
    at = log.value("select clock_timestamp()")
    log.run("update t set a = 2")
    for key, row in (("1", {"id": 1, "a": 1}), ('{"id": 1}', {"id": 1, "a": 1}), ("2", None)):
        found = log.rows("select * from flux.row_at('public.t', %s, %s)", [key, at])
        assert found == [{"row": row, "as_of": ticked}]


def test_one_row_is_found_by_its_key_alone(log: Log) -> None:
    log.run(
        "create table t (id int, day date, at timestamptz, a int, primary key (id, day, at))",
        "insert into t select i, date '2026-01-01' + i, timestamptz '2026-01-01' + i * interval"
        " '1 second', i from generate_series(1, 3) as i",
    )
    at = tick(log)
    log.run("update t set a = 0", "update t set id = 9 where id = 2")
    log.run("set enable_seqscan = off")
    scans = "select seq_scan from pg_stat_xact_user_tables where relname = 't'"
    key = {"id": 2, "day": "2026-01-03", "at": "2026-01-01 00:00:02+00"}
    with log.conn.transaction():
        before = log.value(scans)
        assert row_at(log, "t", key, at)["a"] == 2
        assert log.value(scans) == before


def test_one_row_of_a_table_without_a_key_cannot_be_told(log: Log) -> None:
    log.run("create table t (a int)", "insert into t values (1)")
    at = tick(log)
    for key in ("1", '{"a": 1}', "row:0123"):
        with pytest.raises(psycopg.Error, match="no key") as caught:
            row_at(log, "t", key, at)
        assert caught.value.sqlstate == "ZF005"


def test_one_row_of_a_long_or_redacted_key(log: Log) -> None:
    log.run(
        "create table t (id text primary key, a int)",
        "create table s (token text primary key, a int)",
        "insert into t values (repeat('x', 500), 1), ('y', 1)",
        "insert into s values ('hush', 1), ('other', 1)",
    )
    at = tick(log)
    log.run("update t set a = 2", "update s set a = 2 where token = 'hush'")
    log.run("update t set id = 'z' where id like 'xx%'")
    assert row_at(log, "t", "x" * 500, at) == {"id": "x" * 500, "a": 1}
    assert row_at(log, "t", "z", at) is None
    assert row_at(log, "s", "hush", at)["a"] == 1
    assert row_at(log, "s", "other", at)["a"] == 1


def test_a_time_that_has_not_come_yet_is_refused(log: Log) -> None:
    log.run("create table t (id int primary key); insert into t values (1)")
    later = datetime.now(UTC) + timedelta(hours=1)
    for question in (lambda: state(log, "t", later), lambda: row_at(log, "t", 1, later)):
        with pytest.raises(psycopg.Error) as refused:
            question()
        assert refused.value.sqlstate == "ZF001"
        assert "has not come yet" in str(refused.value)


def test_before_any_table_is_tracked_there_is_a_state_before_a_request(log: Log) -> None:
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("delete from flux.settings where name = 'epoch'")
        conn.execute(
            "insert into flux.execution_log (request_id, trace_id, root_span_id, kind, started_at,"
            " duration_us, state, outcome, snapshot) values (gen_random_uuid(), gen_random_uuid(),"
            " 1, 'invoke', now(), 1, 'completed', 'ok', pg_current_snapshot())"
        )
        asked = (
            "select flux.snapshot_before(request_id)::text = snapshot::text from flux.execution_log"
        )
        assert conn.execute(asked).fetchone() == (True,)
