"""Makes a scratch database and its copies, step by step. Everything here blocks.

Order matters: the source's snapshot is exported before anything else is asked; definitions come in
two parts with the rows between them, so that no trigger, foreign key or index is there yet; schema
flux begins to record last.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flux_pg.database import migrations, roles
from flux_pg.database.cluster import SUPERUSER, running_socket_dir
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.replay import scratch_schema as definitions
from flux_pg.replay.draws import STAND_FUNCTION
from flux_pg.replay.scratch_forward import Forward
from flux_pg.replay.scratch_rows import Loader, Refused
from flux_pg.replay.scratch_schema import ScratchError
from flux_pg.replay.scratch_sequences import set_sequences
from flux_pg.replay.scratch_server import (
    LOADER,
    ScratchServer,
    start_or_renew,
    switch_event_triggers,
)
from flux_pg.replay.scratch_source import PINNED, begin_reading, read_source
from flux_pg.replay.scratch_values import recorded_values

Connection = psycopg.Connection[Any]


class Maker:
    """Makes the base and its copies; one thread at a time. `interrupt` may come from another.

    Attributes:
        database_url, admin_url, snapshot, refused, partial_tables, notes, timings: As of `Scratch`.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        live_url: str,
        reader_url: str | None,
        *,
        project_data_dir: Path | None,
        owns_server: bool,
        request_ids: tuple[str, ...],
        migrations: Path | None,
        limit_bytes: int,
        callers: Collection[str] = (),
    ) -> None:
        self._callers = callers
        self.snapshot = ""
        self.refused: list[Refused] = []
        self.partial_tables: list[str] = []
        self.notes: list[str] = []
        self.timings: dict[str, float] = {}
        self._server = server
        self._live_url = live_url
        self._reader_url = reader_url
        self._project_data_dir = project_data_dir
        self._owns_server = owns_server
        self._request_ids = request_ids
        self._migrations = migrations
        self._limit_bytes = limit_bytes
        self._scratch = ScratchServer(server)
        self._interrupted = False
        self._open: list[Connection] = []
        self._base = self._copy = ""
        self._values: list[str] | None = None
        self._mark = time.perf_counter()

    @property
    def database_url(self) -> str:
        login = LOADER if self._source.login_is_super else self._source.login
        return self._scratch.dsn(login, self._copy)

    @property
    def admin_url(self) -> str:
        return self._scratch.dsn(LOADER, self._copy)

    @property
    def superuser_url(self) -> str:
        return self._scratch.dsn(SUPERUSER, self._copy)

    def interrupt(self) -> None:
        """End the work under way."""
        self._interrupted = True
        for conn in list(self._open):
            conn.cancel_safe(timeout=5)

    def close(self) -> None:
        """Drop everything, and leave the server."""
        try:
            self._scratch.close()
        finally:
            if self._owns_server:
                self._server.stop_sync(wait=False)

    def make(self, snapshot: str) -> None:
        """Make the base and the first copy."""
        self.snapshot = snapshot
        if self._owns_server:
            start_or_renew(self._server)
        self._scratch.open()
        self._took("server")
        with self._connection(self._choose_reader()) as live:
            exported = begin_reading(live)
            self._source = read_source(live, self._login())
            self._took("source")
            self._prepare_base()
            self._took("create")
            with self._connection(self._scratch.dsn(SUPERUSER, self._base)) as admin:
                if self._needs_own_definitions(live):
                    self._build_from_migrations(live, admin)
                else:
                    self._build_from_dump(live, admin, exported)
        self.copy_base()
        self._took("copy")

    def copy_base(self) -> None:
        """Drop the copy, with whoever is connected to it, and make a new one."""
        if self._copy:
            self._scratch.drop(self._copy)
        self._copy = self._scratch.create(self._base, self._owner)
        # What is set for a database is not copied with it.
        if self._callers:
            self._scratch.restrict_callers(self._copy, self._source.login)
        with self._connection(self._scratch.dsn(LOADER, self._copy)) as conn:
            problems = definitions.apply_settings(conn, self._copy, self._source)
        self.notes += [one for one in problems if one not in self.notes]

    def roll_forward(self, snapshot: str, request_ids: tuple[str, ...]) -> None:
        """Bring the base to a later snapshot, and make a new copy."""
        self._request_ids = request_ids or self._request_ids
        source = self._source
        with (
            self._connection(self._choose_reader()) as live,
            self._connection(self._scratch.dsn(SUPERUSER, self._base)) as admin,
            self._connection(self._scratch.dsn(LOADER, self._base)) as into,
        ):
            begin_reading(live)
            _check_later(live, self.snapshot, snapshot)
            pin(into, replica=True)
            switch_event_triggers(admin, on=False)
            loader = Loader(live, into, admin, snapshot, adjusts=False)
            forward = Forward(live, into, admin, loader)
            for table in source.tables:
                self._check_interrupted()
                columns = self._columns.get(table.quoted)
                if columns is None:
                    continue
                if loader.read_columns(table) != columns:
                    raise ScratchError(
                        f"the columns of {table.quoted} changed between the two requests",
                        "Make a scratch database for each side of the change.",
                    )
                values = self._values if table.quoted in self.partial_tables else None
                forward.roll(table, columns, (self.snapshot, snapshot), values)
            set_sequences(live, admin, source, snapshot, self._first_request())
            switch_event_triggers(admin, on=True)
        self.snapshot = snapshot
        self.copy_base()

    def _prepare_base(self) -> None:
        source, scratch = self._source, self._scratch
        definitions.make_roles(scratch, source)
        scratch.admit_callers(self._callers)
        known = {role["name"] for role in source.roles}
        self._owner = source.owner if source.owner in known else LOADER
        self._base = scratch.create(scratch.blank(), self._owner)

    def _build_from_dump(self, live: Connection, admin: Connection, exported: str) -> None:
        """The source's definitions of today, with the rows between their two parts."""
        source = self._source
        target = self._scratch.dsn(SUPERUSER, self._base)
        with tempfile.TemporaryDirectory(prefix="flux-scratch-") as directory:
            dump = Path(directory) / "schema.dump"
            definitions.dump_schema(self._choose_reader(), source.version, exported, dump)
            entries = definitions.list_entries(dump, source.version)
            self._took("dump")
            self.notes += definitions.make_extensions(admin, source)
            self.notes += definitions.restore(target, dump, entries, "pre-data", source.version)
            definitions.seal(admin)
            self._took("definitions")
            loader = self._load(live, admin, adjusts=True)
            self._took("rows")
            self.notes += definitions.restore(target, dump, entries, "post-data", source.version)
            definitions.seal(admin)
            self._took("indexes")
        self._finish(live, admin, loader)
        if self._migrations is not None:
            migrations.migrate_at(self._scratch.dsn(self._owner, self._base), self._migrations)

    def _build_from_migrations(self, live: Connection, admin: Connection) -> None:
        """The definitions that the code's own migrations make; rows go in where they fit."""
        assert self._migrations is not None
        self.notes.append("its definitions are those of the code's own migrations")
        self.notes += definitions.make_extensions(admin, self._source)
        login = LOADER if self._source.login_is_super else self._source.login
        if login != self._owner:
            roles.grant_application_rights(admin, self._owner, login)
        migrations.migrate_at(self._scratch.dsn(self._owner, self._base), self._migrations)
        self._took("definitions")
        loader = self._load(live, admin, adjusts=False)
        # What loading the rows was recorded as.
        admin.execute("truncate flux.mutation_log")
        self._took("rows")
        self._finish(live, admin, loader)

    def _load(self, live: Connection, admin: Connection, *, adjusts: bool) -> Loader:
        too_large = self._choose_partial()
        if too_large:
            self._values = recorded_values(live, self._request_ids)
        with self._connection(self._scratch.dsn(LOADER, self._base)) as into:
            pin(into, replica=not adjusts)
            loader = Loader(live, into, admin, self.snapshot, adjusts=adjusts)
            for table in self._source.tables:
                self._check_interrupted()
                loader.load(table, self._values if table.quoted in too_large else None)
        self._columns = loader.columns
        self.partial_tables = [name for name in too_large if name in loader.columns]
        self.refused = loader.refused
        return loader

    def _choose_partial(self) -> list[str]:
        """The tables that are not copied whole: the largest, until the others fit the limit."""
        left, chosen = self._limit_bytes, []
        for table in sorted(self._source.tables, key=lambda table: table.bytes):
            left -= table.bytes
            if left < 0:
                chosen.append(table.quoted)
        return chosen

    def _finish(self, live: Connection, admin: Connection, loader: Loader) -> None:
        """From here on the database records what is done to it, under the source's rules."""
        set_sequences(live, admin, self._source, self.snapshot, self._first_request())
        _copy_flux_settings(live, admin, with_migrations=loader.adjusts)
        for table in self._source.tables:
            if table.table_id is not None:
                admin.execute(
                    "select flux.track(to_regclass(%s)) where to_regclass(%s) is not null",
                    (table.quoted, table.quoted),
                )
        admin.execute(STAND_FUNCTION)
        # Plans as at the source, as far as that is possible; nothing else will do it.
        admin.execute("analyze")
        loader.close_refused()
        switch_event_triggers(admin, on=True)
        self._took("tracking")

    def _needs_own_definitions(self, live: Connection) -> bool:
        """Whether the code has not, or otherwise, had migrations that the source has had."""
        if self._migrations is None:
            return False
        files = {file.name: file.checksum for file in migrations.read_migrations(self._migrations)}
        had = live.execute("select name, checksum from flux.migrations").fetchall()
        return any(files.get(name) != checksum for name, checksum in had)

    def _first_request(self) -> str | None:
        return self._request_ids[0] if self._request_ids else None

    def _choose_reader(self) -> str:
        if self._reader_url is not None:
            return self._reader_url
        home = self._project_data_dir
        host = conninfo_to_dict(self._live_url).get("host")
        if home is not None and host is not None and running_socket_dir(home) == Path(str(host)):
            return make_conninfo(self._live_url, user=SUPERUSER)
        return self._live_url

    def _login(self) -> str:
        with self._connection(self._live_url) as conn:
            row = conn.execute("select current_user::text").fetchone()
        assert row is not None
        return str(row[0])

    @contextmanager
    def _connection(self, url: str) -> Iterator[Connection]:
        self._check_interrupted()
        with psycopg.connect(url, autocommit=True, application_name="flux scratch") as conn:
            self._open.append(conn)
            try:
                yield conn
            finally:
                self._open.remove(conn)

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise ScratchError("making the scratch database was interrupted", "Run it again.")

    def _took(self, step: str) -> None:
        now = time.perf_counter()
        self.timings[step] = round(now - self._mark, 4)
        self._mark = now


def pin(conn: Connection, *, replica: bool) -> None:
    """Pin what the texts of images depend on; as a replica, no trigger or foreign key acts."""
    for name, value in PINNED.items():
        conn.execute("select set_config(%s, %s, false)", (name, value))
    if replica:
        conn.execute("set session_replication_role = replica")


def _check_later(live: Connection, before: str, after: str) -> None:
    """Snapshots of one server are ordered: whatever one sees, every later one sees."""
    row = live.execute(
        "select pg_snapshot_xmin(%(a)s::pg_snapshot) >= pg_snapshot_xmin(%(b)s::pg_snapshot)"
        " and pg_snapshot_xmax(%(a)s::pg_snapshot) >= pg_snapshot_xmax(%(b)s::pg_snapshot)",
        {"a": after, "b": before},
    ).fetchone()
    if row is None or not row[0]:
        raise ScratchError(
            f"snapshot {after} is not later than {before}", "Replay requests in their order."
        )


def _copy_flux_settings(live: Connection, admin: Connection, *, with_migrations: bool) -> None:
    """The same secrets are hidden, by the same key, and the same migrations count as applied."""
    copied = [("flux.redactions", "pattern, description, is_default")]
    if with_migrations:
        columns = "name, checksum, applied_at, duration_ms, applied_by"
        copied.append(("flux.migrations", columns))
    for table, columns in copied:
        rows = live.execute(f"select {columns} from {table}".encode()).fetchall()
        _insert(admin, table, columns, rows)
    key = live.execute("select encode(flux.redaction_key(), 'hex')").fetchone()
    admin.execute(
        "update flux.settings set value = to_jsonb(%s::text) where name = 'redaction_key'", key
    )


def _insert(admin: Connection, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    places = ", ".join(["%s"] * len(columns.split(",")))
    statement = f"insert into {table} ({columns}) values ({places}) on conflict do nothing"
    with admin.cursor() as cursor:
        cursor.executemany(statement.encode(), rows)
