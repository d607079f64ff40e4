"""A scratch database: the source's state just before a request, on an embedded server of its own.

The state just before request R is the live state with every committed mutation undone whose xid is
not visible in R's recorded snapshot. It is read under one exported snapshot, so traffic goes on
meanwhile; nothing is written to the source, and no lock taken there but the one of a SELECT.

Life: the base is made once (definitions, rows, sequences, then schema flux begins to record) and
never run on. Replays run on a copy of it, made by CREATE DATABASE ... TEMPLATE; `reset` makes a
new copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import outcome
import psycopg
import trio

from flux_pg.config import Settings
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.replay.scratch_maker import Maker
from flux_pg.replay.scratch_rows import Refused
from flux_pg.replay.scratch_server import own_server

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
        partial_tables: Tables of which only recorded and mutated rows are there.
        notes: What else is not as at the source.
        timings: Seconds each step of making it took.
    """

    _maker: Maker = field(repr=False)

    @property
    def database_url(self) -> str:
        return self._maker.database_url

    @property
    def admin_url(self) -> str:
        return self._maker.admin_url

    @property
    def superuser_url(self) -> str:
        """The same, as a superuser; no SQL of the source may run there."""
        return self._maker.superuser_url

    @property
    def snapshot(self) -> str:
        return self._maker.snapshot

    @property
    def refused(self) -> tuple[Refused, ...]:
        return tuple(self._maker.refused)

    @property
    def partial_tables(self) -> tuple[str, ...]:
        return tuple(self._maker.partial_tables)

    @property
    def partial(self) -> bool:
        """Whether some table is there in part only."""
        return bool(self._maker.partial_tables)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._maker.notes)

    @property
    def timings(self) -> dict[str, float]:
        return dict(self._maker.timings)

    async def reset(self) -> None:
        """Put the database back to the state it was made with, under another name.

        Connections to it are ended.

        Cancellation: there may be no database; reset again.
        """
        await _interruptible(self._maker.copy_base, self._maker.interrupt)

    async def roll_forward(self, snapshot: str, request_ids: Sequence[str] = ()) -> None:
        """Go on to the state before a later request, and forget what was done meanwhile.

        What is committed at the source since the scratch database was made counts too.

        Args:
            snapshot: It must see everything that the present one sees.
            request_ids: As for `open_scratch`; nothing more is loaded of partial tables.

        Raises:
            psycopg.Error: ZF006, something happened in between that cannot be told.
            ScratchError: The snapshot is not a later one.

        Cancellation: the state is unknown; close the scratch database.
        """
        await _interruptible(
            lambda: self._maker.roll_forward(snapshot, tuple(request_ids)), self._maker.interrupt
        )

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
    request_ids: Sequence[str] = (),
    migrations: Path | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    server: EmbeddedServer | None = None,
    reader_url: str | None = None,
) -> AsyncIterator[Scratch]:
    """Make a database with the source's state as a snapshot saw it; drop it at the end.

    Args:
        settings: The project's; a server under its state directory holds the database, started if
            need be.
        live_url: The source, as functions connect to it.
        snapshot: A pg_snapshot as text, such as `flux.executions.snapshot`.
        request_ids: The requests that will run: sequences give what they gave the first, and of
            tables that are too large the rows are there that any of them may ask for.
        migrations: The `migrations` directory of the code that will run. If the database has had
            others, its definitions are made by these.
        limit_bytes: How much is copied; of larger tables only recorded and mutated rows are.
        server: Another server to hold it.
        reader_url: The source, as a role that may read all of it; by default the settings' admin,
            or the embedded server's superuser, or `live_url`.

    Raises:
        ScratchError: It cannot be made.

    Cancellation: what was begun is interrupted and dropped.
    """
    maker = Maker(
        server or own_server(settings.state_dir),
        live_url,
        reader_url or settings.admin_url,
        project_data_dir=settings.state_dir / "postgres" / "data",
        owns_server=server is None,
        request_ids=tuple(request_ids),
        migrations=migrations,
        limit_bytes=limit_bytes,
        callers=settings.caller_logins,
    )
    try:
        await _interruptible(lambda: maker.make(snapshot), maker.interrupt)
        yield Scratch(maker)
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
    """Run `work` in a thread to its end; if cancelled, ask it to end soon and wait for that."""

    async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            if not ended:
                interrupt()

    ended: list[outcome.Outcome[T]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        with trio.CancelScope(shield=True):
            ended.append(await trio.to_thread.run_sync(outcome.capture, work))
        nursery.cancel_scope.cancel()
    # Before what it failed with: interrupting makes it fail.
    await trio.lowlevel.checkpoint_if_cancelled()
    return ended[0].unwrap()
