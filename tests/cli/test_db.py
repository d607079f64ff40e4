"""`flux db …`, `flux prune` and `flux doctor`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flux_pg.config import load_settings
from tests.cli.conftest import Flux
from tests.cli.records import make_id, record, run_request
from tests.conftest import Database


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flux.toml").write_text("")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_users.sql").write_text(
        "create table users (id int primary key, iban text);\n"
    )
    return tmp_path


def test_migrate_applies_once_and_status_tells(flux: Flux, project: Path) -> None:
    before = flux("db", "status")
    assert before.code == 1 and "0001_users.sql  pending" in before.out
    assert "flux db migrate" in before.err
    done = flux("db", "migrate")
    assert done.code == 0 and re.fullmatch(r"applied 0001_users.sql \(\d+ ms\)\n", done.out)
    again = flux("db", "migrate")
    assert (again.code, again.out) == (0, "") and "nothing to apply" in again.err
    after = flux("db", "status")
    assert after.code == 0 and "0001_users.sql  applied" in after.out
    assert re.search(r"public.users .* \d{4}-\d\d-\d\d", after.out)
    document = json.loads(flux("db", "status", "--json").out)
    assert document["schema"] == "flux.db_status/1"
    assert document["applied"] == ["0001_users.sql"] and document["pending"] == []
    assert [t["table"] for t in document["tables"] if t["tracked_at"]] == ["users"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("select 1;\nselect nope;\n", "migrations/0002_x.sql:2"),
        ("create tabel x ();", "migrations/0002_x.sql:1"),
        ("begin; select 1; commit;", "migrations/0002_x.sql:1"),
    ],
)
def test_a_broken_migration_has_its_place_and_leaves_nothing(
    flux: Flux, project: Path, conn: Any, text: str, place: str
) -> None:
    (project / "migrations" / "0002_x.sql").write_text("create table half (id int);" + text)
    for arguments in (["db", "migrate"], ["db", "migrate", "--json"]):
        failed = flux(*arguments)
        assert failed.code == 2 and place in failed.out + failed.err
        assert "Traceback" not in failed.err
    assert conn.execute("select to_regclass('public.half')").fetchone() == (None,)


def test_track_and_untrack(flux: Flux, project: Path, conn: Any) -> None:
    assert flux("db", "migrate").code == 0
    refused = flux("db", "untrack", "users")
    assert refused.code == 2 and "--yes" in refused.err and "database" in refused.err
    done = flux("db", "untrack", "users", "--yes")
    assert (done.code, done.out) == (0, "users no longer tracked\n")
    conn.execute("insert into public.users values (1, 'x')")
    assert flux("state", "blame", "users", "1").code in (0, 3)
    assert flux("db", "track", "public.users").out == "users tracked\n"
    document = json.loads(flux("db", "track", "users", "--json").out)
    assert document == {"schema": "flux.track/1", "tables": ["users"]}
    for missing in ("nothing", "x y", "pg_catalog.pg_views"):
        assert flux("db", "track", missing).code == 3


def test_settings_reach_the_database(flux: Flux, project: Path, conn: Any) -> None:
    assert flux("db", "migrate").code == 0
    (project / "flux.toml").write_text(
        '[recording]\nredact = ["IBAN"]\n[database]\ntracked_schemas = ["public", "billing"]\n'
    )
    assert flux("db", "migrate").code == 0
    conn.execute("insert into public.users values (1, 'DE89')")
    conn.execute("create schema billing; create table billing.invoices (id int primary key)")
    row = conn.execute("select new from flux.mutations").fetchone()
    assert row[0]["iban"].startswith("redacted:")
    tracked = conn.execute("select table_name from flux.tracked_tables order by 1").fetchall()
    assert ("invoices",) in tracked
    # Gone from the file, but what was hidden stays hidden, and what is tracked stays tracked.
    (project / "flux.toml").write_text("")
    assert flux("db", "migrate").code == 0
    found = conn.execute("select count(*) from flux.redactions where pattern = 'iban'").fetchone()
    assert found == (1,)


def test_only_the_owner_applies_settings(database: Database) -> None:
    with psycopg.connect(database.app, autocommit=True) as app:
        with pytest.raises(psycopg.Error) as caught:
            app.execute("select flux.apply_settings(array['public'], array['x'])")
        assert caught.value.sqlstate == "ZF003"
    with psycopg.connect(database.admin, autocommit=True) as admin:
        query = "select flux.apply_settings(array['public'], array['X', 'x', ''])"
        assert admin.execute(query).fetchone() == (True,)
        assert admin.execute(query).fetchone() == (False,)


def test_psql_gets_its_arguments_and_gives_its_code(
    project: Path, database18: Database, conn: Any
) -> None:
    def psql(*arguments: str, url: str = database18.app) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flux_pg", "db", "psql", "--database-url", url, "--",
             *arguments],
            cwd=project, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = psql("-XAtc", "select 'it''s ' || 42")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it's 42\n", "")
    assert psql("-Xc", "nonsense").returncode == 1
    lost = psql("-Xc", "select 1", url="postgresql://x@127.0.0.1:1/x")
    assert lost.returncode == 4 and "Traceback" not in lost.stderr


def test_prune_drops_what_is_old_and_keeps_owners(flux: Flux, project: Path, conn: Any) -> None:
    assert flux("db", "migrate").code == 0
    old = record(conn, request_id=make_id(1_600_000_000_000))
    new = run_request(conn, "insert into public.users values (1, 'x')")
    assert flux("prune", "--older-than", "30d").code == 2
    assert flux("prune", "--older-than", "-1d", "--yes").code == 2
    assert flux("prune", "--older-than", "soon", "--yes").code == 2
    done = flux("prune", "--older-than", "30d", "--yes", "--json")
    assert done.code == 0
    assert json.loads(done.out)["schema"] == "flux.prune/1"
    assert flux("trace", str(old)).code == 3
    assert flux("trace", str(new)).code == 0
    assert flux("state", "blame", "users", "1").code == 0


def test_how_long_records_are_kept_is_the_owners_word(flux: Flux, project: Path, conn: Any) -> None:
    def kept() -> list[Any]:
        query = "select value #>> '{}' from flux.settings where name = 'retention'"
        return [row[0] for row in conn.execute(query).fetchall()]

    settings = (project / "flux.toml").read_text()
    assert flux("db", "migrate").code == 0 and kept() == []
    (project / "flux.toml").write_text(f'{settings}\n[retention]\nexecutions = "5w"\n')
    assert flux("db", "migrate").code == 0 and kept() == ["35 days"]
    for wrong in ('"soon"', "30", '"0d"', '"-3d"'):
        (project / "flux.toml").write_text(f"{settings}\n[retention]\nexecutions = {wrong}\n")
        refused = flux("db", "migrate")
        assert refused.code == 2 and "36h" in refused.err and kept() == ["35 days"]
    (project / "flux.toml").write_text(settings)
    assert flux("db", "migrate").code == 0 and kept() == []


def findings(flux: Flux) -> dict[str, list[dict[str, str]]]:
    told = flux("doctor", "--json")
    document = json.loads(told.out)
    assert document["schema"] == "flux.doctor/1"
    assert told.code == (0 if document["healthy"] else 1)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in document["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def test_a_healthy_project_is_told_so(flux: Flux, project: Path) -> None:
    assert flux("db", "migrate").code == 0
    shown = flux("doctor")
    assert shown.code == 0
    assert "✓ schema" in shown.out and "✗" not in shown.out and "?" not in shown.out
    found = findings(flux)
    assert {c for c, all_of in found.items() if all_of[0]["status"] != "ok"} <= {
        "git", "durability",
    }  # fmt: skip


def test_each_fault_is_found_with_its_fix(flux: Flux, project: Path, conn: Any) -> None:
    assert flux("db", "migrate").code == 0
    (project / "migrations" / "0002_x.sql").write_text("select 1")
    assert findings(flux)["migrations"][0]["fix"] == "Run `flux db migrate`."
    (project / "migrations" / "0001_users.sql").write_text("-- changed")
    assert findings(flux)["migrations"][0]["status"] == "failure"

    # With the event triggers on, the next DDL would put the table's own back.
    for (name,) in conn.execute("select evtname from pg_event_trigger").fetchall():
        conn.execute(f'alter event trigger "{name}" disable'.encode())
    assert findings(flux)["new tables"][0]["status"] == "warning"
    conn.execute("alter table public.users disable trigger all")
    tracking = findings(flux)["tracking"]
    assert tracking[0]["status"] == "failure" and "public.users" in tracking[0]["message"]
    assert "flux db track public.users" in tracking[0]["fix"]
    conn.execute("alter table public.users enable trigger all")

    for changed, status, said in (
        ("code_checksum = 'other'", "warning", "another unreleased build, whose functions differ"),
        ("tables_checksum = 'other'", "failure", "another unreleased build, whose tables differ"),
        ("version = '0.0.1'", "failure", "schema flux 0.0.1, installed as plain, is older than"),
        ("version = '99.0.0'", "failure", "schema flux 99.0.0, installed as plain, is newer than"),
    ):
        conn.execute(f"update flux.schema_version set {changed}".encode())
        (schema,) = findings(flux)["schema"]
        assert schema["status"] == status and said in schema["message"]
    assert schema["fix"] == "Upgrade flux-pg on this machine to 99.0.0."


def test_a_login_with_too_many_or_too_few_rights_is_found(
    flux: Flux, project: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flux("db", "migrate").code == 0
    monkeypatch.setenv("DATABASE_URL", database18.superuser)
    rights = findings(flux)["rights"]
    assert [f["status"] for f in rights] == ["warning"] and "superuser" in rights[0]["message"]


def test_a_check_that_cannot_look_is_not_all_well(
    flux: Flux, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flux("db", "migrate").code == 0
    monkeypatch.setattr("flux_pg.cli.checks._VERIFY", "select nope")
    shown = flux("doctor")
    assert shown.code == 1 and "? tracking" in shown.out and "could not look" in shown.out


def test_the_defaults_are_read_from_an_empty_project(project: Path) -> None:
    assert load_settings(project, {}, {}).tracked_schemas == ("public",)


def test_status_says_why_a_table_is_not_tracked(flux: Flux, project: Path) -> None:
    migration = (
        "create table kept (id int);\n"
        "create schema elsewhere; create table elsewhere.t (id int);\n"
        "create table left_out (id int);\n"
    )
    (project / "migrations" / "0009_tables.sql").write_text(migration)
    flux("db", "migrate")
    flux("db", "untrack", "left_out", "--yes")
    tables = {
        f"{row['schema']}.{row['table']}": row["why_not"]
        for row in json.loads(flux("db", "status", "--json").out)["tables"]
    }
    assert tables["public.kept"] is None
    assert tables["elsewhere.t"] == "not in a tracked schema"
    assert tables["public.left_out"] == "untracked with flux db untrack"
    assert "no: not in a tracked schema" in flux("db", "status").out
