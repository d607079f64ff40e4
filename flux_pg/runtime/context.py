"""`ctx`: what a function sees of Flux.

A thin face: every operation is a message to the dispatcher, as it is for functions in other
languages. One definition serves `async def` functions, where the methods are awaited, and plain
`def` functions, which run in a worker thread and where the same methods block.
"""

from __future__ import annotations

import datetime
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, NoReturn

import msgspec
import trio

from ..errors import FluxError, UsageError
from ..explain.query_shape import Asked
from ..records import HttpRequest, SpanRecord
from .boundaries.log import span_place
from .run import Run, asking_frame, current_span
from .session import current_block
from .tables import Table, Tables, is_plain, send

Row = dict[str, Any]
Handle = Callable[[str, dict[str, Any]], Awaitable[Any]]


class HttpError(Exception):
    """A refusal by the function: recorded, answered with this status, its transaction rolled back.

    Args:
        status: HTTP status, 400 to 599.
        message: What the caller is told.
        code: Stable identifier for programs.
        details: Anything JSON can hold.
    """

    def __init__(
        self, status: int, message: str = "", *, code: str = "refused", details: Any = None
    ) -> None:
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status = status
        self.message = message
        self.code = code
        self.details = details


class Response:
    """A response in full control of the function.

    Args:
        status: HTTP status.
        headers: Header names and values.
        body: bytes and str go out as they are; anything else as JSON.
    """

    def __init__(
        self, status: int = 200, headers: Mapping[str, str] | None = None, body: Any = b""
    ) -> None:
        self.status = status
        self.headers = dict(headers or {})
        self.body = body


class Request(msgspec.Struct, frozen=True):
    """The HTTP request a function answers; empty strings where it was not called over HTTP."""

    id: str
    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes
    path_parameters: Mapping[str, str]
    client: str

    def json(self) -> Any:
        """The body, parsed."""
        return msgspec.json.decode(self.body)


def shown_request_id(run: Run) -> str:
    """The request's id as its function sees it: in a replay that of the recorded request."""
    replay = run.invocation.replay
    return run.request_id if replay is None else str(replay.request_id)


def make_request(run: Run) -> Request:
    """The `ctx.request` of a run."""
    http: HttpRequest | None = run.invocation.http
    request_id = shown_request_id(run)
    if http is None:
        return Request(request_id, "", "", "", {}, b"", {}, "")
    make: type[Request] = getattr(http.body, "request_type", Request)
    return make(
        request_id,
        http.method,
        http.path,
        http.query_string,
        http.headers,
        http.body,
        run.invocation.path_parameters,
        http.client,
    )


class Database:
    """The function's own transaction on the project's database."""

    __slots__ = ("_blocking", "_handle", "_tables")

    def __init__(self, handle: Handle, blocking: bool, tables: Tables) -> None:
        self._handle = handle
        self._blocking = blocking
        self._tables = tables

    def _ask_table(self, asked: Asked) -> Any:
        compiled = self._tables.known(asked.shape)
        if compiled is not None and is_plain(compiled):
            return _ask(send, self._blocking, self._handle, asked, compiled)
        return _ask(self._tables.answer, self._blocking, self._handle, "db.table", {"asked": asked})

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run a statement; returns its rows as dicts (empty where it gives none).

        Args:
            sql: One statement; `%s` or `%(name)s` for parameters.
            params: Their values.

        Raises:
            psycopg.Error: Postgres refused it. The rest of the transaction fails too, unless this
                was inside `transaction()`.
            StatementRefused: It would take the transaction out of Flux's hands.
        """
        return _ask(
            self._handle,
            self._blocking,
            "db.query",
            {"sql": sql, "params": params, "fetch": "rows"},
        )

    def fetch_one(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Like `query`, but the first row as a dict, or None."""
        return _ask(
            self._handle, self._blocking, "db.query", {"sql": sql, "params": params, "fetch": "one"}
        )

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Like `query`, but the number of rows it touched."""
        return _ask(
            self._handle,
            self._blocking,
            "db.query",
            {"sql": sql, "params": params, "fetch": "count"},
        )

    def table(self, name: str) -> Table:
        """Structured queries on a table (`schema.name` for one outside the search path)."""
        return Table(self, name)

    def structured(self, document: Mapping[str, Any]) -> Any:
        """Run a structured query that is there as JSON (`flux.query/1`, see docs/tables.md).

        Returns what the method of `table(...)` of that name does.

        Raises:
            UsageError: It is no such query, or as that method raises.
        """
        asked = {"document": document}
        return _ask(self._tables.answer, self._blocking, self._handle, "db.table", asked)

    def transaction(self) -> Any:
        """A block that is rolled back on its own when it raises.

        Inside the function's transaction it is a savepoint; with `transaction=False` it is a
        transaction. A savepoint belongs to the task that opened it and to those started inside it:
        what other tasks ask of the transaction waits until it has ended. So code inside must not
        wait for a task outside that uses the database: both would wait until the function's time
        is over.

        `async with` in async functions, `with` in plain ones.
        """
        if self._blocking:
            return self._blocking_transaction()
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        block = await self._handle("db.begin", {})
        around = current_block.get()
        current_block.set(block)
        try:
            yield
        except BaseException:
            current_block.set(around)
            # Even while cancelled: the block must not stay open under the statements after it.
            with trio.CancelScope(shield=True):
                await self._handle("db.end", {"block": block, "commit": False})
            raise
        current_block.set(around)
        await self._handle("db.end", {"block": block, "commit": True})

    @contextmanager
    def _blocking_transaction(self) -> Iterator[None]:
        block = _ask(self._handle, True, "db.begin", {})
        around = current_block.get()
        current_block.set(block)
        try:
            yield
        except BaseException:
            current_block.set(around)
            _ask(self._handle, True, "db.end", {"block": block, "commit": False})
            raise
        current_block.set(around)
        _ask(self._handle, True, "db.end", {"block": block, "commit": True})


class Http:
    """Calls to the outside, each recorded as a span with its request and response."""

    __slots__ = ("_blocking", "_handle")

    def __init__(self, handle: Handle, blocking: bool) -> None:
        self._handle = handle
        self._blocking = blocking

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request; options as `httpx.AsyncClient.request`. Returns an `httpx.Response`."""
        return _ask(
            self._handle,
            self._blocking,
            "http.fetch",
            {"method": method.upper(), "url": url, "options": options},
        )

    def get(self, url: str, **options: Any) -> Any:
        """GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Any:
        """POST."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> Any:
        """PUT."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> Any:
        """PATCH."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Any) -> Any:
        """DELETE."""
        return self.request("DELETE", url, **options)


class Queue:
    """Jobs: functions that run later, in a worker, as requests of their own."""

    __slots__ = ("_blocking", "_handle")

    def __init__(self, handle: Handle, blocking: bool) -> None:
        self._handle = handle
        self._blocking = blocking

    def push(
        self,
        function: str,
        payload: Mapping[str, Any] | None = None,
        *,
        delay: float | str | datetime.timedelta | None = None,
        run_at: datetime.datetime | None = None,
        priority: int = 0,
        max_attempts: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Enqueue a job in this transaction: it is there if and only if that commits.

        Args:
            function: Name of the function to run.
            payload: Its arguments by name.
            delay: Not before this long from now: seconds, a timedelta, or a text like `"5m"`.
            run_at: Not before this time (with a time zone).
            priority: A higher one goes first.
            max_attempts: How often it is tried in all; default the function's own.
            idempotency_key: With the same key again, the job that is there already.

        Returns:
            The job's id.

        Raises:
            NotFoundError: There is no such function.
            UsageError: An argument is not what it can be.
        """
        arguments = {
            "function": function,
            "payload": payload,
            "delay": delay,
            "run_at": run_at,
            "priority": priority,
            "max_attempts": max_attempts,
            "idempotency_key": idempotency_key,
        }
        return _ask(self._handle, self._blocking, "queue.push", arguments)


class Job(msgspec.Struct, frozen=True):
    """The job that a function runs for.

    Attributes:
        id: The job's id, the same for every attempt.
        attempt: Which try this is, counted from 1.
        max_attempts: How often it is tried in all.
    """

    id: str
    attempt: int
    max_attempts: int


def make_job(run: Run) -> Job | None:
    """The `ctx.job` of a run."""
    replay = run.invocation.replay
    job = run.invocation.job if replay is None else replay.job
    return None if job is None else Job(str(job.job_id), job.attempt, job.max_attempts)


class Log:
    """Log lines that belong to the request: spans of kind `log`."""

    __slots__ = ("_emit",)

    def __init__(self, emit: Callable[[str, object, dict[str, Any]], None]) -> None:
        self._emit = emit

    def debug(self, message: object, /, **fields: Any) -> None:
        """A detail."""
        self._emit("debug", message, fields)

    def info(self, message: object, /, **fields: Any) -> None:
        """Something worth knowing."""
        self._emit("info", message, fields)

    def warning(self, message: object, /, **fields: Any) -> None:
        """Something odd."""
        self._emit("warning", message, fields)

    def error(self, message: object, /, **fields: Any) -> None:
        """Something wrong."""
        self._emit("error", message, fields)


class Environment(Mapping[str, str]):
    """The environment variables; what is read is recorded (redacted where the name is secret)."""

    __slots__ = ("_read", "_variables")

    def __init__(self, variables: Mapping[str, str], read: Callable[[str], str | None]) -> None:
        self._variables = variables
        self._read = read

    def __getitem__(self, name: str) -> str:
        value = self._read(name)
        if value is None:
            raise UsageError(
                f"environment variable {name} is not set", f"Set {name} in .env or the environment."
            )
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The variable, or the default."""
        value = self._read(name)
        return default if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


class Context:
    """What a function is given as its first argument.

    Attributes:
        db: The project's database, in the function's own transaction.
        http: Calls to the outside.
        env: Environment variables.
        queue: Jobs, enqueued in the function's own transaction.
        job: The job that this is an attempt of; None if it is none.
        log: Log lines of this request.
        request: The HTTP request.
    """

    __slots__ = (
        "_blocking",
        "_handle",
        "_ports",
        "_run",
        "db",
        "env",
        "http",
        "job",
        "log",
        "queue",
        "request",
    )

    def __init__(
        self, run: Run, handle: Handle, ports: Ports, blocking: bool, tables: Tables
    ) -> None:
        self._run = run
        self._handle = handle
        self._ports = ports
        self._blocking = blocking
        self.db = Database(handle, blocking, tables)
        self.http = Http(handle, blocking)
        self.queue = Queue(handle, blocking)
        self.job = make_job(run)
        self.log = Log(ports.log)
        self.env = Environment(ports.variables, ports.read_environment)
        self.request = make_request(run)

    @property
    def request_id(self) -> str:
        """The id under which this request is recorded; in a replay the recorded request's."""
        return shown_request_id(self._run)

    @property
    def is_replay(self) -> bool:
        """Whether this run repeats a recorded request."""
        return self._run.invocation.kind in ("replay", "bisect")

    def call(self, function: str, input: Mapping[str, Any] | None = None) -> Any:
        """Run another function in this transaction, inside a savepoint, as a request of its own.

        Returns what it returned.

        Raises:
            Whatever the called function raised; its row changes are rolled back then.
        """
        return _ask(
            self._handle, self._blocking, "call", {"function": function, "input": dict(input or {})}
        )

    def now(self) -> datetime.datetime:
        """The time now, in UTC (recorded)."""
        return self._ports.now()

    def random(self) -> float:
        """A random number in [0, 1) (recorded)."""
        return self._ports.random()

    def uuid(self) -> uuid.UUID:
        """A random UUID (recorded)."""
        return self._ports.uuid()

    def span(self, name: str, /, **attributes: Any) -> AbstractAsyncContextManager[SpanRecord]:
        """A span of your own around a part of the function; `async with` and `with` both work."""
        return OwnSpan(self._run, name, attributes)


class Ports(msgspec.Struct, frozen=True):
    """The answers of the dispatcher that need no waiting."""

    log: Callable[[str, object, dict[str, Any]], None]
    now: Callable[[], datetime.datetime]
    random: Callable[[], float]
    uuid: Callable[[], uuid.UUID]
    variables: Mapping[str, str]
    read_environment: Callable[[str], str | None]


class OwnSpan(AbstractAsyncContextManager[SpanRecord]):
    """`ctx.span(...)`."""

    def __init__(self, run: Run, name: str, attributes: dict[str, Any]) -> None:
        self._run = run
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> SpanRecord:
        self._span = self._run.begin_span(
            "span",
            self._name,
            attributes=self._run.clean(self._attributes) or None,
            location=self._run.caller_location(),
        )
        self._token = current_span.set(self._span.span_id)
        self._place = span_place(self._name)
        self._place.__enter__()
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._place.__exit__(None, None, None)
        current_span.reset(self._token)
        self._run.end_span(self._span, status="ok" if error is None else "error")

    async def __aenter__(self) -> SpanRecord:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)


def _ask(handle: Callable[..., Awaitable[Any]], blocking: bool, *arguments: Any) -> Any:
    """A message to the dispatcher: an awaitable in async functions, the answer in plain ones."""
    if not blocking:
        return handle(*arguments)
    # The user's line is on this thread's stack, not on that of the task which does the work.
    token = asking_frame.set(sys._getframe(1))
    try:
        return trio.from_thread.run(handle, *arguments)
    except RuntimeError as error:
        _explain_thread(error)
    finally:
        asking_frame.reset(token)


def _explain_thread(error: RuntimeError) -> NoReturn:
    raise FluxError(
        f"ctx was used outside the thread of its function: {error}",
        "A plain `def` function uses ctx in the thread it was called in; for several things at "
        "once write an `async def` function with a trio nursery.",
        code="context-in-foreign-thread",
    ) from error
