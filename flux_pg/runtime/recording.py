"""The statements that write the record. What is said here is law 2's other half: they run in the
transaction of the effects they describe, or, after a rollback, in one of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from ..database.pipeline import FixedQuery, FixedStatement
from ..records import ErrorRecord, ExecutionOutcome, JobAttempt
from .run import Run, signed
from .transaction import Attempted
from .values import to_json


def _called(function: str, parameters: int) -> str:
    places = ", ".join(f"${number}" for number in range(1, parameters + 1))
    return f"flux.{function}({places})"


def _call(function: str, parameters: int) -> FixedQuery:
    return FixedQuery(f"select {_called(function, parameters)}", parameters)


_RECORD = _call("record_request", 29)
# What is selected is evaluated in its order: the job is settled before the record asks for effects.
_RECORD_JOB = FixedQuery(f"select flux.complete_job($30, $31), {_called('record_request', 29)}", 31)
_CONTINUE = _call("continue_request", 19)
_COMPLETE = _call("complete_request", 9)
_ATTEMPTED = _call("record_attempted", 2)


@lru_cache(maxsize=4)
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _utc(moment_ns: int) -> str:
    """Nanoseconds since the epoch as Postgres reads a time, in whole microseconds."""
    second, rest = divmod(moment_ns // 1000, 1_000_000)
    return f"{_utc_second(second)}.{rest:06d}+00"


class Ending(msgspec.Struct, kw_only=True):
    """How an execution ended. `response` is JSON-ready and redacted."""

    outcome: ExecutionOutcome
    status_code: int | None
    response: Any = None
    error: ErrorRecord | None = None


class Recorder:
    """Makes the statements that write one deployment's records.

    Attributes:
        settles: Deferred constraints have to be checked before the record is written, since there
            are some. Where one has just been made and this does not know it yet, a COMMIT that
            fails by it leaves a record that says `row changes not captured`.
    """

    def __init__(
        self, deployment_id: int, runtime: str = "python", *, strict: bool = False
    ) -> None:
        self._strict = strict
        self.settles = True
        self._deployment = str(deployment_id)
        self._runtime = runtime

    def record(self, run: Run, ending: Ending, snapshot: str, strict: bool) -> FixedStatement:
        """The whole record of a run, for the last transaction of a request that has only one."""
        return _RECORD.bind(*self._whole(run, ending, snapshot, strict))

    def record_job(
        self, run: Run, job: JobAttempt, ending: Ending, snapshot: str, strict: bool
    ) -> FixedStatement:
        """The same for an attempt that went well, which completes its job, or fails (ZF007)."""
        whole = self._whole(run, ending, snapshot, strict)
        return _RECORD_JOB.bind(*whole, str(job.job_id), run.request_id)

    def _whole(self, run: Run, ending: Ending, snapshot: str, strict: bool) -> list[str | None]:
        boundaries, spans, reason = self._contents(run)
        return [
            *self._identity(run),
            str(run.elapsed_us()),
            "completed",
            ending.outcome,
            None if ending.status_code is None else str(ending.status_code),
            to_json(ending.response) if ending.response is not None else None,
            to_json(ending.error) if ending.error is not None else None,
            *self._origin(run, snapshot),
            boundaries,
            reason,
            spans,
            "t" if strict or self._strict else "f",
        ]

    def continuation(self, run: Run, snapshot: str) -> FixedStatement:
        """Notes one of several transactions of a request; a no-op if it had no effects."""
        return _CONTINUE.bind(*self._identity(run), *self._origin(run, snapshot))

    def completion(self, run: Run, ending: Ending) -> FixedStatement:
        """Completes a record that stands as running."""
        boundaries, spans, reason = self._contents(run)
        return _COMPLETE.bind(
            run.request_id,
            str(run.elapsed_us()),
            ending.outcome,
            None if ending.status_code is None else str(ending.status_code),
            to_json(ending.response) if ending.response is not None else None,
            to_json(ending.error) if ending.error is not None else None,
            boundaries,
            reason,
            spans,
        )

    def attempted(self, attempted: Attempted) -> FixedStatement:
        """Row changes that were rolled back."""
        return _ATTEMPTED.bind(attempted.request_id, attempted.mutations)

    def _identity(self, run: Run) -> list[str | None]:
        invocation = run.invocation
        http = invocation.http
        return [
            run.request_id,
            invocation.trace_id,
            signed(invocation.root_span_id),
            str(invocation.parent_request_id) if invocation.parent_request_id else None,
            signed(invocation.parent_span_id) if invocation.parent_span_id else None,
            str(invocation.job_id) if invocation.job_id else None,
            invocation.kind,
            invocation.function.name,
            http.method if http else None,
            run.path,
            to_json(run.redacted_input),
            invocation.client_request_id,
            invocation.principal,
            _utc(invocation.started_at_ns),
        ]

    def _origin(self, run: Run, snapshot: str) -> list[str | None]:
        replay = run.invocation.replay
        return [
            self._runtime,
            self._deployment,
            str(run.invocation.attempt),
            str(replay.request_id) if replay is not None else None,
            snapshot or None,
        ]

    def _contents(self, run: Run) -> tuple[str | None, str, str | None]:
        boundaries = run.boundaries.to_json(run.redact_boundary)
        for reason in run.boundaries.incomplete:
            run.mark_incomplete(reason)
        run.scrub_http()
        return (
            to_json(boundaries) if boundaries else None,
            to_json(run.spans),
            "; ".join(run.incomplete) or None,
        )
