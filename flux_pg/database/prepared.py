"""Which statements a connection has prepared: psycopg's bookkeeping, with two differences.

1. psycopg forgets everything after any ROLLBACK and sends DEALLOCATE ALL. Prepared statements are
   not transactional and Postgres re-plans them itself, so here a rollback costs nothing.
2. In exchange a statement that Postgres finds out of date (`cached plan must not change result
   type`, a name that a pooler lost, a type that was dropped) is closed and prepared afresh the next
   time, also when another session's DDL caused it; psycopg would fail with it for ever.

Private names of psycopg relied upon: `PrepareManager._counts`, `_names`, `_to_flush`, `_rotate`,
`_prepared_idx`, and that `clear()` is called for rollbacks only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psycopg._preparing import Key, Prepare, PrepareManager
from psycopg.pq import DiagnosticField, ExecStatus

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery
    from psycopg.pq.abc import PGresult

_NO, _YES, _SHOULD = Prepare.NO, Prepare.YES, Prepare.SHOULD
_COMMAND_OK = int(ExecStatus.COMMAND_OK)
_TUPLES_OK = int(ExecStatus.TUPLES_OK)
_FATAL_ERROR = int(ExecStatus.FATAL_ERROR)

# Classes of SQLSTATE by which a prepared statement may be what is wrong: feature not supported
# (0A000 "cached plan must not change result type"), invalid statement name, undefined object,
# internal error ("cache lookup failed for type").
_STALE_CLASSES = (b"0A", b"26", b"42", b"XX")
_changes_plans = re.compile(rb"^(?:DROP|ALTER)\b").match
_empties_server = re.compile(rb"^(?:DISCARD ALL|DEALLOCATE ALL)\b").match


class PreparedStatements(PrepareManager):
    """The prepared statements of one connection; see the top of the file."""

    def look_up(self, key: Key) -> tuple[Prepare, bytes]:
        """Count one use of a query: whether to prepare it now, and its name if it has one."""
        if self.prepare_threshold is None:
            return _NO, b""
        if name := self._names.get(key):
            self._names.move_to_end(key)
            return _YES, name
        count = self._counts.pop(key, 0)
        if count < self.prepare_threshold:
            self._counts[key] = count + 1
            if len(self._counts) > self.prepared_max:
                self._counts.popitem(last=False)
            return _NO, b""
        name = b"_pg3_%d" % self._prepared_idx
        self._prepared_idx += 1
        self._names[key] = name
        return _SHOULD, name

    def maybe_add_to_cache(self, query: PostgresQuery, prep: Prepare, name: bytes) -> Key | None:
        """psycopg's own door: always answer with the key, so that `validate` sees every result."""
        super().maybe_add_to_cache(query, prep, name)
        return None if self.prepare_threshold is None else (query.query, query.types)

    def validate(self, key: Key, prep: Prepare, name: bytes, results: Sequence[PGresult]) -> None:
        """Learn from what the server answered to a statement."""
        for result in results:
            if result.status == _COMMAND_OK:
                self.note_command(result.command_status or b"")
            elif result.status != _TUPLES_OK:
                self.note_failure(key, result, parsed=prep is not Prepare.SHOULD)
        self._rotate()

    def note_command(self, status: bytes) -> None:
        """A command succeeded: forget what it may have made wrong."""
        if status[:1] not in (b"D", b"A"):
            return
        if self._names and _changes_plans(status):
            self._counts.clear()
            self._to_flush.extend(self._names.values())
            self._names.clear()
        elif _empties_server(status):
            self._counts.clear()
            self._names.clear()
            self._to_flush.clear()

    def note_failure(self, key: Key, result: PGresult, *, parsed: bool) -> None:
        """A statement failed: close it if it was never prepared or may be out of date."""
        if (name := self._names.get(key)) is None:
            return
        sqlstate = result.error_field(DiagnosticField.SQLSTATE) or b""
        if not parsed or (result.status == _FATAL_ERROR and sqlstate[:2] in _STALE_CLASSES):
            del self._names[key]
            self._to_flush.append(name)

    def rotate(self) -> None:
        """Forget what was used least once there are too many."""
        if len(self._names) > self.prepared_max or len(self._counts) > self.prepared_max:
            self._rotate()

    def take_closings(self) -> list[bytes]:
        """Names to close on the server, oldest first; the caller sends them."""
        names = [name for name in self._to_flush if name is not None]
        self._to_flush.clear()
        return names

    def clear(self) -> bool:
        """psycopg's call after a rollback: nothing to do."""
        return False
