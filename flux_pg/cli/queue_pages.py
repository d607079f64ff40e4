"""How `flux queue` shows jobs: a table of many, a page of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tabulate import MIN_PADDING, tabulate

from flux_pg.analysis import queue as jobs
from flux_pg.analysis.details import field_lines
from flux_pg.analysis.text import cells, clean, fit, plural, short_id
from flux_pg.cli.selectors import show_time
from flux_pg.cli.style import Style

Row = dict[str, Any]

_FUNCTION_WIDTH = 32
_LEAST_ERROR = 20


def paint_state(state: str, style: Style, text: str | None = None) -> str:
    """Return a job's state (or a text about it) in the colour that it has everywhere."""
    shown = state if text is None else text
    paints = {
        "succeeded": style.good, "dead": style.bad, "running": style.accent,
        "retrying": style.warn, "cancelled": style.warn,
    }  # fmt: skip
    return paints[state](shown) if state in paints else shown


def table(rows: Sequence[Row], style: Style, width: int, now: datetime) -> str:
    """Return jobs as a table, one a line; what every line leaves empty has no column."""
    lines = [
        [
            short_id(row["job_id"]),
            fit(clean(row["function"]), _FUNCTION_WIDTH),
            row["state"],
            jobs.tries(row),
            jobs.standing(row, now),
            enqueuer(row),
            short_id(row["running_request_id"] or row["last_request_id"] or ""),
            jobs.error_line(row["last_error"]),
        ]
        for row in rows
    ]
    headers = ["job", "function", "state", "attempt", "when", "by", "last run", "error"]
    for index in range(len(headers) - 1, 3, -1):
        if not any(line[index] for line in lines):
            headers.pop(index)
            for line in lines:
                line.pop(index)
    if headers[-1] == "error":
        titles = [title + " " * MIN_PADDING for title in headers[:-1]]
        others = zip(titles, *(line[:-1] for line in lines), strict=True)
        taken = sum(max(map(cells, column)) + 2 for column in others)
        for line in lines:
            line[-1] = fit(line[-1], max(width - taken, _LEAST_ERROR))
    painted = [
        [style.strong(line[0]), line[1], paint_state(line[2], style), *line[3:]] for line in lines
    ]
    return tabulate(painted, headers=headers, disable_numparse=True)


def enqueuer(row: Row) -> str:
    """Return who enqueued a job: a request, a schedule, or somebody at psql."""
    if row["schedule"]:
        return fit(f"schedule {clean(row['schedule'])}", 24)
    return short_id(row["enqueued_by_request"]) if row["enqueued_by_request"] else "SQL"


def page(document: Row, parent: Row | None, style: Style, width: int, now: datetime) -> str:
    """Return everything about one job."""
    name = style.strong(f"job {clean(document['function'])}")
    state = paint_state(document["state"], style)
    told = (name, state, f"attempt {jobs.tries(document)}", jobs.standing(document, now))
    enqueued = f"enqueued {show_time(document['enqueued_at'])}"
    lines = ["  ".join(filter(None, told)), style.dim(f"{document['job_id']}  {enqueued}")]
    lines += ["", *_facts(document, parent, style)]
    sections = (
        ("ATTEMPTS", _attempts(document["attempts"], style, width - 2)),
        ("LAST ERROR", _error(document, style, width - 2)),
        ("INPUT", field_lines(document["input"], width - 4)),
    )
    for title, body in sections:
        if body:
            lines += ["", style.strong(title), *("  " + line for line in body)]
    return "\n".join(lines)


def _facts(document: Row, parent: Row | None, style: Style) -> list[str]:
    by = document["enqueued_by"]
    who = f"schedule {clean(document['schedule'])}" if document["schedule"] else "SQL, outside Flux"
    if parent:
        asked = " ".join(filter(None, (parent["method"], parent["path"])))
        asked = clean(asked or f"{parent['kind']} {parent['function'] or ''}".strip())
        who = f"{asked}  {style.dim('→ ' + short_id(parent['request_id']))}"
    elif by["request_id"]:
        who = f"request {short_id(by['request_id'])}, which is not on record"
    run_at = document["run_at"] if document["state"] in jobs.WAITING else None
    facts = [
        ("enqueued by", who),
        ("begins", show_time(run_at) if run_at else ""),
        ("ended", show_time(document["finished_at"]) if document["finished_at"] else ""),
        ("priority", str(document["priority"]) if document["priority"] else ""),
    ]
    return [f"{name:<12} {value}" for name, value in facts if value]


def _attempts(attempts: Sequence[Row], style: Style, width: int) -> list[str]:
    lines: list[str] = []
    before = 0
    for attempt in attempts:
        if attempt["attempt"] <= before:
            lines.append(style.dim("    retried"))  # by a person: the attempts count from 1 again
        before = attempt["attempt"]
        lines += _attempt(attempt, style, width)
    return lines


def _attempt(attempt: Row, style: Style, width: int) -> list[str]:
    outcome = attempt["outcome"] or "running"
    number = f"{attempt['attempt']:>2}"
    told = f"{show_time(attempt['started_at'])}  {jobs.attempt_text(attempt)}"
    lines = [f"{number}  {style.outcome(attempt['outcome'], f'{outcome:<9}')}  {told}"]
    if attempt["error"]:
        lines.append("    " + style.bad(fit(jobs.error_line(attempt["error"]), width - 4)))
    return lines


def _error(document: Row, style: Style, width: int) -> list[str]:
    error = document["last_error"]
    told = {jobs.error_line(one["error"]) for one in document["attempts"]}
    if not error or jobs.error_line(error) in told:
        return []
    return [style.bad(fit(jobs.error_line(error), width))]


def next_commands(document: Row) -> list[str]:
    """Return what to type next about a job."""
    commands = []
    failed = [a for a in document["attempts"] if a["outcome"] not in ("ok", None)]
    short = short_id(document["job_id"])
    if failed and document["state"] != "succeeded":
        commands.append(f"flux why {short_id(failed[-1]['request_id'])}")
    elif document["attempts"]:
        commands.append(f"flux trace {short_id(document['attempts'][-1]['request_id'])}")
    if document["state"] in ("dead", "cancelled"):
        commands.append(f"flux queue retry {short}")
    return commands


def changed(verb: str, job: Row) -> str:
    """Return what became of a job that was retried or cancelled."""
    if verb == "retry":
        return f"queued again, for up to {plural(job['max_attempts'], 'attempt')}"
    if job["state"] == "cancelled":
        return "cancelled"
    return f"asked to stop: attempt {jobs.tries(job)} is running"


COUNTED = ("ready", "delayed", "retrying", "running", "dead")
"""The columns of `flux queue stats`."""


def stats_table(rows: Sequence[Row], style: Style, now: datetime) -> str:
    """Return the counts of jobs by function."""
    lines = []
    for row in rows:
        counts = [f"{row[state]:,}" if row[state] else "" for state in COUNTED]
        counts[-1] = style.bad(counts[-1])
        due = jobs.moment_of(row["oldest_ready_at"])
        waits = jobs.span_of_time((now - due).total_seconds()) if due else ""
        limit = str(row["concurrency"] or "")
        lines.append([fit(clean(row["function"]), _FUNCTION_WIDTH), *counts, waits, limit])
    headers = ["function", *COUNTED, "oldest due", "at most"]
    if not any(line[-1] for line in lines):
        headers, lines = headers[:-1], [line[:-1] for line in lines]
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(lines, headers=headers, disable_numparse=True, colalign=align)
