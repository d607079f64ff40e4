"""A run's use of the database: its transactions, and the record that goes with their end.

Two shapes. With `transaction=True` there is one transaction for the whole run; it begins with the
first statement, and the record and COMMIT are one message. With `transaction=False` every
statement outside `ctx.db.transaction()` commits by itself and every outermost block is a
transaction; those with effects note themselves in the execution row (state `running`), and the
last word completes it.

Tasks of a run may use it at once. `current_block` says which block a task runs in, so that each
outermost block of a run with several transactions has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import msgspec
import psycopg
import trio

from ..database.connection import Connection
from ..database.pipeline import (
    BEGIN,
    COMMIT,
    ROLLBACK,
    FixedQuery,
    Result,
    Sendable,
    Statement,
    run_batch,
)
from ..database.pool import Pool
from ..errors import FluxError
from ..queue.settlement import settle
from ..queue.statements import LEASE_LOST, PUSH
from ..records import ErrorRecord, ExecutionOutcome, FunctionSpec, Location, SpanRecord
from .callers import SERVICE, Caller
from .recording import Ending, Recorder
from .run import Run
from .statements import inspect_statement
from .transaction import Attempted, CommitFailed, Savepoint, Transaction

# The server's own limit comes a little after Trio's, so that the usual way out is the clean one.
_SERVER_GRACE_MS = 500
RECORD_DEADLINE_S = 10.0
CLOSED = "ZF004"
"""SQLSTATE: the record is closed already."""


_STANDING = FixedQuery("select flux.recorded_outcome($1)", 1)
_AGAIN = frozenset({"40001", "40P01"})
_OF_THE_RECORD = frozenset({"21", "22", "23", "54", "ZF"})
"""Classes of SQLSTATE that are about what is written, not about the database."""


class NotRecorded(Exception):
    """The record could not be written; the request must not be acknowledged as done.

    Attributes:
        database: Where `record_late` can still write it, if it can be written at all.
        run: The run.
        ending: How it ended.
        refused: Postgres answered, and will not take this record.
    """

    database: RunDatabase | None = None
    run: Run | None = None
    ending: Ending | None = None
    refused = False


class _Called(msgspec.Struct):
    """The record of a called function that ran in its caller's transaction."""

    run: Run
    ending: Ending

    def roll_back(self) -> None:
        """No record of it may claim that it stands."""
        if self.ending.outcome == "ok":
            error = ErrorRecord(
                type="RolledBack",
                message="what it did was rolled back with the transaction of its caller, "
                f"request {self.run.invocation.parent_request_id}",
            )
            self.ending = msgspec.structs.replace(self.ending, outcome="error", error=error)


class Block:
    """An open `ctx.db.transaction()` or `ctx.call`.

    Attributes:
        database: Whose it is.
        transaction: What its statements run in.
        savepoint: Its savepoint there; None if the transaction is its own.
        parent: The block around it, if that is in the same transaction.
        called: Functions that were called inside it.
    """

    __slots__ = ("called", "database", "is_open", "parent", "savepoint", "transaction")

    def __init__(
        self,
        database: RunDatabase,
        transaction: Transaction,
        savepoint: Savepoint | None,
        parent: Block | None,
    ) -> None:
        self.database = database
        self.transaction = transaction
        self.savepoint = savepoint
        self.parent = parent
        self.called: list[_Called] = []
        self.is_open = True

    def note_place(self, place: Location | None) -> None:
        """Keep the line that opened it, for whoever waits for it in vain."""
        if self.savepoint is not None:
            self.savepoint.opened_at = place


current_block: ContextVar[Block | None] = ContextVar("flux_block", default=None)
"""The innermost block that the code of this task runs in."""


class RunDatabase:
    """See the module. One for each request; called functions share their caller's.

    Args:
        pool: The runtime's own login.
        recorder: None where nothing is recorded.
        run: The request.
        spec: Its function.
        deadline: When it is stopped, on Trio's clock.
        on_pushed: Told of jobs once they are committed.
        caller: Whom its transactions are done for; None for nobody in particular.
        caller_pool: Where they are done, if not with the runtime's own login.

    Attributes:
        committed: Some transaction with effects has committed, and the row stands as running.
    """

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder | None,
        run: Run,
        spec: FunctionSpec,
        deadline: float,
        on_pushed: Callable[[float], None] | None = None,
        *,
        caller: Caller | None = None,
        caller_pool: Pool | None = None,
    ) -> None:
        self._pool = pool
        self._caller = caller
        self._caller_pool = caller_pool or pool
        self._recorder = recorder
        self._run = run
        self._spec = spec
        self._deadline = deadline
        self._transaction: Transaction | None = None
        self._open: set[Transaction] = set()
        self._called: list[_Called] = []  # in the one transaction, outside blocks
        # Of transactions that have ended without writing them: the next one's tail does.
        self._attempted: list[Attempted] = []
        self._ended: list[_Called] = []
        # Sent with a COMMIT whose answer was lost: their keys tell whether they stand.
        self._doubtful: list[_Called] = []
        self._on_pushed = on_pushed
        self._pushed_in_s: float | None = None  # when the first job not yet committed is due
        self._stalled: Savepoint | None = None
        self.snapshot = ""
        self.committed = False

    @property
    def stalled(self) -> str:
        """What a task was waiting for in vain when it was cancelled, for a person; mostly empty.

        Only said, not acted upon: whether the block would ever have ended is not to be known, as
        what its task waits for may come from anywhere.
        """
        found = (transaction.stalled for transaction in self._open)
        block = self._stalled or next(filter(None, found), None)
        if block is None:
            return ""
        at = block.opened_at
        where = f" ({at.file}:{at.line})" if at is not None else ""
        return (
            "a task was waiting for the end of another task's ctx.db.transaction() block or "
            f"ctx.call{where}: code inside one must not wait for tasks outside that use the "
            "database"
        )

    @property
    def is_single(self) -> bool:
        """Whether the run has one transaction for everything."""
        return self._spec.transaction

    @property
    def isolation(self) -> str:
        """Isolation level of its transactions."""
        return self._spec.isolation

    @property
    def login(self) -> str:
        """Whose rights its transactions have: a caller's role, or `service`."""
        return self._caller.login if self._caller is not None else SERVICE

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open on the server."""
        return any(transaction.is_open for transaction in self._open)

    @property
    def shares_with_calls(self) -> bool:
        """Whether a called function runs in the caller's transaction: if there is one to share."""
        return self.is_single or self._block() is not None

    async def query(
        self,
        run: Run,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        span: SpanRecord,
        native: bool = False,
    ) -> Result:
        """Run one of the user's statements in the transaction that is open, or in one of its own.

        Raises:
            psycopg.Error: As Postgres says.
            StatementRefused: The text would take the transaction out of Flux's hands.
        """
        text = inspect_statement(sql)
        statement = Statement(sql, params, native)
        if span.kind == "queue" and sql == PUSH and self.login != SERVICE:
            assert self._caller is not None
            statement = self._caller.push(run.request_id, cast(Sequence[Any], params))
        block = self._block()
        alone = block is None and not self.is_single
        transaction = self._new_transaction() if alone else self._transaction_of(block)
        savepoint = block.savepoint if block is not None else None
        try:
            result = await transaction.execute(
                text, statement, run.request_id, span.span_id, savepoint
            )
        except BaseException:
            if alone:
                await self._give_up(transaction, [])
            raise
        finally:
            self.snapshot = self.snapshot or transaction.snapshot
            self._note_open(run)
        if alone:
            await self._commit_part(transaction, [])
        return result

    def _block(self) -> Block | None:
        """The innermost open block of ours that this task runs in."""
        block = current_block.get()
        while block is not None and not (block.is_open and block.database is self):
            block = block.parent
        return block

    def _transaction_of(self, block: Block | None) -> Transaction:
        """That of the block; without one, the run's own, which begins now if it had not."""
        if block is not None:
            return block.transaction
        if self._transaction is None:
            self._transaction = self._new_transaction()
        return self._transaction

    def _new_transaction(self) -> Transaction:
        transaction = Transaction(
            self._caller_pool,
            self._spec.isolation,
            self._remaining_ms(),
            recording=self._recorder is not None,
            settles=self._recorder is not None and self._recorder.settles,
            caller=self._caller,
        )
        self._open.add(transaction)
        return transaction

    def _remaining_ms(self) -> int:
        remaining_s = self._deadline - trio.current_time()
        return max(1, int(min(remaining_s, 86_400.0) * 1000)) + _SERVER_GRACE_MS

    def _note_open(self, run: Run | None = None) -> None:
        """Whether a call to the outside, from `run` or its caller, is made in a transaction."""
        for one in (self._run, run):
            if one is not None:
                one.transaction_open = self.is_open

    async def begin_block(self) -> Block:
        """Open `ctx.db.transaction()`; the caller sets `current_block` where its code runs.

        Waits while a block is open in the same transaction that this task does not run in.
        Cancellation: it is not open.
        """
        parent = self._block()
        if parent is None and not self.is_single:
            return Block(self, self._new_transaction(), None, None)
        transaction = self._transaction_of(parent)
        savepoint = await transaction.begin_block(parent.savepoint if parent else None)
        return Block(self, transaction, savepoint, parent)

    async def end_block(self, block: Block, commit: bool) -> None:
        """End `ctx.db.transaction()`. Cancellation: runs to its end.

        Raises:
            psycopg.Error: The block could not be committed; it was rolled back.
        """
        block.is_open = False
        if block.savepoint is not None:
            await self._end_savepoint(block, block.savepoint, commit)
        elif commit:
            await self._commit_part(block.transaction, block.called)
        else:
            await self._give_up(block.transaction, block.called)

    async def _end_savepoint(self, block: Block, savepoint: Savepoint, commit: bool) -> None:
        kept = False
        try:
            await block.transaction.end_block(savepoint, commit)
            kept = commit
        finally:
            if not kept:
                self._note_missing(block.transaction.missing, block.called)
                for called in block.called:
                    called.roll_back()
            around = block.parent.called if block.parent is not None else self._called
            around += block.called

    async def _commit_part(self, transaction: Transaction, called: list[_Called]) -> None:
        """Commit one of several transactions, noting it in the execution row."""
        # Taken out, as another part may commit meanwhile: each is written once.
        ended, self._ended = self._ended, []
        attempted, self._attempted = self._attempted, []
        tail = self._tail([*ended, *called], [*attempted, *transaction.attempted])
        if self._recorder is not None:
            # Whether it had effects is asked there: a statement's text may not tell.
            tail.insert(0, self._recorder.continuation(self._run, self.snapshot))
        batch = None
        try:
            batch = await transaction.commit(tail)
        except CommitFailed as failure:
            await self._give_up(transaction, called, in_doubt=failure.in_doubt)
            if failure.in_doubt:
                self._doubtful += [*ended, *self._ended]
                ended, self._ended = [], []
            raise failure.cause from None  # which says the same
        finally:
            if batch is None:
                self._ended[:0] = ended
                self._attempted[:0] = attempted
            self._open.discard(transaction)
            self._note_open()
        if batch is None:
            self._ended += called  # nothing was sent: there was no statement
        elif tail:
            noted = batch[len(batch) - 1 - len(tail)]
            self.committed = self.committed or bool(noted.rows[0][0])
        self._tell_pushed()

    async def _give_up(
        self, transaction: Transaction, called: list[_Called], in_doubt: bool = False
    ) -> None:
        """Roll a transaction back, with what was called in it."""
        self._stalled = self._stalled or transaction.stalled
        attempted, missing = await transaction.abandon()
        self._attempted += attempted
        if missing and in_doubt:
            missing = (
                "the connection was lost at COMMIT: row changes not captured unless they are "
                "shown as committed"
            )
        self._note_missing(missing, called)
        for child in called:
            child.roll_back()
        self._ended += called
        called.clear()
        self._open.discard(transaction)
        self._note_open()

    def _note_missing(self, missing: str, called: list[_Called]) -> None:
        """What is missing of a transaction is missing of all the requests that ran in it."""
        if missing:
            self._run.mark_incomplete(missing)
            for child in called:
                child.run.mark_incomplete(missing)

    def note_push(self, delay_s: float) -> None:
        """A job was enqueued; workers are told once it is committed."""
        before = self._pushed_in_s
        self._pushed_in_s = delay_s if before is None else min(delay_s, before)

    def _tell_pushed(self) -> None:
        """Also of a job that was rolled back with its block: then they look in vain."""
        if self._pushed_in_s is not None and self._on_pushed is not None:
            self._on_pushed(self._pushed_in_s)
        self._pushed_in_s = None

    def add_called(self, run: Run, ending: Ending) -> None:
        """Keep the record of a called function; it is written with the caller's."""
        block = self._block()
        (self._called if block is None else block.called).append(_Called(run, ending))

    # Ends

    async def succeed(self, run: Run, ending: Ending) -> None:
        """Commit the run's effects together with its record.

        Raises:
            CommitFailed: Nothing of the open transaction was committed; call `fail` then.
            NotRecorded: The database could not be reached.
        """
        await self._end_leftovers()
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        if transaction is None or not transaction.is_open:
            standing = await self._record_alone(run, ending)
            if standing != ending.outcome:
                raise NotRecorded(f"its record says {standing} already")
            return
        try:
            await transaction.commit(
                [*self._last_word(run, ending), *self._last_tail(transaction.attempted)]
            )
        except CommitFailed:
            self._transaction = transaction
            raise
        self._open.discard(transaction)
        run.recorded = True
        self._tell_pushed()

    async def fail(self, run: Run, ending: Ending, in_doubt: bool = False) -> ExecutionOutcome:
        """Roll back what is open; write the record, with the row changes that were attempted.

        Args:
            run: The run.
            ending: How it failed.
            in_doubt: The connection was lost at COMMIT.

        Returns:
            The outcome that stands in the record: `ending`'s, or that of the transaction in doubt,
            which has committed then. The key arbitrates: this insert waits until that transaction
            has ended, and if it had not committed by then it never can.

        Raises:
            NotRecorded: The database could not be reached.
        """
        await self._end_leftovers()
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        if transaction is not None:
            self.snapshot = self.snapshot or transaction.snapshot
            await self._give_up(transaction, self._called, in_doubt)
        for child in self._called:
            child.roll_back()
        return await self._record_alone(run, ending)

    async def roll_back(self) -> None:
        """Roll back what is open, to run the function again (serialization failures)."""
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        for child in self._called:
            child.roll_back()
        if transaction is not None:
            await self._give_up(transaction, self._called)

    async def _end_leftovers(self) -> None:
        """Roll back what the function opened for itself and never ended."""
        for transaction in self._open - {self._transaction}:
            await self._give_up(transaction, [])

    async def discard(self) -> None:
        """Give every connection back, whatever went wrong. Cancellation: runs to its end."""
        if not self._open:
            return
        with trio.CancelScope(shield=True):
            for transaction in list(self._open):
                await transaction.abandon()
        self._open.clear()

    def _tail(self, called: Sequence[_Called], attempted: Sequence[Attempted]) -> list[Sendable]:
        if self._recorder is None:
            return []
        record = self._recorder.record
        return [
            *(record(child.run, child.ending, self.snapshot, False) for child in called),
            *(self._recorder.attempted(item) for item in attempted),
        ]

    def _last_tail(self, attempted: Sequence[Attempted] = ()) -> list[Sendable]:
        return self._tail([*self._ended, *self._called], [*self._attempted, *attempted])

    def _last_word(self, run: Run, ending: Ending) -> list[Sendable]:
        job = run.invocation.job
        strict = self._spec.durability == "strict"
        if job and self._recorder and ending.outcome == "ok" and not self.committed:
            return [self._recorder.record_job(run, job, ending, self.snapshot, strict)]
        # A job is settled first: the record's insert then sees that there are effects.
        settling = [] if job is None else settle(job, ending.outcome, ending.error)
        if self._recorder is None:
            return [*settling]
        if self.committed:
            return [*settling, self._recorder.completion(run, ending)]
        return [*settling, self._recorder.record(run, ending, self.snapshot, strict)]

    async def _record_alone(self, run: Run, ending: Ending) -> ExecutionOutcome:
        """The record in a transaction of its own; returns the outcome that stands afterwards.

        Raises:
            NotRecorded: Not within RECORD_DEADLINE_S.
        """
        if self._recorder is None and run.invocation.job is None:
            return ending.outcome
        try:
            return await self._insist(run, ending)
        except NotRecorded as failure:
            failure.database, failure.run, failure.ending = self, run, ending
            raise

    def size_bytes(self) -> int:
        """About how much of the memory is held by what is not written yet, but for the run."""
        attempted = sum(len(item.mutations) for item in self._attempted)
        called = (*self._called, *self._ended, *self._doubtful)
        return attempted + sum(one.run.size_bytes() for one in called)

    async def record_late(self, run: Run, ending: Ending) -> None:
        """Write a record for which there was no database when the run ended.

        Raises:
            NotRecorded: There is none now either.
        """
        if ending.outcome != "ok":
            for child in self._called:
                child.roll_back()
        await self._insist(run, ending)

    async def _insist(self, run: Run, ending: Ending) -> ExecutionOutcome:
        """Offer the record until it stands: its key makes it harmless to offer it twice."""
        problem: Exception | str = "no answer"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RECORD_DEADLINE_S):
            while True:
                try:
                    async with self._pool.connection(RECORD_DEADLINE_S) as conn:
                        standing = await self._offer_record(conn, run, ending)
                except psycopg.OperationalError as lost:
                    problem = lost
                    continue
                except FluxError as unreachable:
                    raise NotRecorded(str(unreachable)) from unreachable
                if standing is not None:
                    run.recorded = True
                    return standing
        raise NotRecorded(f"not within {RECORD_DEADLINE_S:g} s: {problem}")

    async def _offer_record(
        self, conn: Connection[Any], run: Run, ending: Ending
    ) -> ExecutionOutcome | None:
        """One try to write the record, as one message; None to try again.

        Raises:
            psycopg.OperationalError: The connection was lost.
            CommitFailed: The job is another worker's by now.
            NotRecorded: Postgres refuses it.
        """
        if (error := await self._offer_doubtful(conn)) is not None:
            self._check_may_retry(error)
            return None
        # The record comes first: it asks whether the transaction has had effects before it.
        statements = [*self._last_word(run, ending), *self._last_tail()]
        if not statements:
            return ending.outcome
        if len(statements) > 1:
            statements = [BEGIN, *statements, COMMIT]
        error = (await run_batch(conn, statements, finish=True)).error
        if error is None:
            return ending.outcome
        if len(statements) > 1:
            await run_batch(conn, [ROLLBACK], finish=True)
        if error.sqlstate == LEASE_LOST:
            raise CommitFailed(error, settled=True, in_doubt=False)
        if isinstance(error, psycopg.errors.UniqueViolation) and not self.committed:
            # One of ours was faster, on a connection that was lost at COMMIT: the whole record, or
            # a part that stands as running and waits for the last word.
            self.committed = True
            return None
        if error.sqlstate == CLOSED:
            found = (await run_batch(conn, [_STANDING.bind(run.request_id)])).check()
            standing: ExecutionOutcome | None = found[0].rows[0][0]
            if standing is not None:
                return standing
        self._check_may_retry(error)
        return None

    def _check_may_retry(self, error: psycopg.Error) -> None:
        """Whether what Postgres refused may be offered again.

        Raises:
            NotRecorded: There is no use in that.
        """
        if error.sqlstate in _AGAIN:
            return
        failure = NotRecorded(str(error))
        # Of data, constraints and sizes: the next try would end like this one.
        failure.refused = (error.sqlstate or "")[:2] in _OF_THE_RECORD
        raise failure from error

    async def _offer_doubtful(self, conn: Connection[Any]) -> psycopg.Error | None:
        """Write those of the records in doubt that do not stand; each by itself."""
        assert self._recorder is not None or not self._doubtful
        while self._recorder is not None and self._doubtful:
            child = self._doubtful[0]
            offer = self._recorder.record(child.run, child.ending, self.snapshot, False)
            error = (await run_batch(conn, [offer], finish=True)).error
            if error is not None and not isinstance(error, psycopg.errors.UniqueViolation):
                return error
            del self._doubtful[0]
        return None
