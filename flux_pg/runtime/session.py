"""A run's use of the database: its transactions, and the record that goes with their end.

Two shapes. With `transaction=True` there is one transaction for the whole run; it begins with the
first statement, and the record and COMMIT are one message. With `transaction=False` every
statement outside `ctx.db.transaction()` commits by itself and every outermost block is a
transaction; those with effects note themselves in the execution row (state `running`), and the
last word completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import psycopg
import trio

from ..database.connection import Connection
from ..database.pipeline import Result, Statement, run_batch
from ..database.pool import Pool
from ..errors import FluxError
from ..records import ErrorRecord, ExecutionOutcome, FunctionSpec, SpanRecord
from .recording import Ending, Recorder
from .run import Run
from .statements import inspect_statement
from .transaction import Attempted, CommitFailed, Transaction

# The server's own limit comes a little after Trio's, so that the usual way out is the clean one.
_SERVER_GRACE_MS = 500
RECORD_DEADLINE_S = 10.0
CLOSED = "ZF004"
"""SQLSTATE: the record is closed already."""


_ROLLBACK = Statement("rollback")
_STANDING = "select flux.recorded_outcome(%s)"
_AGAIN = frozenset({"40001", "40P01"})


class NotRecorded(Exception):
    """The record could not be written; the request must not be acknowledged as done.

    Attributes:
        database: Where `record_late` can still write it, if it can be written at all.
        run: The run.
        ending: How it ended.
    """

    database: RunDatabase | None = None
    run: Run | None = None
    ending: Ending | None = None


class _Called(msgspec.Struct):
    """The record of a called function that ran in its caller's transaction."""

    run: Run
    ending: Ending
    settled: bool = False


class RunDatabase:
    """See the module. One for each request; called functions share their caller's.

    Attributes:
        committed: Some transaction with effects has committed, and the row stands as running.
    """

    def __init__(
        self, pool: Pool, recorder: Recorder | None, run: Run, spec: FunctionSpec, deadline: float
    ) -> None:
        self._pool = pool
        self._recorder = recorder
        self._run = run
        self._spec = spec
        self._deadline = deadline
        self._transaction: Transaction | None = None
        self._depth = 0
        self._attempted: list[Attempted] = []
        self._children: list[_Called] = []
        self._marks: list[int] = []
        self.snapshot = ""
        self.committed = False

    @property
    def is_single(self) -> bool:
        """Whether the run has one transaction for everything."""
        return self._spec.transaction

    @property
    def shares_with_calls(self) -> bool:
        """Whether a called function runs in the caller's transaction: if there is one to share."""
        return self.is_single or self._depth > 0

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
        transaction, alone = self._current()
        try:
            result = await transaction.execute(text, statement, run.request_id, span.span_id)
        except BaseException:
            if alone:
                await self._give_up(transaction)
            raise
        finally:
            self.snapshot = self.snapshot or transaction.snapshot
            self._note_open()
        if alone:
            await self._commit_part(transaction)
        return result

    def _current(self) -> tuple[Transaction, bool]:
        """The open transaction, or a new one; and whether it is for one statement alone."""
        if self._transaction is not None:
            return self._transaction, False
        transaction = Transaction(
            self._pool,
            self._spec.isolation,
            self._remaining_ms(),
            recording=self._recorder is not None,
        )
        alone = not self.is_single and not self._depth
        if not alone:
            self._transaction = transaction
        return transaction, alone

    def _remaining_ms(self) -> int:
        remaining_s = self._deadline - trio.current_time()
        return max(1, int(min(remaining_s, 86_400.0) * 1000)) + _SERVER_GRACE_MS

    def _note_open(self) -> None:
        transaction = self._transaction
        self._run.transaction_open = transaction is not None and transaction.is_open

    async def begin_block(self) -> None:
        """Open `ctx.db.transaction()`."""
        if self.is_single or self._depth:
            self._current()[0].begin_block()
            self._depth += 1
        else:
            self._depth = 1
            self._current()
        self._marks.append(len(self._children))

    async def end_block(self, commit: bool) -> None:
        """End `ctx.db.transaction()`.

        Raises:
            psycopg.Error: The block could not be committed; it was rolled back.
        """
        self._depth -= 1
        mark = self._marks.pop()
        kept = False
        try:
            await self._end_block(commit)
            kept = commit
        finally:
            if not kept:
                self._roll_children_back(mark)

    async def _end_block(self, commit: bool) -> None:
        transaction = self._transaction
        if transaction is None:
            return
        if self.is_single or self._depth:
            await transaction.end_block(commit)
            self._note_missing(transaction.missing)
            return
        self._transaction = None
        self._note_open()
        if commit:
            await self._commit_part(transaction)
        else:
            await self._give_up(transaction)

    async def _commit_part(self, transaction: Transaction) -> None:
        """Commit one of several transactions, noting it in the execution row."""
        tail: list[Statement] = []
        # Also where no statement looks like a write: a view may call what writes. Without effects
        # it is a no-op.
        noted = self._recorder is not None and transaction.is_open
        if self._recorder is not None and noted:
            tail.append(self._recorder.continuation(self._run, self.snapshot))
        tail += self._tail(transaction)
        try:
            batch = await transaction.commit(tail)
        except CommitFailed as failure:
            await self._give_up(transaction, in_doubt=failure.in_doubt)
            raise failure.cause from failure
        if batch is not None:
            self._children.clear()
            self._attempted.clear()
        if batch is not None and noted:
            result = batch[len(batch) - 1 - len(tail)]
            self.committed = self.committed or bool(result.rows[0][0])

    async def _give_up(self, transaction: Transaction, in_doubt: bool = False) -> None:
        attempted, missing = await transaction.abandon()
        self._attempted += attempted
        if missing and in_doubt:
            missing = (
                "the connection was lost at COMMIT: row changes not captured unless they are "
                "shown as committed"
            )
        self._note_missing(missing)
        for child in self._children:
            child.settled = True

    def _note_missing(self, missing: str) -> None:
        """What is missing of a transaction is missing of all the requests that ran in it."""
        if missing:
            self._run.mark_incomplete(missing)
            for child in self._children:
                if not child.settled:
                    child.run.mark_incomplete(missing)

    def add_child(self, child: Run, ending: Ending) -> None:
        """Keep the record of a called function; it is written with the caller's."""
        self._children.append(_Called(child, ending))

    def _roll_children_back(self, mark: int) -> None:
        """What was called since `mark` is rolled back: no record of it may claim that it is not."""
        for child in self._children[mark:]:
            if child.ending.outcome == "ok":
                error = ErrorRecord(
                    type="RolledBack",
                    message="what it did was rolled back with the transaction of its caller, "
                    f"request {child.run.invocation.parent_request_id}",
                )
                child.ending = msgspec.structs.replace(child.ending, outcome="error", error=error)

    # Ends

    async def succeed(self, run: Run, ending: Ending) -> None:
        """Commit the run's effects together with its record.

        Raises:
            CommitFailed: Nothing of the open transaction was committed; call `fail` then.
            NotRecorded: The database could not be reached.
        """
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        if transaction is None or not transaction.is_open:
            standing = await self._record_alone(run, ending)
            if standing != ending.outcome:
                raise NotRecorded(f"its record says {standing} already")
            return
        try:
            await transaction.commit([*self._last_word(run, ending), *self._tail(transaction)])
        except CommitFailed:
            self._transaction = transaction
            raise
        run.recorded = True

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
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        if transaction is not None:
            self.snapshot = self.snapshot or transaction.snapshot
            await self._give_up(transaction, in_doubt)
        self._roll_children_back(0)
        return await self._record_alone(run, ending)

    async def roll_back(self) -> None:
        """Roll back what is open, to run the function again (serialization failures)."""
        transaction, self._transaction = self._transaction, None
        self._run.transaction_open = False
        self._depth = 0
        self._marks.clear()
        self._roll_children_back(0)
        if transaction is not None:
            await self._give_up(transaction)

    def _tail(self, transaction: Transaction | None) -> list[Statement]:
        if self._recorder is None:
            return []
        kept = [*self._attempted, *(transaction.attempted if transaction else [])]
        record = self._recorder.record
        return [
            *(record(child.run, child.ending, self.snapshot, False) for child in self._children),
            *(self._recorder.attempted(item) for item in kept),
        ]

    def _last_word(self, run: Run, ending: Ending) -> list[Statement]:
        if self._recorder is None:
            return []
        if self.committed:
            return [self._recorder.completion(run, ending)]
        strict = self._spec.durability == "strict"
        return [self._recorder.record(run, ending, self.snapshot, strict)]

    async def _record_alone(self, run: Run, ending: Ending) -> ExecutionOutcome:
        """The record in a transaction of its own; returns the outcome that stands afterwards.

        Raises:
            NotRecorded: Not within RECORD_DEADLINE_S.
        """
        if self._recorder is None:
            return ending.outcome
        try:
            return await self._insist(run, ending)
        except NotRecorded as failure:
            failure.database, failure.run, failure.ending = self, run, ending
            raise

    async def record_late(self, run: Run, ending: Ending) -> None:
        """Write a record for which there was no database when the run ended.

        Raises:
            NotRecorded: There is none now either.
        """
        if ending.outcome != "ok":
            self._roll_children_back(0)
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
            NotRecorded: Postgres refuses it.
        """
        # The record comes first: it asks whether the transaction has had effects before it.
        statements = [*self._last_word(run, ending), *self._tail(None)]
        if len(statements) > 1:
            statements = [Statement("begin"), *statements, Statement("commit")]
        error = (await run_batch(conn, statements, finish=True)).error
        if error is None:
            return ending.outcome
        if len(statements) > 1:
            await run_batch(conn, [_ROLLBACK], finish=True)
        if error.sqlstate in _AGAIN:
            return None
        if isinstance(error, psycopg.errors.UniqueViolation) and not self.committed:
            # One of ours was faster, on a connection that was lost at COMMIT: the whole record, or
            # a part that stands as running and waits for the last word.
            self.committed = True
            return None
        if error.sqlstate == CLOSED:
            found = (await run_batch(conn, [Statement(_STANDING, (run.request_id,))])).check()
            standing: ExecutionOutcome | None = found[0].rows[0][0]
            if standing is not None:
                return standing
        raise NotRecorded(str(error)) from error
