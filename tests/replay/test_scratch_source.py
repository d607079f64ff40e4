"""Scratch databases of other servers, with their roles and policies, and for other code."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from flux_pg.config import load_settings
from flux_pg.database import migrations
from flux_pg.replay.scratch import open_scratch
from tests.conftest import Database, Server
from tests.replay.scratch import rows, run, scratch_of, snapshot, value


async def test_roles_and_policies_of_another_server_hold(
    database: Database, pg18: Server, tmp_path: Path
) -> None:
    run(
        database.superuser,
        "do $$ begin create role clerk nologin; create role chief nologin in role clerk;"
        " exception when duplicate_object then null; end $$",
        "create table notes (id int primary key, writer text, secret_plan text)",
        "alter table notes owner to flux_admin",
        "insert into notes values (1, 'flux_app', 'a'), (2, 'else', 'b')",
        "alter table notes enable row level security",
        "create policy own on notes using (writer = current_user)",
        "create policy chief on notes to chief using (true)",
        "grant select on notes to clerk, flux_app",
        "alter role flux_app in database " + database.name + " set search_path = apart, public",
    )
    at = snapshot(database.admin)
    run(database.superuser, "delete from notes")
    async with scratch_of(database, at, pg18, tmp_path) as scratch:
        assert (scratch.refused, scratch.notes) == ((), ())
        assert rows(scratch.database_url, "select id from notes") == [(1,)]
        assert len(rows(scratch.admin_url, "select id from notes")) == 2
        assert value(scratch.database_url, "show search_path") == "apart, public"
        granted = "select has_table_privilege('clerk', 'notes', 'select')"
        assert value(scratch.database_url, granted)


async def test_who_is_a_superuser_there_is_none_here(
    pg15: Server, pg18: Server, tmp_path: Path
) -> None:
    database = pg15.create_database()
    try:
        run(
            database.superuser,
            "create table t (id int primary key)",
            "create function who() returns text language sql security definer"
            " as 'select current_user::text'",
            "create extension dblink",
            "insert into t values (1)",
        )
        at = snapshot(database.superuser)
        settings = load_settings(tmp_path, {})
        async with open_scratch(settings, database.superuser, at, server=pg18.launcher) as scratch:
            assert any("dblink" in note for note in scratch.notes)
            assert rows(scratch.database_url, "select * from t") == [(1,)]
            assert value(scratch.database_url, "select who()") == "flux_scratch"
            assert value(scratch.database_url, "show is_superuser") == "off"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run(scratch.database_url, "copy t to program 'true'")
    finally:
        pg15.drop_database(database.name)


async def test_the_definitions_are_those_of_the_code_that_will_run(
    database18: Database, pg18: Server, tmp_path: Path
) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    for directory in (early, late):
        directory.mkdir()
        (directory / "0001_t.sql").write_text(
            "create table t (id int generated always as identity primary key, a text);\n"
            "insert into t (a) values ('seed');\n"
        )
    (late / "0002_more.sql").write_text("alter table t add b int not null default 7;\n")
    migrations.migrate_at(database18.admin, early)
    run(database18.admin, "insert into t (a) values ('row')")
    migrations.migrate_at(database18.admin, late)
    at = snapshot(database18.admin)
    run(database18.admin, "update t set a = 'after', b = 8")
    for directory, wanted in (
        (early, [(1, "seed"), (2, "row")]),
        (late, [(1, "seed", 7), (2, "row", 7)]),
    ):
        async with scratch_of(database18, at, pg18, tmp_path, migrations=directory) as scratch:
            assert scratch.refused == ()
            assert rows(scratch.database_url, "select * from t") == wanted
            run(scratch.database_url, "insert into t (a) values ('replayed')")
            assert value(scratch.database_url, "select max(id) from t") == 3
            logged = "select array_agg(new ->> 'a') from flux.mutations"
            assert value(scratch.database_url, logged) == ["replayed"]
    (late / "0003_yet.sql").write_text("create table u (id int);\n")
    async with scratch_of(database18, at, pg18, tmp_path, migrations=late) as scratch:
        run(scratch.database_url, "insert into u values (1)")
