"""The checks of `flux doctor` that look at the queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flux_pg.analysis.queue import span_of_time
from flux_pg.analysis.text import clean, fit, plural
from flux_pg.cli.checks import Finding, Patient

_OVERDUE_S = 60.0
_COUNTED = 10_000
_MANY_FUNCTIONS = 5

_STATS = """
select s.function, s.ready, s.delayed, s.retrying, s.running, s.dead, s.capped,
    extract(epoch from clock_timestamp() - s.oldest_ready_at)::float8 as oldest_s
from flux.queue_stats(%s) as s
"""
_EXPIRED = """
select count(*) as jobs, coalesce(max(x.since_s), 0)::float8 as oldest_s
from (
    select extract(epoch from clock_timestamp() - j.lease_expires_at) as since_s
    from flux.jobs as j
    where j.state = 'running' and j.lease_expires_at < clock_timestamp() - interval '1 minute'
    limit %s
) as x
"""
_DEPLOYED = """
select f.value ->> 'name' as name
from (
    select d.functions from flux.deployments as d order by d.deployment_id desc limit 1
) as d
cross join lateral jsonb_array_elements(d.functions) as f (value)
"""


def check_queue(patient: Patient) -> Iterator[Finding]:
    """Do jobs wait for longer than they should, and does somebody look after the dead ones?"""
    rows = patient.all(_STATS, _COUNTED)
    found = [*_dead(rows), *_overdue(rows), *_expired(patient), *_homeless(patient, rows)]
    yield from found
    if not found:
        waiting = sum(row["ready"] + row["delayed"] + row["retrying"] for row in rows)
        count = f"{plural(waiting, 'job')} waiting" if waiting else "no job waits"
        yield Finding("queue", "ok", f"{count}; none is overdue, dead or lost")


def _dead(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    dead = [row for row in rows if row["dead"]]
    if not dead:
        return
    dead.sort(key=lambda row: -row["dead"])
    total = sum(row["dead"] for row in dead)
    more = "at least " if total >= _COUNTED else ""
    yield Finding(
        "queue", "warning", f"{more}{plural(total, 'job')} used up all attempts: {_by_name(dead)}",
        "`flux queue dead` lists them; `flux queue retry --dead --function FN` tries them again.",
    )  # fmt: skip


def _by_name(rows: Sequence[Mapping[str, Any]]) -> str:
    named = [f"{fit(clean(row['function']), 40)} {row['dead']:,}" for row in rows[:_MANY_FUNCTIONS]]
    return ", ".join(named) + (", …" if len(rows) > _MANY_FUNCTIONS else "")


def _overdue(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    late = [row for row in rows if row["oldest_s"] is not None and row["oldest_s"] > _OVERDUE_S]
    if not late:
        return
    oldest = max(late, key=lambda row: float(row["oldest_s"]))
    yield Finding(
        "queue", "warning",
        f"a job of {clean(oldest['function'])} is due for {span_of_time(oldest['oldest_s'])} and "
        "no worker has taken it",
        "Is a worker running, with queue.jobs on? If so it has too much to do: add workers, or "
        "raise queue.concurrency. `flux queue stats` shows what waits.",
    )  # fmt: skip


def _expired(patient: Patient) -> Iterator[Finding]:
    row = patient.one(_EXPIRED, _COUNTED)
    if row["jobs"]:
        yield Finding(
            "queue", "warning",
            f"{plural(row['jobs'], 'running job')} lost the worker, the first one "
            f"{span_of_time(row['oldest_s'])} ago, and no other worker has taken over",
            "Start a worker: `flux serve`. It takes over what others left.",
        )  # fmt: skip


def _homeless(patient: Patient, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Jobs that wait for a function which the newest deployment does not have."""
    deployed = {row["name"] for row in patient.all(_DEPLOYED)}
    gone = [
        row for row in rows
        if deployed and row["function"] not in deployed
        and row["ready"] + row["delayed"] + row["retrying"]
    ]  # fmt: skip
    for row in gone[:_MANY_FUNCTIONS]:
        waiting = row["ready"] + row["delayed"] + row["retrying"]
        name = clean(row["function"])
        verb = "waits" if waiting == 1 else "wait"
        yield Finding(
            "queue", "warning",
            f"{plural(waiting, 'job')} of {name} {verb}, and the newest deployment has no function "
            "of that name",
            f"Bring it back, or: flux queue cancel --waiting --function {name}",
        )  # fmt: skip
