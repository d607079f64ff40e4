"""The one door: every operation a function asks for, in whatever language, is a message here.

That is where recording, redaction and limits live, so that each is written once.
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
import trio

from ..database.pipeline import Result
from ..errors import FluxError, NotFoundError
from ..explain.query_catalog import CATALOG_QUERY
from ..queue.push import read_push
from ..queue.statements import PUSH
from ..records import FunctionSpec, Location, SpanRecord
from .arguments import bind_arguments
from .boundaries.log import current_log, suspended
from .context import Ports
from .failures import describe_error, text_of
from .outbound import OutboundClient
from .run import Run, RunClosed, current_span
from .session import Block, RunDatabase
from .sql_redaction import ParameterNames, redact_parameters, redact_sql, result_output
from .statement_limits import StatementLimits
from .statements import Statement, StatementRefused, inspect_statement
from .values import plain

T = TypeVar("T")
CallFunction = Callable[[Run, str, dict[str, Any], SpanRecord], Awaitable[Any]]

_UNLIMITED = StatementLimits()

FAILED_COMMIT = "commit"
"""Name of the span of a block that could not be committed; a function's own COMMIT is refused."""


class Dispatcher:
    """The operations of one run.

    Args:
        run: The run that asks.
        database: Its transactions; a called function shares its caller's.
        outbound: The HTTP client of the process.
        call: Runs another function for this one.
        names: Which parameter of a statement belongs to which column.
        environment: Variables a function may read.
        value_limit_bytes: Results larger than this are recorded in part, and said to be.
        functions: All functions, by name.
        limits: Of the function's statements.
    """

    def __init__(
        self,
        run: Run,
        database: RunDatabase,
        outbound: OutboundClient,
        call: CallFunction,
        names: ParameterNames,
        environment: Mapping[str, str],
        value_limit_bytes: int,
        functions: Mapping[str, FunctionSpec],
        limits: StatementLimits = _UNLIMITED,
    ) -> None:
        self._run = run
        self._database = database
        self._outbound = outbound
        self._call_function = call
        self._names = names
        self._environment = environment
        self._value_limit_bytes = value_limit_bytes
        self._functions = functions
        self._limits = limits
        self._in_threads: set[trio.CancelScope] = set()
        self._threads_done = trio.Event()
        self._closed = False
        self._operations: dict[str, Callable[..., Awaitable[Any]]] = {
            "db.query": self._query,
            "db.catalog": self._catalog,
            "db.begin": self._begin,
            "db.end": self._end,
            "http.fetch": self._fetch,
            "call": self._call,
            "queue.push": self._push,
        }

    async def handle(self, op: str, arguments: dict[str, Any]) -> Any:
        """Do one operation.

        Raises:
            FluxError: There is no such operation, or it was refused.
            Whatever the operation raises (psycopg.Error, httpx.HTTPError, the called function's).
        """
        operation = self._operations.get(op)
        if operation is None:
            raise FluxError(f"there is no operation {op!r}", code="unknown-operation")
        return await operation(**arguments)

    async def handle_for_thread(self, op: str, arguments: dict[str, Any]) -> Any:
        """`handle` for a function in a thread, until `close`.

        Raises:
            RunClosed: The function's time is over; its thread goes on without it.
        """
        if self._closed:
            raise _too_late(self._run, op)
        with trio.CancelScope() as scope:
            self._in_threads.add(scope)
            try:
                return await self.handle(op, arguments)
            finally:
                self._in_threads.discard(scope)
                if not self._in_threads:
                    self._threads_done.set()
        raise _too_late(self._run, op)

    async def close(self) -> None:
        """Stop what an abandoned thread has asked for; returns once nothing is under way.

        A cancellation does not reach such a thread's operations by itself, and a transaction must
        not be ended while a statement runs in it. Cancellation: runs to its end.
        """
        self._closed = True
        if not self._in_threads:
            return
        for scope in self._in_threads:
            scope.cancel()
        with trio.CancelScope(shield=True):
            while self._in_threads:
                self._threads_done = trio.Event()
                await self._threads_done.wait()

    def ports(self) -> Ports:
        """The operations that need no waiting."""
        return Ports(
            log=self._log,
            now=self._now,
            random=self._random,
            uuid=self._uuid,
            variables=self._environment,
            read_environment=self._read_environment,
        )

    # Database

    async def _query(
        self,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        fetch: str = "rows",
        native: bool = False,
    ) -> Any:
        run = self._run
        location = run.caller_location()
        try:
            text = inspect_statement(sql)
        except StatementRefused as refusal:
            span = run.begin_span("db", "refused", input={"sql": plain(sql)}, location=location)
            run.end_span(span, error=describe_error(refusal, run.project_prefix))
            raise
        recorded = None
        if run.recording:
            params_shown = redact_parameters(run, self._names, sql, params)
            recorded = {"sql": redact_sql(run, self._names, sql), "params": params_shown}
        span = run.begin_span("db", text.summary, recorded, _place_attributes(), location)
        try:
            with suspended():
                if self._limits.max_cost is not None and run.invocation.replay is None:
                    await self._check_cost(text, sql, params, span, native)
                result = await self._database.query(run, sql, params, span, native)
            self._limits.check_rows(text, result)
        except BaseException as error:
            self._end_failed(span, error, location)
            raise
        output = None
        if run.recording:
            limit = self._value_limit_bytes
            output = result_output(run, self._names, sql, result, limit)
        run.end_span(span, output)
        if fetch == "count":
            return result.rowcount
        columns = result.columns
        if fetch == "one":
            return dict(zip(columns, result.rows[0], strict=True)) if result.rows else None
        return [dict(zip(columns, row, strict=True)) for row in result.rows]

    async def _check_cost(
        self, text: Statement, sql: str, params: Any, span: SpanRecord, native: bool
    ) -> None:
        async def ask(explain: str) -> Result:
            return await self._database.query(self._run, explain, params, span, native)

        await self._limits.check_cost(text, sql, span, ask)

    async def _catalog(self) -> list[dict[str, Any]]:
        """The tables, for structured queries: no step of the function's, so without a span."""
        run = self._run
        span = SpanRecord(run.root_span_id, "", "db", "tables", 0)
        with suspended():
            result = await self._database.query(run, CATALOG_QUERY, None, span)
        return [row[0] for row in result.rows]

    def _end_failed(
        self, span: SpanRecord, error: BaseException, location: Location | None
    ) -> None:
        if isinstance(error, trio.Cancelled):
            self._run.end_span(span, status="cancelled")
            return
        record = describe_error(
            error, self._run.project_prefix, self._run.secrets, self._run.redactor
        )
        if not record.stack and location is not None:
            record = msgspec.structs.replace(record, stack=(location,))
        self._run.end_span(span, error=record)

    async def _begin(self) -> Block:
        block = await self._database.begin_block()
        block.note_place(self._run.caller_location())
        return block

    async def _end(self, block: Block, commit: bool) -> None:
        try:
            await self._database.end_block(block, commit)
        except psycopg.Error as error:
            note_failed_commit(self._run, error)
            raise

    # Outside

    async def _fetch(self, method: str, url: str, options: dict[str, Any]) -> Any:
        return await self._outbound.request(method, url, options)

    async def _call(self, function: str, input: dict[str, Any]) -> Any:
        run = self._run
        span = run.begin_span(
            "call",
            function,
            run.redact(plain(input)),
            _place_attributes(),
            run.caller_location(),
        )
        token = current_span.set(span.span_id)
        try:
            value = await self._call_function(run, function, input, span)
        except BaseException as error:
            self._end_failed(span, error, span.location)
            raise
        finally:
            current_span.reset(token)
        run.end_span(span, run.redact(plain(value)))
        return value

    async def _push(self, function: str, **options: Any) -> str:
        """Enqueue a job in the transaction that is open here."""
        run = self._run
        spec = self._functions.get(function)
        if spec is None:
            raise no_such_function(function, list(self._functions))
        push = read_push(function, options)
        # Of such an input the job would die, far from the line that made it.
        bind_arguments(spec, push.given)
        location = run.caller_location()
        span = run.begin_span(
            "queue", function, run.redact(push.shown()), _place_attributes(), location
        )
        parameters = push.parameters(run.invocation.trace_id)
        try:
            with suspended():
                result = await self._database.query(run, PUSH, parameters, span)
                due_in_s = push.due_in_s()
            job_id = str(result.rows[0][0])
        except BaseException as error:
            self._end_failed(span, error, location)
            raise
        self._database.note_push(due_in_s)
        run.end_span(span, {"job_id": job_id})
        return job_id

    # What needs no waiting

    def _log(self, level: str, message: object, fields: dict[str, Any]) -> None:
        run = self._run
        span = run.begin_span(
            "log",
            run.redactor.scrub(text_of(message), run.secrets),
            run.clean(fields) if fields else None,
            {"level": level},
            run.caller_location(),
        )
        run.end_span(span)

    def _now(self) -> datetime.datetime:
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)  # noqa: E731
        return _observed("clock", "ctx.now", now)

    def _random(self) -> float:
        return _observed("random", "ctx.random", random.random)

    def _uuid(self) -> uuid.UUID:
        return _observed("uuid", "ctx.uuid", uuid.uuid4)

    def _read_environment(self, name: str) -> str | None:
        return _observed("environment", name, lambda: self._environment.get(name))


def note_failed_commit(run: Run, error: psycopg.Error) -> None:
    """Record that a block could not be committed: no statement of the function's says so."""
    location = run.caller_location()
    asked = {"sql": "commit", "params": None}
    span = run.begin_span("db", FAILED_COMMIT, asked, _place_attributes(), location)
    run.end_span(span, error=describe_error(error, run.project_prefix, run.secrets, run.redactor))


def _place_attributes() -> dict[str, Any] | None:
    """Where in the run it was asked for, if not at its top: a replay finds it again by that."""
    log = current_log.get()
    return None if log is None else log.place_attributes() or None


def _observed(kind: str, name: str, produce: Callable[[], T]) -> T:
    log = current_log.get()
    if log is None:
        return produce()
    with suspended():
        return log.observe(kind, name, produce)


def _too_late(run: Run, op: str) -> RunClosed:
    return RunClosed(
        f"request {run.request_id} has ended; {op} was not done",
        "A function in a thread cannot be stopped: give it a longer timeout, or less to do.",
    )


def no_such_function(name: str, known: Sequence[str]) -> NotFoundError:
    """The error for a call to a function that is not there."""
    return NotFoundError(
        f"there is no function {name!r}",
        f"There are: {', '.join(sorted(known)) or 'none'}.",
        code="no-such-function",
    )
