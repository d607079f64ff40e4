"""Jobs as people read them: how one stands, what its attempts came to, how long it waited.

A job's hand-off (from when it could begin until it began) is never mixed with its run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flux_pg.analysis.text import clean, duration, short_id

Row = Mapping[str, Any]

STATES = ("ready", "delayed", "running", "succeeded", "retrying", "dead", "cancelled")
"""Every state of a job, as `flux.jobs` says it."""

WAITING = ("ready", "delayed", "retrying")
"""The states of a job that a worker will begin by itself, now or later."""

FINISHED = ("succeeded", "dead", "cancelled")
"""The states that a job only leaves when somebody asks for it."""

_MANY_ATTEMPTS = 6


def entry(row: Row) -> dict[str, Any]:
    """Return a row of `flux.jobs` as an entry of `flux.queue/1`.

    Args:
        row: Times as texts, ids as texts.
    """
    return {
        "job_id": row["job_id"],
        "function": row["function"],
        "state": row["state"],
        "attempt": row["attempt"],
        "max_attempts": row["max_attempts"],
        "run_at": row["run_at"],
        "enqueued_by": {
            "request_id": row["enqueued_by_request"],
            "span_id": row["enqueued_by_span"],
        },
        "last_request_id": row["last_request_id"],
        "last_error": row["last_error"],
        "priority": row["priority"],
        "enqueued_at": row["enqueued_at"],
        "finished_at": row["finished_at"],
        "running_request_id": row["running_request_id"],
        "cancel_requested": row["cancel_requested"],
        "schedule": row["schedule"],
        "due_at": row["due_at"],
        "idempotency_key": row["idempotency_key"],
        "trace_id": row["trace_id"],
    }


def tries(job: Row) -> str:
    """Return how many attempts were begun of how many there may be: `2/5`."""
    return f"{job.get('attempt') or 0}/{job.get('max_attempts') or '?'}"


def span_of_time(seconds: float) -> str:
    """Return a length of time roughly: `12 s`, `4 min`, `3 h`, `5 days`."""
    seconds = max(seconds, 0.0)
    for limit, size, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def standing(job: Row, now: datetime) -> str:
    """Return when a job will begin, for how long it could have, or when it ended."""
    moment = moment_of(job["finished_at"] if job["state"] in FINISHED else job["run_at"])
    if moment is None or job["state"] == "running":
        return ""
    seconds = (moment - now).total_seconds()
    if job["state"] in FINISHED:
        return f"{span_of_time(-seconds)} ago"
    return f"in {span_of_time(seconds)}" if seconds > 0 else f"due {span_of_time(-seconds)}"


def moment_of(value: Any) -> datetime | None:
    """Return a recorded time, which may be a text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def error_line(error: Any) -> str:
    """Return a job's error as `Type: message` on one line, empty if there is none."""
    if not isinstance(error, Mapping):
        return clean(str(error)) if error else ""
    message = (str(error.get("message") or "").splitlines() or [""])[0]
    return clean(f"{error.get('type') or 'Error'}: {message}".rstrip(": "))


def job_lines(job: Row) -> list[tuple[str, str]]:
    """Return a job that a span enqueued as lines of text, each with the outcome it is painted by.

    One line if it took one attempt or none; else one more for each of the last attempts.
    """
    name = clean(str(job.get("function") or ""))
    state = str(job["state"])
    head = f"» job {name} {short_id(str(job['job_id']))}  {state}{_not_before(job)}"
    attempts = list(job.get("attempts") or [])
    if len(attempts) < 2:
        told = attempt_text(attempts[0]) if attempts else ""
        failed = bool(attempts) and state in ("dead", "retrying")
        error = error_line(attempts[0].get("error")) if failed else ""
        return [("  ".join(filter(None, (head, told, error))), state)]
    count = f"{job.get('attempt')} of {job.get('max_attempts')}"
    lines = [
        (f"{head}  attempt {count}" if state in WAITING else f"{head} after attempt {count}", state)
    ]
    left_out = len(attempts) - _MANY_ATTEMPTS
    if left_out > 0:
        lines.append((f"    … {left_out} earlier", ""))
    for attempt in attempts[-_MANY_ATTEMPTS:]:
        lines.append((f"    {attempt_line(attempt)}", str(attempt.get("outcome") or "running")))
    return lines


def _not_before(job: Row) -> str:
    moment = moment_of(job.get("run_at")) if job["state"] in ("delayed", "retrying") else None
    return f" until {moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def attempt_line(attempt: Row) -> str:
    """Return an attempt on one line: number, outcome, times, its request, its error."""
    outcome = str(attempt.get("outcome") or "running")
    parts = (f"attempt {attempt.get('attempt')}", outcome, attempt_text(attempt))
    return "  ".join(filter(None, (*parts, error_line(attempt.get("error")))))


def attempt_text(attempt: Row) -> str:
    """Return how long an attempt was waited for and how long it ran, and its request's id."""
    waited, ran = attempt.get("wait_us"), attempt.get("duration_us")
    return "  ".join(
        filter(
            None,
            (
                f"waited {duration(waited)}" if waited is not None else "",
                f"ran {duration(ran)}" if ran is not None else "",
                f"→ {short_id(str(attempt['request_id']))}",
            ),
        )
    )
