"""One database transaction of a run, kept so that whatever happens in it can still be recorded.

How law 3 is kept (rolled-back work is recorded): row changes are written by triggers in this same
transaction, so an error would take them along. Therefore a savepoint is set before the first
statement that follows a write; after an error the transaction goes back to it, the row changes are
read (`flux.collect_attempted`), and only then everything is rolled back. The savepoint travels in
the message of the statement it protects and costs no round trip. Every savepoint under which rows
were written takes one of the 64 places of Postgres's subtransaction cache (backend/access/transam,
README); past `MAX_SAVEPOINTS` the row changes are read back after each write instead.

Laws: after an SQL error further statements fail as in plain Postgres (25P02), unless a block
(`begin_block`) that contains it was ended; nothing is sent to a transaction that failed but what
ends it; whoever opened a transaction ends it with `commit` or `abandon`; a block is the task's that
opened it and of the tasks started inside: statements and blocks of others wait until it has ended,
as its rollback would take them along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
import trio
from psycopg import pq

from ..database.connection import Connection
from ..database.pipeline import (
    BEGIN,
    COMMIT,
    ROLLBACK,
    Batch,
    FixedQuery,
    FixedStatement,
    Result,
    Sendable,
    Statement,
    run_batch,
)
from ..database.pool import Pool
from ..records import Location
from .callers import Caller
from .run import signed
from .statements import Statement as StatementText
from .statements import learn_writers, names_in

MAX_SAVEPOINTS = 60
_IDLE = pq.TransactionStatus.IDLE
_INTRANS = pq.TransactionStatus.INTRANS
_INERROR = pq.TransactionStatus.INERROR

_CONTEXT = FixedQuery(
    "select pg_catalog.pg_current_snapshot()::text,"
    " pg_catalog.set_config('flux.request_id', $1, true),"
    " pg_catalog.set_config('flux.span_id', $2, true),"
    " pg_catalog.set_config('statement_timeout', $3, true)",
    3,
)
_SET_SPAN = FixedQuery("select pg_catalog.set_config('flux.span_id', $1, true)", 1)
_SET_BOTH = FixedQuery(
    "select pg_catalog.set_config('flux.request_id', $1, true),"
    " pg_catalog.set_config('flux.span_id', $2, true)",
    2,
)
_COLLECT = FixedQuery("select flux.collect_attempted($1)::text", 1)
_COLLECT_AFTER = FixedQuery(
    "select c.changes::text, c.changes -> -1 ->> 'seq'"
    " from (select flux.collect_attempted($1, $2) as changes) as c",
    2,
)
_MAKES_CONSTRAINTS = frozenset({"create", "alter", "do"})
_HIDES = frozenset({"do", "call", "create", "alter"})
_FIND_WRITERS = FixedQuery("select flux.find_writers(string_to_array($1, chr(10)))", 1)
_HIDDEN = "row changes not captured: a SELECT may have made some through "
_STRUCK = "row changes not captured: stopped while a savepoint was being set after them"
_SETTLE = FixedQuery("set constraints all immediate").bind()
_BEGIN = {
    "read committed": BEGIN,
    "repeatable read": FixedQuery("begin isolation level repeatable read").bind(),
    "serializable": FixedQuery("begin isolation level serializable").bind(),
}
# Made once: a transaction seldom needs more than the first few of their names.
_SAVEPOINTS = tuple(FixedQuery(f"savepoint flux_{name}").bind() for name in range(64))


class Attempted(msgspec.Struct, frozen=True):
    """Row changes that were rolled back, as `flux.record_attempted` takes them."""

    request_id: str
    mutations: str


class CommitFailed(Exception):
    """The transaction could not be committed.

    Attributes:
        cause: What Postgres said.
        settled: False if it was a deferred constraint, so that the row changes can still be read.
        in_doubt: The connection was lost with COMMIT on the way: the record tells the truth.
    """

    def __init__(self, cause: psycopg.Error, *, settled: bool, in_doubt: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.settled = settled
        self.in_doubt = in_doubt


class Savepoint:
    """A block the user opened; its savepoint is set with the first statement inside it."""

    __slots__ = (
        "cut", "name", "opened_at", "parent", "position", "read_before", "unsaved_before", "wrote",
    )  # fmt: skip

    def __init__(self, parent: Savepoint | None) -> None:
        self.parent = parent
        self.opened_at: Location | None = None
        self.cut = False  # rolled back with a block around it, before it was ended itself
        self.position: int | None = None
        self.name = 0
        self.unsaved_before = False
        self.read_before: list[str] = []
        self.wrote = False


class Transaction:
    """See the module.

    Attributes:
        snapshot: `pg_current_snapshot()` of its first statement; empty before.
        wrote: It may have changed rows.
        failed: An SQL error has aborted it on the server.
        lost: The session is gone; what it did cannot be read back any more.
        attempted: Row changes of blocks that were rolled back while the rest goes on.
        missing: Why some that were rolled back are not among them; empty if they all are.
        stalled: The block whose end a task was waiting for when it was cancelled.
    """

    def __init__(
        self,
        pool: Pool,
        isolation: str,
        timeout_ms: int,
        *,
        recording: bool = True,
        settles: bool = True,
        caller: Caller | None = None,
    ) -> None:
        self._pool = pool
        self._caller = caller
        self._recording = recording
        self._settles = settles
        self._isolation = isolation
        self._timeout_ms = timeout_ms
        self._conn: Connection[Any] | None = None
        self._lock = trio.Lock()
        self._begun = False
        self._saves: tuple[int, ...] = ()
        self._last_name = 0
        self._unsaved = False
        self._read: list[str] = []  # seeming reads since the last savepoint: a view may write
        self._blocks: list[Savepoint] = []
        self._turn = trio.lowlevel.ParkingLot()
        self._pending: list[Sendable] = []
        self._context: tuple[str, str] = ("", "")
        self._requests: dict[str, None] = {}
        self._read_back: dict[str, list[str]] | None = None
        self._read_up_to = "0"  # seq of the newest row change that was read back
        self._leaves_state = False
        self.snapshot = ""
        self.wrote = False
        self.failed = False
        self.lost = False
        self.attempted: list[Attempted] = []
        self.missing = ""
        self.stalled: Savepoint | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was begun on the server."""
        return self._conn is not None

    async def execute(
        self,
        text: StatementText,
        statement: Statement,
        request_id: str,
        span_id: str,
        block: Savepoint | None = None,
    ) -> Result:
        """Run one of the user's statements.

        Args:
            text: What its text says.
            statement: The statement and its parameters.
            request_id: The request its row changes belong to (a called function has its own).
            span_id: The span they belong to, 16 hex digits.
            block: The innermost block that the asking task runs in.

        Cancellation: the statement is stopped on the server; the transaction has then failed.

        Raises:
            psycopg.Error: As Postgres says; the transaction has then failed, if it was sent.
            psycopg.errors.InFailedSqlTransaction: It had failed before; nothing was sent.
            PoolTimeout: No connection became free in time.
        """
        await self._take_turn(block)
        try:
            self._check_usable()
            if block is not None and block.cut:
                raise _cut_off()
            if self._conn is None:
                self._conn = await self._pool.acquire()
            return await self._execute(text, statement, request_id, span_id)
        finally:
            await self._release_if_unused()
            self._lock.release()

    async def _execute(
        self, text: StatementText, statement: Statement, request_id: str, span_id: str
    ) -> Result:
        before = self._remember_state()
        first = not self._begun
        prefix = self._prefix(text, request_id, span_id)
        suffix = self._suffix(text, request_id)
        # Also if it fails, or nobody waits for its end: not all of it is undone by a rollback.
        self._leaves_state = self._leaves_state or text.leaves_state or self._may_hide(text)
        try:
            batch = await self._send([*prefix, statement, *suffix], first=first)
        except BaseException:
            if not self.failed and not self.lost:
                self._restore_state(before)  # nothing was sent
            raise
        self._settles = self._settles or text.verb in _MAKES_CONSTRAINTS
        if text.reads_only:
            self._read.append(str(statement.query))
        else:
            self._note_write(request_id, batch[len(prefix) + 1 :])
        result: Result = batch[len(prefix)]
        return result

    def _may_hide(self, text: StatementText) -> bool:
        """Whether it may leave something that its text does not show. What a caller's request
        leaves would wait for those of others."""
        restricted = self._caller is not None and self._caller.is_restricted
        return restricted and text.verb in _HIDES

    def _remember_state(self) -> tuple[Any, ...]:
        positions = [(block, block.position) for block in self._blocks]
        return (
            self._begun,
            self._saves,
            self._unsaved,
            self._read,
            list(self._pending),
            self._context,
            positions,
        )

    def _restore_state(self, state: tuple[Any, ...]) -> None:
        self._begun, self._saves, self._unsaved, self._read = state[:4]
        self._pending, self._context, positions = state[4:]
        for block, position in positions:
            block.position = position

    async def _take_turn(self, block: Savepoint | None) -> None:
        """Wait until no block of others is open, and take the lock."""
        while True:
            await self._wait_for_turn(block)
            await self._acquire_lock()
            if self._has_turn(block):
                return
            self._lock.release()

    async def _wait_for_turn(self, block: Savepoint | None) -> None:
        while not self._has_turn(block):
            holder = self._blocks[-1]
            try:
                await self._turn.park()
            except trio.Cancelled:
                self.stalled = self.stalled or holder
                raise

    def _has_turn(self, block: Savepoint | None) -> bool:
        while block is not None and block not in self._blocks:
            block = block.parent
        return (self._blocks[-1] if self._blocks else None) is block

    async def _acquire_lock(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    def _check_usable(self) -> None:
        if self.lost:
            raise psycopg.OperationalError("the connection of this transaction was lost")
        if self.failed:
            raise psycopg.errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )

    def _prefix(self, text: StatementText, request_id: str, span_id: str) -> list[Sendable]:
        """What has to go ahead of a statement; the state is as if it had gone through already.

        It cannot fail on a transaction that has not; if the sending itself fails, the caller
        restores the state.
        """
        number = signed(span_id)
        if not self._begun:
            self._begun = True
            self._requests[request_id] = None
            self._context = (request_id, span_id)
            context = self._make_context(request_id, number)
            return [_BEGIN[self._isolation], context, *self._block_savepoints()]
        prefix = self._pending
        self._pending = []
        prefix += self._block_savepoints()
        if not self._recording:
            return prefix
        if self._unsaved and not self._reads_back:
            prefix.append(self._savepoint())
        if not text.reads_only and self._context != (request_id, span_id):
            same_request = self._context[0] == request_id
            self._context = (request_id, span_id)
            prefix.append(
                _SET_SPAN.bind(number) if same_request else _SET_BOTH.bind(request_id, number)
            )
        return prefix

    def _make_context(self, request_id: str, number: str | None) -> Sendable:
        if self._caller is not None:
            return self._caller.context(request_id, number, self._timeout_ms)
        return _CONTEXT.bind(request_id, number, str(self._timeout_ms))

    def _collect(self, request_id: str) -> Sendable:
        if self._caller is not None and self._caller.is_restricted:
            return self._caller.collect(request_id)
        return _COLLECT.bind(request_id)

    def _collect_after(self, request_id: str) -> Sendable:
        if self._caller is not None and self._caller.is_restricted:
            return self._caller.collect_after(request_id, self._read_up_to)
        return _COLLECT_AFTER.bind(request_id, self._read_up_to)

    def _savepoint(self) -> FixedStatement:
        # A name is never used twice: going back to a savepoint that was never set must fail.
        self._last_name += 1
        self._saves += (self._last_name,)
        self._unsaved = False
        self._read = []
        name = self._last_name
        if name < len(_SAVEPOINTS):
            return _SAVEPOINTS[name]
        return FixedQuery(f"savepoint flux_{name}").bind()

    def _block_savepoints(self) -> list[Sendable]:
        statements: list[Sendable] = []
        for block in self._blocks:
            if block.position is None:
                block.unsaved_before = self._unsaved
                block.read_before = self._read
                block.position = len(self._saves)
                statements.append(self._savepoint())
                block.name = self._last_name
        return statements

    @property
    def _reads_back(self) -> bool:
        """Whether the savepoint budget is used up; blocks need their savepoints all the same."""
        return len(self._saves) >= MAX_SAVEPOINTS and not self._blocks

    def _suffix(self, text: StatementText, request_id: str) -> list[Sendable]:
        if text.reads_only or not self._reads_back or not self._recording:
            return []
        return [self._collect_after(name) for name in {**self._requests, request_id: None}]

    def _note_write(self, request_id: str, collected: Sequence[Result]) -> None:
        self._requests[request_id] = None
        self.wrote = True
        self._unsaved = True
        for block in self._blocks:
            block.wrote = True
        if collected:
            self._keep_back(collected)

    def _keep_back(self, collected: Sequence[Result]) -> None:
        """Keep what a statement's own message read back: the row changes since the last one."""
        if self._read_back is None:
            self._read_back = {}
        newest = int(self._read_up_to)
        for name, result in zip(self._requests, collected, strict=True):
            changes, seq = result.rows[0]
            if changes:
                self._read_back.setdefault(name, []).append(changes)
                newest = max(newest, int(seq))
        self._read_up_to = str(newest)

    async def _send(
        self, statements: list[Sendable], *, finish: bool = False, first: bool = False
    ) -> Batch:
        """One round trip; raises the server's error and notes what it did to the transaction."""
        conn = self._conn
        assert conn is not None
        try:
            batch = await run_batch(conn, statements, finish=finish)
        except BaseException:
            self._note_state()
            raise
        if first and batch[1].error is None and not batch[1].aborted:
            # Also of a statement that fails: what it failed on is what the snapshot saw.
            self.snapshot = batch[1].rows[0][0]
        if batch.error is not None:
            self._note_state()
            raise batch.error
        return batch

    def _note_state(self) -> None:
        assert self._conn is not None
        if self._conn.closed:
            self.lost = True
        else:
            self.failed = self._conn.pgconn.transaction_status == _INERROR

    async def _release_if_unused(self) -> None:
        """A first statement that could not even be sent leaves the connection as it was."""
        conn = self._conn
        if conn is not None and not self._begun and not self.lost:
            self._conn = None
            await self._pool.release(conn)

    # Blocks: savepoints the user asked for

    async def begin_block(self, parent: Savepoint | None = None) -> Savepoint:
        """Open a block inside `parent`; its savepoint goes out with the next statement.

        Cancellation: it is not open.
        """
        await self._wait_for_turn(parent)
        self._check_usable()
        block = Savepoint(parent)
        self._blocks.append(block)
        return block

    async def end_block(self, block: Savepoint, commit: bool) -> None:
        """End a block, keeping or rolling back what was done inside, blocks left open included.

        What is rolled back is kept in `attempted`. Cancellation: runs to its end.

        Raises:
            psycopg.errors.InFailedSqlTransaction: `commit` after an error inside that the user's
                code has swallowed, or after the block around it was ended; it was rolled back.
        """
        with trio.CancelScope(shield=True):
            await self._acquire_lock()
        try:
            if block not in self._blocks:
                if commit and block.cut:
                    raise _cut_off()
                return
            position = self._blocks.index(block)
            for inner in self._blocks[position + 1 :]:
                inner.cut = not commit
            del self._blocks[position:]
            if self.lost or self._conn is None or block.position is None:
                return
            if commit and not self.failed:
                self._pending.append(Statement(f"release savepoint flux_{block.name}"))
                self._unsaved = self._unsaved or block.wrote or block.unsaved_before
                self._read = block.read_before + self._read
                self._saves = self._saves[: block.position]
                return
            swallowed = commit and self.failed
            await self._roll_block_back(block)
            if swallowed:
                raise psycopg.errors.InFailedSqlTransaction(
                    "the block was rolled back: a statement inside it failed and its error was "
                    "not raised"
                )
        finally:
            self._lock.release()
            self._turn.unpark_all()

    async def _roll_block_back(self, block: Savepoint) -> None:
        assert block.position is not None
        inside: list[Result] = []
        hidden = self._hidden_writes() if self.failed else []
        may_collect = block.wrote or (self._read and not self.failed)
        requests = list(self._requests) if may_collect and self._recording else []
        collect = [self._collect(name) for name in requests]
        if requests:
            if self.failed:
                await self._return_to_savepoint()
            inside = list(await self._send([*self._pending, *collect], finish=True))
            inside = inside[len(self._pending) :]
            self._pending.clear()
        back = [
            *([] if self.failed else self._pending),
            Statement(f"rollback to savepoint flux_{block.name}"),
            Statement(f"release savepoint flux_{block.name}"),
        ]
        self._pending.clear()
        batch = await self._send([*back, *hidden, *collect], finish=True)
        self.failed = False
        if hidden:
            self.missing = self.missing or _learn_writers(batch[len(back)])
        self._saves = self._saves[: block.position]
        self._unsaved = block.unsaved_before
        self._read = block.read_before
        self._context = ("", "")  # set_config inside was rolled back: it has to be said again
        for name, before, after in zip(
            requests, inside, batch[len(back) + len(hidden) :], strict=True
        ):
            lost = _difference(before.rows[0][0], after.rows[0][0])
            if lost:
                self.attempted.append(Attempted(name, lost))

    async def _return_to_savepoint(self) -> None:
        """Bring a failed transaction back to its newest savepoint.

        A cancellation may have struck while that one was being set (or a block before it released):
        then it does not exist, and what was written since the one before it is lost.
        """
        assert self._conn is not None
        for name in reversed(self._saves):
            statement = Statement(f"rollback to savepoint flux_{name}")
            batch = await run_batch(self._conn, [statement], finish=True)
            if batch.error is None:
                self.failed = False
                return
            if not isinstance(batch.error, psycopg.errors.InvalidSavepointSpecification):
                raise batch.error
            self.missing = _STRUCK

    # Ends

    async def commit(self, tail: Sequence[Sendable]) -> Batch | None:
        """Commit, with `tail` (the record) as its last statements, in one round trip.

        Cancellation: runs to its end.

        Raises:
            CommitFailed: See there; unless `settled`, follow with `abandon`.
        """
        if self._conn is None:
            return None
        if self.failed:
            error = psycopg.errors.InFailedSqlTransaction(
                "the transaction was aborted by an earlier error that the function did not raise"
            )
            raise CommitFailed(error, settled=False, in_doubt=False)
        head, self._pending = self._pending, []
        recorded = self.wrote and self._recording
        if recorded and self._settles and self._unsaved and not self._reads_back:
            head.append(self._savepoint())
        if recorded and self._settles:
            head.append(_SETTLE)
        settle_at = len(head) - 1
        collects = self._late_collects()
        try:
            if self._caller is not None and self._caller.is_restricted:
                tail = [self._caller.through(statement) for statement in tail]
            batch = await run_batch(self._conn, [*head, *collects, *tail, COMMIT], finish=True)
        except psycopg.Error as error:
            self._note_state()
            in_doubt = self.lost or self._conn.in_doubt
            raise CommitFailed(error, settled=True, in_doubt=in_doubt) from error
        if batch.error is not None:
            self._note_state()
            settled = batch.failed_at is not None and batch.failed_at > settle_at
            self._remember(batch[len(head) : len(head) + len(collects)])
            raise CommitFailed(batch.error, settled=settled, in_doubt=self.lost) from batch.error
        await self._release()
        return batch

    def _late_collects(self) -> list[Sendable]:
        """A serializable transaction can fail at COMMIT itself: have its row changes before."""
        if self._isolation == "read committed" or not self.wrote or not self._recording:
            return []
        return [self._collect_after(name) for name in self._requests]

    def _remember(self, collected: Sequence[Result]) -> None:
        if collected and not any(result.aborted or result.error for result in collected):
            self._keep_back(collected)

    async def abandon(self) -> tuple[list[Attempted], str]:
        """Roll everything back.

        Returns:
            The row changes that were attempted, and why they are not all there (empty if they are).

        Cancellation: runs to its end.
        """
        conn = self._conn
        if conn is None:
            return self.attempted, ""
        missing = ""
        with trio.CancelScope(shield=True):
            try:
                cannot_ask = self.failed or conn.pgconn.transaction_status == _IDLE
                hidden = self._hidden_writes() if cannot_ask else []
                collectable = self.wrote or (self._read and not cannot_ask)
                if not self.lost and collectable and self._recording:
                    missing = await self._collect_all()
                elif self.lost and self.wrote:
                    missing = "row changes not captured: the database session was lost"
                ends = [] if conn.pgconn.transaction_status == _IDLE else [ROLLBACK]
                if not conn.closed and (ends or hidden):
                    batch = (await run_batch(conn, [*ends, *hidden], finish=True)).check()
                    missing = missing or (_learn_writers(batch[-1]) if hidden else "")
            except psycopg.Error as error:
                missing = f"row changes not captured: {str(error).partition(chr(10))[0]}"
            finally:
                await self._release()
        return self.attempted, missing

    def _hidden_writes(self) -> list[Sendable]:
        """Asks whether what seemed to read, and is lost with the transaction, may have written.

        The record is incomplete then, once: from the answer on such statements count as writes.
        """
        if not self._read or not self._recording or self.lost:
            return []
        names = set().union(*map(names_in, self._read))
        return [_FIND_WRITERS.bind("\n".join(names))]

    async def _collect_all(self) -> str:
        assert self._conn is not None
        ended = self._conn.pgconn.transaction_status == _IDLE
        if ended or (self.failed and self._unsaved):
            if self._read_back is None:
                return "row changes not captured: the transaction failed at COMMIT"
            self._keep({name: _joined(parts) for name, parts in self._read_back.items()})
            return ""
        if self.failed:
            await self._return_to_savepoint()
            if self.failed:
                return self.missing
        collects = [self._collect(name) for name in self._requests]
        batch = (await run_batch(self._conn, [*self._pending, *collects], finish=True)).check()
        results = batch[len(self._pending) :]
        self._keep(
            {name: row.rows[0][0] for name, row in zip(self._requests, results, strict=True)}
        )
        return self.missing

    def _keep(self, collected: dict[str, str | None]) -> None:
        self.attempted += [
            Attempted(name, mutations)
            for name, mutations in collected.items()
            if mutations and mutations != "[]"
        ]

    async def _release(self) -> None:
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._leaves_state:
            # Temporary tables, session locks and settings must not reach the next request.
            await self._pool.forget(conn)
        else:
            await self._pool.release(conn)


def _cut_off() -> psycopg.Error:
    return psycopg.errors.InFailedSqlTransaction(
        "the block was rolled back with the one around it, which ended first"
    )


def _learn_writers(answer: Result) -> str:
    """What the record says about them; empty if there are none."""
    names: list[str] = answer.rows[0][0]
    learn_writers(names)
    return _HIDDEN + ", ".join(names).replace("(", "()") if names else ""


def _joined(arrays: Sequence[str]) -> str:
    """Several JSON arrays, none of them empty, as one."""
    return "[" + ",".join(array.strip()[1:-1] for array in arrays) + "]"


def _difference(before: str | None, after: str | None) -> str | None:
    """The row changes of `before` that are not in `after`, by their sequence number."""
    if not before or before == "[]":
        return None
    kept = {row["seq"] for row in msgspec.json.decode(after)} if after else set()
    lost = [row for row in msgspec.json.decode(before) if row["seq"] not in kept]
    return msgspec.json.encode(lost).decode() if lost else None
