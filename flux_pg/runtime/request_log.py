"""One line for each request: for a person on standard error, JSON among the other JSON log lines
on standard output.

The line only points to the record; it repeats nothing that a span says already.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from .late import Caught
from .recording import Ending
from .run import Run

_GREEN, _YELLOW, _RED, _DIM, _RESET = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class RequestLog:
    """Writes the lines; each is one write, so that workers do not mix theirs.

    Args:
        log_format: `text` or `json`.
        silent: Write nothing: `flux dev` and `flux invoke` show requests from the record.
    """

    def __init__(self, log_format: str, *, silent: bool = False) -> None:
        self._silent = silent
        self._json = log_format == "json"
        self._colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def finished(self, run: Run, ending: Ending) -> None:
        """A request has ended and is recorded."""
        if self._silent or (run.invocation.job is not None and ending.outcome == "ok"):
            return  # of jobs, which nobody waits for, only what went wrong
        line = self._as_json(run, ending) if self._json else self._as_text(run, ending)
        try:
            os.write(1 if self._json else 2, line.encode(errors="replace"))
        except OSError:
            return  # it is closed or full: the record is what counts

    def caught_up(self, caught: Caught, turned_away: int) -> None:
        """The database is back, and every record that waited for it is dealt with."""
        counts = {**msgspec.structs.asdict(caught), "turned_away": turned_away}
        if self._json:
            line = msgspec.json.encode({"event": "caught_up", **counts}).decode() + "\n"
        else:
            line = f"flux: the database is back: {caught.written} records were written late"
            if turned_away:
                line += f"; {turned_away} requests were turned away meanwhile and only counted"
            if caught.given_up:
                line += f"; {caught.given_up} records were refused by Postgres"
            line += "\n"
        try:
            os.write(1 if self._json else 2, line.encode())
        except OSError:
            return

    def _as_json(self, run: Run, ending: Ending) -> str:
        document: dict[str, Any] = {
            "event": "request",
            "request_id": run.request_id,
            "trace_id": run.invocation.trace_id,
            "function": run.invocation.function.name,
            "outcome": ending.outcome,
            "status_code": ending.status_code,
            "duration_us": run.elapsed_us(),
        }
        return msgspec.json.encode(document).decode() + "\n"

    def _as_text(self, run: Run, ending: Ending) -> str:
        http = run.invocation.http
        kind, name = run.invocation.kind, run.invocation.function.name
        what = f"{http.method} {run.path}" if http else f"{kind} {name}"
        what = what.replace("\n", "\\n").replace("\r", "\\r").replace("\x1b", "\\x1b")
        status = ending.status_code or (200 if ending.outcome == "ok" else 500)
        colour = _GREEN if status < 400 else _YELLOW if status < 500 else _RED
        told = ending.outcome if ending.status_code is None else str(status)
        took = run.elapsed_us() / 1000
        line = f"{what} {self._paint(colour, told)} {took:.1f} ms "
        line += self._paint(_DIM, run.request_id) + "\n"
        if ending.outcome != "ok":
            line += f"  {self._paint(_RED, ending.outcome)} → flux why {run.request_id}\n"
        return line

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour else text
