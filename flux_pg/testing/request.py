"""A recorded request as a test holds it, and what comes of running it again.

It is run as a replay is: by the runtime itself, in a process of its own that is locked down, on the
project's code as it is now. What it asks of the outside is answered by the test; jobs that it
enqueues are kept, not run; nothing leaves the machine.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import trio

from flux_pg.config import Settings, find_project, load_settings
from flux_pg.errors import FluxError, UsageError
from flux_pg.records import ErrorRecord, Identity, SpanRecord
from flux_pg.replay.engine import LiveRecord, ReplayResult, open_child
from flux_pg.replay.source import RecordedRun
from flux_pg.testing.database import Rows, open_database
from flux_pg.testing.stubs import Answer, conceal, write_answers

_EPOCH = "1970-01-01T00:00:00+00:00"


class Diverged(AssertionError):
    """The function asked for something that the test does not answer."""


@dataclass(frozen=True)
class Change:
    """One row that a request changed.

    Attributes:
        op: `INSERT`, `UPDATE`, `DELETE` or `TRUNCATE`.
        table: Its table, with the schema where that is not `public`.
        key: The key of an updated row.
        before: The row, or the changed columns of it, as they were.
        after: As they are now.
    """

    op: str
    table: str
    key: Any = None
    before: Any = None
    after: Any = None


def inserted(table: str, row: Mapping[str, Any]) -> Change:
    """A row that is new."""
    return Change("INSERT", table, after=row)


def updated(table: str, key: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """A row that was changed: its key, and the columns that changed."""
    return Change("UPDATE", table, key, before, after)


def deleted(table: str, row: Mapping[str, Any]) -> Change:
    """A row that is gone."""
    return Change("DELETE", table, before=row)


def truncated(table: str) -> Change:
    """A table that was emptied."""
    return Change("TRUNCATE", table)


@dataclass(frozen=True)
class Job:
    """A job that a request enqueued.

    Attributes:
        function: What it is to run.
        payload: With what.
        options: `delay_s`, `run_at`, `priority`, `max_attempts`, `idempotency_key`, where given.
        job_id: What the request was told its id is.
        span: Path of the spans around the code that pushed it.
        task: Path of its task.
    """

    function: str
    payload: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    job_id: str = field(default="", compare=False)
    span: str = field(default="", compare=False)
    task: str = field(default="", compare=False)


@dataclass(frozen=True)
class Run:
    """What came of a request.

    Attributes:
        outcome: `ok`, `error`, `timeout`, `cancelled` or `crashed`.
        status: HTTP status.
        response: What it answered: the function's value, or the error's JSON.
        error: Type and message of what failed, with its place; None if nothing did.
        changes: Rows it changed for good, in the order of the changes.
        jobs: Jobs it enqueued.
        result: All that is known of it.
    """

    outcome: str | None
    status: int | None
    response: Any
    error: str | None
    changes: list[Change]
    jobs: list[Job]
    result: ReplayResult = field(repr=False, compare=False)

    def __str__(self) -> str:
        told = f"{self.status or ''} {self.outcome}".strip()
        return f"{told}: {self.error}" if self.error else f"{told}: {self.response!r}"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function that the request called (`ctx.call`), as far as the outside answered it."""

    function: str
    outside: Sequence[Answer] = ()
    calls: Sequence[Call] = ()
    jobs: Sequence[Job] = ()
    span: str = ""
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A request as it was recorded: what went in, and what it found.

    Attributes:
        function: The function.
        input: Its arguments: of path, query and body together.
        kind: `http`, `invoke`, `job` or `schedule`.
        method, path, headers, query, client: Of an HTTP request.
        body_bytes: Length of its body as it came.
        rows: What the tables held, by table; the others hold what the migrations put there.
        sequences: The next value of each.
        outside: What the outside answered, in order.
        calls: The functions it called.
        jobs: The jobs it enqueued.
        failed_with: The type of the error it ended with then; None if it did not fail. A run that
            gets further may ask for clock, chance and ids that nobody recorded: it is given some.
        request_id: What `ctx.request_id` says.
        started_at, ended_at: When it began and ended (ISO 8601).
        principal: Who asked.
        role, claims: As whom, and what the token said; None where nobody was asked.
        job_id, attempt, max_attempts: Of a job.
        hash_seed: PYTHONHASHSEED of the process, if it was fixed.
    """

    function: str
    input: Any = None
    kind: str = "invoke"
    method: str | None = None
    path: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""
    body_bytes: int = 0
    rows: Rows = field(default_factory=dict)
    sequences: Mapping[str, int] = field(default_factory=dict)
    outside: Sequence[Answer] = ()
    calls: Sequence[Call] = ()
    jobs: Sequence[Job] = ()
    failed_with: str | None = None
    request_id: str = "00000000-0000-7000-8000-000000000000"
    started_at: str = _EPOCH
    ended_at: str | None = None
    principal: str | None = None
    role: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    job_id: str | None = None
    attempt: int = 1
    max_attempts: int | None = None
    hash_seed: str | None = None

    def run(self, project: Path | None = None) -> Run:
        """Run it on the code that is here now. Blocks; not to be called from within a Trio loop.

        Args:
            project: The project's directory; default the one around the calling file, or around
                the working directory.

        Raises:
            Diverged: It asked for something that the test does not answer.
            FluxError: It cannot run: the code does not load, there is no such function, the
                fixture does not fit.
        """
        __tracebackhide__ = True
        if project is None:
            calling = Path(sys._getframe(1).f_code.co_filename)
            project = find_project(calling.parent) or find_project(Path.cwd())
        if project is None:
            raise UsageError(
                f"there is no Flux project around {Path.cwd()}", "Run pytest inside the project."
            )
        settings = _settings(project)
        with open_database(settings, self.rows, self.sequences) as url:
            result = _run(settings, url, self.recorded())
        _check(result)
        return read_result(result)

    def recorded(self) -> RecordedRun:
        """The request as a replay takes it."""
        began_us = _microseconds(self.started_at)
        failed = self.failed_with is not None
        run = RecordedRun(
            request_id=self.request_id,
            trace_id=uuid.UUID(self.request_id).hex,
            kind=self.kind,
            function=self.function,
            method=self.method,
            path=self.path,
            input=conceal(self.input),
            principal=self.principal,
            identity=Identity(role=self.role, claims=conceal(self.claims)) if self.role else None,
            started_at_us=began_us,
            duration_us=_microseconds(self.ended_at) - began_us if self.ended_at else 0,
            outcome="error" if failed else "ok",
            is_written=True,
            error=ErrorRecord(self.failed_with, "") if self.failed_with else None,
            attempt=self.attempt,
            job_id=self.job_id,
            max_attempts=self.max_attempts,
            hash_seed=self.hash_seed,
            boundaries=write_answers(self.outside),
            spans=[_gate(self), *_steps(self)] if self.kind == "http" else _steps(self),
        )
        run.calls = _called(self, run)
        return run


def _microseconds(moment: str) -> int:
    since_epoch = datetime.fromisoformat(moment) - datetime.fromisoformat(_EPOCH)
    return since_epoch // timedelta(microseconds=1)


def _settings(project: Path) -> Settings:
    # Whatever database is configured is not this test's: it is neither asked nor named.
    settings = load_settings(project, environ={})
    return replace(settings, database_url=None, admin_url=None, listen_url=None)


def _gate(one: Recorded) -> SpanRecord:
    seen = {"headers": conceal(one.headers), "query": conceal(one.query), "client": one.client}
    length = {"body_bytes": one.body_bytes}
    return SpanRecord(
        "gate", None, "gateway", "gateway.request", 0, input=seen, attributes=length
    )  # fmt: skip


def _steps(one: Recorded | Call) -> list[SpanRecord]:
    """The jobs and calls, each at its place; a call's span is named by its number."""
    pushed = [
        SpanRecord(
            f"job{number}", None, "queue", job.function, number,
            input={"payload": conceal(job.payload), **job.options},
            output={"job_id": job.job_id or str(uuid.UUID(int=number + 1))},
            attributes={"path": job.span, "task": job.task},
        )
        for number, job in enumerate(one.jobs)
    ]  # fmt: skip
    called = [
        SpanRecord(
            f"call{number}", None, "call", call.function, number,
            attributes={"path": call.span, "task": call.task},
        )
        for number, call in enumerate(one.calls)
    ]  # fmt: skip
    return pushed + called


def _called(one: Recorded | Call, run: RecordedRun) -> list[RecordedRun]:
    found = []
    for number, call in enumerate(one.calls):
        inner = RecordedRun(
            request_id=str(uuid.uuid4()), trace_id=run.trace_id, kind="call",
            function=call.function, outcome=run.outcome, started_at_us=run.started_at_us,
            duration_us=run.duration_us, parent_span_id=f"call{number}",
            boundaries=write_answers(call.outside), spans=_steps(call), is_written=True,
        )  # fmt: skip
        inner.calls = _called(call, inner)
        found.append(inner)
    return found


class _Blind(LiveRecord):
    """The rules of redaction, without the key that the record was made with."""

    def redaction(self, extra: Sequence[str]) -> dict[str, Any]:
        return {**super().redaction(extra), "is_blind": True}


def _run(settings: Settings, url: str, recorded: RecordedRun) -> ReplayResult:
    __tracebackhide__ = True
    try:
        return trio.run(_replay, settings, url, recorded)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def _replay(settings: Settings, url: str, recorded: RecordedRun) -> ReplayResult:
    conn = await trio.to_thread.run_sync(lambda: psycopg.connect(url, autocommit=True))
    try:
        async with open_child(
            settings, "as-of", database_url=url, live=_Blind(conn), write=False,
            hash_seed=recorded.hash_seed,
        ) as child:  # fmt: skip
            if recorded.function not in child.functions and child.errors:
                raise child.errors[0]
            return await child.replay(recorded)
    finally:
        conn.close()


def _check(result: ReplayResult) -> None:
    __tracebackhide__ = True
    divergence = result.first_divergence
    if divergence is not None:
        raise Diverged(_explain(divergence))
    if result.outcome is None:
        problem = result.problem or {"message": "it did not run", "hint": "", "code": "error"}
        raise FluxError(problem["message"], problem["hint"], code=problem["code"])


def _explain(divergence: Mapping[str, Any]) -> str:
    lines = [f"the function asks for what the test does not hold ({divergence['reason']})"]
    for side in ("recorded", "now"):
        value = divergence[side]
        lines.append(f"  {side + ':':<10}{'nothing' if value is None else json.dumps(value)}")
    place = divergence["path"]
    if divergence["reason"] == "redacted":
        lines.append(f"  {place} was redacted when it was recorded: put a value in its place")
    else:
        lines.append(f"  at {place}: answer it in `outside`, if it is right to ask for it")
    return "\n".join(lines)


def read_result(result: ReplayResult) -> Run:
    """What came of a replay, as tests look at it."""
    error = result.error
    told = None
    if error is not None:
        told = f"{error.type}: {error.message}"
        if error.stack:
            last = error.stack[-1]
            told += f" ({last.file}:{last.line} in {last.function})"
    return Run(
        outcome=result.outcome,
        status=result.status_code,
        response=result.response,
        error=told,
        changes=read_changes(result.mutations or []),
        jobs=read_jobs(result.spans),
        result=result,
    )


def read_changes(mutations: Sequence[Mapping[str, Any]]) -> list[Change]:
    """The committed ones of the row changes of a record."""
    found = []
    for one in mutations:
        if one["outcome"] != "committed":
            continue
        table = one["table"] if one["schema"] == "public" else f"{one['schema']}.{one['table']}"
        key = one["pk"] if one["op"] == "UPDATE" else None
        found.append(Change(one["op"], table, key, one["old"], one["new"]))
    return found


def read_jobs(spans: Sequence[SpanRecord]) -> list[Job]:
    """The jobs that a record's spans enqueued."""
    found = []
    for span in spans:
        if span.kind != "queue" or span.name == "queue.job" or span.error is not None:
            continue
        options = dict(span.input or {})
        payload = options.pop("payload", {})
        attributes, output = span.attributes or {}, span.output or {}
        found.append(
            Job(
                span.name, payload, options, output.get("job_id", ""),
                str(attributes.get("path", "")), str(attributes.get("task", "")),
            )
        )  # fmt: skip
    return found
