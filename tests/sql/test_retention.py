"""Records that are older than flux.toml keeps them go by themselves, a little at a time."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from flux_pg.database import roles
from tests.conftest import Database


@pytest.fixture
def owner(database: Database) -> Any:
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        yield conn


@pytest.fixture
def runtime(database: Database) -> Any:
    with psycopg.connect(database.app, autocommit=True) as conn:
        yield conn


def value(conn: Any, query: str, *arguments: Any) -> Any:
    return conn.execute(query, arguments or None).fetchone()[0]


def keep(database: Database, age: str | None) -> bool:
    """What `flux db migrate` does with `retention.executions`."""
    with psycopg.connect(database.admin, autocommit=True) as conn:
        return bool(value(conn, "select flux.apply_settings(null, '{}', %s::interval)", age))


def add_partition(conn: Any, log: str, year: int) -> None:
    conn.execute(
        f"create table flux.{log}_{year} partition of flux.{log}"
        f" for values from ('{year}-01-01') to ('{year}-01-08')".encode()
    )
    conn.execute(f"alter table flux.{log}_{year} owner to flux_owner".encode())


def partitions(conn: Any) -> list[str]:
    rows = conn.execute(
        "select relname from pg_class where relname ~ '_(2001|2002)$' order by relname"
    ).fetchall()
    return [row[0] for row in rows]


def test_all_is_kept_unless_the_owner_says_otherwise(
    database: Database, owner: Any, runtime: Any
) -> None:
    add_partition(owner, "mutation_log", 2001)
    assert value(runtime, "select flux.keep_retention()") == 0
    assert keep(database, "30 days") is True and keep(database, "30 days") is False
    assert keep(database, None) is True
    assert value(runtime, "select flux.keep_retention()") == 0
    assert partitions(owner) == ["mutation_log_2001"]
    with pytest.raises(psycopg.Error, match="does not own database"):
        value(runtime, "select flux.apply_settings(null, '{}', '1 second')")
    with pytest.raises(psycopg.Error, match="cannot be kept for"):
        keep(database, "-1 day")


def test_one_partition_goes_at_a_time_then_rows_so_many_at_once(
    database: Database, owner: Any, runtime: Any
) -> None:
    for log, year in (("mutation_log", 2001), ("job_archive", 2001), ("mutation_log", 2002)):
        add_partition(owner, log, year)
    # As on a server whose callers may make no temporary tables.
    roles.restrict_callers(owner, database.name)
    keep(database, "30 days")
    left = []
    for _ in range(3):
        assert value(runtime, "select flux.keep_retention(10)") == 1
        left.append(len(partitions(owner)))
    assert left == [2, 1, 0]
    owner.execute(
        "insert into flux.snapshots (at, snapshot)"
        " select '2001-01-01'::timestamptz + i * interval '1 s', pg_current_snapshot()"
        " from generate_series(1, 25) as i"
    )
    owner.execute("insert into flux.refusal_counts values ('2001-01-01', 'route', '', 3)")
    assert [value(runtime, "select flux.keep_retention(10)") for _ in range(4)] == [11, 10, 5, 0]
    assert value(owner, "select count(*) from flux.snapshots where at < '2002-01-01'") == 0


def test_a_log_that_is_read_is_left_for_the_next_time_and_the_others_go(
    database: Database, owner: Any, runtime: Any
) -> None:
    add_partition(owner, "attempted_log", 2001)
    add_partition(owner, "mutation_log", 2001)
    keep(database, "30 days")
    with psycopg.connect(database.superuser) as reader:
        reader.execute("select count(*) from flux.attempted_log")
        assert value(runtime, "select flux.keep_retention()") == 1
        assert partitions(owner) == ["attempted_log_2001"]
        assert value(runtime, "select flux.keep_retention()") == 0
    assert value(runtime, "select flux.keep_retention()") == 1
    assert partitions(owner) == []


def test_two_workers_do_not_keep_house_at_once(
    database: Database, owner: Any, runtime: Any
) -> None:
    add_partition(owner, "mutation_log", 2001)
    keep(database, "30 days")
    with psycopg.connect(database.app) as first:
        assert value(first, "select flux.keep_retention()") == 1
        # It would wait for the lock of the first's partition otherwise.
        assert value(runtime, "select flux.keep_retention()") == 0


def test_rows_of_a_default_partition_go_oldest_first_and_keep_their_owners(
    database: Database, owner: Any, runtime: Any
) -> None:
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute("create table t (id int primary key, a int)")
        conn.execute("insert into t select i, i from generate_series(1, 20) as i")
        conn.execute("update t set a = 0")
        before = conn.execute("select * from flux.blame('t', '7')").fetchall()
        count = "select count(*) from flux.mutation_log_default"
        if not value(owner, count):
            owner.execute(
                "with moved as (delete from flux.mutation_log returning *)"
                " insert into flux.mutation_log_default"
                ' select (jsonb_populate_record(m, \'{"at": "2001-01-09"}\')).* from moved as m'
            )
        else:
            owner.execute("update flux.mutation_log_default set at = '2001-01-09'")
        keep(database, "30 days")
        left = []
        while not left or left[-1]:
            value(runtime, "select flux.keep_retention(15)")
            left.append(value(owner, count))
        assert left == [25, 10, 0]
        after = conn.execute("select * from flux.blame('t', '7')").fetchall()
        assert [row[:6] for row in after] == [row[:6] for row in before]


def test_prune_can_be_had_one_partition_at_a_time(database: Database, owner: Any) -> None:
    for log, year in (("mutation_log", 2001), ("mutation_log", 2002)):
        add_partition(owner, log, year)
    with psycopg.connect(database.admin, autocommit=True) as conn:
        one = "select part, action from flux.prune('30 days', p_partitions => 1)"
        assert conn.execute(one).fetchall() == [("mutation_log_2001", "dropped")]
        assert conn.execute(one).fetchall() == [("mutation_log_2002", "dropped")]
        assert {row[1] for row in conn.execute(one).fetchall()} == {"deleted"}
        with pytest.raises(psycopg.Error, match="at most 0 partitions"):
            conn.execute("select flux.prune('30 days', 0)")
