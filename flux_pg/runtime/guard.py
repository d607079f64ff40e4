"""The watch over a request that runs in a process without a supervisor (`flux invoke`).

A thread does what a supervisor does for its workers: if the loop is blocked although the request's
limit is over, or somebody pressed Ctrl-C, it records the request as crashed, with the line that
blocks, and ends the process. A loop that is not blocked ends its request itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import trio

from flux_pg.runtime.journal import read_leftovers

INTERRUPTED = 130
GRACE_S = 1.0
"""How long a loop may take to answer before it counts as blocked."""

_INTERVAL_S = 0.05
_RECORD = "select flux.record_crashed(%s::jsonb)"


class Guard:
    """Watches from `with` to its end. Make it in the task that runs the request.

    Args:
        journal: The journal of this process.
        conninfo: The runtime's login.
        project_dir: Whose code counts as the user's.
        limit_s: The request's limit.
        cancel: Cancels the request; called in the loop, on Ctrl-C.
        report: Told why before the process ends.
    """

    def __init__(
        self,
        journal: Path,
        conninfo: str,
        project_dir: Path,
        limit_s: float,
        cancel: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._conninfo = conninfo
        self._prefix = str(project_dir) + os.sep
        self._limit_s = limit_s
        self._cancel = cancel
        self._report = report
        self._interrupts = 0
        self._done = threading.Event()

    def __enter__(self) -> Guard:
        self._loop = trio.lowlevel.current_trio_token()
        self._main = threading.get_ident()
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        threading.Thread(target=self._watch, name="flux guard", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        self._loop.run_sync_soon(self._cancel)

    def _watch(self) -> None:
        end_at = time.monotonic() + self._limit_s
        while not self._done.wait(_INTERVAL_S):
            over = time.monotonic() >= end_at
            if (over or self._interrupts) and self._is_blocked():
                self._end(over)

    def _is_blocked(self) -> bool:
        """Whether the loop does not answer; somebody who presses Ctrl-C again does not wait."""
        answered = threading.Event()
        try:
            self._loop.run_sync_soon(answered.set)
        except trio.RunFinishedError:
            return False
        give_up_at = time.monotonic() + GRACE_S
        while time.monotonic() < give_up_at and self._interrupts < 2:
            if answered.wait(_INTERVAL_S):
                return False
        return not (answered.is_set() or self._done.is_set())

    def _end(self, over: bool) -> None:
        location = self._location()
        at = (
            f" at {location['file']}:{location['line']} in {location['function']}"
            if location
            else ""
        )
        reason = f"its event loop was blocked{at}"
        if self._interrupts:
            reason += " when it was interrupted"
        else:
            reason += f" and did not come back before its limit of {self._limit_s:g} s was over"
        try:
            self._record(reason, location)
            self._report(reason)
        finally:
            # Nothing else ends a process whose main thread is in the user's hands.
            os._exit(INTERRUPTED if self._interrupts else 1)

    def _record(self, reason: str, location: dict[str, Any] | None) -> None:
        """Record what runs; while the database is away the journal keeps it for the next start."""
        entries = [
            left.entry | {"reason": reason, "location": location}
            for left in read_leftovers(self._journal)
            if left.entry
        ]
        try:
            with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5) as conn:
                conn.execute("set lock_timeout = '5s'")
                conn.execute("set statement_timeout = '10s'")
                conn.execute(_RECORD, (json.dumps(entries),))
        except psycopg.Error:
            return
        self._journal.unlink(missing_ok=True)

    def _location(self) -> dict[str, Any] | None:
        """The innermost line of the user's code that the main thread is in."""
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self._prefix) and "/site-packages/" not in name:
                return {
                    "file": name[len(self._prefix) :],
                    "line": frame.f_lineno,
                    "function": frame.f_code.co_name,
                }
            frame = frame.f_back
        return None
