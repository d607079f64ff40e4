"""The scratch database of an incident, as it is moved from request to request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import trio

from flux_pg.replay.draws import Draw, Sequences
from flux_pg.replay.footprint import Catalog
from flux_pg.replay.incident_changes import (
    Applier,
    CannotApply,
    Change,
    corrections,
    read_changes,
)
from flux_pg.replay.live_record import ReplayResult
from flux_pg.replay.scratch import Scratch
from flux_pg.replay.source import RecordedRun

_REPLAYS_OF = "select request_id::text from flux.executions where replay_of = any (%s::uuid[])"
_END_SESSIONS = """
select pg_terminate_backend(pid, %s)
from pg_stat_activity
where datname = current_database() and application_name = %s
"""
_PATIENCE_MS = 30_000


class State:
    """The scratch database of an incident, as it is moved from request to request."""

    def __init__(self, scratch: Scratch, conn: psycopg.Connection[Any]) -> None:
        self._sequences = Sequences(conn)
        refused = [one.table for one in scratch.refused]
        self._into = psycopg.connect(scratch.admin_url, autocommit=True)
        self._reader = psycopg.connect(scratch.superuser_url, autocommit=True)
        self._applier = Applier(self._into, refused)
        self._sequences.put_beyond(self._reader)
        self._lock = trio.Lock()
        self.catalog = Catalog(conn)

    def close(self) -> None:
        """Let go of the connections."""
        self._into.close()
        self._reader.close()

    def draws(self, changes: Sequence[Mapping[str, Any]]) -> list[Draw]:
        """What a request drew from sequences."""
        return self._sequences.drawn(changes)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Do the changes of one transaction.

        Raises:
            CannotApply: They do not fit; none was done.
        """
        async with self._lock:
            await trio.to_thread.run_sync(self._applier.apply, changes)

    async def take_back(self, result: ReplayResult, instead: Sequence[Change] = ()) -> None:
        """Undo what a replay committed, and do other changes in its place.

        Raises:
            CannotApply: They do not fit; nothing was done.
        """
        ids = [str(record[0]) for record in result.records] if result.mutations else []
        async with self._lock:
            await trio.to_thread.run_sync(self._undo, ids, instead)

    async def take_back_lost(self, run: RecordedRun, lost: str) -> None:
        """Undo what a replay committed whose answer never came.

        Args:
            run: What was replayed.
            lost: The `Child.name` of the process that is gone. Its sessions may still be at what
                it asked last, a COMMIT even, so their end is waited for.

        Raises:
            CannotApply: It cannot be undone.
        """

        def undo() -> None:
            for (has_ended,) in self._reader.execute(_END_SESSIONS, (_PATIENCE_MS, lost)):
                if not has_ended:
                    raise CannotApply(f"a session of the replay of {run.request_id} goes on")
            # The process may have left them standing for it.
            self._sequences.put_beyond(self._reader)
            found = self._reader.execute(_REPLAYS_OF, (run.ids,)).fetchall()
            self._undo([row[0] for row in found], ())

        async with self._lock:
            await trio.to_thread.run_sync(undo)

    def _undo(self, ids: Sequence[str], instead: Sequence[Change]) -> None:
        done = read_changes(self._reader, None, None, ids) if ids else []
        changes = corrections(done, instead)
        if changes is None:
            changes = [*(change.inverse() for change in reversed(done)), *instead]
        self._applier.apply(changes)
