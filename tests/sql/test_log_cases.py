"""Every way a row can change is recorded, once and whole."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql.log import Log

REQUEST = "0190b5a0-0000-7000-8000-%012d"


def test_new_tables_are_tracked_by_themselves(log: Log) -> None:
    log.run("create table t (id int primary key, a text)", "insert into t values (1, 'x')")
    assert log.ops("t") == [("INSERT", None, {"id": 1, "a": "x"})]


def test_create_table_as_is_tracked_from_its_creation_on(log: Log) -> None:
    log.run("create table t as select 1 as id", "insert into t values (2)")
    assert log.ops("t") == [("INSERT", None, {"id": 2})]


def test_update_stores_changed_columns_only(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a text, b text)",
        "insert into t values (1, 'x', 'y')",
        "update t set a = 'z', b = b",
    )
    last = log.mutations("t")[-1]
    assert (last["old"], last["new"], last["changed"]) == ({"a": "x"}, {"a": "z"}, ["a"])


def test_an_update_that_changes_nothing_is_no_mutation(log: Log) -> None:
    log.run("create table t (id int primary key, a text)", "insert into t values (1, 'x')")
    log.run("update t set a = a")
    assert len(log.ops("t")) == 1


def test_null_is_told_from_json_null_and_from_empty(log: Log) -> None:
    log.run(
        "create table t (id int primary key, j jsonb, s text)",
        "insert into t values (1, 'null', ''), (2, null, null)",
        "update t set j = null, s = null where id = 1",
    )
    with psycopg.connect(log.database.superuser) as conn:
        stored = conn.execute("select new from flux.mutation_log order by seq").fetchall()
    assert stored == [(["1", "null", ""],), (["2", None, None],), ([None, None],)]


def test_composite_keys(log: Log) -> None:
    log.run(
        "create table t (a int, b text, c int, primary key (b, a))",
        "insert into t values (1, 'x,\"y', 5)",
        "update t set c = 6",
    )
    assert log.mutations("t")[-1]["pk"] == {"a": 1, "b": 'x,"y'}
    assert [h["op"] for h in log.history("t", {"a": 1, "b": 'x,"y'})] == ["INSERT", "UPDATE"]
    assert log.blame("t", {"b": 'x,"y', "a": 1})["c"]["value"] == 6
    with pytest.raises(psycopg.Error, match="several columns") as caught:
        log.blame("t", "1")
    assert caught.value.sqlstate == "ZF001"


def test_a_unique_index_stands_in_for_a_primary_key(log: Log) -> None:
    log.run(
        "create table t (id int not null unique, a int)",
        "insert into t values (7, 1)",
        "update t set a = 2",
    )
    assert [h["op"] for h in log.history("t", "7")] == ["INSERT", "UPDATE"]


def test_rows_without_a_key_are_known_by_their_contents(log: Log) -> None:
    log.run(
        "create table t (a int, b text)",
        "insert into t values (1, 'x'), (1, 'x'), (2, null)",
        "update t set b = 'y' where a = 2",
        "update t set b = 'z' where a = 2",
        "delete from t where a = 1",
    )
    assert [op for op, _, _ in log.ops("t")] == ["INSERT"] * 3 + ["UPDATE"] * 2 + ["DELETE"] * 2
    found = log.history("t", {"a": 2, "b": "z"})
    assert [h["op"] for h in found] == ["INSERT", "UPDATE", "UPDATE"]
    assert log.blame("t", {"a": 2, "b": "z"})["a"]["op"] == "INSERT"
    assert log.blame("t", {"a": 2, "b": "z"})["b"]["op"] == "UPDATE"


def test_history_follows_changes_of_the_key(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a text)",
        "insert into t values (1, 'x')",
        "update t set a = 'y'",
        "update t set id = 2",
        "update t set id = 3, a = 'z'",
        "insert into t values (1, 'other')",
    )
    assert [h["pk"] for h in log.history("t", "3")] == [{"id": 1}, {"id": 1}, {"id": 2}, {"id": 3}]
    assert [h["op"] for h in log.history("t", "1")] == ["INSERT", "UPDATE", "UPDATE", "INSERT"]
    assert log.blame("t", "3")["id"]["op"] == "UPDATE"
    assert log.blame("t", "1")["a"]["value"] == "other"
    with pytest.raises(psycopg.Error, match="gone") as caught:
        log.blame("t", "2")
    assert caught.value.sqlstate == "ZF002"


def test_swapped_keys_are_not_mixed_up(log: Log) -> None:
    log.run(
        "create table t (id int primary key deferrable, a text)",
        "insert into t values (1, 'one'), (2, 'two')",
        "update t set id = 3 - id",
    )
    assert log.blame("t", "1")["a"]["value"] == "two"
    assert log.blame("t", "2")["a"]["value"] == "one"


def test_keys_that_are_equal_are_one_row(log: Log) -> None:
    log.run(
        "create table t (id numeric primary key, a int)",
        "insert into t values (1.0, 1)",
        "update t set id = 1.00",
        "update t set a = 2",
    )
    assert [h["op"] for h in log.history("t", "1.000")] == ["INSERT", "UPDATE", "UPDATE"]
    assert log.mutations("t")[1]["new"] == {"id": 1.00}


def test_long_keys(log: Log) -> None:
    key = "k" * 2000
    log.run(
        "create table t (id text primary key, a int)",
        f"insert into t values ('{key}', 1)",
        "update t set a = 2",
        f"update t set id = id || '{key[:500]}'",
    )
    assert [h["op"] for h in log.history("t", key + key[:500])] == ["INSERT", "UPDATE", "UPDATE"]
    assert log.mutations("t")[1]["pk"] == {"id": key}
    assert log.blame("t", key + key[:500])["a"]["value"] == 2


def test_truncate_records_every_row(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a text)",
        "insert into t values (1, 'x'), (2, 'y')",
        "truncate t",
    )
    assert sorted(m["old"]["id"] for m in log.mutations("t") if m["op"] == "TRUNCATE") == [1, 2]
    assert [h["op"] for h in log.history("t", "2")] == ["INSERT", "TRUNCATE"]


def test_truncate_above_the_cap_is_marked_incomplete(log: Log) -> None:
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("update flux.settings set value = '3' where name = 'truncate_row_cap'")
    log.run("create table t (id int primary key)", "insert into t select generate_series(1, 4)")
    log.run("truncate t")
    last = log.mutations("t")[-1]
    assert (last["op"], last["complete"], last["old"], last["pk"]) == (
        "TRUNCATE",
        False,
        None,
        None,
    )
    with pytest.raises(psycopg.Error, match="truncated") as caught:
        log.blame("t", "1")
    assert caught.value.sqlstate == "ZF002"


def test_truncate_by_a_role_that_may_not_read(log: Log) -> None:
    log.run("create table t (id int primary key)", "insert into t values (1)")
    log.run("revoke all on t from flux_app", "grant truncate on t to flux_app")
    with psycopg.connect(log.database.app, autocommit=True) as conn:
        conn.execute("truncate t")
    assert log.mutations("t")[-1]["complete"] is False


def test_truncate_cascade(log: Log) -> None:
    log.run(
        "create table p (id int primary key)",
        "create table c (id int primary key, p int references p)",
        "insert into p values (1)",
        "insert into c values (5, 1)",
        "truncate p cascade",
    )
    assert [m["op"] for m in log.mutations("c")] == ["INSERT", "TRUNCATE"]
    assert [m["op"] for m in log.mutations("p")] == ["INSERT", "TRUNCATE"]


def test_copy(log: Log) -> None:
    log.run("create table t (id int primary key, a text)")
    with log.conn.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        copy.write("1\tx\n2\t\\N\n")
    assert log.ops("t") == [
        ("INSERT", None, {"id": 1, "a": "x"}),
        ("INSERT", None, {"id": 2, "a": None}),
    ]


def test_merge(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a int)",
        "insert into t values (1, 1), (2, 2)",
        """merge into t using (values (1, 10), (2, 0), (3, 30)) as s (id, a) on t.id = s.id
        when matched and s.a = 0 then delete
        when matched then update set a = s.a
        when not matched then insert values (s.id, s.a)""",
    )
    assert sorted(log.ops("t")[2:], key=str) == sorted(
        [
            ("UPDATE", {"a": 1}, {"a": 10}),
            ("DELETE", {"id": 2, "a": 2}, None),
            ("INSERT", None, {"id": 3, "a": 30}),
        ],
        key=str,
    )


def test_on_conflict(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a int)",
        "insert into t values (1, 1)",
        "insert into t values (1, 2), (2, 2) on conflict (id) do update set a = excluded.a",
        "insert into t values (1, 9) on conflict do nothing",
    )
    assert log.ops("t") == [
        ("INSERT", None, {"id": 1, "a": 1}),
        ("UPDATE", {"a": 1}, {"a": 2}),
        ("INSERT", None, {"id": 2, "a": 2}),
    ]


def test_cascades(log: Log) -> None:
    log.run(
        "create table p (id int primary key)",
        """create table c (id int primary key,
            p int references p on delete cascade on update cascade)""",
        "create table n (id int primary key, p int references p on delete set null)",
        "insert into p values (1)",
        "insert into c values (5, 1)",
        "insert into n values (6, 1)",
        "update n set p = null",
        "update p set id = 2",
        "delete from p",
    )
    assert [m["op"] for m in log.mutations("c")] == ["INSERT", "UPDATE", "DELETE"]


def test_generated_and_identity_columns(log: Log) -> None:
    log.run(
        """create table t (id int generated always as identity primary key, a int,
            twice int generated always as (a * 2) stored)""",
        "insert into t (a) values (4)",
        "update t set a = 5",
    )
    assert log.ops("t") == [
        ("INSERT", None, {"id": 1, "a": 4, "twice": 8}),
        ("UPDATE", {"a": 4, "twice": 8}, {"a": 5, "twice": 10}),
    ]


def test_virtual_generated_columns_are_left_out(log18: Log) -> None:
    log18.run(
        """create table t (id int primary key, a int,
            twice int generated always as (a * 2) virtual)""",
        "insert into t (id, a) values (1, 4)",
        "update t set a = 5",
        "alter table t add column b int generated always as (a + 1) virtual",
        "update t set a = 6",
    )
    assert log18.ops("t")[2] == ("UPDATE", {"a": 5}, {"a": 6})


def _partitioned(log: Log) -> None:
    log.run(
        "create table t (id int, k int, a text, primary key (id, k)) partition by list (k)",
        "create table t1 partition of t for values in (1)",
        "create table t2 partition of t for values in (2)",
        "insert into t values (1, 1, 'x'), (2, 2, 'y')",
    )


def test_partitions_are_recorded_as_their_table(log: Log) -> None:
    _partitioned(log)
    log.run("update t1 set a = 'z'", "create table t3 partition of t for values in (3)")
    log.run("insert into t3 values (3, 3, 'w')", "delete from t where id = 3")
    assert [op for op, _, _ in log.ops("t")] == ["INSERT", "INSERT", "UPDATE", "INSERT", "DELETE"]
    assert log.value("select count(*) from flux.tracked_tables") == 1


def test_a_move_between_partitions_is_one_update(log: Log) -> None:
    _partitioned(log)
    log.run("update t set k = 3 - k")
    assert log.ops("t")[2:] == [
        ("UPDATE", {"k": 1}, {"k": 2}),
        ("UPDATE", {"k": 2}, {"k": 1}),
    ]
    assert [h["op"] for h in log.history("t", {"id": 1, "k": 2})] == ["INSERT", "UPDATE"]
    assert log.blame("t", {"id": 1, "k": 2})["a"]["op"] == "INSERT"


def test_a_delete_and_an_insert_in_one_statement_are_not_a_move(log: Log) -> None:
    _partitioned(log)
    log.run("with d as (delete from t1 returning *) insert into t select id, 2, a from d")
    assert [op for op, _, _ in log.ops("t")[2:]] == ["DELETE", "INSERT"]


def test_truncate_of_partitions(log: Log) -> None:
    _partitioned(log)
    log.run("truncate t1")
    assert [m["old"]["id"] for m in log.mutations("t")[2:]] == [1]
    log.run("truncate t")
    assert [m["old"]["id"] for m in log.mutations("t")[2:]] == [1, 2]


def test_attached_and_detached_partitions(log: Log) -> None:
    _partitioned(log)
    log.run(
        "create table t9 (id int not null, k int not null, a text)",
        "insert into t9 values (9, 9, 'n')",
        "alter table t attach partition t9 for values in (9)",
        "update t set a = 'm' where id = 9",
        "alter table t detach partition t9",
        "update t9 set a = 'l'",
    )
    assert [op for op, _, _ in log.ops("t9")] == ["INSERT", "UPDATE"]
    assert [op for op, _, _ in log.ops("t")] == ["INSERT", "INSERT", "UPDATE"]
    gaps = log.rows("select reason from flux.tracking_gaps order by gap_id")
    assert {"partition attached", "partition detached"} <= {g["reason"] for g in gaps}


def test_inheritance(log: Log) -> None:
    log.run(
        "create table p (id int primary key, a int)",
        "create table c (b int) inherits (p)",
        "insert into p values (1, 1)",
        "insert into c values (2, 2, 2)",
        "update p set a = 5",
    )
    assert [op for op, _, _ in log.ops("p")] == ["INSERT", "UPDATE"]
    assert [op for op, _, _ in log.ops("c")] == ["INSERT", "UPDATE"]


def test_names_that_need_quotes_and_names_of_63_bytes(log: Log) -> None:
    long = "ü" * 31 + "x"
    assert len(long.encode()) == 63
    log.run(
        'create schema "we ird"',
        'create table "we ird"."Ta""b\'l.e" ("I d" int primary key, "new" text, "a%s$1" int)',
        f'create table "{long}" ("{long}" int primary key)',
        f'insert into "{long}" values (1)',
        f'update "{long}" set "{long}" = 2',
        'select flux.track(\'"we ird"."Ta""b\'\'l.e"\')',
        'insert into "we ird"."Ta""b\'l.e" values (1, \'x\', 3)',
        'update "we ird"."Ta""b\'l.e" set "new" = \'y\', "a%s$1" = 4',
        'truncate "we ird"."Ta""b\'l.e"',
    )
    assert len(log.history(long, "2")) == 2
    name = "Ta\"b'l.e"
    assert [h["op"] for h in log.history(name, "1")] == ["INSERT", "UPDATE", "TRUNCATE"]
    assert log.history(name, "1")[1]["new"] == {"new": "y", "a%s$1": 4}


def test_writes_from_outside_say_who(log: Log) -> None:
    log.run("create table t (id int primary key)", "grant all on t to flux_app")
    with psycopg.connect(log.database.app, application_name="psql") as conn:
        conn.execute("insert into t values (1)")
    found = log.mutations("t")[0]
    assert (found["session_user"], found["application_name"], found["request_id"]) == (
        "flux_app",
        "psql",
        None,
    )
    assert log.blame("t", "1")["id"]["actor"] == "flux_app/psql"


def test_set_role_is_recorded(log: Log) -> None:
    log.run("create table t (id int primary key)", "grant insert on t to flux_app")
    with psycopg.connect(log.database.superuser) as conn:
        conn.execute("set role flux_app")
        conn.execute("insert into t values (1)")
    found = log.mutations("t")[0]
    assert (found["session_user"], found["role"]) == ("postgres", "flux_app")


def test_requests_and_spans_are_recorded(log: Log) -> None:
    log.run("create table t (id int primary key)")
    request = REQUEST % 1
    with log.conn.transaction():
        log.conn.execute(
            "select set_config('flux.request_id', %s, true),"
            " set_config('flux.span_id', '-2', true)",
            [request],
        )
        log.run("insert into t values (1)")
    log.run("insert into t values (2)")
    first, second = log.mutations("t")
    assert (str(first["request_id"]), first["span_id"]) == (request, "fffffffffffffffe")
    assert second["request_id"] is None


def test_session_replication_role_does_not_switch_recording_off(log: Log) -> None:
    log.run("create table t (id int primary key)")
    with psycopg.connect(log.database.superuser, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("insert into t values (1)")
    assert len(log.ops("t")) == 1


def test_untrack_and_track_again(log: Log) -> None:
    log.run("create table t (id int primary key)", "insert into t values (1)")
    assert log.value("select flux.untrack('t')") is True
    assert log.value("select flux.untrack('t')") is False
    log.run("insert into t values (2)", "alter table t add column a int")
    assert log.value("select count(*) from flux.track_missing()") == 0
    assert log.value("select flux.track('t')") is True
    assert log.value("select flux.track('t')") is False
    log.run("insert into t values (3)")
    assert [m["pk"] for m in log.mutations("t")] == [{"id": 1}, {"id": 3}]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("create view v as select 1 as a; select flux.track('v')", "not a table"),
        ("create temp table x (a int); select flux.track('x')", "temporary"),
        ("select flux.track('pg_class')", "system"),
        ("select flux.track('flux.settings')", "system or to Flux"),
    ],
)
def test_what_cannot_be_tracked_says_why(log: Log, statement: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as caught:
        log.run(*statement.split(";"))
    assert caught.value.sqlstate == "ZF005"


def test_dropped_and_made_again_is_another_table(log: Log) -> None:
    log.run("create table t (id int primary key)", "insert into t values (1)", "drop table t")
    assert log.value("select count(*) from flux.tracked_tables where untracked_at is null") == 0
    assert len(log.history("t", "1")) == 1
    log.run("create table t (id int primary key)", "insert into t values (2)")
    assert log.history("t", "1") == []
    assert len(log.history("t", "2")) == 1
    assert len(log.mutations("t")) == 2


def test_alter_table_between_writes(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a text, b int)",
        "insert into t values (1, 'x', 1)",
        "alter table t rename a to c",
        "update t set c = 'y'",
        "alter table t add column d int default 7",
        "update t set d = 8",
        "alter table t alter b type bigint",
        "update t set b = 5000000000",
        "alter table t drop column c",
        "alter table t add column c int",
        "update t set c = 1",
        "alter table t rename to u",
        "update u set c = 2",
        "alter table u rename id to key",
        "update u set key = 2",
    )
    found = log.history("u", "2")
    assert [h["changed"] for h in found] == [
        ["id", "a", "b"], ["c"], ["d"], ["b"], ["c"], ["c"], ["key"],
    ]  # fmt: skip
    assert log.blame("u", "2")["c"]["value"] == 2
    assert log.blame("u", "2")["b"]["value"] == 5000000000
    assert [
        h["op"] for h in log.rows("select op from flux.history('u', '2', p_column => 'a')")
    ] == ["INSERT", "UPDATE"]


def test_ddl_and_writes_in_one_transaction(log: Log) -> None:
    with log.conn.transaction():
        log.run(
            "create table t (id int primary key)",
            "insert into t values (1)",
            "alter table t add a int",
            "update t set a = 1",
            "alter table t alter a type text",
            "update t set a = 'x'",
        )
    assert [m["new"] for m in log.mutations("t")] == [{"id": 1}, {"a": 1}, {"a": "x"}]


def test_more_than_63_columns(log: Log) -> None:
    columns = ", ".join(f"c{i} int" for i in range(1, 131))
    log.run(f"create table t (id int primary key, {columns})", "insert into t (id) values (1)")
    log.run("update t set c5 = 1", "update t set c68 = 2", "update t set c5 = 3, c130 = 9")
    blame = log.blame("t", "1")
    assert {k: v["value"] for k, v in blame.items() if v["op"] == "UPDATE"} == {
        "c5": 3,
        "c68": 2,
        "c130": 9,
    }
    assert log.mutations("t")[-1]["changed"] == ["c5", "c130"]


def test_table_without_columns(log: Log) -> None:
    log.run("create table t ()", "insert into t default values", "delete from t")
    assert [op for op, _, _ in log.ops("t")] == ["INSERT", "DELETE"]


def test_toasted_values_that_do_not_change_are_not_stored_again(log: Log) -> None:
    log.run(
        "create table t (id int primary key, a int, big text)",
        "alter table t alter big set storage external",
        "insert into t values (1, 1, repeat('x', 100000))",
        "update t set a = 2",
        "update t set big = big || 'y'",
    )
    assert [m["changed"] for m in log.mutations("t")[1:]] == [["a"], ["big"]]
    assert len(log.mutations("t")[2]["new"]["big"]) == 100001


def test_the_laws_of_the_log_hold_for_what_recorders_write(log: Log) -> None:
    """They are constraints of attempted_log only, since CHECKs would double the cost of a row."""
    _partitioned(log)
    log.run(
        "create table u (id int primary key, a int)",
        "insert into u values (1, 1), (2, 2)",
        "update u set id = 3, a = 9 where id = 1",
        "delete from u where id = 2",
        "truncate u",
        "update t set k = 3 - k",
    )
    with psycopg.connect(log.database.superuser) as conn:
        copied = conn.execute("insert into flux.attempted_log select * from flux.mutation_log")
        assert copied.rowcount == 9


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
def test_a_page_of_history_is_the_end_of_all_of_it(log: Log, limit: int) -> None:
    log.run(
        "create table t (id int primary key, a int, b text)",
        "insert into t values (1, 1, 'x'), (5, 5, 'five')",
        "update t set a = 2 where id = 1",
        "update t set b = 'y', a = 3 where id = 1",
        "update t set id = 2 where id = 1",
        "update t set id = 1, b = 'back' where id = 2",
        "delete from t where id = 1",
        "update t set id = 1 where id = 5",
        "update t set a = 9 where id = 1",
    )
    for options in ("", ", p_column => 'a'", ", p_include_rolled_back => true"):
        whole = log.rows(f"select * from flux.history('t', '1'{options})")
        page = log.rows(f"select * from flux.history('t', '1'{options}, p_limit => {limit})")
        assert page == whole[-limit:] and len(whole) > 4
    log.run("select flux.untrack('t')", "select flux.track('t')", "update t set a = 10")
    whole = log.rows("select * from flux.history('t', '1')")
    page = log.rows(f"select * from flux.history('t', '1', p_limit => {limit})")
    changes = [row for row in page if row["op"] != "GAP"]
    assert page == whole[-len(page) :] and len(changes) == min(limit, len(whole) - 1)
    assert ("GAP" in [row["op"] for row in page]) is (limit > 1 or page[-1]["op"] == "GAP")
