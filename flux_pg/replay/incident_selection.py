"""Which requests an incident is: those of a window, or those that were named.

A window holds what ran in it and reached a function: HTTP requests, schedules, invocations. The
attempts of jobs are requests too, but belong to the trace of who enqueued them: they are taken when
they are asked for, by id, by function, or all of them (`with_jobs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

_COLUMNS = """
select e.request_id::text, e.kind, e.function, e.outcome, e.snapshot::text, e.xids::text[],
    (extract(epoch from e.started_at) * 1000000)::bigint as started_us,
    coalesce(e.duration_us, 0) as duration_us,
    (select d.hash_seed from flux.deployments as d where d.deployment_id = e.deployment)
        as hash_seed,
    exists (
        select from flux.mutations as m
        where m.request_id = e.request_id and m.outcome = 'committed'
    ) as writes
from flux.executions as e
"""
_ASKED = """
where (%(ids)s::uuid[] is null or e.request_id = any (%(ids)s::uuid[]))
    and (%(begin)s::timestamptz is null or e.request_id >= flux.uuid_floor(%(begin)s))
    and (%(end)s::timestamptz is null or e.request_id < flux.uuid_floor(%(end)s))
    and (%(first)s::uuid is null or e.request_id >= %(first)s)
    and (%(last)s::uuid is null or e.request_id <= %(last)s)
    and (%(deployments)s::bigint[] is null or e.deployment = any (%(deployments)s))
    and (%(functions)s::text[] is null or e.function = any (%(functions)s))
    and (%(least)s::int is null or e.status_code between %(least)s and %(most)s)
    and (%(path)s::text is null or e.path like %(path)s)
    and (not %(errors_only)s or e.outcome in ('error', 'timeout', 'cancelled', 'crashed'))
    and (%(kinds)s::text[] is null or e.kind = any (%(kinds)s)) and e.replay_of is null
"""
_READY = "and e.state = 'completed' and e.refused_by is null and e.function is not null\n"
_FOUND = _COLUMNS + _ASKED + _READY + "order by e.request_id limit %(limit)s"
_COUNTED = (
    """
select count(*) filter (where {ready}) as ready,
    count(*) filter (where e.refused_by is not null or e.function is null) as refused,
    count(*) filter (where e.state <> 'completed') as running
from flux.executions as e
""".format(ready=_READY.removeprefix("and "))
    + _ASKED
)
_JOBS = (
    _COLUMNS
    + """
where e.parent_request_id = any (%(parents)s::uuid[]) and e.job_id is not null
    and e.kind in ('job', 'schedule') and e.replay_of is null
"""
    + _READY
    + "order by e.request_id"
)
_JOB_DEPTH = 20
"""Generations of jobs that enqueue jobs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that is to be replayed.

    Attributes:
        snapshot: What its first transaction saw; None if it had none.
        xids: The transactions that committed effects of it, its record included.
        writes: Whether it changed rows.
    """

    request_id: str
    kind: str
    function: str
    outcome: str | None
    snapshot: str | None
    xids: tuple[int, ...]
    started_us: int
    ended_us: int
    hash_seed: str | None
    writes: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; every None leaves its question open.

    Attributes:
        path: A LIKE pattern.
        status: Least and greatest.
    """

    ids: Sequence[str] | None = None
    begin: datetime | None = None
    end: datetime | None = None
    first: str | None = None
    last: str | None = None
    deployments: Sequence[int] | None = None
    functions: Sequence[str] | None = None
    status: tuple[int, int] | None = None
    path: str | None = None
    errors_only: bool = False
    with_jobs: bool = False
    limit: int = 10_000


@dataclass
class Selection:
    """What was found, oldest first, and how many were left out for which reason."""

    requests: list[Candidate] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def select_requests(conn: psycopg.Connection[Any], wanted: Wanted) -> Selection:
    """Find the requests of an incident. Blocks."""
    kinds: list[str] | None = ["http", "invoke", "schedule"]
    if wanted.with_jobs or wanted.functions:
        kinds = ["http", "invoke", "schedule", "job"]
    if wanted.ids is not None:
        kinds = None
    least, most = wanted.status or (None, None)
    values = {
        "ids": None if wanted.ids is None else list(wanted.ids),
        "begin": wanted.begin, "end": wanted.end, "first": wanted.first, "last": wanted.last,
        "deployments": None if wanted.deployments is None else list(wanted.deployments),
        "functions": list(wanted.functions) if wanted.functions else None,
        "least": least, "most": most, "path": wanted.path, "errors_only": wanted.errors_only,
        "kinds": kinds, "limit": wanted.limit,
    }  # fmt: skip
    with conn.cursor(row_factory=dict_row) as cursor:
        found = [_read(row) for row in cursor.execute(_FOUND.encode(), values)]
        counted = cursor.execute(_COUNTED.encode(), values).fetchone() or {}
        if wanted.with_jobs:
            found += _jobs_of(cursor, found)
    left_out = {
        "beyond the limit": int(counted["ready"]) - min(int(counted["ready"]), wanted.limit),
        "refused before a function ran": int(counted["refused"]),
        "still running": int(counted["running"]),
    }
    found.sort(key=lambda one: one.request_id)
    return Selection(found, {reason: count for reason, count in left_out.items() if count})


def _jobs_of(cursor: psycopg.Cursor[Any], found: Sequence[Candidate]) -> list[Candidate]:
    """The attempts of every job that these requests, and those jobs, enqueued."""
    known = {one.request_id for one in found}
    jobs: list[Candidate] = []
    parents = list(known)
    for _ in range(_JOB_DEPTH):
        rows = cursor.execute(_JOBS.encode(), {"parents": parents}).fetchall() if parents else []
        new = [_read(row) for row in rows if row["request_id"] not in known]
        parents = [one.request_id for one in new]
        known.update(parents)
        jobs += new
    return jobs


def _read(row: dict[str, Any]) -> Candidate:
    duration_us = row.pop("duration_us")
    xids = tuple(int(xid) for xid in row.pop("xids") or ())
    return Candidate(**row, xids=xids, ended_us=row["started_us"] + duration_us)
