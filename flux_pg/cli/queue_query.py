"""What `flux queue` asks the database: jobs by filter, a page at a time, or by selector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flux_pg.analysis import queue as jobs
from flux_pg.analysis.text import clean
from flux_pg.cli.selectors import read_window, utc_now
from flux_pg.cli.session import Database
from flux_pg.errors import NotFoundError

_BATCH = 500
_CHOSEN = """
from flux.jobs as j
where (%(function)s::text is null or j.function = %(function)s)
    and (%(states)s::text[] is null or j.state = any (%(states)s::text[]))
    and (%(since)s::timestamptz is null or j.job_id >= flux.uuid_floor(%(since)s))
    and (%(until)s::timestamptz is null or j.job_id < flux.uuid_floor(%(until)s))
    and (%(before)s::uuid is null or j.job_id < %(before)s)
order by j.job_id desc
limit %(limit)s
"""
ROWS = (
    """
select j.job_id::text, j.function, j.state, j.attempt, j.max_attempts, j.priority,
    flux.iso_time(j.run_at) as run_at, flux.iso_time(j.enqueued_at) as enqueued_at,
    flux.iso_time(j.finished_at) as finished_at,
    j.enqueued_by_request::text, j.enqueued_by_span, j.last_request_id::text, j.last_error,
    j.running_request_id::text, j.cancel_requested, j.schedule, flux.iso_time(j.due_at) as due_at,
    j.idempotency_key, replace(j.trace_id::text, '-', '') as trace_id
"""
    + _CHOSEN
)
_SOME = ROWS.replace(
    _CHOSEN, "from flux.jobs as j where j.job_id = any (%(jobs)s) order by j.job_id desc"
)


def choice(states: tuple[str, ...], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `ROWS` for the options that choose jobs; `limit` is to be added."""
    begin, end = read_window(chosen["since"], chosen["until"], utc_now())
    return {
        "function": chosen["function"],
        "states": list(states) or None,
        "since": begin,
        "until": end,
        "before": None,
    }


def require_function(database: Database, function: str) -> None:
    """Tell a name that is misspelt from one without jobs.

    Raises:
        NotFoundError: no deployment ever had such a function.
    """
    rows = database.execute("select f.name from flux.functions as f order by f.name").fetchall()
    known = [row["name"] for row in rows]
    if function in known:
        return
    listed = f"There are: {', '.join(map(clean, known))}." if known else (
        "None is known yet: `flux dev` or `flux serve` makes them known."
    )  # fmt: skip
    raise NotFoundError(f"there is no function {clean(function)}", listed, code="no-function")


def resolve(database: Database, selector: str) -> UUID:
    """Return the job that a selector means."""
    row = database.execute("select flux.resolve_job(%s) as id", (selector,)).fetchone()
    assert row is not None
    found: UUID = row["id"]
    return found


def entries(database: Database, ids: list[UUID]) -> list[dict[str, Any]]:
    """Return how jobs stand, as entries of `flux.queue/1`, newest first."""
    rows = database.execute(_SOME.encode(), {"jobs": ids}).fetchall()
    return [jobs.entry(row) for row in rows]


def pages(database: Database, wanted: dict[str, Any], size: int = _BATCH) -> Iterator[list[UUID]]:
    """Yield the ids of all chosen jobs, newest first, a page at a time."""
    query = ("select j.job_id" + _CHOSEN).encode()
    before = wanted["before"]
    while True:
        rows = database.execute(query, {**wanted, "before": before, "limit": size}).fetchall()
        if rows:
            yield [row["job_id"] for row in rows]
        if len(rows) < size:
            return
        before = rows[-1]["job_id"]
