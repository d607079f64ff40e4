"""Every call of the queue's SQL functions that a worker makes. What they promise is said there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from flux_pg.database.pipeline import FixedQuery, FixedStatement, Statement

CHANNEL = "flux_jobs"
"""Says that there are new jobs; the payload is empty."""

CANCEL_CHANNEL = "flux_cancel"
"""Says that a running job is to be cancelled; the payload is its id."""

SCHEDULES_CHANNEL = "flux_schedules"
"""Says that schedules were made, changed or removed; the payload is empty."""

LEASE_LOST = "ZF007"
"""SQLSTATE: the job is not this attempt's any more."""

PUSH = (
    "select flux.enqueue(p_function => %s, p_payload => %s, p_delay => %s * interval '1 second',"
    " p_run_at => %s, p_priority => %s, p_max_attempts => %s, p_idempotency_key => %s,"
    " p_notify => false, p_trace_id => %s)"
)

_CLAIM = (
    "select c.job_id, c.function, c.payload, c.attempt, c.max_attempts, c.lease_token, c.trace_id,"
    " c.parent_request_id, c.parent_span_id, c.enqueued_at, c.run_at, c.claimed_at, c.schedule,"
    " c.due_at, c.mark::text"
    " from flux.claim_jobs(p_worker => %s, p_functions => %s, p_limit => %s,"
    " p_lease => %s * interval '1 second', p_mark => %s) as c"
)
_NEXT = (
    "select extract(epoch from"
    " flux.next_job_at(%s, clock_timestamp() - %s * interval '1 second', %s)"
    " - clock_timestamp())::float8"
)
_COMPLETE = FixedQuery("select flux.complete_job($1, $2)", 2)
_FAIL = "select flux.fail_job(%s, %s, %s, clock_timestamp() + %s * interval '1 second')"
_CANCEL = "select flux.cancel_attempt(%s, %s)"
_EXTEND = (
    "select e.token, e.held, e.cancel_requested"
    " from flux.extend_leases(%s, %s, %s * interval '1 second') as e"
)
_RELEASE = "select flux.release_jobs(%s, %s)"
_CUT_SHORT = "select flux.release_jobs(%s, %s, p_ended => true)"
_RELEASE_UNKNOWN = "select flux.release_jobs(%s, null, %s)"
_NOTIFY = "select pg_catalog.pg_notify(%s, '')"


def claim(
    worker: UUID, functions: Sequence[str], limit: int, lease_s: float, mark: str
) -> Statement:
    """Take up to `limit` jobs that are due; `mark` is what the last row without a job said."""
    return Statement(_CLAIM, (str(worker), list(functions), str(limit), str(lease_s), mark))


def seconds_to_next(functions: Sequence[str], ago_s: float, mark: str) -> Statement:
    """In how many seconds the next job is due; null if none waits for its time.

    Also of one that has become due in the last `ago_s` seconds, since a claim did not find it.
    """
    return Statement(_NEXT, (list(functions), str(ago_s), mark))


def complete(job_id: UUID, token: UUID) -> FixedStatement:
    """The attempt's last word if it went well: fails if the lease is lost."""
    return _COMPLETE.bind(str(job_id), str(token))


def fail(job_id: UUID, token: UUID, error: str | None, retry_in_s: float | None) -> Statement:
    """Its last word if not; without a next try the job is dead. False if the lease is lost."""
    pause = None if retry_in_s is None else str(retry_in_s)
    return Statement(_FAIL, (str(job_id), str(token), error, pause))


def cancel(job_id: UUID, token: UUID) -> Statement:
    """Its last word if somebody cancelled the job. False if the lease is lost."""
    return Statement(_CANCEL, (str(job_id), str(token)))


def extend(worker: UUID, tokens: Iterable[UUID], lease_s: float) -> Statement:
    """Prolong leases; which of them are held, and which jobs are to be cancelled."""
    return Statement(_EXTEND, (str(worker), list(tokens), str(lease_s)))


def release(worker: UUID, tokens: Iterable[UUID] | None) -> Statement:
    """Give back what was never begun; of None everything of the worker's without a record."""
    return Statement(_RELEASE, (str(worker), None if tokens is None else list(tokens)))


def cut_short(worker: UUID, token: UUID) -> Statement:
    """Give back what was begun and ended with its worker; the attempt has a record all the same."""
    return Statement(_CUT_SHORT, (str(worker), [token]))


def release_unknown(worker: UUID, known: Iterable[UUID]) -> Statement:
    """Give back what the worker has on lease without a record, but for leases that it knows of."""
    return Statement(_RELEASE_UNKNOWN, (str(worker), list(known)))


def notify() -> Statement:
    """Wake the workers of every node."""
    return Statement(_NOTIFY, (CHANNEL,))
