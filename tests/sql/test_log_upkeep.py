"""Blame through prune, attempts, verify, dump and restore, servers without event triggers."""

from __future__ import annotations

import json
import subprocess
import uuid

import psycopg
import pytest

from tests.sql.log import Log

FIRST, SECOND = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


def superuser(log: Log) -> psycopg.Connection:
    return psycopg.connect(log.database.superuser, autocommit=True)


def test_a_new_table_is_worked_out_twice_not_again_for_each_of_its_triggers(log: Log) -> None:
    with psycopg.connect(log.database.superuser) as conn:
        conn.execute("set track_functions = 'all'")
        conn.execute("create table public.t (id int primary key, a int)")
        calls = conn.execute(
            "select calls from pg_stat_xact_user_functions where funcname = 'make_recorder'"
        ).fetchone()
    # Once for the table, and once when its triggers have been switched on.
    assert calls == (2,)


def test_blame_survives_pruning(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a int, b int, c int)",
        "insert into t select i, i, i, i from generate_series(1, 6) as i",
    )
    log.as_request(FIRST, "update t set a = 10 where id = 1")
    log.as_request(SECOND, "update t set id = 20, b = 5 where id = 2")
    log.run("delete from t where id = 3", "update t set a = 7 where id = 4")
    before = {pk: log.blame("t", pk) for pk in ("1", "20", "4", "5")}
    parts = log.rows("select * from flux.prune('1 microsecond')")
    assert log.value("select count(*) from flux.mutations") == 0 and parts
    for pk, blame in before.items():
        assert log.blame("t", pk) == blame
    for gone in ("2", "3"):
        with pytest.raises(psycopg.Error) as caught:
            log.blame("t", gone)
        assert caught.value.sqlstate == "ZF002"
    log.run("insert into t values (2, 0, 0, 0)", "update t set id = 21 where id = 20")
    log.as_request(FIRST, "update t set c = 9 where id = 1", "delete from t where id = 5")
    assert str(log.blame("t", "1")["c"]["request_id"]) == FIRST
    assert log.blame("t", "1")["b"] == before["1"]["b"]
    assert log.blame("t", "2")["a"]["op"] == "INSERT"
    assert str(log.blame("t", "21")["b"]["request_id"]) == SECOND
    log.run("select flux.prune('1 microsecond')")
    assert str(log.blame("t", "21")["b"]["request_id"]) == SECOND
    assert log.blame("t", "21")["c"] == before["20"]["c"]
    with pytest.raises(psycopg.Error):
        log.blame("t", "5")
    with superuser(log) as conn:
        keys = conn.execute("select distinct key from flux.column_owners order by key").fetchall()
    assert keys == [("1",), ("2",), ("21",), ("4",), ("6",)]


def test_partitions_are_made_filled_and_dropped(log: Log) -> None:
    log.run("create table t (id int primary key, a int)", "insert into t values (1, 1)")
    with superuser(log) as conn:
        made = []
        while not made or made[-1]:
            made += conn.execute("select flux.ensure_partitions(1)").fetchone()
        assert made == [2, 2, 2, 2, 2, 0], "this week and the next, one log a call"
        left = conn.execute("select count(*) from flux.mutation_log_default").fetchone()
        assert left == (0,)
        # The present partition, as if it had ended long ago.
        conn.execute(
            """do $$ declare v_name text; begin
            select c.relname into v_name from pg_class as c join pg_inherits as i
                on i.inhrelid = c.oid where c.oid = (select tableoid from flux.mutation_log);
            execute format('alter table flux.mutation_log detach partition flux.%I', v_name);
            execute format('update flux.%I set at = %L', v_name, '2020-01-01');
            execute format('alter table flux.mutation_log attach partition flux.%I for values'
                ' from (%L) to (%L)', v_name, '2020-01-01', '2020-01-02');
            end $$"""
        )
    log.run("update t set a = 2")
    actions = {r["part"]: r["action"] for r in log.rows("select * from flux.prune('1 year')")}
    assert "dropped" in actions.values()
    assert [m["op"] for m in log.mutations("t")] == ["UPDATE"]
    assert log.blame("t", "1")["id"]["op"] == "INSERT"
    assert log.blame("t", "1")["a"]["op"] == "UPDATE"


def test_prune_does_not_wait_behind_a_reader(log: Log) -> None:
    log.run("create table t (id int primary key)", "insert into t values (1)")
    with superuser(log) as conn:
        conn.execute(
            """create table flux.mutation_log_old partition of flux.mutation_log
            for values from ('2020-01-01') to ('2020-01-02')"""
        )
        conn.execute("alter table flux.mutation_log_old owner to flux_owner")
    with psycopg.connect(log.database.superuser) as reader:
        reader.execute("select count(*) from flux.mutation_log")
        found = {r["part"]: r["action"] for r in log.rows("select * from flux.prune('1 year')")}
        assert found["mutation_log_old"] == "left: locked"
    found = {r["part"]: r["action"] for r in log.rows("select * from flux.prune('1 year')")}
    assert found["mutation_log_old"] == "dropped"


def test_attempts_are_a_footnote_and_never_the_owner(log: Log) -> None:
    log.run("create table t (id int primary key, a int, b int)", "grant all on t to flux_app")
    log.as_request(FIRST, "insert into t values (1, 1, 1)")
    with psycopg.connect(log.database.app) as app:
        app.execute("select set_config('flux.request_id', %s, true)", [SECOND])
        app.execute("update t set a = 2")
        app.execute("savepoint s")
        seq = app.execute("select flux.collect_attempted(%s) -> -1 ->> 'seq'", [SECOND]).fetchone()
        assert seq is not None
        app.execute("update t set b = 3, a = 4")
        inner = app.execute("select flux.collect_attempted(%s, %s)", [SECOND, seq[0]]).fetchone()
        attempted = app.execute("select flux.collect_attempted(%s)", [SECOND]).fetchone()
        assert inner is not None and attempted is not None
        assert (len(inner[0]), len(attempted[0])) == (1, 2)
        app.rollback()
        offer = "select flux.record_attempted(%s, %s)"
        counts = [app.execute(offer, [SECOND, json.dumps(attempted[0])]).fetchone() for _ in "ab"]
        assert counts == [(2,), (0,)]
        app.commit()
    blame = log.blame("t", "1")
    assert str(blame["a"]["request_id"]) == FIRST and blame["a"]["value"] == 1
    assert [blame[c]["failed_attempts"] for c in ("id", "a", "b")] == [0, 2, 1]
    assert str(blame["b"]["last_failed_request"]) == SECOND
    assert len(log.history("t", "1")) == 1
    shown = log.rows(
        "select outcome, new from flux.history('t', '1', p_include_rolled_back => true)"
    )
    assert [s["outcome"] for s in shown] == ["committed", "rolled_back", "rolled_back"]
    assert shown[2]["new"] == {"a": 4, "b": 3}
    log.run("update t set a = 9")
    assert log.blame("t", "1")["a"]["failed_attempts"] == 0
    assert log.blame("t", "1")["b"]["failed_attempts"] == 1


def test_what_was_committed_is_never_recorded_as_rolled_back(log: Log) -> None:
    log.run("create table t (id int primary key)")
    with psycopg.connect(log.database.superuser) as conn:
        conn.execute("select set_config('flux.request_id', %s, true)", [FIRST])
        conn.execute("insert into t values (1)")
        row = conn.execute("select flux.collect_attempted(%s)", [FIRST]).fetchone()
        assert row is not None
        conn.commit()
        conn.execute("select flux.record_attempted(%s, %s)", [FIRST, json.dumps(row[0])])
        assert conn.execute("select flux.record_attempted(%s, null)", [FIRST]).fetchone() == (0,)
    assert [m["outcome"] for m in log.mutations("t")] == ["committed"]


def test_history_can_be_narrowed(log: Log) -> None:
    log.run("create table t (id int primary key, a int, b int)", "insert into t values (1, 1, 1)")
    log.as_request(FIRST, "update t set a = 2", "update t set b = 2")
    at = log.value("select clock_timestamp()")
    log.run("update t set a = 3")

    def count(arguments: str, *params: object) -> int:
        return len(log.rows(f"select * from flux.history('t', '1', {arguments})", params))

    assert count("p_column => 'a'") == 3
    assert count("p_request => %s", FIRST) == 2
    assert count("p_since => %s", at) == 1
    with pytest.raises(psycopg.Error, match="never had a column") as caught:
        count("p_column => 'nope'")
    assert caught.value.sqlstate == "ZF001"


@pytest.mark.parametrize(
    ("query", "state"),
    [
        ("select * from flux.history('nope', '1')", "ZF002"),
        ("select * from flux.blame('nope', '1')", "ZF002"),
        ("select * from flux.blame('t', '999')", "ZF002"),
        ("select * from flux.blame('t', 'abc')", "ZF001"),
        ("""select * from flux.blame('t', '{"x": 1}')""", "ZF001"),
    ],
)
def test_what_is_not_there_is_said(log: Log, query: str, state: str) -> None:
    log.run("create table t (id int primary key)", "insert into t values (1)")
    with pytest.raises(psycopg.Error) as caught:
        log.rows(query)
    assert caught.value.sqlstate == state and caught.value.diag.message_hint


def test_rows_from_before_tracking_show_their_values(log: Log) -> None:
    log.run("create table t as select 1 as id, 'x' as a", "alter table t add primary key (id)")
    assert log.blame("t", "1")["a"] | {"at": None} == {
        "column": "a", "value": "x", "request_id": None, "span_id": None, "function": None,
        "op": None, "at": None, "actor": None, "commit": None, "failed_attempts": 0,
        "last_failed_request": None,
    }  # fmt: skip
    log.run("update t set a = 'y'")
    assert [log.blame("t", "1")[c]["op"] for c in ("id", "a")] == [None, "UPDATE"]


def findings(log: Log) -> set[tuple[str, str | None]]:
    return {(r["finding"], r["table"]) for r in log.rows("select * from flux.verify()")}


def test_verify_finds_what_does_not_fit(log: Log) -> None:
    log.run("create table t (id int primary key)", "create table u (id int primary key)")
    assert findings(log) == set()
    log.as_request(FIRST, "insert into t values (1)")
    assert findings(log) == {("request without execution", "public.t")}
    with superuser(log) as conn:
        conn.execute(
            """insert into flux.execution_log (request_id, trace_id, root_span_id, kind,
                started_at, state, outcome, xids)
            values (%s, %s, 1, 'http', now(), 'completed', 'ok', array['3'::xid8])""",
            [FIRST, FIRST],
        )
        assert findings(log) == {("transaction not of the request", "public.t")}
        conn.execute("begin")
        row = conn.execute("select pg_current_xact_id()::text").fetchone()
        assert row is not None
        conn.execute("rollback")
        conn.execute(
            "update flux.execution_log set xids = array[(select xid from flux.mutation_log), %s]",
            [row[0]],
        )
    assert findings(log) == {("transaction did not commit", None)}
    with superuser(log) as conn:
        conn.execute("alter event trigger flux_track_new_tables disable")
        log.run("alter table t disable trigger user", "drop trigger flux_record_truncate on u")
        conn.execute("alter event trigger flux_track_new_tables enable")
    assert ("trigger disabled", "public.t") in findings(log)
    assert ("trigger missing", "public.u") in findings(log)
    log.run("select flux.track_missing()")
    assert findings(log) == {("transaction did not commit", None)}
    # Where the event trigger is there, switching a recorder off does not even last.
    log.run("alter table t disable trigger user")
    assert findings(log) == {("transaction did not commit", None)}


def test_without_event_triggers_nothing_is_wrong_in_silence(log: Log) -> None:
    with superuser(log) as conn:
        conn.execute("drop event trigger flux_track_new_tables")
        conn.execute("drop event trigger flux_forget_dropped_tables")
    log.run("create table t (id int primary key, a text, b int)")
    assert findings(log) == {("table not tracked", "public.t")}
    assert log.rows("select * from flux.track_missing()") == [
        {"relation": "public.t", "action": "tracked"}
    ]
    log.run(
        "insert into t values (1, 'x', 1)",
        "alter table t rename a to c",
        "update t set c = 'y'",
        "alter table t add d int",
        "insert into t values (2, 'z', 2, 3)",
        "alter table t drop b",
        "update t set d = 4, id = 3 where id = 2",
        "alter table t alter d type text",
        "update t set d = 'w'",
        "delete from t where id = 1",
    )
    assert log.ops("t") == [
        ("INSERT", None, {"id": 1, "a": "x", "b": 1}),
        ("UPDATE", {"c": "x"}, {"c": "y"}),
        ("INSERT", None, {"id": 2, "c": "z", "b": 2, "d": 3}),
        ("UPDATE", {"id": 2, "d": 3}, {"id": 3, "d": 4}),
        ("UPDATE", {"d": None}, {"d": "w"}),
        ("UPDATE", {"d": "4"}, {"d": "w"}),
        ("DELETE", {"id": 1, "c": "y", "d": "w"}, None),
    ]
    assert findings(log) == {("recorder out of date", "public.t")}
    log.run("select flux.track_missing()")
    assert findings(log) == set()


def test_dump_and_restore_keep_the_history(log: Log) -> None:
    log.run(
        "create table pad (x int)",
        "create table t (id int primary key, gone int, a text)",
        "create table p (id int, k int, primary key (id, k)) partition by list (k)",
        "create table p1 partition of p for values in (1)",
        "alter table t drop gone",
        "insert into t values (1, 'x'), (2, 'y')",
        "insert into p values (1, 1)",
        "update t set id = 5, a = 'z' where id = 1",
        "select flux.tick_snapshot()",
        "drop table pad",
    )
    at = log.value("select clock_timestamp()")
    seq = log.value("select max(seq) from flux.mutations")
    server = log.database.server
    copy = server.create_database(flux=False)
    try:
        binaries = server.binaries.bin_dir
        dump = subprocess.run(
            [str(binaries / "pg_dump"), log.database.superuser], capture_output=True, check=True
        ).stdout
        subprocess.run(
            [str(binaries / "psql"), "-qXv", "ON_ERROR_STOP=1", copy.superuser],
            input=dump, capture_output=True, check=True,
        )  # fmt: skip
        with psycopg.connect(copy.superuser, autocommit=True) as conn:
            restored = Log(conn, copy)
            # Before anybody has called track_missing(), writes are recorded all the same.
            restored.run("update t set a = 'w' where id = 5", "insert into p values (2, 1)")
            assert [h["op"] for h in restored.history("t", "5")] == ["INSERT", "UPDATE", "UPDATE"]
            with pytest.raises(psycopg.Error, match="restored"):
                restored.rows("select * from flux.state_at('t', %s)", [at])
            restored.run("select flux.track_missing()")
            assert findings(restored) == set()
            restored.run("update t set a = 'v' where id = 2", "select flux.tick_snapshot()")
            later = restored.value("select clock_timestamp()")
            restored.run("update t set a = 'u'", "delete from p")
            assert len(restored.history("t", "2")) == 3
            assert restored.blame("t", "5")["id"]["op"] == "UPDATE"
            assert (
                restored.value(
                    "select min(seq) from flux.mutations where pk = '{\"id\": 2}' and op = 'UPDATE'"
                )
                > seq
            )
            state = restored.rows("select row from flux.state_at('t', %s)", [later])
            assert sorted(r["row"]["a"] for r in state) == ["v", "w"]
            tables = restored.value(
                "select count(*) from flux.tracked_tables where untracked_at is null"
            )
            assert tables == 2
    finally:
        server.drop_database(copy.name)


def test_blame_hops_over_a_hot_rows_changes(log: Log) -> None:
    log.run(
        "create table t (id int primary key, hits int, name text, note text)",
        "insert into t values (1, 0, 'n', null), (2, 0, 'm', null)",
        "update t set note = 'once' where id = 1",
        """do $$ begin for i in 1 .. 3000 loop
        update t set hits = i where id = 1; end loop; end $$""",
    )
    with superuser(log) as conn:
        conn.execute("vacuum analyze flux.mutation_log")
        for _ in range(2):  # The first call also reads the catalog.
            rows = conn.execute(
                "explain (analyze, buffers, timing off, summary off, format json)"
                " select * from flux.find_owners((select table_id from flux.tracked_tables), '1')"
            ).fetchone()
    assert rows is not None
    plan = rows[0][0]["Plan"]
    blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    # Reading the row's 3,000 entries would take as many blocks; a hop takes a handful.
    assert blocks < 300
    blame = log.blame("t", "1")
    assert {c: b["value"] for c, b in blame.items()} == {
        "id": 1, "hits": 3000, "name": "n", "note": "once",
    }  # fmt: skip


def test_blame_names_nobody_for_what_was_not_recorded(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a text, b int)",
        "insert into t values (1, 'Ada', 1), (2, 'Bob', 2), (3, 'Cid', 3)",
        "delete from t where id = 3",
    )
    before = log.value("select clock_timestamp()")
    log.run(
        "select flux.untrack('t')",
        "update t set a = 'Sneaky' where id = 1",
        "delete from t where id = 2",
        "insert into t values (3, 'Back', 3), (4, 'New', 4)",
    )
    assert log.blame("t", "1")["a"]["actor"].startswith("unknown: changed while not tracked, since")
    log.run("select flux.track('t')")
    blame = log.blame("t", "1")
    assert blame["a"]["value"] == "Sneaky" and blame["b"]["value"] == 1
    for column, words in (
        ("a", "changed while not tracked, between"),
        ("b", "not tracked between"),
    ):
        assert blame[column]["actor"].startswith(f"unknown: {words} "), blame[column]
        assert [blame[column][k] for k in ("op", "at", "request_id")] == [None] * 3
    with pytest.raises(psycopg.Error, match="gone; unknown: changed while not tracked") as caught:
        log.blame("t", "2")
    assert caught.value.sqlstate == "ZF002"
    assert log.blame("t", "3")["a"]["value"] == "Back"
    assert log.blame("t", "3")["a"]["op"] is None
    assert log.blame("t", "4")["a"]["actor"].startswith("unknown: written before recording")
    log.run("update t set a = 'Later' where id = 1")
    assert [log.blame("t", "1")[c]["op"] for c in ("a", "b")] == ["UPDATE", None]
    assert [h["op"] for h in log.history("t", "1")] == ["INSERT", "GAP", "UPDATE"]
    gap = log.history("t", "1")[1]
    assert gap["seq"] is None and gap["actor"].startswith("not tracked between ")
    assert log.rows("select * from flux.history('t', '99')") == []
    assert findings(log) == {("not tracked for a time", "public.t")}
    after = log.value("select clock_timestamp()")
    for since, number in ((before, 1), (after, 0)):
        assert len(log.rows("select * from flux.verify(%s)", [since])) == number


def test_blame_compares_with_the_live_row(log: Log) -> None:
    log.run(
        "create table t (id int, k text, n numeric(9,2), password text, primary key (id, k))",
        "insert into t values (1, 'x', 1, 'p'), (2, 'y', 2, 'q')",
    )
    with superuser(log) as conn:
        conn.execute("alter event trigger flux_track_new_tables disable")
        log.run("alter table t disable trigger user", "update t set n = 5, password = 'w'")
    key = {"id": 1, "k": "x"}
    with pytest.raises(psycopg.Error) as caught:
        log.blame("t", key)
    assert caught.value.sqlstate == "ZF006"
    with superuser(log) as conn:
        conn.execute("alter event trigger flux_track_new_tables enable")
    log.run("select flux.track_missing()")
    blame = log.blame("t", key)
    assert blame["n"]["actor"].startswith("unknown: changed without a record, since ")
    assert (blame["n"]["value"], blame["n"]["op"]) == (5, None)
    assert blame["k"]["op"] == "INSERT" and blame["password"]["value"].startswith("redacted:")
    log.run("alter table t alter n type numeric(9,4)")
    assert log.blame("t", {"id": 2, "k": "y"})["id"]["op"] == "INSERT"
    with psycopg.connect(log.database.app, autocommit=True) as app:
        log.run("revoke all on t from flux_app")
        reader = Log(app, log.database)
        assert reader.blame("t", key)["k"]["op"] == "INSERT"


def test_blame_and_history_refuse_a_stale_shape(log: Log) -> None:
    with superuser(log) as conn:
        conn.execute("drop event trigger flux_track_new_tables")
        conn.execute("drop event trigger flux_forget_dropped_tables")
    log.run(
        "create table t (id int primary key, a text, b int)",
        "select flux.track('t')",
        "insert into t values (1, 'x', 1)",
        "alter table t rename a to c",
    )
    for function in ("blame", "history"):
        with pytest.raises(psycopg.Error, match="changed unnoticed") as caught:
            log.rows(f"select * from flux.{function}('t', '1')")
        assert caught.value.sqlstate == "ZF006"
        assert "flux db migrate" in str(caught.value.diag.message_hint)
    log.run("select flux.track_missing()")
    assert log.blame("t", "1")["c"]["op"] == "INSERT"
    log.run(
        'drop trigger "!flux_record_1_update" on t',
        "update t set c = 'y'",
        "select flux.track_missing()",
        "update t set b = 2",
    )
    assert log.blame("t", "1")["c"]["actor"].startswith("unknown: changed while not tracked")
    assert log.blame("t", "1")["b"]["op"] == "UPDATE"
    assert [h["op"] for h in log.history("t", "1")] == ["INSERT", "GAP", "UPDATE"]
    assert findings(log) == {("not tracked for a time", "public.t")}
