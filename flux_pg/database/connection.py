"""The one place where psycopg and Trio meet: `Connection`, psycopg's connection driven by Trio.

psycopg keeps its protocol in generators that yield "wait for the socket"; here they are driven with
`trio.lowlevel.wait_readable` and `wait_writable`. The C speedups stay in use.

The laws of cancellation, true at every await of this file:

1. A cancelled call has either not begun, or it ends with the truth known: the connection is IDLE,
   INTRANS or INERROR and usable, or it is closed. A connection that was closed with a statement in
   flight says so in `Connection.in_doubt`.
2. A statement in flight is cancelled on the server too, again and again until it stops, within
   `cancel_grace_s`; then the connection is closed.
3. If the statement finished all the same, its result is *returned*: whoever is told "cancelled"
   can rely on "it did not happen". Trio delivers the cancellation at the next checkpoint.
4. COMMIT, ROLLBACK and the other ends of a block run to their end although cancelled, for at most
   `cancel_grace_s` after the cancellation. Without a cancellation nothing here limits them.
5. A psycopg pipeline that was cancelled is closed, never reused: it may hold an implicit
   transaction. (`flux_pg.database.pipeline` has its own generator, which can be driven to its end.)

One task uses a connection at a time; the lock only turns a mistake into a wait. Private names of
psycopg relied upon, hence the pin >=3.3.9,<3.4 (checked by tests/database/test_connection_pin.py):
`_connect_gen`, `_cancel_gen`, `_should_cancel`, `_commit_gen`, `_rollback_gen`, `_pipeline`,
`_closed`, `_autocommit`, `_adapters`, `_get_connection_params`; of transactions `_enter_gen`,
`_exit_gen`, `_check_enter`, `Status`; of pipelines `_enter_gen`, `_exit_gen`, `_exit`, `_lock`,
`level`; of cursors `_start_copy_gen`, `_stream_send_gen`, `_stream_fetchone_gen`, `_close_gen`,
`_close`, `_select_current_result`, `_tx`, `_make_row`; `errors._WaitTimeout`;
`_conninfo_utils.split_attempts`, `get_param`, `is_ip_address`; `generators.fetch`.
"""

from __future__ import annotations

import enum
import logging
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import trio
from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor, AsyncTransaction, errors, pq
from psycopg._conninfo_utils import get_param, is_ip_address, split_attempts
from psycopg._pipeline_async import AsyncPipeline
from psycopg.abc import AdaptContext, ConnDict, ConnParam, Params, PQGen, PQGenConn, Query
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo, timeout_from_conninfo
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.generators import fetch
from psycopg.rows import AsyncRowFactory, Row, tuple_row
from psycopg.waiting import Ready, Wait
from trio.lowlevel import checkpoint_if_cancelled, wait_readable, wait_writable

from flux_pg.database.prepared import PreparedStatements

RV = TypeVar("RV")
Error = errors.Error  # for files that know Trio and therefore do not import psycopg

logger = logging.getLogger("flux.database")

_OK = pq.ConnStatus.OK
_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE
_PIPELINE_OFF = pq.PipelineStatus.OFF
_R = int(Wait.R)
_W = int(Wait.W)
_READY_R = Ready.R

# A generator that never has to wait (COPY from a full buffer, a psycopg pipeline) would starve the
# other tasks: past this much time without a real wait, the next call yields first.
_MAX_BUSY_S = 0.005
_last_yield = 0.0

# How soon a statement that survived a cancel request is sent another; doubled each time. A request
# can come before the server has begun the statement, and is then ignored.
_FIRST_RETRY_S = 0.05


class OnCancel(enum.Enum):
    """What a cancellation does to the protocol generator in flight."""

    CANCEL = enum.auto()
    """Cancel the statement on the server, then drain it (laws 1 to 3)."""
    FINISH = enum.auto()
    """Carry on to the end, for `cancel_grace_s` (law 4)."""
    ABANDON = enum.auto()
    """Raise at once: whoever opened the block (COPY, stream) puts the protocol right."""


class _Lock:
    """A mutex that does not yield when free; trio.Lock always does, at 10 to 20 % of throughput."""

    __slots__ = ("_owner", "_waiters")

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiters = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        task = trio.lowlevel.current_task()
        if self._owner is None:
            self._owner = task
            return
        if self._owner is task:
            raise errors.ProgrammingError(
                "this task is already using the connection (a COPY, stream() or notifies() is open)"
            )
        await self._waiters.park()  # the releaser has made us the owner

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()

    def is_free(self) -> bool:
        return self._owner is None

    def release(self) -> None:
        """Hand over to the first waiter, in the same step: nobody can slip in between."""
        self._owner = None
        for task in self._waiters.unpark(count=1):
            self._owner = task


class _Suspended(Generic[RV]):
    """A generator and what it waits for, so that an interrupted wait can be taken up again."""

    __slots__ = ("gen", "want")

    def __init__(self, gen: PQGen[RV], want: int) -> None:
        self.gen = gen
        self.want = want

    async def resume(self, fd: int) -> RV:
        try:
            while True:
                ready = await _wait_ready(fd, self.want)
                self.want = self.gen.send(ready)
        except StopIteration as done:
            return cast(RV, done.value)
        except (OSError, trio.ClosedResourceError) as exc:
            raise errors.OperationalError("connection socket closed") from exc


def _poll(fd: int, want: int) -> Ready | None:
    """What of `want` is ready right now, without waiting."""
    poller = select.poll()
    poller.register(fd, (select.POLLIN if want & _R else 0) | (select.POLLOUT if want & _W else 0))
    ready = 0
    for _, event in poller.poll(0):
        # An error or hang-up counts as ready for what was asked: libpq then finds out which.
        ready |= (_R if event & ~select.POLLOUT else 0) | (_W if event & ~select.POLLIN else 0)
    return Ready(ready & want) if ready & want else None


async def _wait_ready(fd: int, want: int) -> Ready:
    """Wait for the socket; always a checkpoint unless writing is possible at once."""
    global _last_yield  # noqa: PLW0603
    if want != _R and (ready := _poll(fd, want)):
        return ready
    try:
        if want == _R:
            await wait_readable(fd)
            return _READY_R
        if want == _W:
            await wait_writable(fd)
            return Ready.W
        return await _wait_either(fd)
    finally:
        _last_yield = monotonic()


async def _wait_either(fd: int) -> Ready:
    """Wait until the socket is readable or writable: both buffers are full, so it is rare."""
    ready = 0
    try:
        async with trio.open_nursery() as nursery:

            async def one(wait: Any, flag: int) -> None:
                nonlocal ready
                await wait(fd)
                ready |= flag
                nursery.cancel_scope.cancel()

            nursery.start_soon(one, wait_readable, _R)
            nursery.start_soon(one, wait_writable, _W)
    except BaseExceptionGroup as group:
        await checkpoint_if_cancelled()  # a plain Cancelled, if that is what it was
        raise errors.OperationalError("connection socket closed") from group
    return Ready(ready)


async def _drive_connecting(gen: PQGenConn[RV]) -> RV:
    """Drive a generator whose socket may change. Cancelled, it frees its socket and raises."""
    try:
        fd, want = next(gen)
        while True:
            ready = await _wait_ready(fd, want)
            fd, want = gen.send(ready)
    except StopIteration as done:
        return cast(RV, done.value)
    except OSError as exc:
        raise errors.OperationalError("connection socket closed") from exc
    finally:
        gen.close()  # libpq closes the half-open socket with the PGconn the generator holds


async def _resolve(attempt: ConnDict) -> list[ConnDict]:
    """One attempt per address of the host. libpq would resolve names by blocking the loop."""
    host = get_param(attempt, "host")
    if not host or host.startswith("/") or get_param(attempt, "hostaddr"):
        return [attempt]
    if is_ip_address(host):
        return [{**attempt, "hostaddr": host}]
    port = get_param(attempt, "port") or "5432"
    found = await trio.socket.getaddrinfo(
        host, port, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM
    )
    return [{**attempt, "hostaddr": str(address[4][0])} for address in found]


class Connection(AsyncConnection[Row]):
    """psycopg's `AsyncConnection`, for Trio.

    Everything of psycopg works (cursors, server cursors, COPY, `stream`, prepared statements,
    `pipeline`, `notifies`) but `AsyncQueuedLibpqWriter`. Errors are psycopg's own.

    Use `aclosing()` around `notifies()` and `stream()`: both hold the connection until closed.

    Attributes:
        cancel_grace_s: The longest a cancelled call keeps going before it closes the connection.
        in_doubt: The connection ended with a statement in flight whose outcome nobody heard.
    """

    cancel_grace_s: float = 5.0
    lock: _Lock  # type: ignore[assignment]

    def __init__(
        self,
        pgconn: Any,
        row_factory: AsyncRowFactory[Row] = cast(AsyncRowFactory[Any], tuple_row),  # noqa: B008
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = _Lock()
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor
        self.prepared = self._prepared = PreparedStatements()
        self.in_doubt = False
        self._on_cancel = OnCancel.CANCEL

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Any] | None = None,
        cursor_factory: type[AsyncCursor[Any]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect, trying every host and address in turn, each for `connect_timeout` seconds.

        Cancellation: the half-open connection is closed.

        Raises:
            psycopg.OperationalError: No address could be reached, or the server refused.
            psycopg.errors.ConnectionTimeout: The last address did not answer in time.
        """
        params = await cls._get_connection_params(conninfo, **kwargs)
        conn = await cls._connect_any(params, timeout_from_conninfo(params))
        conn._autocommit = autocommit
        conn.prepare_threshold = prepare_threshold
        if row_factory:
            conn.row_factory = row_factory
        if cursor_factory:
            conn.cursor_factory = cursor_factory
        if context:
            conn._adapters = AdaptersMap(context.adapters)
        return conn

    @classmethod
    async def _connect_any(cls, params: ConnDict, timeout_s: float) -> Self:
        failures: list[tuple[str, errors.Error]] = []
        for named in split_attempts(params):
            try:
                attempts = await _resolve(named)
            except OSError as exc:
                where = str(named.get("host"))
                failures.append((where, errors.OperationalError(f"cannot resolve: {exc}")))
                continue
            for attempt in attempts:
                where = ":".join(str(attempt[k]) for k in ("host", "port") if attempt.get(k))
                try:
                    with trio.fail_after(timeout_s):
                        return await _drive_connecting(
                            cls._connect_gen(make_conninfo("", **attempt))
                        )
                except trio.TooSlowError:
                    late = errors.ConnectionTimeout(f"no answer within {timeout_s:g} s")
                    failures.append((where, late))
                except errors.Error as exc:
                    failures.append((where, exc))
        last = failures[-1][1]
        if len(failures) == 1:
            raise last
        lines = [f"- {where or 'default socket'}: {exc}" for where, exc in failures]
        raise type(last)("\n".join(["no address could be reached:", *lines]), pgconn=last.pgconn)

    # Driving a generator

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109  (psycopg's signature)
    ) -> RV:
        """Drive one of psycopg's generators to its end; every call of psycopg comes through here.

        A cancel point before the generator starts and while it waits; see the laws above.

        Raises:
            psycopg.errors._WaitTimeout: Not done within `timeout` seconds (the generator is left).
        """
        if timeout is None:
            return await self.drive(gen, self._on_cancel)
        fd = self.pgconn.socket
        with trio.move_on_after(timeout):
            try:
                suspended = _Suspended(gen, next(gen))
                if ready := _poll(fd, suspended.want):  # a timeout of 0 looks once
                    suspended.want = gen.send(ready)
            except StopIteration as done:
                return cast(RV, done.value)
            return await suspended.resume(fd)
        raise errors._WaitTimeout("wait timeout expired")

    async def drive(self, gen: PQGen[RV], on_cancel: OnCancel) -> RV:
        """`wait`, with the answer to a cancellation said by the caller, who holds the lock."""
        global _last_yield  # noqa: PLW0603
        fd = self.pgconn.socket
        if on_cancel is not OnCancel.FINISH:
            await checkpoint_if_cancelled()
            if monotonic() - _last_yield > _MAX_BUSY_S:
                await trio.lowlevel.checkpoint()
                _last_yield = monotonic()
        want = 0
        try:
            want = next(gen)
            while True:
                if want == _R:  # the common case, without another coroutine
                    await wait_readable(fd)
                    _last_yield = monotonic()
                    want = gen.send(_READY_R)
                else:
                    want = gen.send(await _wait_ready(fd, want))
        except StopIteration as done:
            return cast(RV, done.value)
        except trio.Cancelled:
            ended, result = await self._interrupted(_Suspended(gen, want), on_cancel)
            if ended:
                return cast(RV, result)
            raise
        except KeyboardInterrupt:
            await self.abort()  # it can strike in the middle of libpq's and psycopg's own steps
            raise
        except (OSError, trio.ClosedResourceError) as exc:
            self.in_doubt = True
            raise errors.OperationalError("connection socket closed") from exc
        except errors.Error:
            self.in_doubt = self.in_doubt or self.closed
            raise

    async def _interrupted(
        self, suspended: _Suspended[RV], on_cancel: OnCancel
    ) -> tuple[bool, RV | None]:
        """Bring a cancelled generator to a known end: (True, result), or (False, None) to raise."""
        if on_cancel is OnCancel.ABANDON or self.pgconn.transaction_status != _ACTIVE:
            suspended.gen.close()
            return False, None
        if on_cancel is OnCancel.CANCEL and self._pipeline is not None:
            await self.abort()
            return False, None
        try:
            with trio.CancelScope(shield=True, deadline=self._grace_deadline()) as grace:
                if on_cancel is OnCancel.FINISH:
                    result = await suspended.resume(self.pgconn.socket)
                else:
                    result = await self._stop_statement(suspended)
            if not grace.cancelled_caught:
                return True, result
        except errors.QueryCanceled:
            if on_cancel is OnCancel.FINISH:
                raise
            return False, None
        except errors.Error:
            if not self.closed:
                raise
            self.in_doubt = True
            return False, None
        self.drop()
        with suppress(Exception):
            suspended.gen.close()
        return False, None

    async def _stop_statement(self, suspended: _Suspended[RV]) -> RV:
        """Ask the server to stop until the generator ends; the caller's deadline bounds it."""
        retry_s = _FIRST_RETRY_S
        while True:
            await self._try_cancel(timeout=self.cancel_grace_s / 2)
            with trio.move_on_after(retry_s) as patience:
                result = await suspended.resume(self.pgconn.socket)
            if not patience.cancelled_caught:
                return result
            retry_s *= 2

    async def abort(self) -> None:
        """Stop the server's work as far as it can be reached, and close the connection."""
        if self.closed:
            return
        if self.pgconn.transaction_status == _ACTIVE:
            with trio.CancelScope(shield=True):
                await self._try_cancel(timeout=self.cancel_grace_s / 2)
        self.drop()

    def _grace_deadline(self) -> float:
        return trio.current_time() + self.cancel_grace_s

    @contextmanager
    def _answering(self, on_cancel: OnCancel) -> Iterator[None]:
        """Set the answer to cancellations for psycopg's own calls of `wait`; the lock is held."""
        before, self._on_cancel = self._on_cancel, on_cancel
        try:
            yield
        finally:
            self._on_cancel = before

    async def finish(self, gen: PQGen[RV]) -> RV:
        """Take the lock and drive the end of a block, cancelled or not (law 4)."""
        with trio.CancelScope(shield=True, deadline=self._grace_deadline()) as waiting:
            await self.lock.__aenter__()
        if waiting.cancelled_caught:  # somebody else's statement hangs: nothing can be ended
            self.drop()
            raise errors.OperationalError("the connection was in use by another task; closed")
        try:
            return await self.drive(gen, OnCancel.FINISH)
        finally:
            self.lock.release()

    async def exchange(self, gen: PQGen[RV], *, finish: bool = False) -> RV:
        """Take the lock and drive a generator of our own that leaves the protocol in order."""
        if finish:
            return await self.finish(gen)
        async with self.lock:
            return await self.drive(gen, OnCancel.CANCEL)

    async def raise_if_cancelled(self) -> None:
        """A cancel point, for callers that know psycopg but not Trio."""
        await checkpoint_if_cancelled()

    def is_clean(self) -> bool:
        """Open, outside a transaction and out of pipeline mode: fit for another owner."""
        pgconn = self.pgconn
        return (
            pgconn.transaction_status == _IDLE
            and pgconn.pipeline_status == _PIPELINE_OFF
            and self._pipeline is None
            and not self._num_transactions
            and self.lock.is_free()
        )

    async def restore(self) -> bool:
        """Make it fit for another owner: roll back what is open, or close. Whether it is open.

        Not a cancel point; takes at most `cancel_grace_s`.
        """
        if not self.lock.is_free() or self.pgconn.transaction_status == _ACTIVE:
            await self.abort()
        else:
            deadline = self._grace_deadline()
            with trio.CancelScope(shield=True, deadline=deadline), suppress(errors.Error):
                await self.rollback()
        if not self.is_clean():
            self.drop()
        return not self.closed

    def has_unread(self) -> bool:
        """Bytes wait on the socket: on an idle connection a farewell, rarely only a notification.

        Costs a poll() and no round trip. A peer that vanished silently is not seen by this.
        """
        return _poll(self.pgconn.socket, _R) is not None

    # Closing and cancelling

    def drop(self) -> None:
        """Close the socket at once. Trio must hear of it first, or it may wait on a reused fd."""
        if self.closed:
            return
        self.in_doubt = self.in_doubt or self.pgconn.transaction_status == _ACTIVE
        trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    async def close(self) -> None:
        """Close the connection; never waits. A transaction still open is rolled back by the server.

        A statement still running is not stopped by this (see `client_connection_check_interval`).
        """
        if not self.closed:
            self.drop()
            self._closed = True

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Ask the server, over a connection of its own, to cancel what runs on this one.

        When it returns the server has signalled the backend, so that a later statement cannot be
        hit by it. A closed connection is left alone.

        Raises:
            psycopg.errors.CancellationTimeout: No answer within `timeout` seconds.
        """
        if not self._should_cancel():
            return
        shield = self._on_cancel is OnCancel.FINISH
        with trio.CancelScope(shield=shield, deadline=trio.current_time() + timeout):
            await _drive_connecting(self._cancel_gen())
            return
        raise errors.CancellationTimeout("cancellation timeout expired")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an exception, then close."""
        if self.closed:
            return
        try:
            if exc_type is None:
                await self.commit()
            else:
                await self.rollback()
        except errors.Error as exc:
            if exc_type is None:
                raise
            logger.warning("error ignored in rollback on %s: %s", self, exc)
        finally:
            await self.close()

    # Blocks with an end

    async def commit(self) -> None:
        """Commit. Cancelled before it is sent: not committed. After: runs to its end (law 4)."""
        await checkpoint_if_cancelled()
        await self.finish(self._commit_gen())

    async def rollback(self) -> None:
        """Roll back; not a cancel point, so it can be called from an `except` clause."""
        await self.finish(self._rollback_gen())

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """A transaction, or inside one a savepoint. Its end is not a cancel point (law 4)."""
        tx = Transaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), tx, self.pipeline():
                yield tx
        else:
            async with tx:
                yield tx

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """psycopg's pipeline mode. If the block is cancelled the connection is closed (law 5)."""
        async with self.lock:
            self._check_connection_ok()
            if self._pipeline is None:
                self._pipeline = Pipeline(self)
            pipeline = self._pipeline
        try:
            async with pipeline:
                yield pipeline
        finally:
            if pipeline.level == 0:
                self._pipeline = None

    @asynccontextmanager
    async def _pipeline_nolock(self) -> AsyncIterator[AsyncPipeline]:
        """psycopg's own, for executemany(), which holds the lock."""
        pipeline = self._pipeline = Pipeline(self, _no_lock=True)
        try:
            async with pipeline:
                yield pipeline
        finally:
            self._pipeline = None


class Transaction(AsyncTransaction):
    """psycopg's transaction block, whose end is driven to its end."""

    _conn: Connection[Any]

    async def __aenter__(self) -> Self:
        async with self._conn.lock:
            self._check_enter()
            try:
                await self._conn.wait(self._enter_gen())
            except BaseException as exc:
                if self.pgconn.status != _OK:
                    self.status = self.Status.FAILED
                elif self.status is not self.Status.NOT_STARTED:
                    undo = self._exit_gen(type(exc), exc, None)
                    await self._conn.drive(undo, OnCancel.FINISH)
                raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        if self.pgconn.status != _OK:
            self.status = self.Status.FAILED
            return False
        return await self._conn.finish(self._exit_gen(exc_type, exc_val, exc_tb))


class Pipeline(AsyncPipeline):
    """psycopg's pipeline, whose end is driven to its end, or closes the connection (law 5)."""

    _conn: Connection[Any]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            if exc_val is not None and not isinstance(exc_val, Exception):
                await self._conn.abort()
            if self._conn.closed:
                if exc_val is None:
                    raise errors.OperationalError("the connection was closed in pipeline mode")
                return
            async with self._lock:
                await self._conn.drive(self._exit_gen(), OnCancel.FINISH)
        except Exception as exc:
            if exc_val is None:
                raise
            logger.warning("error ignored terminating %r: %s", self, exc)
        finally:
            self._exit(exc_val)


class Cursor(AsyncCursor[Row]):
    """psycopg's cursor, with COPY and `stream` that clean up behind a cancellation."""

    __slots__ = ()

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, *, writer: AsyncWriter | None = None
    ) -> AsyncIterator[AsyncCopy]:
        """COPY to or from the client. Cancelled: COPY FROM fails, COPY TO stops on the server."""
        conn = cast("Connection[Any]", self._conn)
        async with conn.lock:
            await conn.wait(self._start_copy_gen(statement, params))
            with conn._answering(OnCancel.ABANDON):
                async with Copy(self, writer=writer) as copy:
                    yield copy
        self._select_current_result(0)

    async def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        binary: bool | None = None,
        size: int = 1,
    ) -> AsyncGenerator[Row, None]:
        """Rows as they come. Left early or cancelled, the query is stopped on the server."""
        if self._pgconn.pipeline_status:
            raise errors.ProgrammingError("stream() cannot be used in pipeline mode")
        conn = cast("Connection[Any]", self._conn)
        async with conn.lock:
            try:
                start = self._stream_send_gen(query, params, binary=binary, size=size)
                await conn.drive(start, OnCancel.ABANDON)
                first = True
                while res := await conn.drive(self._stream_fetchone_gen(first), OnCancel.ABANDON):
                    for pos in range(res.ntuples):
                        yield self._tx.load_row(pos, self._make_row)
                    first = False
            finally:
                if self._pgconn.transaction_status == _ACTIVE:
                    await _stop_stream(conn)


async def _stop_stream(conn: Connection[Any]) -> None:
    """Cancel on the server and throw away what is still to come, or close the connection."""

    def drain() -> PQGen[None]:
        while (yield from fetch(conn.pgconn)) is not None:
            pass

    retry_s = _FIRST_RETRY_S
    with trio.CancelScope(shield=True, deadline=conn._grace_deadline()), suppress(errors.Error):
        while conn.pgconn.transaction_status == _ACTIVE:
            await conn._try_cancel(timeout=conn.cancel_grace_s / 2)
            with trio.move_on_after(retry_s):
                await conn.drive(drain(), OnCancel.ABANDON)
            retry_s *= 2
    if conn.pgconn.transaction_status == _ACTIVE:
        conn.drop()


class Copy(AsyncCopy):
    """psycopg's COPY, whose clean-up survives a cancellation."""

    async def finish(self, exc: BaseException | None) -> None:
        """End the COPY: confirm it (a cancel point), or after an exception fail it (not one)."""
        conn = cast("Connection[Any]", self.connection)
        unread = exc is None and conn.pgconn.transaction_status == _ACTIVE
        if unread and self._direction == pq.ExecStatus.COPY_OUT:
            exc = GeneratorExit()  # left before the last row: stop it like a failed one
        try:
            with conn._answering(OnCancel.FINISH if exc else OnCancel.CANCEL):
                await super().finish(exc)
        except trio.Cancelled as cancelled:
            if conn.pgconn.transaction_status == _ACTIVE:
                with conn._answering(OnCancel.FINISH):
                    await super().finish(cancelled)
            raise
        finally:
            if conn.pgconn.transaction_status == _ACTIVE:
                conn.drop()


class ServerCursor(AsyncServerCursor[Row]):
    """psycopg's server-side cursor, whose close is not a cancel point."""

    async def close(self) -> None:
        """Close the cursor on the server and here."""
        if not self.closed and not self._conn.closed:
            await cast("Connection[Any]", self._conn).finish(self._close_gen())
        self._close()
