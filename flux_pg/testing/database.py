"""The database of a test: the project's migrations, the rows that the test names, nothing else.

It is made on the project's own scratch server under `.flux/scratch`, which is started if need be;
no other database is asked for anything, whatever DATABASE_URL says. One base is made for each state
of the migrations and copied for each run.
"""

from __future__ import annotations

import atexit
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from flux_pg.config import Settings
from flux_pg.database import migrations, roles
from flux_pg.database.cluster import SUPERUSER
from flux_pg.errors import FluxError
from flux_pg.replay.scratch_maker import pin
from flux_pg.replay.scratch_server import (
    LOADER,
    ScratchServer,
    own_server,
    start_or_renew,
    switch_event_triggers,
)
from flux_pg.testing.stubs import REDACTED, conceal

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


class FixtureError(FluxError):
    """The rows of a test do not fit the tables that the project's migrations make."""

    code = "fixture"


class ScratchHost:
    """The scratch server, and the bases that this process has made on it."""

    def __init__(self, state_dir: Path) -> None:
        self._embedded = own_server(state_dir)
        start_or_renew(self._embedded)
        self.scratch = ScratchServer(self._embedded)
        with _alone(self._embedded.home / "tests.lock"):
            self.scratch.open()
            self.scratch.grant_roles([roles.ADMIN], LOADER)
        self._bases: dict[Any, str] = {}

    def base(self, settings: Settings) -> str:
        """A database with the project's migrations and no rows but theirs."""
        folder = settings.project_dir / "migrations"
        had = tuple((file.name, file.checksum) for file in migrations.read_migrations(folder))
        key = (had, settings.tracked_schemas, settings.redact)
        if key not in self._bases:
            with _alone(self._embedded.home / "tests.lock"):
                self.scratch.admit_callers(settings.caller_logins)  # migrations grant to them
            name = self.scratch.create(self.scratch.blank(), roles.ADMIN)
            try:
                self._make(name, settings, folder)
            except BaseException:
                self.scratch.drop(name)
                raise
            self._bases[key] = name
        return self._bases[key]

    def _make(self, name: str, settings: Settings, folder: Path) -> None:
        scratch = self.scratch
        with psycopg.connect(scratch.dsn(SUPERUSER, name), autocommit=True) as conn:
            roles.grant_application_rights(conn)
            switch_event_triggers(conn, on=True)
        owner = scratch.dsn(roles.ADMIN, name)
        with psycopg.connect(owner, autocommit=True) as conn:
            conn.execute(
                "select flux.apply_settings(%s, %s)",
                (list(settings.tracked_schemas), list(settings.redact)),
            )
        migrations.migrate_at(owner, folder)
        with psycopg.connect(owner, autocommit=True) as conn:
            conn.execute("select * from flux.track_missing()")

    def close(self) -> None:
        """Drop what was made and leave the server."""
        try:
            self.scratch.close()
        finally:
            self._embedded.stop_sync(wait=False)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time: tests that run side by side would make the same roles."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_servers: dict[Path, ScratchHost] = {}


def join_server(state_dir: Path) -> ScratchHost:
    """The scratch server of a project, kept to the end of the process: a run of tests shares it.

    Raises:
        EmbeddedError: It cannot be started.
    """
    if state_dir not in _servers:
        _servers[state_dir] = ScratchHost(state_dir)
    return _servers[state_dir]


@atexit.register
def close() -> None:
    """Drop every database made here. Called at the end of the process."""
    while _servers:
        _servers.popitem()[1].close()


@contextmanager
def open_database(settings: Settings, rows: Rows, sequences: Mapping[str, int]) -> Iterator[str]:
    """A database with these rows, for one run.

    Args:
        settings: The project's.
        rows: By table; a table that is named holds these rows and no others, the other tables
            what the migrations put there.
        sequences: The next value of each.

    Yields:
        Its connection string, as functions connect.

    Raises:
        FluxError: It cannot be made: no Postgres, a migration that fails, rows that do not fit.
    """
    server = join_server(settings.state_dir)
    base = server.base(replace(settings, database_url=None))
    scratch = server.scratch
    name = scratch.create(base, roles.ADMIN)
    try:
        with psycopg.connect(scratch.dsn(LOADER, name), autocommit=True) as conn:
            pin(conn, replica=True)
            # Names in the tests are written as a function would write them.
            conn.execute("set search_path = public")
            load_rows(conn, rows)
            for sequence, value in sequences.items():
                with _explained(sequence):
                    conn.execute("select setval(%s::regclass, %s, false)", (sequence, value))
        yield scratch.dsn(roles.APP, name)
    finally:
        scratch.drop(name)


def load_rows(conn: psycopg.Connection[Any], rows: Rows) -> None:
    """Put rows in the place of those that the tables hold; no trigger or foreign key acts.

    Raises:
        FixtureError: A table or column is not there, or a value does not fit.
    """
    for table in rows:
        with _explained(table):
            conn.execute(sql.SQL("delete from {}").format(sql.SQL(table)))
    for table, given in rows.items():
        with _explained(table):
            _Writer(conn, table).write(given)


class _Writer:
    def __init__(self, conn: psycopg.Connection[Any], table: str) -> None:
        self._conn = conn
        self._table = table
        self._hidden = 0
        found = conn.execute(
            "select a.attname, t.typcategory = 'S' from pg_attribute as a"
            " join pg_type as t on t.oid = a.atttypid"
            " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped",
            (table,),
        ).fetchall()
        self._texts = {name for name, is_text in found if is_text}

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            columns = sql.SQL(", ").join(map(sql.Identifier, row))
            statement = sql.SQL("copy {} ({}) from stdin").format(sql.SQL(self._table), columns)
            with self._conn.cursor().copy(statement) as copy:
                copy.write_row([self._text(name, value) for name, value in row.items()])

    def _text(self, column: str, value: Any) -> str | None:
        """A value as Postgres reads it; of what was redacted a mark, each of its own, as the
        column may be unique."""
        if value is REDACTED:
            self._hidden += 1
            return f"redacted:{self._hidden:016x}" if column in self._texts else None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (dict, list)):
            return json.dumps(conceal(value), ensure_ascii=False)
        return None if value is None else str(value)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        told = error.diag.message_primary or str(error)
        raise FixtureError(
            f"what the test puts into {name} does not fit what the migrations make: {told}",
            f'Adjust "{name}" in the test to what the migrations made of it since.',
        ) from error
