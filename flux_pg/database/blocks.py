"""psycopg's blocks that have an end (transactions, pipelines, COPY, streams), made to reach it.

psycopg's own ends are ordinary awaits: under Trio, where a cancelled scope cancels every await,
they would raise at once and leave the transaction or the COPY open. Here they are handed to the
connection as work to be finished. The laws are in `flux_pg.database.connection`.

Private names of psycopg relied upon: of transactions `_conn`, `_enter_gen`, `_exit_gen`,
`_check_enter`, `Status`; of pipelines `_conn`, `_enter_gen`, `_exit_gen`, `_exit`, `_lock`,
`level`; of cursors `_conn`, `_pgconn`, `_start_copy_gen`, `_stream_send_gen`,
`_stream_fetchone_gen`, `_close_gen`, `_close`, `_select_current_result`, `_tx`, `_make_row`; of
COPY `_direction`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from psycopg import AsyncCursor, AsyncServerCursor, AsyncTransaction, errors, pq
from psycopg._pipeline_async import AsyncPipeline
from psycopg.abc import Params, Query
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.rows import Row

from flux_pg.database.waiting import OnCancel

if TYPE_CHECKING:
    from flux_pg.database.connection import Connection

logger = logging.getLogger("flux.database")

_OK = pq.ConnStatus.OK
_ACTIVE = pq.TransactionStatus.ACTIVE
_COPY_OUT = pq.ExecStatus.COPY_OUT


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
            with conn.answering(OnCancel.ABANDON):
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
                    await conn.stop_rows()


class Copy(AsyncCopy):
    """psycopg's COPY, whose clean-up survives a cancellation."""

    async def finish(self, exc: BaseException | None) -> None:
        """End the COPY: confirm it (a cancel point), or after an exception fail it (not one)."""
        conn = cast("Connection[Any]", self.connection)
        unread = exc is None and self._direction == _COPY_OUT
        if unread and conn.pgconn.transaction_status == _ACTIVE:
            exc = GeneratorExit()  # left before the last row: stop it like a failed one
        try:
            with conn.answering(OnCancel.FINISH if exc else OnCancel.CANCEL):
                await super().finish(exc)
        except BaseException as cancelled:
            if conn.pgconn.transaction_status == _ACTIVE:
                with conn.answering(OnCancel.FINISH):
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
