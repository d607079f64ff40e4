"""Records that could not be written when their request ended: written once the database is back.

Their callers were told so (503, `x-flux-recorded: no`), and the records say the same. Until one is
written the request keeps its place in the journal, so that a worker that ends first leaves it to
the recovery.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..records import ErrorRecord
from .journal import Journal
from .recording import Ending
from .session import NotRecorded

MAX_LATE = 1000
"""Whole records kept in memory; of what is above, the recovery makes records out of the journal."""


class LateRecords:
    """See the module. One for each worker; `journal` as its executor has it."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._waiting: list[tuple[NotRecorded, Any]] = []

    def keep(self, failure: NotRecorded, slot: Any) -> None:
        """Keep what could not be written, with its place in the journal."""
        if failure.ending is not None and len(self._waiting) < MAX_LATE:
            self._waiting.append((failure, slot))

    async def write(self) -> None:
        """Write them, oldest first, until one fails. Cancelled: each is written, or still kept."""
        while self._waiting:
            failure, slot = self._waiting[0]
            assert failure.database is not None and failure.run is not None
            try:
                await failure.database.record_late(failure.run, _as_told(failure))
            except NotRecorded:
                return
            del self._waiting[0]
            if self._journal is not None and slot is not None:
                self._journal.end(slot)


def _as_told(failure: NotRecorded) -> Ending:
    """The ending as the caller has heard it: nothing was acknowledged."""
    ending = failure.ending
    assert ending is not None
    if ending.outcome == "cancelled":
        return ending
    if ending.outcome != "ok":
        return msgspec.structs.replace(ending, status_code=503)
    error = ErrorRecord(
        type="NotRecorded",
        message="the function ended well, but its record could not be written in time; the caller "
        f"was answered 503: {failure}",
    )
    return msgspec.structs.replace(ending, outcome="error", status_code=503, error=error)
