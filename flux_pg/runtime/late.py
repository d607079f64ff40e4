"""Records that could not be written when their request ended: written once the database is back.

Their callers were told so (503, `x-flux-recorded: no`), and the records say the same. Laws:

1. Until a record is written its request keeps its place in the journal, so that a worker that ends
   first leaves it to the recovery.
2. What waits is bounded, by number and by size. While as much waits as may, requests are turned
   away before they run (`has_room`): what was not kept was not done either, and is counted.
3. A record that Postgres itself refuses does not hold up those behind it. After `MAX_TRIES` it is
   left to the recovery, and counted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from ..records import ErrorRecord
from .journal import Journal
from .recording import Ending
from .run import Run
from .session import NotRecorded, RunDatabase

MAX_LATE = 1000
"""Requests whose records may wait; fewer than a journal has slots before it grows."""

MAX_LATE_BYTES = 64 << 20
"""What these records may take together, about."""

MAX_TRIES = 3


class _Late(msgspec.Struct):
    """One record that waits. Not the exception that told of it: its traceback would hold all that
    the function had in hand."""

    database: RunDatabase
    run: Run
    ending: Ending
    slot: Any
    size_bytes: int
    tries: int = 0


class Caught(msgspec.Struct):
    """What was done about the records of an outage.

    Attributes:
        written: Records that were written late.
        given_up: Records that Postgres refused; the recovery makes some of the journal.
    """

    written: int = 0
    given_up: int = 0


class LateRecords:
    """See the module. One for each worker; `journal` as its executor has it."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._waiting: deque[_Late] = deque()
        self._size_bytes = 0
        self._caught = Caught()

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, running: int) -> bool:
        """Whether one more request may run beside `running` others that may all come to this."""
        waiting = len(self._waiting)
        return not waiting or (waiting + running < MAX_LATE and self._size_bytes < MAX_LATE_BYTES)

    def keep(self, failure: NotRecorded, slot: Any) -> None:
        """Keep what could not be written, with its place in the journal."""
        if failure.ending is None or failure.database is None or failure.run is None:
            return
        failure.run.ended_us = failure.run.elapsed_us()
        size_bytes = failure.run.size_bytes() + failure.database.size_bytes()
        self._size_bytes += size_bytes
        self._waiting.append(
            _Late(failure.database, failure.run, _as_told(failure), slot, size_bytes)
        )

    async def write(self) -> Caught | None:
        """Write them, oldest first, while the database takes them.

        Cancellation: each is written, or still kept.

        Returns:
            What became of all since none waited; None while some wait, or if none did.
        """
        refused: list[_Late] = []
        try:
            while self._waiting:
                late = self._waiting[0]
                try:
                    await late.database.record_late(late.run, late.ending)
                except NotRecorded as failure:
                    if not failure.refused:
                        break
                    late.tries += 1
                    self._waiting.popleft()
                    refused += [late] if late.tries < MAX_TRIES else []
                    if late.tries >= MAX_TRIES:
                        self._caught.given_up += 1
                        self._size_bytes -= late.size_bytes
                    continue
                self._waiting.popleft()
                self._size_bytes -= late.size_bytes
                self._caught.written += 1
                if self._journal is not None and late.slot is not None:
                    self._journal.end(late.slot)
        finally:
            self._waiting.extend(refused)
        if self._waiting or self._caught == Caught():
            return None
        caught, self._caught = self._caught, Caught()
        return caught


def _as_told(failure: NotRecorded) -> Ending:
    """The ending as the caller has heard it: nothing was acknowledged."""
    ending = failure.ending
    assert ending is not None
    if ending.outcome == "cancelled":
        return ending
    answered = ending.status_code is not None
    status_code = 503 if answered else None
    if ending.outcome != "ok":
        return msgspec.structs.replace(ending, status_code=status_code)
    error = ErrorRecord(
        type="NotRecorded",
        message="the function ended well, but its record could not be written in time; the caller "
        f"was {'answered 503' if answered else 'told so'}: {failure}",
    )
    return msgspec.structs.replace(ending, outcome="error", status_code=status_code, error=error)
