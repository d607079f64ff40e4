"""Schema flux installed both ways, by every kind of role, and changed afterwards."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from flux_pg.database import extension, schema, sql_files
from flux_pg.database.binaries import Binaries, find
from flux_pg.database.schema import SchemaError, install
from flux_pg.database.sql_files import Body, SqlFile, upgrade_path
from flux_pg.errors import FluxError
from tests.conftest import Database, run_server
from tests.database.catalog import read_catalog

ROOT = Path(__file__).parents[2]
PARTITION_HAS_IT = re.compile(
    r'multiple primary keys for table "\w+_\d{4}w\d\d" are not allowed'
    r'|relation "\w+_\d{4}w\d\d_\w+_idx\w*" already exists'
)


@pytest.fixture
def empty(server):
    """A database without schema flux."""
    made = server.create_database(flux=False)
    yield made
    server.drop_database(made.name)


def relocated(binaries: Binaries, root: Path) -> Binaries:
    """A copy of an installation whose share directory is ours to write.

    Postgres finds its directories relative to its own program, if they lie as they were built.
    """
    asked = {
        name: Path(
            subprocess.run(
                [binaries.tool("pg_config"), f"--{name}"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
        )
        for name in ("bindir", "sharedir", "pkglibdir")
    }
    place = {name: root / path.relative_to("/") for name, path in asked.items()}
    shutil.copytree(asked["sharedir"], place["sharedir"])
    place["bindir"].mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_config", "pg_dump", "psql"):
        # Debian's are links to the programs here; only a copy is looked up by its own place.
        shutil.copy(binaries.tool(name), place["bindir"] / name)
    place["pkglibdir"].symlink_to(asked["pkglibdir"])
    return find(place["bindir"])


@pytest.fixture(scope="module")
def extension_server(server, tmp_path_factory):
    """A server that can see files of ours as an extension."""
    if server.version >= 18:
        yield server
        return
    try:
        binaries = relocated(server.binaries, tmp_path_factory.mktemp("relocated"))
        extension.copy_into_share(binaries)
    except (OSError, SchemaError) as error:
        pytest.skip(f"this Postgres cannot be copied: {error}")
    yield from run_server(binaries, tmp_path_factory.mktemp("pg-extension"))


@pytest.fixture(scope="module")
def extension_files(extension_server, tmp_path_factory):
    """Where the extension is, as install_extension wants to know it."""
    if extension_server.version < 18:
        return None
    parent = tmp_path_factory.mktemp("extension")
    extension.write(parent / "extension")
    return parent


@pytest.fixture
def for_extension(extension_server):
    """A database without schema flux, on a server that sees the extension."""
    made = extension_server.create_database(flux=False)
    yield made
    extension_server.drop_database(made.name)


def connect(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True)


@pytest.fixture
def installer(empty):
    """A role like the administrator of a managed server: no superuser, CREATEROLE."""
    name = f"{empty.name}_installer"
    with connect(empty.superuser) as conn:
        conn.execute(sql.SQL("create role {} login createrole").format(sql.Identifier(name)))
        conn.execute(
            sql.SQL("alter database {} owner to {}").format(
                sql.Identifier(empty.name), sql.Identifier(name)
            )
        )
        if conn.info.server_version >= 160000:
            # As if this role had created them, as it would on a server of its own.
            for role in ("flux_owner", "flux_runtime", "flux_reader"):
                conn.execute(
                    sql.SQL("grant {} to {} with admin true, inherit false, set false").format(
                        sql.Identifier(role), sql.Identifier(name)
                    )
                )
    yield name
    with connect(empty.superuser) as conn:
        conn.execute(sql.SQL("reassign owned by {} to postgres").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def dump_as(database: Database, login: str) -> str:
    """What pg_dump gives with the rights of a role."""
    done = subprocess.run(
        [
            database.server.binaries.tool("pg_dump"), "--role", login, "-d", database.superuser,
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_work(conn: psycopg.Connection) -> None:
    conn.execute("create table kept (id int primary key, note text)")
    conn.execute("select flux.track('kept')")
    conn.execute("insert into kept values (1, 'a change to keep')")


def make_partitions(database: Database) -> None:
    with connect(database.superuser) as conn:
        while conn.execute("select flux.ensure_partitions(1)").fetchone() != (0,):
            pass


def test_the_owner_of_the_database_can_dump_the_record(database):
    with connect(database.admin) as conn:
        make_work(conn)
    make_partitions(database)
    assert dump_as(database, "flux_admin").count("a change to keep") == 2


def test_who_installed_without_superuser_can_dump_the_record(empty, installer):
    with connect(empty.superuser) as conn:
        conn.execute(sql.SQL("set session authorization {}").format(sql.Identifier(installer)))
        install(conn)
        make_work(conn)
    make_partitions(empty)
    assert dump_as(empty, installer).count("a change to keep") == 2


def test_both_ways_give_the_same_catalog(for_extension, database, extension_files):
    with connect(for_extension.superuser) as conn:
        done = extension.install_extension(conn, extension_files)
        assert (done.action, done.installed_as) == ("installed", "extension")
        as_extension = read_catalog(conn)
    with connect(database.superuser) as conn:
        as_plain = read_catalog(conn)
    for name, rows in as_plain.items():
        assert as_extension[name] == rows, name
    assert as_plain["functions"]


def test_everything_belongs_to_flux_owner(database):
    with connect(database.superuser) as conn:
        others = conn.execute("""
            select c.oid::regclass::text from pg_class as c
            where c.relnamespace = 'flux'::regnamespace and c.relowner <> 'flux_owner'::regrole
            union all
            select p.oid::regprocedure::text from pg_proc as p
            where p.pronamespace = 'flux'::regnamespace and p.proowner <> 'flux_owner'::regrole
        """).fetchall()
    assert others == []


def test_a_role_without_superuser_installs_the_same(empty, installer, database):
    with connect(empty.superuser) as conn:
        conn.execute(sql.SQL("set session authorization {}").format(sql.Identifier(installer)))
        done = install(conn)
        assert done.action == "installed"
        assert install(conn).action == "current"
        member = conn.execute("select pg_has_role('flux_owner', 'usage')").fetchone()
        assert member == (False,), "the installer keeps no rights on the records"
        assert conn.execute("select count(*) from flux.executions").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("delete from flux.execution_log")
    superuser_files = [file for file in sql_files.body().files if file.superuser]
    assert len(done.notices) == len(superuser_files)
    with connect(empty.superuser) as one, connect(database.superuser) as other:
        # Who may make backups: here the installer, there the owner of the database.
        for conn, name in ((one, installer), (other, "flux_admin")):
            conn.execute(
                sql.SQL(
                    "revoke select on all tables in schema flux from {0};"
                    "revoke select on all sequences in schema flux from {0}"
                ).format(sql.Identifier(name))
            )
        mine, theirs = read_catalog(one), read_catalog(other)
    for name in theirs:
        if name != "event triggers":
            assert mine[name] == theirs[name], name


def test_a_role_with_too_few_rights_is_told_what_it_needs(empty):
    with connect(empty.app) as conn, pytest.raises(SchemaError) as caught:
        install(conn)
    assert caught.value.code == "not-permitted"
    assert "CREATEROLE" in caught.value.hint


@pytest.fixture
def stranger(database):
    """A login that is a member of nothing."""
    name = f"stranger_{database.name}"
    with connect(database.superuser) as conn:
        conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def refused(database: Database, login: str, version: str | None = None) -> SchemaError:
    """What a login without the right to install is told."""
    body = sql_files.body()
    body = replace(body, version=version) if version else body
    with connect(database.superuser) as conn, pytest.raises(SchemaError) as caught:
        conn.execute(sql.SQL("set session authorization {}").format(sql.Identifier(login)))
        install(conn, body=body, logins=[login])
    return caught.value


def test_a_login_that_may_not_use_the_schema_is_told_to_be_granted_its_roles(database, stranger):
    error = refused(database, stranger)
    assert "is installed in this database" in error.message and stranger in error.message
    assert error.hint == f'As a superuser: grant flux_runtime, flux_reader to "{stranger}";'
    with connect(database.superuser) as conn:
        conn.execute(sql.SQL("grant flux_reader to {}").format(sql.Identifier(stranger)))
    error = refused(database, stranger)
    assert f"its version, {sql_files.body().version}, is the right one" in error.message
    assert error.hint == f'As a superuser: grant flux_runtime, flux_reader to "{stranger}";'


def test_a_login_that_may_not_upgrade_is_told_which_version_is_there_and_which_is_needed(database):
    mine = sql_files.body().version
    error = refused(database, "flux_app", "99.0.0")
    assert f"has version {mine}, older than this Flux (99.0.0)" in error.message
    assert "FLUX_ADMIN_URL" in error.hint and "flux db migrate" in error.hint
    error = refused(database, "flux_app", "0.0.1")
    assert error.code == "schema-newer"
    assert f"has version {mine}, newer than this Flux (0.0.1)" in error.message
    assert error.hint == f"Upgrade flux-pg on this machine to {mine}."


def test_several_nodes_may_install_at_once(empty):
    results: list[str] = []

    def run() -> None:
        results.append(schema.install_at(empty.superuser).action)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["current", "current", "current", "installed"]


def test_a_failed_installation_leaves_nothing(empty):
    body = sql_files.body()
    broken = replace(
        body, files=(*body.files, SqlFile("functions/bad.sql", "select 1;\nselect frob();"))
    )
    with connect(empty.superuser) as conn:
        with pytest.raises(SchemaError, match=r"sql/functions/bad\.sql:2: function frob\(\)"):
            install(conn, body=broken)
        assert conn.execute("select to_regnamespace('flux')").fetchone() == (None,)
        assert conn.execute("select current_setting('role')").fetchone() == ("none",)


def changed(name: str, old: str, new: str) -> Body:
    body = sql_files.body()
    files = tuple(
        replace(file, text=file.text.replace(old, new)) if file.name == name else file
        for file in body.files
    )
    assert files != body.files
    return replace(body, files=files)


def test_functions_of_an_unreleased_build_are_applied_again(database):
    body = changed("functions/span_hex.sql", "16, '0'", "18, '0'")
    with connect(database.superuser) as conn:
        assert install(conn, body=body).action == "refreshed"
        assert conn.execute("select length(flux.span_hex(1))").fetchone() == (18,)
        assert install(conn, body=body).action == "current"
        assert install(conn).action == "refreshed"
        assert conn.execute("select length(flux.span_hex(1))").fetchone() == (16,)


def test_a_refresh_changes_nothing_when_nothing_but_a_comment_changed(database):
    body = changed("functions/span_hex.sql", "create function", "-- A remark.\ncreate function")
    with connect(database.superuser) as conn:
        before = read_catalog(conn)
        assert install(conn, body=body).action == "refreshed"
        after = read_catalog(conn)
    for name in before:
        if name != "rows":
            assert before[name] == after[name], name


def test_tables_of_another_unreleased_build_are_refused(database):
    body = changed("tables.sql", "client_request_id text", "client_request_id varchar")
    with connect(database.superuser) as conn:
        with pytest.raises(SchemaError, match="its tables differ") as caught:
            install(conn, body=body)
        assert "drop schema flux cascade" in caught.value.hint
        conn.execute("drop schema flux cascade")
        assert install(conn, body=body).action == "installed"


def test_versions_are_compared_and_upgraded(database, monkeypatch):
    body = sql_files.body()
    newer = replace(body, version="0.10.0")
    steps = {
        ("0.1.0", "0.9.0"): "create table flux.added_in_9 ();",
        ("0.9.0", "0.10.0"): "create function flux.added_in_10() returns int return 1;",
    }
    monkeypatch.setattr(sql_files, "upgrades", lambda: steps)
    with connect(database.superuser) as conn:
        assert install(conn, body=newer).action == "upgraded"
        assert schema.schema_version(conn).version == "0.10.0"
        owner = conn.execute(
            "select relowner::regrole::text from pg_class where relname = 'added_in_9'"
        )
        assert owner.fetchone() == ("flux_owner",)
        with pytest.raises(SchemaError, match=r"version 0\.10\.0, newer than this Flux"):
            install(conn)
        with pytest.raises(FluxError, match=r"cannot upgrade schema flux from version 0\.10\.0"):
            install(conn, body=replace(body, version="1.0.0"))


def test_the_upgrade_path_is_the_shortest():
    steps = [("1", "2"), ("2", "3"), ("1", "3"), ("3", "1"), ("2", "1"), ("3", "4")]
    assert upgrade_path("1", "4", steps) == [("1", "3"), ("3", "4")]
    with pytest.raises(FluxError):
        upgrade_path("4", "1", steps)


def test_an_extension_does_not_take_over_a_plain_schema(for_extension, extension_files):
    schema.install_at(for_extension.superuser)
    with connect(for_extension.superuser) as conn, pytest.raises(SchemaError, match="plain SQL"):
        extension.install_extension(conn, extension_files)


def test_an_extension_is_seen_as_current(for_extension, extension_files):
    with connect(for_extension.superuser) as conn:
        extension.install_extension(conn, extension_files)
        assert install(conn).action == "current"
        assert extension.install_extension(conn, extension_files).action == "current"


def test_an_extension_may_be_created_by_a_superuser_through_set_role(
    for_extension, extension_files
):
    with connect(for_extension.superuser) as conn:
        conn.execute("create role a_boss superuser")
        try:
            conn.execute("set role a_boss")
            extension.install_extension(conn, extension_files)
            assert conn.execute("select current_user").fetchone() == ("a_boss",)
        finally:
            conn.execute("reset role")
            conn.execute("drop owned by a_boss cascade")
            conn.execute("drop role a_boss")


def test_only_known_tables_have_rows_from_the_start(database):
    """What an installation writes must not collide with what a restore copies in."""
    with connect(database.superuser) as conn:
        tables = conn.execute(
            "select oid::regclass::text from pg_class "
            "where relnamespace = 'flux'::regnamespace and relkind = 'r'"
        ).fetchall()
        filled = {
            name
            for (name,) in tables
            if conn.execute(f"select exists (select from {name})").fetchone() == (True,)
        }
    assert filled == {"flux.schema_version", "flux.settings", "flux.redactions"}


@pytest.fixture
def restored(for_extension, extension_server, extension_files, tmp_path):
    """A function that dumps the database and restores it into another one."""
    target = extension_server.create_database(flux=False)
    tool = extension_server.binaries.tool

    def dump_and_restore():
        dump = tmp_path / "dump.sql"
        subprocess.run([tool("pg_dump"), "-d", for_extension.superuser, "-f", dump], check=True)
        assert "create extension" in dump.read_text().lower()
        if extension_files is not None:
            with connect(target.superuser) as conn:
                statement = "alter database {} set extension_control_path = {}"
                conn.execute(
                    sql.SQL(statement).format(
                        sql.Identifier(target.name), sql.Literal(f"{extension_files}:$system")
                    )
                )
        done = subprocess.run(
            [tool("psql"), "-X", "-q", "-d", target.superuser, "-f", dump],
            capture_output=True,
            text=True,
            check=False,
        )
        # pg_dump does not know that attaching a partition to a table of an extension already gives
        # it key and indexes, and makes them again: harmless, and nothing else may be said.
        said = [line.partition("ERROR:  ")[2] for line in done.stderr.splitlines()]
        assert [line for line in said if not PARTITION_HAS_IT.fullmatch(line)] == []
        return target

    yield dump_and_restore
    extension_server.drop_database(target.name)


def test_a_dump_of_the_extension_restores_its_rows(for_extension, extension_files, restored):
    request_id = "0190a0b0-0000-7000-8000-000000000001"
    with connect(for_extension.superuser) as conn:
        extension.install_extension(conn, extension_files)
        conn.execute("insert into flux.redactions (pattern) values ('%shoe_size%')")
        conn.execute(
            "insert into flux.execution_log"
            " (request_id, trace_id, root_span_id, kind, started_at, state, outcome)"
            " values (%s, %s, 1, 'http', now(), 'completed', 'ok')",
            (request_id, request_id),
        )
        key = conn.execute("select flux.redaction_key()").fetchone()
        original = read_catalog(conn)
    with connect(restored().superuser) as conn:
        assert conn.execute("select request_id::text from flux.executions").fetchall() == [
            (request_id,)
        ]
        assert conn.execute("select flux.redaction_key()").fetchone() == key
        own = conn.execute("select pattern from flux.redactions where not is_default")
        assert own.fetchall() == [("%shoe_size%",)]
        assert install(conn).action == "current"
        again = read_catalog(conn)
    for name in original:
        assert again[name] == original[name], name


def test_a_restored_table_keeps_its_history_and_goes_on_being_recorded(
    for_extension, extension_files, restored
):
    history = "select op, old, new, seq from flux.history('notes', '1') order by seq"
    with connect(for_extension.superuser) as conn:
        extension.install_extension(conn, extension_files)
        # Partitions are made as time goes by; they are no members of the extension.
        while conn.execute("select flux.ensure_partitions()").fetchone() != (0,):
            pass
        original = read_catalog(conn)
    with connect(for_extension.admin) as conn:
        conn.execute("create table notes (id int primary key, body text)")
        conn.execute("insert into notes values (1, 'first')")
        conn.execute("update notes set body = 'second'")
        before = conn.execute(history).fetchall()
        assert [row[0] for row in before] == ["INSERT", "UPDATE"]
    target = restored()
    with connect(target.superuser) as conn:
        logs = conn.execute("select distinct tableoid::regclass::text from flux.mutation_log")
        assert [name for (name,) in logs if not name.endswith("_default")]
        assert conn.execute("select flux.ensure_partitions()").fetchone() == (0,)
        again = read_catalog(conn)
        for name in ("relations", "columns", "constraints", "indexes", "event triggers"):
            assert set(again[name]) >= set(original[name]), name
    with connect(target.admin) as conn:
        assert conn.execute(history).fetchall() == before
        conn.execute("update notes set body = 'third'")
        after = conn.execute(history).fetchall()
        assert after[:2] == before
        assert after[2][0] == "UPDATE"
        assert after[2][3] > before[-1][3]
        conn.execute("create table later (id int primary key)")
        conn.execute("insert into later values (1)")
        assert conn.execute("select count(*) from flux.history('later', '1')").fetchone() == (1,)


def test_a_dump_of_the_plain_schema_restores_in_silence(database, empty, tmp_path):
    history = "select op, old, new, seq from flux.history('notes', '1') order by seq"
    with connect(database.superuser) as conn:
        while conn.execute("select flux.ensure_partitions()").fetchone() != (0,):
            pass
    with connect(database.admin) as conn:
        conn.execute("create table notes (id int primary key, body text)")
        conn.execute("insert into notes values (1, 'first')")
        before = conn.execute(history).fetchall()
    with connect(database.superuser) as conn:
        original = read_catalog(conn)
    tool = database.server.binaries.tool
    dump = tmp_path / "dump.sql"
    subprocess.run([tool("pg_dump"), "-d", database.superuser, "-f", dump], check=True)
    done = subprocess.run(
        [tool("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty.superuser, "-f", dump],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    with connect(empty.superuser) as conn:
        assert install(conn).action == "current"
        again = read_catalog(conn)
    for name in original:
        assert again[name] == original[name], name
    with connect(empty.admin) as conn:
        assert conn.execute(history).fetchall() == before
        conn.execute("update notes set body = 'second'")
        assert len(conn.execute(history).fetchall()) == 2


def test_the_sql_files_are_the_manifest_and_nothing_else():
    listed = {file.name for file in sql_files.body().files}
    on_disk = {
        str(path.relative_to(ROOT / "sql"))
        for path in (ROOT / "sql").rglob("*.sql")
        if path.parent.name != "upgrades"
    }
    assert on_disk - listed == {"roles.sql", "preamble.sql"}


@pytest.mark.timeout(300)
def test_the_wheel_carries_the_same_sql_as_the_checkout(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend is needed to build a wheel here")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, site], check=True)
    code = (
        "from flux_pg.database import sql_files; body = sql_files.body();"
        "print(sql_files.root(), body.tables_checksum, body.code_checksum)"
    )
    libraries = os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    done = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path += {libraries.split(os.pathsep)!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    place, tables, rest = done.stdout.split()
    sql_files.body.cache_clear()
    body = sql_files.body()
    assert place.startswith(site)
    assert (tables, rest) == (body.tables_checksum, body.code_checksum)


def test_an_unprivileged_login_may_ask_for_what_is_already_there(database):
    assert schema.install_at(database.app).action == "current"


def test_a_runtime_login_of_its_own_may_record_and_read_but_not_change_the_schema(empty):
    name = f"{empty.name}_app"
    identifier = sql.Identifier(name)
    with connect(empty.superuser) as conn:
        conn.execute(sql.SQL("create role {}").format(identifier))
        try:
            assert install(conn, logins=[name]).action == "installed"
            assert install(conn, logins=[name]).action == "current"
            conn.execute(sql.SQL("set role {}").format(identifier))
            assert conn.execute("select count(*) from flux.executions").fetchone() == (0,)
            assert conn.execute("select flux.redaction_key() is not null").fetchone() == (True,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("create table flux.mine ()")
        finally:
            conn.execute("reset role")
            conn.execute(sql.SQL("drop role {}").format(identifier))
