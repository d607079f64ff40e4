"""Requests as they end, read from the record: what `flux tail` and `flux dev` print.

Polled, not notified: a NOTIFY for each request would cost most of the throughput. A record appears
when its request ends but is ordered by when it began, so every poll looks a little back and skips
what it has seen; now and then one looks far back, for the slow ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flux_pg.cli.session import Database

_NEAR = timedelta(seconds=3)
_FAR = timedelta(minutes=5)
_FAR_EVERY_S = 5.0
_BATCH = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_IDS = """
select e.request_id
from flux.executions as e
where e.request_id >= flux.uuid_floor(%(since)s)
    and (%(until)s::timestamptz is null or e.request_id < flux.uuid_floor(%(until)s))
    and e.state = 'completed' and e.kind not in ('replay', 'bisect')
    and (%(function)s::text is null or e.function = %(function)s)
    and (not %(errors)s or e.outcome in ('error', 'timeout', 'cancelled', 'crashed'))
    and (%(low)s::int is null or e.status_code between %(low)s and %(high)s)
"""
_ROWS = """
select e.request_id::text, replace(e.trace_id::text, '-', '') as trace_id, e.kind, e.function,
    e.method, e.path, e.outcome, e.status_code, flux.iso_time(e.started_at) as started_at,
    e.duration_us, e.error ->> 'type' as error_type, e.error ->> 'message' as error_message,
    e.refused_by, e.complete, e.job_id::text, e.attempt
from flux.executions as e
where e.request_id = any (%s)
order by e.request_id
"""
_CHANGES = """
select m.request_id::text, m.seq, m.schema, m."table", m.pk, m.op, m.old, m.new, m.changed,
    m.outcome
from flux.mutations as m
where m.request_id = any (%s)
order by m.seq
"""
_JOBS = """
select j.job_id::text, j.max_attempts, j.state, flux.iso_time(j.run_at) as run_at,
    j.last_request_id::text
from flux.jobs as j
where j.job_id = any (%s)
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests are wanted; `status` is an inclusive range of HTTP statuses."""

    function: str | None = None
    errors_only: bool = False
    status: tuple[int, int] | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the query's parameters."""
        low, high = self.status or (None, None)
        return {"function": self.function, "errors": self.errors_only, "low": low, "high": high}


class Feed:
    """Reads requests from one connection, each once, oldest first within a poll.

    Args:
        database: An autocommit connection, used by nobody else meanwhile.
        wanted: Which requests.
    """

    def __init__(self, database: Database, wanted: Filter) -> None:
        self._database = database
        self._wanted = wanted
        self._seen: dict[UUID, float] = {}
        self._begin = self.server_time()
        self._far_at = 0.0

    def server_time(self) -> datetime:
        """Return the database's clock."""
        row = self._database.execute("select clock_timestamp() as now").fetchone()
        assert row is not None
        now: datetime = row["now"]
        return now

    def history(
        self, since: datetime | None, until: datetime | None, last: int | None
    ) -> Iterator[dict[str, Any]]:
        """Yield requests that began in a window, oldest first; at most the newest `last` ones."""
        query = _IDS + "order by e.request_id desc limit %(limit)s"
        if last is None:
            query = _IDS + "order by e.request_id"
        window = {
            "since": max(since or _EPOCH, _EPOCH),
            "until": until,
            "limit": last,
            **self._wanted.parameters(),
        }
        ids = [row["request_id"] for row in self._database.execute(query.encode(), window)]
        ids.sort()
        self._note(ids)
        yield from self._details(ids)

    def poll(self) -> Iterator[dict[str, Any]]:
        """Yield the requests that ended since the last poll and began after this feed, or just
        before it."""
        clock = time.monotonic()
        far = clock - self._far_at >= _FAR_EVERY_S
        if far:
            self._far_at = clock
        since = max(self.server_time() - (_FAR if far else _NEAR), self._begin - _NEAR)
        window = {"since": since, "until": None, **self._wanted.parameters()}
        rows = self._database.execute((_IDS + "order by e.request_id").encode(), window)
        fresh = [row["request_id"] for row in rows if row["request_id"] not in self._seen]
        self._note(fresh)
        yield from self._details(fresh)
        if far:
            self._forget()

    def _note(self, ids: Sequence[UUID]) -> None:
        now = time.monotonic()
        self._seen.update(dict.fromkeys(ids, now))

    def _forget(self) -> None:
        """Drop ids that no poll can meet again."""
        limit = time.monotonic() - 2 * _FAR.total_seconds()
        self._seen = {key: at for key, at in self._seen.items() if at > limit}

    def _details(self, ids: Sequence[UUID]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(ids), _BATCH):
            batch = list(ids[start : start + _BATCH])
            rows = self._database.execute(_ROWS, (batch,)).fetchall()
            changes: dict[str, list[dict[str, Any]]] = {}
            for change in self._database.execute(_CHANGES, (batch,)):
                changes.setdefault(change.pop("request_id"), []).append(change)
            jobs = self._jobs([UUID(row["job_id"]) for row in rows if row["job_id"]])
            for row in rows:
                job_id, attempt = row.pop("job_id"), row.pop("attempt")
                if job_id is not None:
                    row["job"] = {"job_id": job_id, "attempt": attempt, **jobs.get(job_id, {})}
                yield {**row, "mutations": changes.get(row["request_id"], [])}

    def _jobs(self, ids: Sequence[UUID]) -> dict[str, dict[str, Any]]:
        """Return how the jobs stand now that the requests are attempts of."""
        found = self._database.execute(_JOBS, (list(ids),)).fetchall() if ids else []
        return {row["job_id"]: row for row in found}
