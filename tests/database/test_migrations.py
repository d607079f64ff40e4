"""Project migrations: order, one transaction each, and messages that show the place."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from flux_pg.database.migrations import (
    MigrationError,
    migrate,
    migrate_at,
    read_migrations,
    state,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "migrations"
    path.mkdir()
    return path


@pytest.fixture
def conn(database):
    with psycopg.connect(database.admin, autocommit=True) as connection:
        yield connection


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def test_files_are_applied_once_in_the_order_of_their_numbers(conn, folder):
    write(folder, "10_third.sql", "alter table a add c int;")
    write(folder, "2_second.sql", "alter table a add b int;")
    write(folder, "1_first.sql", "create table a ();")
    seen = []
    assert [a.name for a in migrate(conn, folder, seen.append)] == [
        "1_first.sql",
        "2_second.sql",
        "10_third.sql",
    ]
    assert len(seen) == 3
    assert migrate(conn, folder) == ()
    rows = conn.execute("select name, applied_by from flux.migrations order by 1").fetchall()
    assert rows[0] == ("10_third.sql", "flux_admin")
    assert state(conn, folder).pending == ()


def test_a_missing_folder_means_no_migrations(conn, tmp_path):
    assert migrate(conn, tmp_path / "none") == ()


def test_a_failing_file_leaves_nothing_behind_and_shows_the_place(conn, folder):
    write(folder, "1_good.sql", "create table good ();")
    write(
        folder,
        "2_bad.sql",
        "create table half ();\n-- ünïcode before it\nselect\n\tcolumn_that_is_not from good;\n",
    )
    with pytest.raises(MigrationError) as caught:
        migrate(conn, folder)
    lines = caught.value.message.splitlines()
    assert lines[0] == 'migrations/2_bad.sql:4: column "column_that_is_not" does not exist'
    assert lines[1] == "\tcolumn_that_is_not from good;"
    assert lines[2] == "\t^"
    assert "SQLSTATE: 42703" in lines
    assert "flux db migrate" in caught.value.hint
    assert caught.value.exit_code == 2
    assert conn.execute("select to_regclass('good'), to_regclass('half')").fetchone() == (
        "good",
        None,
    )
    assert state(conn, folder).pending == ("2_bad.sql",)


def test_an_error_without_a_position_points_at_its_statement(conn, folder):
    write(folder, "1.sql", "create table a (b int not null);\n\n\ninsert into a values (null);\n")
    with pytest.raises(
        MigrationError, match=r"migrations/1\.sql:4: null value in column"
    ) as caught:
        migrate(conn, folder)
    assert "insert into a values (null);\n^" in caught.value.message
    assert "DETAIL: Failing row contains (null)." in caught.value.message


def test_a_syntax_error_inside_a_function_body_is_placed(conn, folder):
    write(
        folder,
        "1.sql",
        "select 1;\ncreate function f() returns void language plpgsql as $$\nbegin\n"
        "  frobnicate;\nend $$;",
    )
    with pytest.raises(MigrationError, match=r"migrations/1\.sql:4: syntax error"):
        migrate(conn, folder)


def test_a_changed_file_is_refused_but_line_ends_are_no_change(conn, folder):
    write(folder, "1.sql", "create table a ();\nselect 1;\n")
    migrate(conn, folder)
    (folder / "1.sql").write_bytes(b"\xef\xbb\xbfcreate table a ();\r\nselect 1;\r\n")
    assert migrate(conn, folder) == ()
    write(folder, "1.sql", "create table b ();")
    with pytest.raises(MigrationError, match=r"1\.sql was changed after it was applied"):
        migrate(conn, folder)
    assert state(conn, folder).changed == ("1.sql",)


def test_a_file_that_comes_too_late_is_refused(conn, folder):
    write(folder, "5.sql", "create table a ();")
    migrate(conn, folder)
    write(folder, "3.sql", "create table b ();")
    with pytest.raises(MigrationError, match=r"3\.sql comes before .* \(number 5\)") as caught:
        migrate(conn, folder)
    assert "above 5" in caught.value.hint


def test_an_older_checkout_is_not_refused_but_reported(conn, folder):
    write(folder, "1.sql", "select 1;")
    write(folder, "2.sql", "select 1;")
    migrate(conn, folder)
    (folder / "2.sql").unlink()
    assert migrate(conn, folder) == ()
    assert state(conn, folder).missing == ("2.sql",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("first.sql", "", "has no number"),
        ("1.sql", "select 1;\ncommit;", r"1\.sql:2: a migration may not control transactions"),
        ("1.sql", "begin;", "may not control"),
        ("1.sql", "start transaction", "may not control"),
        ("1.sql", "\\i other.sql", "command of psql"),
        ("1.sql", "copy a (b) from stdin;", r"1\.sql:1: copy from stdin has no input"),
    ],
)
def test_files_that_cannot_work_are_refused(conn, folder, name, text, message):
    write(folder, name, text)
    with pytest.raises(MigrationError, match=message):
        migrate(conn, folder)
    assert conn.execute("select count(*) from flux.migrations").fetchone() == (0,)
    assert conn.execute("select 1").fetchone() == (1,)


def test_two_files_with_one_number_are_refused(conn, folder):
    write(folder, "01_a.sql", "")
    write(folder, "1_b.sql", "")
    with pytest.raises(MigrationError, match="have the same number"):
        migrate(conn, folder)


def test_savepoints_are_allowed(conn, folder):
    write(folder, "1.sql", "savepoint a; create table t (); rollback to savepoint a;")
    migrate(conn, folder)
    assert conn.execute("select to_regclass('t')").fetchone() == (None,)


def test_settings_of_one_file_do_not_reach_the_next(conn, folder):
    write(folder, "1.sql", "select pg_catalog.set_config('search_path', '', false);")
    write(folder, "2.sql", "create table here ();")
    migrate(conn, folder)
    assert conn.execute("select to_regclass('public.here')").fetchone() == ("here",)


def test_a_file_may_ask_for_no_transaction(conn, folder):
    text = "-- An index on a big table.\n-- flux: no-transaction\n"
    write(folder, "1.sql", "create table a (b int);")
    write(folder, "2.sql", text + "create index concurrently on a (b);")
    assert len(migrate(conn, folder)) == 2
    write(
        folder, "3.sql", text + "create table kept ();\ncreate index concurrently on nowhere (b);"
    )
    with pytest.raises(MigrationError, match=r"3\.sql:4") as caught:
        migrate(conn, folder)
    assert "first 1 statements stay applied" in caught.value.hint
    held = conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
    assert held == (0,)


def test_several_nodes_at_once_apply_each_file_once(database, folder):
    for number in range(1, 4):
        write(folder, f"{number}.sql", f"create table t{number} (); select pg_sleep(0.05);")
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(migrate_at(database.admin, folder)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.name for applied in results for a in applied) == ["1.sql", "2.sql", "3.sql"]


def test_the_application_may_not_migrate_nor_claim_that_it_did(database, folder):
    with psycopg.connect(database.app, autocommit=True) as conn:
        with pytest.raises(psycopg.DatabaseError) as caught:
            conn.execute("select flux.record_migration('1.sql', 'x', 0)")
        assert caught.value.sqlstate == "ZF003"


def test_a_lost_connection_is_not_blamed_on_the_file(conn, folder):
    write(folder, "1.sql", "select pg_terminate_backend(pg_backend_pid());")
    with pytest.raises((psycopg.OperationalError, MigrationError)):
        migrate(conn, folder)


def test_a_file_without_a_statement_waits_until_it_has_one(conn, folder):
    write(folder, "1_first.sql", "create table a ();")
    write(folder, "2_new.sql", "-- to be written\n")
    waiting = []
    assert [a.name for a in migrate(conn, folder, on_waiting=waiting.append)] == ["1_first.sql"]
    assert waiting == ["2_new.sql"]
    assert state(conn, folder).pending == ("2_new.sql",)
    write(folder, "2_new.sql", "-- to be written\ncreate table b ();")
    assert [a.name for a in migrate(conn, folder)] == ["2_new.sql"]


def test_a_file_after_one_without_a_statement_is_refused(conn, folder):
    write(folder, "1_empty.sql", "")
    write(folder, "2_table.sql", "create table a ();")
    with pytest.raises(MigrationError, match=r"1_empty\.sql has no statement") as caught:
        migrate(conn, folder)
    assert caught.value.code == "migration-empty"
    assert state(conn, folder).pending == ("1_empty.sql", "2_table.sql")


def test_an_empty_file_that_was_applied_stays_applied(conn, folder):
    write(folder, "1_empty.sql", "")
    checksum = read_migrations(folder)[0].checksum
    conn.execute("select flux.record_migration('1_empty.sql', %s, 0)", (checksum,))
    write(folder, "2_table.sql", "create table a ();")
    assert [a.name for a in migrate(conn, folder)] == ["2_table.sql"]


def test_a_statement_that_forbids_a_transaction_names_the_comment_that_helps(conn, folder):
    write(folder, "1_table.sql", "create table a (x int);")
    write(folder, "2_index.sql", "create index concurrently on a (x);")
    with pytest.raises(MigrationError) as caught:
        migrate(conn, folder)
    assert "-- flux: no-transaction" in caught.value.hint
