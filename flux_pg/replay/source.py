"""A recorded request, read out of the database with everything that a replay of it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from flux_pg.analysis.text import read_json
from flux_pg.errors import FluxError, NotFoundError
from flux_pg.records import ErrorRecord, Identity, SpanRecord
from flux_pg.runtime.callers import identity_from
from flux_pg.runtime.nul import show_nul

_CHANGES = """
select x.id::text, flux.mutations_json(x.id)::text as changes
from unnest(%s::uuid[]) as x (id)
"""
MAX_CALLS = 1000
"""How many called functions of one request are read."""

_EXECUTION = """
select
    e.request_id::text, replace(e.trace_id::text, '-', '') as trace_id, e.kind, e.function,
    e.method, e.path, e.input, e.principal, e.client_request_id,
    (extract(epoch from e.started_at) * 1000000)::bigint as started_at_us, e.duration_us, e.state,
    e.outcome, e.status_code, e.response, e.error, e.refused_by, e.attempt, e.job_id::text,
    e.parent_span_id, e.parent_request_id::text, e.snapshot::text, e.deployment, e.commit,
    e.boundaries, e.incomplete_reason,
    e.replay_of::text,
    (select d.hash_seed from flux.deployments as d where d.deployment_id = e.deployment)
        as hash_seed,
    (select j.max_attempts from flux.jobs as j where j.job_id = e.job_id) as max_attempts,
    (
        select coalesce(json_agg(json_strip_nulls(row_to_json(s))), '[]')
        from (
            select
                s.span_id, s.parent_span_id, s.kind, s.name, s.start_us, s.duration_us, s.status,
                s.error, s.location, s.attributes
            from flux.spans as s
            where s.request_id = e.request_id
        ) as s
    ) as spans,
    -- Apart: a null inside a row or a parameter is a value.
    (
        select coalesce(json_object_agg(s.span_id, json_build_array(s.input, s.output)), '{}')
        from flux.spans as s
        where s.request_id = e.request_id
    ) as contents
from flux.executions as e
"""
# As text: how a connection reads JSON is its owner's business.
_AS_TEXT = "select row_to_json(x)::text as document from ({}) as x"
_ONE = _AS_TEXT.format(_EXECUTION + "where e.request_id = %s")
_SEVERAL = _AS_TEXT.format(_EXECUTION + "where e.request_id = any (%s::uuid[])")
_CALLED = _AS_TEXT.format(
    _EXECUTION
    + """
where e.trace_id = any (%s::uuid[]) and e.parent_request_id = any (%s::uuid[])
    and e.job_id is null and e.replay_of is null and e.kind = 'call'
order by e.request_id
limit %s
"""
)


class RecordedRun(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One execution as it was recorded, and the functions it called. JSON-ready."""

    request_id: str
    trace_id: str
    kind: str
    function: str | None
    method: str | None = None
    path: str | None = None
    input: Any = None
    principal: str | None = None
    identity: Identity | None = None
    client_request_id: str | None = None
    started_at_us: int = 0
    duration_us: int | None = None
    state: str = "completed"
    outcome: str | None = None
    status_code: int | None = None
    response: Any = None
    error: ErrorRecord | None = None
    refused_by: str | None = None
    attempt: int = 1
    job_id: str | None = None
    max_attempts: int | None = None
    parent_span_id: str | None = None
    parent_request_id: str | None = None
    snapshot: str | None = None
    deployment: int | None = None
    commit: str | None = None
    hash_seed: str | None = None
    boundaries: Any = None
    incomplete_reason: str | None = None
    replay_of: str | None = None
    is_written: bool = False
    """Whether a person writes its answers (a test): clock, chance and ids that a failed one is
    asked for out of turn are supplied, too, and what was written keeps its turn."""
    spans: list[SpanRecord] = []
    calls: list[RecordedRun] = []

    @property
    def failed(self) -> bool:
        """Whether it ended in anything but `ok`."""
        return self.outcome != "ok"

    @property
    def ids(self) -> list[str]:
        """Its own id, and those of the functions that it called."""
        return [self.request_id, *(inner for called in self.calls for inner in called.ids)]


class NotReplayable(FluxError):
    """There is nothing to run again; the message says why."""

    code = "not-replayable"


def load_request(conn: psycopg.Connection[Any], request_id: str) -> RecordedRun:
    """Read a request and, recursively, what it called.

    Args:
        conn: A connection that may read the record.
        request_id: The whole id.

    Raises:
        NotFoundError: It is not recorded here.
        NotReplayable: It is a replay itself, still runs, or never reached a function.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_ONE, (request_id,)).fetchone()
        if row is None:
            raise NotFoundError(
                f"no request {request_id}", "It was never recorded here, or it was pruned."
            )
        run = _read(row["document"])
        _check(run)
        _load_calls(cursor, [run], MAX_CALLS)
    return run


def load_requests(
    conn: psycopg.Connection[Any], request_ids: Sequence[str]
) -> dict[str, RecordedRun]:
    """Read many requests at once, as `load_request` does; those that can be replayed, by id."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_SEVERAL, (list(request_ids),)).fetchall()
        runs = [run for run in (_read(row["document"]) for row in rows) if not _refusal(run)]
        _load_calls(cursor, runs, MAX_CALLS * len(runs))
    return {run.request_id: run for run in runs}


def load_changes(
    conn: psycopg.Connection[Any], runs: Sequence[RecordedRun]
) -> dict[str, list[dict[str, Any]]]:
    """The row changes of requests and of what they called, as in `flux.trace/1`, by request."""
    wanted = {run.request_id: run.ids for run in runs}
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_CHANGES, ([one for ids in wanted.values() for one in ids],))
        found = {row["id"]: read_json(row["changes"]) for row in rows}
    return {
        request_id: sorted((c for one in ids for c in found[one]), key=lambda c: int(c["seq"]))
        for request_id, ids in wanted.items()
    }


def _check(run: RecordedRun) -> None:
    refusal = _refusal(run)
    if refusal is not None:
        raise refusal


def _refusal(run: RecordedRun) -> NotReplayable | None:
    """Why a request cannot be replayed, if it cannot."""
    short = run.request_id
    if run.replay_of is not None:
        return NotReplayable(
            f"request {short} is a replay itself",
            f"Replay the request that it repeats: flux replay {run.replay_of}",
        )
    if run.refused_by is not None or run.function is None:
        return NotReplayable(
            f"request {short} was refused by {run.refused_by or 'the gateway'} before a function "
            "ran: there is nothing to run again",
            f"flux trace {short} shows what was asked.",
        )
    if run.state != "completed":
        return NotReplayable(f"request {short} is still running", "Replay it once it has ended.")
    return None


def _load_calls(cursor: psycopg.Cursor[Any], runs: Sequence[RecordedRun], limit: int) -> None:
    known = {run.request_id: run for run in runs}
    traces = list({run.trace_id for run in runs})
    parents, left = list(known), limit
    while parents and left > 0:
        rows = cursor.execute(_CALLED, (traces, parents, left)).fetchall()
        parents = []
        left -= len(rows)
        for row in rows:
            called = _read(row["document"])
            known[called.request_id] = called
            parents.append(called.request_id)
            assert called.parent_request_id is not None
            known[called.parent_request_id].calls.append(called)


def _identity(spans: Sequence[dict[str, Any]]) -> Identity | None:
    """Who asked, as the function's span says."""
    told = (one.get("attributes") or {} for one in spans if one["kind"] == "function")
    return identity_from(next(told, {}).get("identity"))


def _read(document: str) -> RecordedRun:
    row = json.loads(show_nul(document))
    contents = row.pop("contents")
    for span in row["spans"]:
        span.setdefault("parent_span_id", None)
        given, taken = contents.get(span["span_id"], (None, None))
        span["input"], span["output"] = given, taken
    row["spans"].sort(key=lambda span: span["start_us"])
    row["identity"] = _identity(row["spans"])
    if isinstance(row["error"], dict):
        row["error"] = {key: value for key, value in row["error"].items() if value is not None}
    return msgspec.convert(row, RecordedRun, strict=False)
