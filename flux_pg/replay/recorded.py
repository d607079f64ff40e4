"""`RecordedDatabase`: a run's database as the record tells it, with no database at all; and
`ReplayDatabase`: a real one, on which a replay runs again but enqueues no job.

Laws:
- Statements are compared by text and parameters as they were recorded; a difference diverges.
- A result is given back from Postgres's own text form, by the types it had: the same values.
- A job is never enqueued by a replay; `ctx.queue.push` gets the recorded job's id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import psycopg
import trio
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField
from uuid_utils.compat import uuid7

from flux_pg import errors
from flux_pg.database.pipeline import FixedStatement, Result
from flux_pg.database.pool import Pool
from flux_pg.errors import TooCostly
from flux_pg.queue.statements import PUSH
from flux_pg.records import ErrorRecord, ExecutionOutcome, FunctionSpec, SpanRecord
from flux_pg.replay.record import Record, as_json, describe
from flux_pg.replay.withheld import contains_withheld, is_mark, withhold
from flux_pg.runtime.boundaries.log import current_log
from flux_pg.runtime.boundaries.serving import Divergence
from flux_pg.runtime.callers import SERVICE
from flux_pg.runtime.dispatcher import FAILED_COMMIT
from flux_pg.runtime.recording import Ending, Recorder
from flux_pg.runtime.run import Run, current_run
from flux_pg.runtime.session import Block, RunDatabase
from flux_pg.runtime.statements import StatementRefused
from flux_pg.runtime.transaction import CommitFailed

Keep = Callable[[FixedStatement], None]

_FIELDS = {
    "schema": DiagnosticField.SCHEMA_NAME,
    "table": DiagnosticField.TABLE_NAME,
    "column": DiagnosticField.COLUMN_NAME,
    "datatype": DiagnosticField.DATATYPE_NAME,
    "constraint": DiagnosticField.CONSTRAINT_NAME,
}
_IN_FAILED = "25P02"
_LOST_RACES = ("40001", "40P01")


def record_of(run: Run) -> Record:
    """The record that a run is a replay of."""
    replay = run.invocation.replay
    assert replay is not None
    return cast(Record, replay.record)


class RecordedResult:
    """A recorded result, with the interface of `Result`."""

    aborted = False
    error = None

    def __init__(self, record: Record, output: dict[str, Any], place: str) -> None:
        self.columns: tuple[str, ...] = tuple(output.get("columns", ()))
        self.types: tuple[int, ...] = tuple(output.get("types", ()))
        self.rowcount: int = output.get("rowcount", -1)
        self._texts: list[list[str | None]] = output.get("rows", [])
        self._record = record
        self._place = place
        self._rows: list[tuple[Any, ...]] | None = None

    @property
    def raw_rows(self) -> list[tuple[bytes | None, ...]]:
        """The rows in Postgres's text form."""
        return [
            tuple([None if cell is None else cell.encode() for cell in row]) for row in self._texts
        ]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values."""
        if self._rows is None:
            transformer: Any = Transformer()
            transformer.set_loader_types(self.types, psycopg.pq.Format.TEXT)
            self._rows = [self._load(transformer, row) for row in self._texts]
        return self._rows

    def _load(self, transformer: Any, row: list[str | None]) -> tuple[Any, ...]:
        # A mark is no date or number: it is put in its place afterwards.
        marked = {at for at, cell in enumerate(row) if is_mark(cell)}
        texts = [
            None if cell is None or at in marked else cell.encode() for at, cell in enumerate(row)
        ]
        values = list(transformer.load_sequence(texts))
        for at in marked:
            values[at] = row[at]
        record = self._record
        return tuple(
            [
                withhold(value, f"{self._place}.{column}", record)
                for column, value in zip(self.columns, values, strict=True)
            ]
        )


class PushedResult:
    """The id that a push is answered with."""

    columns = ("enqueue",)
    types = (2950,)
    rowcount = 1

    def __init__(self, job_id: str) -> None:
        self.rows = [(job_id,)]
        self.raw_rows = [(job_id.encode(),)]


def answer_push(record: Record, span: SpanRecord) -> Result:
    """What a push gets in a replay: the recorded job's id, or for one that is new an own one.

    Raises:
        Divergence: The record holds another job here.
    """
    key, recorded = record.pushes.take(span)
    if recorded is not None and (recorded.name, as_json(recorded.input)) != (
        span.name,
        as_json(span.input),
    ):
        record.diverge(Divergence(key, describe(recorded), describe(_plain(span))))
    if recorded is None:
        if not record.run.failed:
            record.diverge(Divergence(key, None, describe(_plain(span)), "missing"))
        return cast(Result, PushedResult(str(uuid7())))
    if recorded.error is not None:
        raise make_error(record, key, recorded)
    job_id = recorded.output["job_id"] if recorded.output else str(uuid7())
    return cast(Result, PushedResult(job_id))


class RecordedDatabase(RunDatabase):
    """See the module. `keep` gets the statements that write the replay's own record."""

    def __init__(
        self, recorder: Recorder, run: Run, spec: FunctionSpec, deadline: float, keep: Keep
    ) -> None:
        super().__init__(cast(Any, None), recorder, run, spec, deadline, None)
        self._keep = keep
        self._ends = record_of(run).attempt_errors()
        self._failed = False
        self._began = False

    @property
    def is_open(self) -> bool:
        """Whether a transaction would be open on the server."""
        return self._began and (self.is_single or self._block() is not None)

    @property
    def login(self) -> str:
        """Whose rights it had then."""
        identity = self._run.invocation.identity
        return SERVICE if identity is None or self._spec.role == SERVICE else identity.role

    async def query(
        self,
        run: Run,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        span: SpanRecord,
        native: bool = False,
    ) -> Result:
        """Answer a statement from the record.

        Raises:
            psycopg.Error: As Postgres said then.
            Divergence: The record holds another statement here, or none.
        """
        await trio.lowlevel.checkpoint()
        record = record_of(run)
        self._began = True
        for one in (self._run, run):
            one.transaction_open = self.is_open
        if span.kind == "queue" and sql == PUSH:
            return answer_push(record, span)
        key, recorded = record.statements.take(span)
        now = describe(_plain(span))
        if recorded is None:
            raise record.diverge(Divergence(key, None, now, "missing"))
        if as_json(recorded.input) != now_input(span):
            raise record.diverge(Divergence(key, describe(recorded), now))
        if recorded.status == "cancelled":
            await trio.sleep_forever()
        await record.order.turn(recorded)
        try:
            return self._answer(record, key, recorded, now)
        finally:
            record.order.end(recorded)

    def _answer(
        self, record: Record, key: tuple[str, str, int], recorded: SpanRecord, now: Any
    ) -> Result:
        if recorded.error is not None:
            raise make_error(record, key, recorded)
        output = recorded.output
        if output is None or len(output.get("rows", ())) < _expected(output):
            raise record.diverge(Divergence(key, describe(recorded), now, "omitted"))
        place = f"{record.prefix}{recorded.name}[{key[2]}]"
        return cast(Result, RecordedResult(record, output, place))

    async def begin_block(self) -> Block:
        """Open a block; nothing is sent anywhere."""
        await trio.lowlevel.checkpoint()
        return Block(self, cast(Any, None), None, self._block())

    async def end_block(self, block: Block, commit: bool) -> None:
        """End a block.

        Raises:
            psycopg.Error: It could not be committed then.
        """
        block.is_open = False
        failure = _failed_commit() if commit else None
        if not commit or failure is not None:
            for called in block.called:
                called.roll_back()
        around = block.parent.called if block.parent is not None else self._called
        around += block.called
        if failure is not None:
            raise failure

    async def succeed(self, run: Run, ending: Ending) -> None:
        """Give the record of the replay to who keeps it.

        Raises:
            CommitFailed: The recorded COMMIT failed.
        """
        failure = self._ends.pop(0) if self._ends else None
        record = record_of(run)
        if failure is not None and record.trail.first is None:
            error = make_database_error(failure)
            raise CommitFailed(error, settled=True, in_doubt=False)
        self._keep_all(run, ending)

    async def fail(self, run: Run, ending: Ending, in_doubt: bool = False) -> ExecutionOutcome:
        """Give the record of the replay to who keeps it."""
        for child in self._called:
            child.roll_back()
        self._keep_all(run, ending)
        return ending.outcome

    async def roll_back(self) -> None:
        """Begin again (serialization failures)."""
        if self._ends:
            self._ends.pop(0)
        for child in self._called:
            child.roll_back()

    async def discard(self) -> None:
        """Nothing is held."""

    def note_push(self, delay_s: float) -> None:
        """Nobody waits for a job of a replay."""

    def _keep_all(self, run: Run, ending: Ending) -> None:
        assert self._recorder is not None
        run.recorded = True
        for one in self._tail(self._called, ()):
            self._keep(cast(FixedStatement, one))
        self._keep(self._recorder.record(run, ending, "", strict=False))


class ReplayDatabase(RunDatabase):
    """A real database; see the module.

    A race that was lost then (a serialization failure, a deadlock) is lost again, at the same
    statement or COMMIT: nobody runs beside a replay as somebody did then, and what the function
    does about it (it is run again, as a rule) is part of what it did.
    """

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder | None,
        run: Run,
        spec: FunctionSpec,
        deadline: float,
        **caller: Any,
    ) -> None:
        super().__init__(pool, recorder, run, spec, deadline, **caller)
        self._ends = record_of(run).attempt_errors()
        self._attempt = 0

    async def query(
        self,
        run: Run,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        span: SpanRecord,
        native: bool = False,
    ) -> Result:
        """Run a statement; a job is not enqueued, and a withheld value cannot be written."""
        record = record_of(run)
        if span.kind == "queue" and sql == PUSH:
            return answer_push(record, span)
        withheld = contains_withheld(params)
        if withheld is not None:
            str(withheld)  # it is needed itself: that is the divergence
        key, recorded = record.asked.take(span)
        await record.order.turn(recorded)
        if record.trail.drawing is not None:
            await record.trail.drawing.before(sql)
        try:
            if recorded is not None and _is_of_then(recorded, span):
                raise make_error(record, key, recorded)
            return await super().query(run, sql, params, span, native)
        finally:
            record.order.end(recorded)

    async def succeed(self, run: Run, ending: Ending) -> None:
        """As `RunDatabase.succeed`.

        Raises:
            CommitFailed: Also where COMMIT lost a race then.
        """
        failure = self._ends[self._attempt] if self._attempt < len(self._ends) else None
        if failure is not None and failure.sqlstate in _LOST_RACES:
            raise CommitFailed(make_database_error(failure), settled=True, in_doubt=False)
        await super().succeed(run, ending)

    async def roll_back(self) -> None:
        """As `RunDatabase.roll_back`."""
        self._attempt += 1
        await super().roll_back()

    def note_push(self, delay_s: float) -> None:
        """Nobody waits for a job of a replay."""


def _is_of_then(recorded: SpanRecord, now: SpanRecord) -> bool:
    """Whether a statement failed by what only that database could know: who else ran, and by its
    statistics what the plan would cost."""
    error = recorded.error
    if error is None or not (error.sqlstate in _LOST_RACES or error.type == TooCostly.__name__):
        return False
    # Its parameters may be made of what the others changed.
    return bool(recorded.input["sql"] == now.input["sql"])


def _failed_commit() -> BaseException | None:
    """What the COMMIT of a block failed with then, if that is what the record says next here."""
    run, log = current_run.get(), current_log.get()
    if run is None:
        return None
    record = record_of(run)
    place = (log.span_path, log.task_path) if log is not None else ("", "")
    span = record.statements.upcoming(place)
    if span is None or span.name != FAILED_COMMIT or span.error is None:
        return None
    key, _ = record.statements.take(span)
    return make_error(record, key, span)


def _expected(output: dict[str, Any]) -> int:
    return int(output["rowcount"]) if "columns" in output else 0


def now_input(span: SpanRecord) -> Any:
    """What a statement asks, as it would be recorded."""
    return as_json(span.input)


def _plain(span: SpanRecord) -> SpanRecord:
    return SpanRecord(
        span.span_id, span.parent_span_id, span.kind, span.name, span.start_us,
        input=now_input(span),
    )  # fmt: skip


def make_database_error(error: ErrorRecord) -> psycopg.Error:
    """The exception that Postgres's answer was, from what was recorded of it."""
    try:
        kind: type[psycopg.Error] = psycopg.errors.lookup(error.sqlstate)
    except KeyError:
        kind = psycopg.DatabaseError
    fields: dict[int, bytes | None] = dict.fromkeys(DiagnosticField)
    fields[DiagnosticField.SEVERITY] = fields[DiagnosticField.SEVERITY_NONLOCALIZED] = b"ERROR"
    fields[DiagnosticField.SQLSTATE] = error.sqlstate.encode()
    fields[DiagnosticField.MESSAGE_PRIMARY] = error.message.encode()
    for field, text in (
        (DiagnosticField.MESSAGE_DETAIL, error.detail),
        (DiagnosticField.MESSAGE_HINT, error.hint),
        *((_FIELDS[name], value) for name, value in error.diagnostics.items() if name in _FIELDS),
    ):
        fields[field] = text.encode() if text else None
    whole = error.message
    whole += f"\nDETAIL:  {error.detail}" if error.detail else ""
    whole += f"\nHINT:  {error.hint}" if error.hint else ""
    return kind(whole, info=cast(Any, fields))


def make_error(record: Record, key: tuple[str, str, int], span: SpanRecord) -> BaseException:
    """The exception of a recorded statement; a divergence if it cannot be made again."""
    error = span.error
    assert error is not None
    if error.sqlstate:
        return make_database_error(error)
    if error.type == "StatementRefused":
        return StatementRefused(error.message, error.hint)
    for home in (psycopg, errors):
        kind = getattr(home, error.type, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind(error.message)
    return record.diverge(Divergence(key, describe(span), {"error": error.type}, "omitted"))
