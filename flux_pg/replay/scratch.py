"""A scratch database: the source's state just before a request, on the embedded server.

The state just before request R is the live state with every committed mutation undone whose xid is
not visible in R's recorded snapshot. It is read under one exported snapshot, so traffic goes on
meanwhile; nothing is written to the source, and no lock taken there but the one of a SELECT.

Life: the base is made once (definitions, rows, sequences, then schema flux begins to record) and
never run on. Replays run on a copy of it, made by CREATE DATABASE ... TEMPLATE; `reset` makes a
new copy.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from flux_pg.config import Settings
from flux_pg.database.cluster import SUPERUSER
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.replay import scratch_schema as definitions
from flux_pg.replay.scratch_rows import Loader, Refused, set_sequences
from flux_pg.replay.scratch_schema import ScratchError
from flux_pg.replay.scratch_server import LOADER, ScratchServer, switch_event_triggers
from flux_pg.replay.scratch_source import PINNED, Source, begin_reading, read_source

DEFAULT_LIMIT_BYTES = 2 << 30
"""Tables beyond this, together, are not copied whole."""

T = TypeVar("T")


@dataclass
class Scratch:
    """A database that a replay may spoil.

    Attributes:
        database_url: Where functions run, as the role they run as at the source.
        admin_url: The same database, as the role that loaded it.
        snapshot: Whose state it holds.
        refused: Tables that are not there, and why. Touching one is an error of rights (42501).
        partial: Tables of which only recorded and mutated rows are there.
        notes: What else is not as at the source.
        timings: Seconds each step of making it took.
    """

    database_url: str
    admin_url: str
    snapshot: str
    refused: tuple[Refused, ...]
    partial_tables: tuple[str, ...]
    notes: tuple[str, ...]
    timings: dict[str, float]
    _maker: _Maker = field(repr=False)

    @property
    def partial(self) -> bool:
        """Whether some table is there in part only."""
        return bool(self.partial_tables)

    async def reset(self) -> None:
        """Put the database back to the state it was made with; connections to it are ended.

        Cancellation: there may be no database; reset again.
        """
        await trio.to_thread.run_sync(self._maker.copy_base)

    def reason_for(self, table: str) -> str | None:
        """Why a table is refused, by its name with or without its schema; None if it is not."""
        for one in self.refused:
            if table in (one.table, one.table.partition(".")[2]):
                return one.reason
        return None


@asynccontextmanager
async def open_scratch(
    settings: Settings,
    live_url: str,
    snapshot: str,
    *,
    request_id: str | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    server: EmbeddedServer | None = None,
    reader_url: str | None = None,
) -> AsyncIterator[Scratch]:
    """Make a database with the source's state as a snapshot saw it; drop it at the end.

    Args:
        settings: The project's; its embedded server holds the database, started if need be.
        live_url: The source, as functions connect to it.
        snapshot: A pg_snapshot as text, such as `flux.executions.snapshot`.
        request_id: The request that will run: sequences give what they gave it.
        limit_bytes: How much is copied; of larger tables only recorded and mutated rows are.
        server: Another server to hold it.
        reader_url: The source, as a role that may read all of it; by default the settings' admin,
            or the embedded server's superuser, or `live_url`.

    Raises:
        ScratchError: It cannot be made.

    Cancellation: what was begun is interrupted and dropped.
    """
    maker = _Maker(
        server or EmbeddedServer(settings.state_dir),
        live_url,
        reader_url or settings.admin_url,
        owns_server=server is None,
        request_id=request_id,
        limit_bytes=limit_bytes,
    )
    try:
        scratch = await _interruptible(lambda: maker.make(snapshot), maker.interrupt)
        yield scratch
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(maker.close)


async def snapshot_before(live_url: str, request_id: str) -> str:
    """What a request saw when it began, as text.

    Raises:
        psycopg.Error: ZF002 unknown request; ZF006 it ran before the database was restored.
    """

    def ask() -> str:
        with psycopg.connect(live_url, autocommit=True) as conn:
            row = conn.execute("select flux.snapshot_before(%s)::text", (request_id,)).fetchone()
        assert row is not None
        return str(row[0])

    return await trio.to_thread.run_sync(ask)


async def _interruptible(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Run `work` in a thread to its end; if cancelled, ask it to end soon."""
    result: list[T] = []

    async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            if not result:
                interrupt()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        with trio.CancelScope(shield=True):
            result.append(await trio.to_thread.run_sync(work))
        nursery.cancel_scope.cancel()
    return result[0]


class _Maker:
    """Makes the base and its copies. Everything here blocks; one thread at a time."""

    def __init__(
        self,
        server: EmbeddedServer,
        live_url: str,
        reader_url: str | None,
        *,
        owns_server: bool,
        request_id: str | None,
        limit_bytes: int,
    ) -> None:
        self._server = server
        self._live_url = live_url
        self._reader_url = reader_url
        self._owns_server = owns_server
        self._request_id = request_id
        self._limit_bytes = limit_bytes
        self._scratch = ScratchServer(server)
        self._stack = ExitStack()
        self._interrupted = False
        self._open: list[psycopg.Connection[Any]] = []
        self._base = self._copy = ""
        self._timings: dict[str, float] = {}
        self._mark = time.perf_counter()

    def interrupt(self) -> None:
        """End the work under way, from another thread."""
        self._interrupted = True
        for conn in list(self._open):
            conn.cancel_safe(timeout=5)

    def close(self) -> None:
        """Drop everything, and leave the server."""
        try:
            self._stack.close()
            self._scratch.close()
        finally:
            if self._owns_server:
                self._server.stop_sync(wait=False)

    def make(self, snapshot: str) -> Scratch:
        """Make the base and the first copy."""
        if self._owns_server:
            self._server.start_sync()
        self._scratch.open()
        self._took("server")
        live = self._connect(self._choose_reader())
        exported = begin_reading(live)
        source = read_source(live, self._login())
        self._took("source")
        with tempfile.TemporaryDirectory(prefix="flux-scratch-") as directory:
            dump = Path(directory) / "schema.dump"
            url = self._choose_reader()
            definitions.dump_schema(url, source.version, exported, dump)
            self._took("dump")
            scratch = self._build(live, source, snapshot, dump)
        live.close()
        self.copy_base()
        self._took("copy")
        return scratch

    def copy_base(self) -> None:
        """Drop the copy and make a new one."""
        if self._copy:
            self._scratch.drop(self._copy)
        self._copy = self._copy or self._scratch.new_name()
        self._scratch.create(self._copy, self._base, self._owner)

    def _build(
        self, live: psycopg.Connection[Any], source: Source, snapshot: str, dump: Path
    ) -> Scratch:
        scratch = self._scratch
        login = LOADER if source.login_is_super else source.login
        definitions.make_roles(scratch, source)
        known = {role["name"] for role in source.roles}
        self._owner = source.owner if source.owner in known else LOADER
        self._base = scratch.new_name()
        scratch.create(self._base, scratch.blank(), self._owner)
        self._took("create")
        notes: list[str] = []
        admin = self._connect(scratch.dsn(SUPERUSER, self._base))
        entries = definitions.list_entries(dump, source.version)
        target = scratch.dsn(SUPERUSER, self._base)
        notes += definitions.make_extensions(admin, source)
        notes += definitions.restore(target, dump, entries, "pre-data", source.version)
        definitions.seal(admin)
        self._took("definitions")
        loader = self._load(live, admin, source, snapshot)
        self._took("rows")
        notes += definitions.restore(target, dump, entries, "post-data", source.version)
        definitions.seal(admin)
        self._took("indexes")
        set_sequences(live, admin, source, snapshot, self._request_id)
        self._begin_recording(live, admin, source, loader)
        self._took("tracking")
        admin.close()
        self._copy = scratch.new_name()
        return Scratch(
            database_url=scratch.dsn(login, self._copy),
            admin_url=scratch.dsn(LOADER, self._copy),
            snapshot=snapshot,
            refused=tuple(loader.refused),
            partial_tables=(),
            notes=tuple(notes),
            timings=self._timings,
            _maker=self,
        )

    def _load(
        self,
        live: psycopg.Connection[Any],
        admin: psycopg.Connection[Any],
        source: Source,
        snapshot: str,
    ) -> Loader:
        into = self._connect(self._scratch.dsn(LOADER, self._base))
        definitions_settings(into)
        loader = Loader(live, into, admin, snapshot)
        for table in source.tables:
            self._check_interrupted()
            loader.load(table)
        into.close()
        return loader

    def _begin_recording(
        self,
        live: psycopg.Connection[Any],
        admin: psycopg.Connection[Any],
        source: Source,
        loader: Loader,
    ) -> None:
        """From here on the database records what is done to it, under the source's rules."""
        _copy_flux_settings(live, admin)
        for table in source.tables:
            if table.table_id is not None:
                admin.execute(
                    "select flux.track(to_regclass(%s)) where to_regclass(%s) is not null",
                    (table.quoted, table.quoted),
                )
        switch_event_triggers(admin, on=True)
        loader.close_refused()
        with self._connect(self._scratch.dsn(LOADER, self._base)) as owner:
            definitions.apply_settings(owner, self._base, source)

    def _choose_reader(self) -> str:
        if self._reader_url is not None:
            return self._reader_url
        parts = conninfo_to_dict(self._live_url)
        if parts.get("host") == str(self._server.socket_dir):
            return self._server.dsn(SUPERUSER, str(parts.get("dbname") or "flux"))
        return self._live_url

    def _login(self) -> str:
        with psycopg.connect(self._live_url, autocommit=True) as conn:
            row = conn.execute("select current_user::text").fetchone()
        assert row is not None
        return str(row[0])

    def _connect(self, url: str) -> psycopg.Connection[Any]:
        self._check_interrupted()
        conn = psycopg.connect(url, autocommit=True, application_name="flux scratch")
        self._open.append(self._stack.enter_context(conn))
        return conn

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise ScratchError("making the scratch database was interrupted", "Run it again.")

    def _took(self, step: str) -> None:
        now = time.perf_counter()
        self._timings[step] = round(now - self._mark, 4)
        self._mark = now


def definitions_settings(conn: psycopg.Connection[Any]) -> None:
    """Pin what the texts of images depend on."""
    for name, value in PINNED.items():
        conn.execute("select set_config(%s, %s, false)", (name, value))


def _copy_flux_settings(live: psycopg.Connection[Any], admin: psycopg.Connection[Any]) -> None:
    """The same secrets are hidden, by the same key, and the same migrations count as applied."""
    for table, columns in (
        ("flux.redactions", "pattern, description, is_default"),
        ("flux.migrations", "name, checksum, applied_at, duration_ms, applied_by"),
    ):
        rows = live.execute(f"select {columns} from {table}".encode()).fetchall()
        _insert(admin, table, columns, rows)
    key = live.execute("select encode(flux.redaction_key(), 'hex')").fetchone()
    admin.execute(
        "update flux.settings set value = to_jsonb(%s::text) where name = 'redaction_key'", key
    )


def _insert(
    admin: psycopg.Connection[Any], table: str, columns: str, rows: Sequence[Sequence[Any]]
) -> None:
    places = ", ".join(["%s"] * len(columns.split(",")))
    statement = f"insert into {table} ({columns}) values ({places}) on conflict do nothing"
    with admin.cursor() as cursor:
        cursor.executemany(statement.encode(), rows)
