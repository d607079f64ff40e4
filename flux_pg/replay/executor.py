"""The runtime's own executor, on a record: the one difference between a run and a replay.

Everything else (dispatcher, engines, transactions, what is recorded) is the same code, so that a
replay cannot behave differently from a request for a reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from flux_pg.database.pipeline import FixedStatement
from flux_pg.records import ErrorRecord, ExecutionOutcome, FunctionSpec, Invocation, SpanRecord
from flux_pg.replay.rebuild import make_replaying
from flux_pg.replay.recorded import RecordedDatabase, ReplayDatabase, record_of
from flux_pg.runtime.boundaries.log import BoundaryLog
from flux_pg.runtime.execution import Executor
from flux_pg.runtime.recording import Ending, Recorder
from flux_pg.runtime.replies import Rendered
from flux_pg.runtime.run import Run
from flux_pg.runtime.session import RunDatabase
from flux_pg.runtime.values import to_exact_json

Finished = tuple[Run, Ending]


class KeepingRecorder(Recorder):
    """A recorder whose whole records are also given to `keep`: the parent writes them elsewhere."""

    keep: Callable[[FixedStatement], None] | None = None

    def record(self, run: Run, ending: Ending, snapshot: str, strict: bool) -> FixedStatement:
        """As `Recorder.record`."""
        statement = super().record(run, ending, snapshot, strict)
        if self.keep is not None:
            self.keep(statement)
        return statement

    def completion(self, run: Run, ending: Ending) -> FixedStatement:
        """As `Recorder.completion`; who keeps it gets it whole."""
        if self.keep is not None:
            self.keep(super().record(run, ending, "", strict=False))
        return super().completion(run, ending)


class ReplayExecutor(Executor):
    """See the module. Without a pool statements are answered from the record.

    Args:
        recorder: What writes the replay's record.
        from_record: Whether there is no database.
        keep: Gets the statements that write the record, if there is none.
        arguments: As for `Executor`.
    """

    def __init__(
        self,
        *,
        recorder: KeepingRecorder,
        from_record: bool,
        keep: Callable[[FixedStatement], None],
        **arguments: Any,
    ) -> None:
        super().__init__(recorder=recorder, journal=None, **arguments)
        self._own_recorder = recorder
        self._from_record = from_record
        self._keep = keep

    def _make_log(self, invocation: Invocation) -> BoundaryLog:
        assert invocation.replay is not None
        return BoundaryLog(invocation.replay.record.serving)

    def _open_database(self, run: Run, deadline: float) -> RunDatabase:
        spec = run.invocation.function
        if self._from_record:
            return RecordedDatabase(self._own_recorder, run, spec, deadline, self._keep)
        caller, pool = self._admit(run.invocation)
        return ReplayDatabase(
            self._pool, self._own_recorder, run, spec, deadline, caller=caller, caller_pool=pool
        )

    def _begin_function_span(self, run: Run, database: RunDatabase) -> SpanRecord:
        span = super()._begin_function_span(run, database)
        came_in = record_of(run).run.kind in ("http", "job", "schedule")
        if came_in and span.parent_span_id == run.root_span_id:
            span.parent_span_id = None  # a further try stands beside the first one, not below it
        return span

    def _end_root(
        self,
        run: Run,
        outcome: ExecutionOutcome,
        rendered: Rendered,
        error: ErrorRecord | None,
    ) -> Ending:
        ending = super()._end_root(run, outcome, rendered, error)
        recorded = record_of(run).run
        if recorded.job_id is not None or recorded.kind == "call":
            ending.status_code = None  # nobody was answered, and nobody is in a replay
        return ending

    def _make_child(
        self,
        parent: Run,
        spec: FunctionSpec,
        arguments: dict[str, Any],
        input: dict[str, Any],
        span: SpanRecord,
    ) -> Invocation:
        invocation = super()._make_child(parent, spec, arguments, input, span)
        record_of(parent).trail.ids.append(str(invocation.request_id))
        # Of the caller's kind: nothing that lists requests may take it for one.
        invocation.kind = parent.invocation.kind
        invocation.replay = make_replaying(record_of(parent).called(spec.name, span), spec)
        return invocation


def describe_run(run: Run, ending: Ending) -> dict[str, Any]:
    """What the parent is told of a finished run, as it is written."""
    return {
        "outcome": ending.outcome,
        "status_code": ending.status_code,
        "response": msgspec.Raw(to_exact_json(ending.response)),
        "error": msgspec.Raw(to_exact_json(ending.error)),
        "spans": msgspec.Raw(to_exact_json(run.spans)),
        "incomplete": list(run.incomplete),
        "duration_us": run.elapsed_us(),
    }


def texts_of(statement: FixedStatement) -> list[str | None]:
    """The values of a statement that writes a record, as texts."""
    values = cast(list[bytes | None], statement.values)
    return [None if value is None else value.decode() for value in values]
