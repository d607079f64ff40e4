"""One request as one line, the same in `flux dev` and `flux tail`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from flux_pg.analysis.changes import describe
from flux_pg.analysis.text import cells, clean, duration, fit, pad, short_id
from flux_pg.cli.style import Style

_FIXED = 8 + 2 + 2 + 3 + 2 + 8 + 2 + 8
_MANY_CHANGES = 5


def request_lines(row: dict[str, Any], style: Style, width: int) -> list[str]:
    """Return a request's line, its error if it failed, and its row changes."""
    at = datetime.fromisoformat(row["started_at"]).astimezone().strftime("%H:%M:%S")
    asked = " ".join(filter(None, (row["method"], row["path"])))
    asked = clean(asked or f"{row['kind']} {row['function'] or ''}".strip()) + _try(row)
    known = row["status_code"] if row["outcome"] != "crashed" else None
    status = str(known or ("ok" if row["outcome"] == "ok" else "-"))
    short = short_id(row["request_id"])
    # The gateway's own answer to OPTIONS is a refusal that is no failure.
    answered = row["refused_by"] is not None and (row["status_code"] or 500) < 400
    failed = row["outcome"] != "ok" and not answered
    room = max(min(width - _FIXED, 48), 16)
    line = "  ".join(
        (
            style.dim(at),
            pad(asked, room),
            _paint_status(row, style, f"{status:>3}"),
            f"{duration(row['duration_us']):>8}",
            style.dim(short),
        )
    )
    lines = [line]
    if failed:
        lines.append("          " + _failure(row, style, width - 10, short))
    lines += _changes(row["mutations"], style, width)
    return lines


def _try(row: dict[str, Any]) -> str:
    """Return which attempt of its job a request is; not of a job that succeeds at once."""
    job = row.get("job")
    if job is None or (job["attempt"] == 1 and row["outcome"] == "ok"):
        return ""
    return f" attempt {job['attempt']}/{job.get('max_attempts') or '?'}"


def _fate(row: dict[str, Any], style: Style) -> str:
    """Return what becomes of a job whose attempt failed, if that was its last one so far."""
    job = row.get("job") or {}
    if job.get("last_request_id") != row["request_id"]:
        return ""
    if job["state"] == "retrying":
        pause = datetime.fromisoformat(job["run_at"]) - datetime.fromisoformat(row["started_at"])
        left_s = pause.total_seconds() - row["duration_us"] / 1e6
        return style.warn(f"again in {duration(max(left_s, 0.0) * 1e6)}  ")
    return style.bad("dead  ") if job["state"] == "dead" else ""


def _paint_status(row: dict[str, Any], style: Style, text: str) -> str:
    if row["outcome"] == "ok" or (row["refused_by"] and (row["status_code"] or 500) < 400):
        return style.good(text)
    at_client = row["status_code"] is not None and 400 <= row["status_code"] < 500
    return style.warn(text) if at_client else style.bad(text)


def _failure(row: dict[str, Any], style: Style, room: int, short: str) -> str:
    pointer = f"→ flux why {short}"
    fate = _fate(row, style)
    room -= cells(click.unstyle(fate))
    what = row["error_type"] or row["outcome"]
    if row["error_message"]:
        what += f": {row['error_message'].splitlines()[0]}"
    if row["outcome"] in ("timeout", "cancelled", "crashed"):
        what = f"{row['outcome']}: {what}" if what != row["outcome"] else what
    text = fit(clean(what), max(room - len(pointer) - 2, 20))
    paint = style.warn if row["refused_by"] else style.bad
    return f"{paint(text)}  {fate}{style.strong(pointer)}"


def _changes(changes: list[dict[str, Any]], style: Style, width: int) -> list[str]:
    lines = []
    for change in changes[:_MANY_CHANGES]:
        rolled_back = change["outcome"] != "committed"
        tail = "  (rolled back)" if rolled_back else ""
        text = describe(change, width - 10 - len(tail)) + tail
        lines.append("          " + (style.warn(text) if rolled_back else style.accent(text)))
    if len(changes) > _MANY_CHANGES:
        lines.append(style.dim(f"          … {len(changes) - _MANY_CHANGES} more row changes"))
    return lines
