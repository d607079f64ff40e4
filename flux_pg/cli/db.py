"""`flux db …` and `flux prune`: the project's database."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict
from tabulate import tabulate

from flux_pg.analysis.text import clean
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import read_duration, show_time
from flux_pg.cli.session import (
    Database,
    bring_up_to_date,
    connect,
    conninfo_of,
    open_database,
    translate_errors,
)
from flux_pg.errors import NotFoundError, UsageError


@click.group(epilog=examples("flux db migrate", "flux db status", "flux db psql"))
def db() -> None:
    """Migrate, track, inspect and open the project's database."""


@db.command(epilog=examples("flux db migrate", "flux db migrate --json"))
@scoped()
def migrate(scope: Scope) -> None:
    """Apply pending migrations, and install or refresh schema flux.

    Files migrations/NUMBER_name.sql are applied in order, each in a transaction of its own.
    """
    from flux_pg.database import schema

    settings = scope.project_settings
    with conninfo_of(settings, admin=True, prepare=True) as conninfo:
        if settings.database_url is not None:
            with translate_errors(conninfo):
                result = schema.install_at(conninfo)
            scope.note(f"schema flux {result.version}: {result.action}")
            for notice in result.notices:
                scope.note(scope.notes.warn(notice))
        waiting: list[str] = []
        applied = bring_up_to_date(settings, conninfo, waiting.append)
    if scope.as_json:
        scope.emit_json(
            {
                "schema": "flux.migrate/1",
                "applied": [{"name": a.name, "duration_ms": a.duration_ms} for a in applied],
                "waiting": waiting,
            }
        )
        return
    for one in applied:
        scope.emit(f"applied {one.name} ({one.duration_ms} ms)")
    for name in waiting:
        scope.note(scope.notes.warn(f"{clean(name)} has no statement yet: not applied"))
    if not applied and not waiting:
        scope.note("nothing to apply")


def _resolve_table(database: Database, table: str) -> str:
    """Return a table's name as Postgres writes it.

    Raises:
        NotFoundError: there is no such table.
    """
    try:
        row = database.execute(
            "select c.oid::regclass::text as name from pg_class as c"
            " where c.oid = to_regclass(%s) and c.relkind in ('r', 'p')",
            (table,),
        ).fetchone()
    except (psycopg.errors.SyntaxError, psycopg.errors.InvalidName):
        row = None
    if row is None:
        raise NotFoundError(
            f"there is no table {clean(table)}", "`flux db status` lists the tables.",
            code="no-table",
        )  # fmt: skip
    name: str = row["name"]
    return name


@db.command(epilog=examples("flux db track users", "flux db track billing.invoices"))
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@scoped()
def track(scope: Scope, tables: tuple[str, ...]) -> None:
    """Record every row change of a table from now on."""
    _switch(scope, tables, "track")


@db.command(epilog=examples("flux db untrack sessions"))
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@scoped()
def untrack(scope: Scope, tables: tuple[str, ...], yes: bool) -> None:
    """Stop recording the row changes of a table; what is recorded stays."""
    if not yes:
        ask(scope, f"stop recording {', '.join(tables)}")
    _switch(scope, tables, "untrack")


def _switch(scope: Scope, tables: tuple[str, ...], verb: str) -> None:
    with open_database(scope.settings, admin=True) as database:
        names = [_resolve_table(database, table) for table in tables]
        with database.transaction():
            for name in names:
                database.execute(f"select flux.{verb}(%s::regclass)".encode(), (name,))
    if scope.as_json:
        scope.emit_json({"schema": f"flux.{verb}/1", "tables": names})
        return
    done = "tracked" if verb == "track" else "no longer tracked"
    for name in names:
        scope.emit(f"{clean(name)} {done}")


def ask(scope: Scope, deed: str) -> None:
    """Have a destructive deed confirmed, naming the database.

    Raises:
        UsageError: nobody is there to ask.
    """
    settings = scope.settings
    where = describe_target(settings.database_url) if settings.database_url else (
        f"the embedded database of {settings.project_name}"
    )  # fmt: skip
    question = f"About to {deed} in {where}."
    if not os.isatty(0):
        raise UsageError(question, "Give --yes to do it.", code="needs-confirmation")
    click.confirm(f"{question} Go on?", abort=True, err=True)


def describe_target(conninfo: str) -> str:
    """Return `database on host` of a connection string, without user and password."""
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "the database"
    name = parts.get("dbname") or parts.get("service") or "the default database"
    return f"database {name} on {parts.get('host') or parts.get('hostaddr') or 'this machine'}"


_TABLES = """
select n.nspname as schema, c.relname as "table", c.reltuples::bigint as estimated_rows,
    t.tracked_at,
    case
        when t.tracked_at is not null then null
        when flux.is_left_out(c.oid) then 'untracked with flux db untrack'
        when not flux.is_schema_tracked(c.oid) then 'not in a tracked schema'
        when exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        ) then 'belongs to an extension'
        else 'never tracked: flux db track'
    end as why_not
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
left join flux.tracked_tables as t on t.relation = c.oid and t.untracked_at is null
where c.relkind in ('r', 'p') and not c.relispartition
    and n.nspname <> 'flux' and n.nspname !~ '^(pg_|information_schema)'
order by n.nspname, c.relname
"""


@db.command(epilog=examples("flux db status", "flux db status --json"))
@scoped()
def status(scope: Scope) -> None:
    """Show the migrations and which tables are tracked; exits 1 if a migration is pending."""
    settings = scope.settings
    directory = settings.project_dir / "migrations"
    with open_database(settings, admin=True) as database:
        tables = database.execute(_TABLES).fetchall()
        version = database.execute(
            "select version, installed_as from flux.schema_version"
        ).fetchone()
        found = _migration_state(database, directory)
    if scope.as_json:
        for table in tables:
            table["tracked_at"] = table["tracked_at"] and table["tracked_at"].isoformat()
        document = {"schema": "flux.db_status/1", "flux": version, "tables": tables, **found}
        scope.emit_json(document)
    else:
        _show_status(scope, version, found, tables)
    if found["pending"] or found["changed"]:
        scope.hint("flux db migrate" if found["pending"] else "put the changed file back")
        click.get_current_context().exit(1)
    if found["missing"]:
        scope.hint("the missing files were applied; an older checkout has no such files")


def _migration_state(database: Database, directory: Path) -> dict[str, list[str]]:
    from flux_pg.database import migrations

    with psycopg.connect(database.info.dsn, password=database.info.password or None) as plain:
        state = migrations.state(plain, directory)
    return {
        "applied": list(state.applied),
        "pending": list(state.pending),
        "changed": list(state.changed),
        "missing": list(state.missing),
    }


def _show_status(
    scope: Scope,
    version: dict[str, Any] | None,
    found: dict[str, list[str]],
    tables: list[dict[str, Any]],
) -> None:
    style = scope.style
    if version is not None:
        scope.emit(f"schema flux {version['version']} ({version['installed_as']})")
    paints = {"applied": style.good, "pending": style.warn, "changed": style.bad}
    rows = [
        [clean(name), paints.get(state, style.dim)(state)]
        for state in ("applied", "changed", "missing", "pending")
        for name in found[state]
        if state != "applied" or name not in found["changed"]
    ]
    if rows:
        scope.emit("")
        scope.emit(tabulate(rows, headers=["migration", "state"], disable_numparse=True))
    if tables:
        scope.emit("")
        listed = [
            [
                clean(f"{row['schema']}.{row['table']}"),
                "-" if row["estimated_rows"] < 0 else f"{row['estimated_rows']:,}",
                show_time(row["tracked_at"])
                if row["tracked_at"]
                else style.warn(f"no: {row['why_not']}"),
            ]
            for row in tables
        ]
        headers = ["table", "rows (estimate)", "tracked since"]
        scope.emit(
            tabulate(
                listed, headers=headers, disable_numparse=True, colalign=("left", "right", "left")
            )
        )


@db.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "flux db psql",
        """flux db psql -- -c "select * from flux.blame('users', '42')" """.rstrip(),
    ),
)
@click.argument("arguments", metavar="[-- ARGS...]", nargs=-1, type=click.UNPROCESSED)
@scoped(as_json=False)
def psql(scope: Scope, arguments: tuple[str, ...]) -> None:
    """Open the project's database in psql, as its owner; ARGS go to psql as they are."""
    from flux_pg.database import binaries

    with conninfo_of(scope.settings, admin=True, prepare=True) as conninfo:
        # Reached first, so that an unreachable database has the exit code it has everywhere.
        with connect(conninfo) as database:
            major = database.info.server_version // 10000
        # An older psql works too, but its \\d commands do not know a newer catalog.
        program = str(binaries.find_client("psql", major))
        try:
            done = subprocess.run([program, conninfo, *arguments], check=False)
        except KeyboardInterrupt:
            # psql handles Ctrl-C itself and is still ours to wait for.
            raise click.Abort from None
    click.get_current_context().exit(done.returncode)


def _prune(database: Database, age: timedelta) -> list[dict[str, Any]]:
    """Drop one partition a transaction: its log is locked for no longer than that takes."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        rows = database.execute("select * from flux.prune(%s::interval, 1)", (age,)).fetchall()
        found |= {row["part"]: row for row in rows}
        if not any(row["action"] == "dropped" for row in rows):
            return list(found.values())


@click.command(
    epilog=examples("flux prune --older-than 30d", "flux prune --older-than 12w --yes --json")
)
@click.option("--older-than", required=True, metavar="AGE", help="Such as 30d or 12w.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@scoped()
def prune(scope: Scope, older_than: str, yes: bool) -> None:
    """Drop records older than a given age.

    Executions, spans and row changes go; the present owner of each column (blame) stays.
    """
    age = read_duration(older_than)
    if age is None or age < timedelta(minutes=1):
        raise UsageError(
            f"--older-than: not an age of a minute or more: {older_than}", "Write it like 30d."
        )
    if not yes:
        ask(scope, f"drop every record older than {older_than}")
    with open_database(scope.settings, admin=True) as database:
        rows = _prune(database, age)
    left = [row for row in rows if row["action"].startswith("left")]
    if scope.as_json:
        scope.emit_json({"schema": "flux.prune/1", "parts": rows})
        click.get_current_context().exit(1 if left else 0)
    told = [[row["part"], f"{row['rows']:,}", row["action"]] for row in rows]
    if told:
        headers = ["part", "rows", "done"]
        scope.emit(
            tabulate(
                told, headers=headers, disable_numparse=True, colalign=("left", "right", "left")
            )
        )
    if left:
        scope.hint("some parts were in use; run it again later")
        click.get_current_context().exit(1)
