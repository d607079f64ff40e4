"""Running one request from its first statement to its record.

The order of things is the recording contract (DESIGN, section 2): journal, run, record and COMMIT
in one message, only then the reply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns, perf_counter_ns, time_ns
from typing import Any

import msgspec
import psycopg
import trio
from uuid_utils.compat import uuid7

from ..config import Settings
from ..database.pool import Pool
from ..errors import UsageError
from ..queue.settlement import LeaseLost
from ..queue.statements import LEASE_LOST
from ..records import (
    ISOLATIONS,
    ErrorRecord,
    ExecutionOutcome,
    FunctionSpec,
    Invocation,
    JobAttempt,
    Location,
    Reply,
    SpanRecord,
)
from .arguments import bind_arguments
from .boundaries.log import BoundaryLog, current_log
from .boundaries.modes import Limits, Recording
from .boundaries.tasks import ensure_task_paths
from .callers import SERVICE, Caller, Callers
from .dispatcher import Dispatcher, no_such_function, note_failed_commit
from .engines.base import Engine
from .failures import describe_error, leaf_of
from .journal import Journal
from .late import Caught, LateRecords
from .outbound import OutboundClient
from .recording import Ending, Recorder
from .redaction import Redactor
from .replies import Rendered, render_failure, render_value, unrecorded_reply
from .run import Run, current_run, current_span, make_span_id
from .session import NotRecorded, RunDatabase, current_block
from .sql_redaction import ParameterNames
from .statement_limits import StatementLimits
from .transaction import CommitFailed
from .values import plain, to_json

_RETRYABLE = frozenset({"40001", "40P01"})

MIN_SECRET = 8
"""Shorter values of secret environment variables (`on`, `false`) are no secrets."""

MAX_CALL_DEPTH = 32
"""How many functions deep `ctx.call` goes."""


class TimedOut(Exception):
    """The function ran longer than its limit."""


class Finished(msgspec.Struct):
    """What one try of a function came to: a value, or an error."""

    value: Any = None
    error: BaseException | None = None
    outcome: ExecutionOutcome = "ok"


class Executor:
    """Runs requests of one deployment. One for each worker."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        functions: Mapping[str, FunctionSpec],
        engines: Mapping[str, Engine],
        settings: Settings,
        redactor: Redactor,
        journal: Journal | None,
        environment: Mapping[str, str],
        deployment: int,
        commit: str | None,
        on_finished: Callable[[Run, Ending], None],
        on_pushed: Callable[[float], None] | None = None,
        callers: Callers | None = None,
    ) -> None:
        self._pool = pool
        self._callers = callers
        self._recording = settings.recording == "on"
        self._recorder = recorder if self._recording else None
        self._functions = functions
        self._engines = engines
        self._settings = settings
        self._redactor = redactor
        self._names = ParameterNames(redactor)
        self._journal = journal
        self._late = LateRecords(journal)
        self._running = 0
        self._environment = environment
        self._deployment = deployment
        self._commit = commit
        self._on_finished = on_finished
        self._on_pushed = on_pushed
        self._outbound = OutboundClient()
        self._project_prefix = str(settings.project_dir) + "/"
        # Read at import time, or by a library: no boundary may see it enter.
        self._secrets = frozenset(
            value
            for name, value in environment.items()
            if len(value) >= MIN_SECRET and redactor.is_secret(name)
        )

    @property
    def has_room(self) -> bool:
        """Whether a request may run: not while as many records wait for the database as may."""
        return self._late.has_room(self._running)

    @property
    def waits(self) -> bool:
        """Whether records wait for the database."""
        return len(self._late) > 0

    async def record_late(self) -> Caught | None:
        """Write the records that could not be written when their requests ended; see `write`."""
        return await self._late.write()

    async def close(self) -> None:
        """Close what the executor holds."""
        await self._outbound.close()

    async def run(self, invocation: Invocation) -> Reply:
        """Run one request to its end; see `Runner.run`."""
        ensure_task_paths()
        run = self._make_run(invocation, self._make_log(invocation))
        spec = invocation.function
        limit_s = spec.timeout_s or self._settings.request_timeout_s
        slot = self._note_in_journal(run, limit_s)
        tokens = (
            (current_run, current_run.set(run)),
            (current_log, current_log.set(run.boundaries if self._recording else None)),
            (current_span, current_span.set(run.root_span_id)),
        )
        self._running += 1
        try:
            reply = await self._run_recorded(run, trio.current_time() + limit_s)
        except NotRecorded as failure:
            self._late.keep(failure, slot)
            return unrecorded_reply(run, str(failure))
        finally:
            self._running -= 1
            # Also if it was cancelled: a slot that stays taken would be taken for a crash.
            if self._journal is not None and slot is not None and run.recorded:
                self._journal.end(slot)
            run.closed = True
            run.boundaries.close()
            for variable, token in tokens:
                variable.reset(token)  # type: ignore[arg-type]
        return reply

    def _make_log(self, invocation: Invocation) -> BoundaryLog:
        """Where the values go that enter the run."""
        limit_bytes = self._settings.record_value_limit_bytes
        return BoundaryLog(Recording(Limits(max_value_bytes=limit_bytes)))

    def _make_run(self, invocation: Invocation, boundaries: BoundaryLog) -> Run:
        return Run(
            invocation,
            self._project_prefix,
            boundaries,
            self._redactor,
            recording=self._recording,
            secrets=self._secrets,
            value_limit_bytes=self._settings.record_value_limit_bytes,
        )

    def _note_in_journal(self, run: Run, limit_s: float) -> Any:
        invocation = run.invocation
        # Of a job the recovery must know in any case: else nothing would count its attempts.
        if self._journal is None or not (self._recording or invocation.job):
            return None
        entry = {
            "request_id": run.request_id,
            "trace_id": invocation.trace_id,
            "root_span_id": invocation.root_span_id,
            "kind": invocation.kind,
            "function": invocation.function.name,
            "method": invocation.http.method if invocation.http else None,
            "path": run.path,
            "input": msgspec.Raw(to_json(run.redacted_input).encode()),
            "started_at_us": invocation.started_at_ns // 1000,
            "deployment": self._deployment,
            "commit": self._commit,
            "client_request_id": invocation.client_request_id,
            "principal": invocation.principal,
            "input_truncated": False,
        }
        if invocation.job is not None:
            entry |= _job_entry(invocation, invocation.job)
        # The supervisor reads it: on the clock that all processes share, unlike Trio's.
        deadline_ns = monotonic_ns() + int(limit_s * 1e9)
        return self._journal.begin(msgspec.json.encode(entry), deadline_ns)

    def _open_database(self, run: Run, deadline: float) -> RunDatabase:
        """What the run's statements go to."""
        spec = run.invocation.function
        caller, pool = self._admit(run.invocation)
        return RunDatabase(
            self._pool, self._recorder, run, spec, deadline, self._on_pushed,
            caller=caller, caller_pool=pool,
        )  # fmt: skip

    def _admit(self, invocation: Invocation) -> tuple[Caller | None, Pool | None]:
        """Whom the run is done for, and with which login."""
        identity = invocation.identity
        if self._callers is None or identity is None:
            return None, None
        return self._callers.admit(identity, invocation.function)

    async def _run_recorded(self, run: Run, deadline: float) -> Reply:
        spec = run.invocation.function
        database = self._open_database(run, deadline)
        try:
            _, reply = await self._run_in(database, run, spec, deadline)
            return reply
        finally:
            await database.discard()

    async def _run_in(
        self, database: RunDatabase, run: Run, spec: FunctionSpec, deadline: float
    ) -> tuple[Finished, Reply]:
        """Run it until it is recorded, again if it may; what it came to, and the reply."""
        attempt = 0
        while True:
            span = self._begin_function_span(run, database)
            try:
                finished = await self._attempt(run, database, span, deadline)
            except trio.Cancelled as cancelled:
                with trio.CancelScope(shield=True):
                    await self._record_failure(
                        run, database, span, Finished(error=cancelled, outcome="cancelled")
                    )
                raise
            if finished.error is None:
                # What has run to its end is told as it ended, whoever lost interest meanwhile.
                with trio.CancelScope(shield=True):
                    recorded = await self._record_success(run, database, span, finished)
                if isinstance(recorded, tuple):
                    return recorded
                finished = recorded
            if self._may_retry(run, database, finished, attempt, spec, deadline):
                attempt += 1
                self._end_failed_span(run, span, finished)
                span.status = "rolled_back"
                await database.roll_back()
                continue
            return finished, await self._record_failure(run, database, span, finished)

    def _begin_function_span(self, run: Run, database: RunDatabase) -> SpanRecord:
        spec = run.invocation.function
        http = run.invocation.http
        is_large = http is not None and len(http.body) > run.value_limit_bytes
        # The execution row has the input whole; a large one is not kept twice.
        shown = {"omitted": "the input of the request"} if is_large else run.redacted_input
        span = run.begin_span("function", spec.name, input=shown)
        span.location = run_location(spec)
        identity = run.invocation.identity
        if identity is not None:
            span.attributes = {
                "role": database.login,
                "identity": run.redact(identity.shown()),
            }
        if not run.invocation.gateway_spans and len(run.spans) == 1:
            span.span_id, span.parent_span_id = run.root_span_id, run.invocation.parent_span_id
        return span

    async def _attempt(
        self, run: Run, database: RunDatabase, span: SpanRecord, deadline: float
    ) -> Finished:
        """Run the function once. Raises only Cancelled from outside."""
        spec = run.invocation.function
        dispatcher = Dispatcher(
            run,
            database,
            self._outbound,
            lambda parent, name, input, call: self._call(
                parent, database, name, input, call, deadline
            ),
            self._names,
            self._environment,
            self._settings.record_value_limit_bytes,
            self._functions,
            StatementLimits.of(spec, self._settings),
        )
        engine = self._engines[spec.runtime]
        handle = dispatcher.handle if spec.is_async else dispatcher.handle_for_thread
        token = current_span.set(span.span_id)
        error: BaseException | None = None
        interrupted: BaseException | None = None
        value: Any = None
        try:
            with trio.CancelScope(deadline=deadline) as scope:
                try:
                    value = await engine.invoke(
                        run, run.invocation.arguments, handle, dispatcher.ports()
                    )
                except KeyboardInterrupt:
                    raise
                except BaseException as raised:
                    if _is_only_cancelled(raised):
                        interrupted = raised  # its traceback says where the function was
                        raise
                    error = raised
        finally:
            current_span.reset(token)
            await dispatcher.close()
        if scope.cancelled_caught or (error is not None and scope.cancel_called):
            limit_s = spec.timeout_s or self._settings.request_timeout_s
            told = [f"the function ran longer than its limit of {limit_s:g} s", database.stalled]
            late = TimedOut("; ".join(filter(None, told)))
            late.__cause__ = error or interrupted
            return Finished(error=late, outcome="timeout")
        if error is not None:
            return Finished(error=error, outcome="error")
        return Finished(value=value)

    def _may_retry(
        self,
        run: Run,
        database: RunDatabase,
        finished: Finished,
        attempt: int,
        spec: FunctionSpec,
        deadline: float,
    ) -> bool:
        """A serialization failure is run again only if nothing left for outside the database."""
        leaf = leaf_of(finished.error) if finished.error is not None else None
        return (
            isinstance(leaf, psycopg.Error)
            and leaf.sqlstate in _RETRYABLE
            and database.is_single
            and attempt < spec.retries
            and not run.outside_calls
            and trio.current_time() < deadline
        )

    async def _record_success(
        self, run: Run, database: RunDatabase, span: SpanRecord, finished: Finished
    ) -> tuple[Finished, Reply] | Finished:
        """Commit with the record; how it stands there, or what the failure to commit makes of the
        run, which is still to be recorded."""
        try:
            rendered = render_value(run, finished.value)
        except Exception as error:
            return Finished(error=error, outcome="error")
        run.end_span(span, output=rendered.recorded)
        ending = self._end_root(run, "ok", rendered, None)
        try:
            await database.succeed(run, ending)
        except CommitFailed as failure:
            if not failure.in_doubt:
                return Finished(error=_cause_of(failure, run), outcome="error")
            lost = Finished(error=failure.cause, outcome="error")
            reply = await self._write_failure(run, database, span, lost, in_doubt=True)
            if reply is not None:
                return lost, reply
            run.end_span(span, output=rendered.recorded)
        self._on_finished(run, ending)
        return finished, rendered.reply

    async def _record_failure(
        self, run: Run, database: RunDatabase, span: SpanRecord, finished: Finished
    ) -> Reply:
        """Roll back and record."""
        reply = await self._write_failure(run, database, span, finished, in_doubt=False)
        if reply is None:
            raise NotRecorded("its record says ok already")
        return reply

    async def _write_failure(
        self,
        run: Run,
        database: RunDatabase,
        span: SpanRecord,
        finished: Finished,
        *,
        in_doubt: bool,
    ) -> Reply | None:
        """Roll back and record; None if the COMMIT that was in doubt had gone through."""
        assert finished.error is not None
        record = self._end_failed_span(run, span, finished)
        rendered = render_failure(run, finished.error, record, finished.outcome, self._settings.dev)
        ending = self._end_root(run, finished.outcome, rendered, record)
        with trio.CancelScope(shield=True):
            standing = await database.fail(run, ending, in_doubt)
        if standing == "ok":
            return None
        if standing != finished.outcome:
            raise NotRecorded(f"its record says {standing} already")
        self._on_finished(run, ending)
        return rendered.reply

    def _end_failed_span(self, run: Run, span: SpanRecord, finished: Finished) -> ErrorRecord:
        assert finished.error is not None
        error: BaseException = finished.error
        if isinstance(error, TimedOut) and error.__cause__ is not None:
            error = error.__cause__
        record = describe_error(error, self._project_prefix, run.secrets, self._redactor)
        if isinstance(finished.error, TimedOut):
            record = msgspec.structs.replace(record, type="TimedOut", message=str(finished.error))
        if not record.stack:
            record = msgspec.structs.replace(record, stack=_last_places(run))
        status = "cancelled" if finished.outcome == "cancelled" else "error"
        run.end_span(span, error=record, status=status)  # type: ignore[arg-type]
        return record

    def _end_root(
        self,
        run: Run,
        outcome: ExecutionOutcome,
        rendered: Rendered,
        error: ErrorRecord | None,
    ) -> Ending:
        status_code: int | None = rendered.reply.status_code
        if run.invocation.job is not None:
            status_code = None  # nobody was answered
            run.end_span(run.spans[0], status="ok" if outcome == "ok" else "error")
        elif run.invocation.kind == "call":
            status_code = None
        elif run.invocation.gateway_spans:
            root = run.spans[0]
            run.end_span(root, output={"status": rendered.reply.status_code})
            root.status = "ok" if rendered.reply.status_code < 500 else "error"
        return Ending(
            outcome=outcome,
            status_code=status_code,
            response=rendered.recorded,
            error=error,
        )

    # Calling another function

    async def _call(
        self,
        parent: Run,
        database: RunDatabase,
        name: str,
        input: dict[str, Any],
        span: SpanRecord,
        deadline: float,
    ) -> Any:
        """`ctx.call`: in the caller's transaction, inside a savepoint, as a record of its own."""
        spec = self._functions.get(name)
        if spec is None:
            raise no_such_function(name, list(self._functions))
        _check_call(parent, database, spec)
        arguments = bind_arguments(spec, input)
        invocation = self._make_child(parent, spec, arguments, input, span)
        child = self._make_run(invocation, self._make_log(invocation))
        child.depth = parent.depth + 1
        if spec.timeout_s:
            deadline = min(deadline, trio.current_time() + spec.timeout_s)
        tokens = (current_run.set(child), current_log.set(child.boundaries))
        try:
            return await self._run_child(child, database, deadline, span.location)
        finally:
            parent.outside_calls += child.outside_calls
            child.closed = True
            child.boundaries.close()
            current_log.reset(tokens[1])
            current_run.reset(tokens[0])

    def _make_child(
        self,
        parent: Run,
        spec: FunctionSpec,
        arguments: dict[str, Any],
        input: dict[str, Any],
        span: SpanRecord,
    ) -> Invocation:
        """The request of a called function."""
        return Invocation(
            request_id=uuid7(),
            trace_id=parent.invocation.trace_id,
            root_span_id=make_span_id(),
            parent_span_id=span.span_id,
            parent_request_id=parent.invocation.request_id,
            kind="call",
            function=spec,
            arguments=arguments,
            input=plain(input),
            started_perf_ns=perf_counter_ns(),
            started_at_ns=time_ns(),
            principal=parent.invocation.principal,
            identity=parent.invocation.identity,
        )

    async def _run_child(
        self, child: Run, database: RunDatabase, deadline: float, called_at: Location | None
    ) -> Any:
        shared = database.shares_with_calls
        if not shared:
            database = self._open_database(child, deadline)
            return await self._run_alone(child, database, deadline)
        span = self._begin_function_span(child, database)
        child.transaction_open = database.is_open
        block = await database.begin_block()
        block.note_place(called_at)
        token = current_block.set(block)
        rendered: Rendered | None = None
        try:
            finished = await self._attempt(child, database, span, deadline)
            if finished.error is None:
                rendered = render_value(child, finished.value)
        except trio.Cancelled as cancelled:
            finished = Finished(error=cancelled, outcome="cancelled")
        except Exception as error:
            finished = Finished(error=error, outcome="error")
        finally:
            current_block.reset(token)
        try:
            await database.end_block(block, finished.error is None)
        except psycopg.Error as error:
            if finished.error is None:
                note_failed_commit(child, error)
                finished = Finished(error=error, outcome="error")
        self._close_child(child, database, span, finished, rendered)
        if finished.error is not None:
            raise finished.error
        return finished.value

    def _close_child(
        self,
        child: Run,
        database: RunDatabase,
        span: SpanRecord,
        finished: Finished,
        rendered: Rendered | None,
    ) -> None:
        if finished.error is not None:
            record = self._end_failed_span(child, span, finished)
            rendered = render_failure(
                child, finished.error, record, finished.outcome, self._settings.dev
            )
            ending = self._end_root(child, finished.outcome, rendered, record)
        else:
            assert rendered is not None
            child.end_span(span, output=rendered.recorded)
            ending = self._end_root(child, "ok", rendered, None)
        database.add_called(child, ending)

    async def _run_alone(self, child: Run, database: RunDatabase, deadline: float) -> Any:
        """In transactions of its own; so it has an entry in the journal of its own."""
        slot = self._note_in_journal(child, deadline - trio.current_time())
        try:
            finished, _ = await self._run_in(database, child, child.invocation.function, deadline)
        except NotRecorded as failure:
            self._late.keep(failure, slot)
            raise
        finally:
            await database.discard()
            if self._journal is not None and slot is not None and child.recorded:
                self._journal.end(slot)
        if finished.error is not None:
            raise finished.error
        return finished.value


def _job_entry(invocation: Invocation, job: JobAttempt) -> dict[str, Any]:
    """What the recovery needs to settle a job whose worker died."""
    parent = invocation.parent_request_id
    return {
        "job_id": str(job.job_id),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "backoff": msgspec.structs.asdict(job.backoff),
        "parent_request_id": None if parent is None else str(parent),
        "parent_span_id": invocation.parent_span_id,
    }


def _cause_of(failure: CommitFailed, run: Run) -> BaseException:
    """Why nothing was committed, as the user is told."""
    job = run.invocation.job
    if job is not None and failure.cause.sqlstate == LEASE_LOST:
        job.withdrawn = "lost"
        lost = LeaseLost(job)
        lost.__cause__ = failure.cause
        return lost
    return failure.cause


def _check_call(parent: Run, database: RunDatabase, spec: FunctionSpec) -> None:
    """Refuse a call that cannot be what it says.

    Raises:
        UsageError: Too deep, or its role or isolation is not that of the transaction it would run
            in.
    """
    if parent.depth >= MAX_CALL_DEPTH:
        raise UsageError(
            f"{spec.name} was not called: it would be {MAX_CALL_DEPTH} calls deep",
            "Does it call itself without an end?",
            code="call-too-deep",
        )
    if spec.role == SERVICE and database.shares_with_calls and database.login != SERVICE:
        raise UsageError(
            f"{spec.name} has the rights of the service (role='service'), but would run in a "
            f"transaction of {database.login}",
            "Push a job of it, or call it outside the transaction of a caller that has "
            "transaction=False.",
            code="role-not-shared",
        )
    order = ISOLATIONS.index
    if database.shares_with_calls and order(spec.isolation) > order(database.isolation):
        raise UsageError(
            f"{spec.name} needs isolation {spec.isolation!r}, but would run in its caller's "
            f"transaction, which is {database.isolation!r}",
            f"Write isolation={spec.isolation!r} on the caller too.",
            code="isolation-too-weak",
        )


def run_location(spec: FunctionSpec) -> Any:
    """Where the function is declared."""
    return Location(spec.file, spec.line, spec.name) if spec.file else None


def _is_only_cancelled(error: BaseException) -> bool:
    """A group of nothing but Cancelled is a cancellation."""
    if isinstance(error, trio.Cancelled):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(_is_only_cancelled(inner) for inner in error.exceptions)
    return False


def _last_places(run: Run) -> Any:
    """Without a traceback of the user's code: where it last asked for something."""
    for span in reversed(run.spans):
        if span.location is not None:
            return (span.location,)
    return ()


__all__ = ["Executor", "Finished", "TimedOut"]
