"""The one place where psycopg and Trio meet: `Connection`, psycopg's connection driven by Trio.

It is longer than a file should be because it is the only one: what needs only one of the two is in
`blocks`, `pipeline`, `prepared`, `addresses` and `waiting`.

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

One task uses a connection at a time; the lock only turns a mistake into a wait.

Private names of psycopg relied upon, here and in `addresses`, `blocks`, `pipeline`, `prepared`, are
why it is pinned to >=3.3.9,<3.4 (tests/database/test_connection_pin.py). Here: `_connect_gen`,
`_cancel_gen`, `_should_cancel`, `_try_cancel`, `_commit_gen`, `_rollback_gen`, `_pipeline`,
`_pipeline_nolock`, `_num_transactions`, `_prepared`, `_closed`, `_autocommit`, `_adapters`,
`_check_connection_ok`, `_get_connection_params`, `errors._WaitTimeout`,
`generators.execute` and `fetch`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import trio
from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction, errors, pq
from psycopg._pipeline_async import AsyncPipeline
from psycopg.abc import AdaptContext, ConnDict, ConnParam, PQGen, PQGenConn
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo, timeout_from_conninfo
from psycopg.generators import execute, fetch
from psycopg.rows import AsyncRowFactory, Row, tuple_row
from psycopg.waiting import Ready
from trio.lowlevel import checkpoint_if_cancelled, wait_readable

from flux_pg.database.addresses import describe, list_attempts
from flux_pg.database.blocks import Cursor, Pipeline, ServerCursor, Transaction
from flux_pg.database.prepared import PreparedStatements
from flux_pg.database.waiting import READABLE, Lock, OnCancel, fairness, poll_ready, wait_ready

RV = TypeVar("RV")
Error = errors.Error  # for files that know Trio and therefore do not import psycopg

logger = logging.getLogger("flux.database")

_ACTIVE = pq.TransactionStatus.ACTIVE
_IDLE = pq.TransactionStatus.IDLE
_PIPELINE_OFF = pq.PipelineStatus.OFF
_READY = {int(ready): ready for ready in Ready}
_READY_R = Ready.R

# How soon a statement that survived a cancel request is sent another; doubled each time. A request
# can come before the server has begun the statement, and is then ignored.
_FIRST_RETRY_S = 0.05

# What waiting for the socket raises when another task closes it or waits for it too.
_UNWAITABLE = (trio.ClosedResourceError, trio.BusyResourceError)


class _Suspended(Generic[RV]):
    """A generator and what it waits for, so that an interrupted wait can be taken up again."""

    __slots__ = ("gen", "want")

    def __init__(self, gen: PQGen[RV], want: int) -> None:
        self.gen = gen
        self.want = want

    async def resume(self, fd: int) -> RV:
        try:
            while True:
                ready = await wait_ready(fd, self.want)
                self.want = self.gen.send(_READY[ready])
        except StopIteration as done:
            return cast(RV, done.value)
        except (OSError, trio.ClosedResourceError) as exc:
            raise errors.OperationalError("connection socket closed") from exc


async def _drive_connecting(gen: PQGenConn[RV]) -> RV:
    """Drive a generator whose socket may change. Cancelled, it frees its socket and raises."""
    try:
        fd, want = next(gen)
        while True:
            ready = await wait_ready(fd, want)
            fd, want = gen.send(_READY[ready])
    except StopIteration as done:
        return cast(RV, done.value)
    except OSError as exc:
        raise errors.OperationalError("connection socket closed") from exc
    finally:
        gen.close()  # libpq closes the half-open socket with the PGconn the generator holds


async def _resolve(host: str, port: str) -> list[str]:
    found = await trio.socket.getaddrinfo(
        host, port, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM
    )
    return [str(address[4][0]) for address in found]


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
    lock: Lock  # type: ignore[assignment]

    def __init__(
        self,
        pgconn: Any,
        row_factory: AsyncRowFactory[Row] = cast(AsyncRowFactory[Any], tuple_row),  # noqa: B008
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = Lock()
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
        attempts, unresolved = await list_attempts(params, _resolve)
        failures: list[tuple[str, errors.Error]] = [("", exc) for exc in unresolved]
        for attempt in attempts:
            try:
                with trio.fail_after(timeout_s):
                    return await _drive_connecting(cls._connect_gen(make_conninfo("", **attempt)))
            except trio.TooSlowError:
                late = errors.ConnectionTimeout(f"no answer within {timeout_s:g} s")
                failures.append((describe(attempt), late))
            except errors.Error as exc:
                failures.append((describe(attempt), exc))
        last = failures[-1][1]
        if len(failures) == 1:
            raise last
        lines = [f"- {where}: {exc}" if where else f"- {exc}" for where, exc in failures]
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
                if ready := poll_ready(fd, suspended.want):  # a timeout of 0 looks once
                    suspended.want = gen.send(_READY[ready])
            except StopIteration as done:
                return cast(RV, done.value)
            return await suspended.resume(fd)
        raise errors._WaitTimeout("wait timeout expired")

    async def drive(self, gen: PQGen[RV], on_cancel: OnCancel) -> RV:
        """`wait`, with the answer to a cancellation said by the caller, who holds the lock."""
        fd = self.pgconn.socket
        if on_cancel is not OnCancel.FINISH:
            await checkpoint_if_cancelled()
            if fairness.busy_since:
                await fairness.yield_if_busy()
        want, waited = 0, False
        try:
            want = next(gen)
            while True:
                if want == READABLE:  # the common case, without another coroutine
                    await wait_readable(fd)
                    waited = True
                    want = gen.send(_READY_R)
                else:
                    want = gen.send(_READY[await wait_ready(fd, want)])
        except StopIteration as done:
            fairness.note(waited)
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
            with suppress(Exception):
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

    async def stop_rows(self) -> None:
        """Stop a query whose rows nobody wants any more; the caller holds the lock.

        Not a cancel point; within `cancel_grace_s` the connection is quiet or closed.
        """
        retry_s = _FIRST_RETRY_S
        deadline = self._grace_deadline()
        with trio.CancelScope(shield=True, deadline=deadline), suppress(errors.Error):
            while self.pgconn.transaction_status == _ACTIVE:
                await self._try_cancel(timeout=self.cancel_grace_s / 2)
                with trio.move_on_after(retry_s):
                    await self.drive(self._discard_gen(), OnCancel.ABANDON)
                retry_s *= 2
        if self.pgconn.transaction_status == _ACTIVE:
            self.drop()

    def _discard_gen(self) -> PQGen[None]:
        while (yield from fetch(self.pgconn)) is not None:
            pass

    async def abort(self) -> None:
        """Stop the server's work as far as it can be reached, and close the connection."""
        if self.closed:
            return
        if self.pgconn.transaction_status == _ACTIVE:
            with trio.CancelScope(shield=True, deadline=self._grace_deadline()):
                await self._cancel_twice()
        self.drop()

    async def _cancel_twice(self) -> None:
        """The first request may have come before the statement had begun.

        While this waits, whoever used the connection may close it: then there is nothing to do.
        """
        await self._try_cancel(timeout=self.cancel_grace_s / 2)
        with (
            trio.move_on_after(_FIRST_RETRY_S),
            suppress(OSError, errors.OperationalError, *_UNWAITABLE),
        ):
            await wait_readable(self.pgconn.socket)
            return
        if not self.closed:
            await self._try_cancel(timeout=self.cancel_grace_s / 2)

    def _grace_deadline(self) -> float:
        return trio.current_time() + self.cancel_grace_s

    @contextmanager
    def answering(self, on_cancel: OnCancel) -> Iterator[None]:
        """Set the answer to cancellations for psycopg's own calls of `wait`; the lock is held."""
        before, self._on_cancel = self._on_cancel, on_cancel
        try:
            yield
        finally:
            self._on_cancel = before

    async def finish(self, gen: PQGen[RV]) -> RV:
        """Take the lock and drive the end of a block, cancelled or not (law 4)."""
        if not self.lock.acquire_nowait():
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

    async def is_alive(self, timeout_s: float) -> bool:
        """Ask the server, for an idle connection. False: it is of no use; drop it.

        Cancellation: the answer may still be to come; drop it too.
        """
        with trio.move_on_after(timeout_s), suppress(errors.Error):
            async with self.lock:
                await self.drive(self._ping_gen(), OnCancel.ABANDON)
        return self.is_clean()

    def _ping_gen(self) -> PQGen[None]:
        self.pgconn.send_query(b"")
        yield from execute(self.pgconn)

    def has_unread(self) -> bool:
        """Bytes wait on the socket: on an idle connection a farewell, rarely only a notification.

        Costs a poll() and no round trip. A peer that vanished silently is not seen by this.
        """
        return poll_ready(self.pgconn.socket, READABLE) != 0

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
