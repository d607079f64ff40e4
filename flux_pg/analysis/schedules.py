"""Schedules as people read them: when one fires next, on its own zone's clock, and what became of
its last job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from flux_pg.analysis.cron import Cron, parse_cron
from flux_pg.analysis.cron_times import find_zone, firings
from flux_pg.analysis.queue import span_of_time
from flux_pg.analysis.text import clean, short_id
from flux_pg.errors import FluxError

Row = Mapping[str, Any]

SHOWN = 5
"""How many of the next times are told."""

OVERLAPS = {
    "allow": "another job, also while the last one is unfinished",
    "skip": "nothing while the last job is unfinished",
    "queue": "one time waits while the last job is unfinished",
}
MISSED = {
    "skip": "times at which nothing ran are left out",
    "once": "the newest time at which nothing ran is made up for",
    "all": "each time at which nothing ran is made up for, at most a hundred",
}


def iso(moment: datetime) -> str:
    """Return a time as in every JSON document of Flux."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry(row: Row, now: datetime) -> dict[str, Any]:
    """Return a row of flux.schedules, with its last job, as an entry of `flux.schedules/1`.

    `next` holds the next five times; none if it is held, or if its rule cannot be followed on this
    machine (`error` says why).
    """
    error = row["error"]
    following: list[datetime] = []
    try:
        cron, zone = parse_cron(row["cron"]), find_zone(row["time_zone"])
        if not row["paused"]:
            following = upcoming(cron, zone, now)
    except FluxError as failed:
        error = failed.message
    return {
        "name": row["name"],
        "cron": row["cron"],
        "time_zone": row["time_zone"],
        "function": row["function"],
        "payload": row["payload"],
        "paused": row["paused"],
        "last": row["last_at"],
        "next": [iso(one) for one in following],
        "origin": row["origin"],
        "project": row["project"],
        "overlap": row["overlap"],
        "missed": row["missed"],
        "error": error,
        "waiting": row["waiting_at"],
        "skipped": row["skipped_at"],
        "skipped_because": row["skipped_because"],
        "last_job": _last_job(row),
    }


def _last_job(row: Row) -> dict[str, Any] | None:
    if row["last_job_id"] is None:
        return None
    return {
        "job_id": row["last_job_id"],
        "state": row["job_state"],
        "due_at": row["job_due_at"],
        "enqueued_at": row["last_fired_at"],
        "last_request_id": row["job_request_id"],
    }


def upcoming(cron: Cron, zone: ZoneInfo, after: datetime, count: int = SHOWN) -> list[datetime]:
    """Return the next times of a rule; fewer at the end of the calendar."""
    found: list[datetime] = []
    with suppress(OverflowError):
        found.extend(islice(firings(cron, zone, after), count))
    return found


def local_time(moment: str, zone: ZoneInfo) -> str:
    """Return a time on a zone's clock: `Mon 2026-11-23 03:00`."""
    return datetime.fromisoformat(moment).astimezone(zone).strftime("%a %Y-%m-%d %H:%M")


def next_lines(times: Sequence[str], zone: ZoneInfo, now: datetime) -> list[str]:
    """Return the next times, one a line, with the offset of the clock and how far away each is."""
    lines = []
    for one in times:
        moment = datetime.fromisoformat(one)
        offset = moment.astimezone(zone).strftime("%z")
        away = span_of_time((moment - now).total_seconds())
        lines.append(f"{local_time(one, zone)} {offset[:3]}:{offset[3:5]}  in {away}")
    return lines


def zone_of(schedule: Row) -> ZoneInfo:
    """Return the zone to show a schedule's times in; UTC if its own is not known here."""
    try:
        return find_zone(schedule["time_zone"])
    except FluxError:
        return find_zone("UTC")


def last_line(schedule: Row, zone: ZoneInfo) -> str:
    """Return what was fired last: `2026-11-22 03:00  job 5c1f22aa succeeded`."""
    job = schedule["last_job"]
    if job is None:
        return "never"
    told = f"job {short_id(job['job_id'])} {job['state'] or 'is gone'}"
    if not job["due_at"] and job["state"]:
        told += "  by hand"
    return f"{local_time(job['due_at'] or job['enqueued_at'], zone)[4:]}  {told}"


def heading(schedule: Row) -> str:
    """Return what a schedule is: rule, zone and function."""
    function = clean(schedule["function"])
    return f"{clean(schedule['cron'])}  {clean(schedule['time_zone'])}  → {function}"
