"""Several statements in one round trip: `run_batch`, the hot path of every recorded request.

libpq's pipeline mode is entered, all statements and ONE Sync are sent together, the answers are
read up to that Sync, pipeline mode is left. psycopg's own Pipeline class does the same through a
queue of closures, a cursor per statement and two passes; this generator does it in one.

Laws:

1. When `run_batch` has returned or raised, pipeline mode is OFF or the connection is closed.
2. Everything is converted before anything is sent: a bad parameter costs no round trip.
3. The first failing statement has its error, the ones after it were not run and say `aborted`.
   Outside a transaction block a batch is one implicit transaction: it happens whole or not at all.
4. Cancelled, the batch is stopped on the server and read to its Sync (the laws of
   `flux_pg.database.connection`); with `finish=True` it runs to its end instead.

This file knows psycopg's protocol but not Trio: `Connection.drive` does the waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import errors
from psycopg._preparing import Key, Prepare
from psycopg._queries import PostgresQuery, PostgresRawQuery, _query2pg_nocache
from psycopg.abc import Buffer, Params, PQGen, Query
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, PipelineStatus
from psycopg.waiting import Wait

if TYPE_CHECKING:
    from psycopg.abc import Transformer as TransformerLike
    from psycopg.pq.abc import PGconn, PGresult

    from flux_pg.database.connection import Connection

_WAIT_R = Wait.R
_WAIT_RW = Wait.RW
_READY_R = 1
_TUPLES_OK = int(ExecStatus.TUPLES_OK)
_COMMAND_OK = int(ExecStatus.COMMAND_OK)
_EMPTY_QUERY = int(ExecStatus.EMPTY_QUERY)
_FATAL_ERROR = int(ExecStatus.FATAL_ERROR)
_ABORTED = int(ExecStatus.PIPELINE_ABORTED)
_SYNC = int(ExecStatus.PIPELINE_SYNC)
_DONE = frozenset({_TUPLES_OK, _COMMAND_OK, _EMPTY_QUERY})
_CONN_OK = ConnStatus.OK
_PIPELINE_OFF = PipelineStatus.OFF
_MAX_PARAMS = 65535  # the protocol counts them in 16 bits
_MAX_CACHED = 4096  # characters; longer texts are generated ones that seldom come again


class Statement(NamedTuple):
    """One statement of a batch.

    Attributes:
        query: The text (or a `psycopg.sql` object); no transaction is begun for it.
        params: Values for its placeholders, adapted by psycopg; None if it has none (then a `%` is
            itself).
        native: Placeholders are Postgres's own `$1`, `$2` instead of `%s` and `%(name)s`.
        prepare: False never prepares it (for texts that are seldom the same).
    """

    query: Query
    params: Params | None = None
    native: bool = False
    prepare: bool = True


class FixedQuery:
    """A text that is sent again and again, with texts as its only values: converted once.

    Args:
        text: One statement, its placeholders written `$1`, `$2`, ...
        parameters: How many it has.
    """

    __slots__ = ("key", "text")

    def __init__(self, text: str, parameters: int = 0) -> None:
        self.text = text.encode()
        self.key: Key = (self.text, (0,) * parameters)

    def bind(self, *values: str | None) -> FixedStatement:
        """The query with its values.

        Raises:
            psycopg.DataError: A value holds a NUL character, which Postgres cannot.
        """
        texts = [None if value is None else _as_text(value) for value in values]
        return FixedStatement(self, texts or None)


class FixedStatement(NamedTuple):
    """A `FixedQuery` with its values, ready to be sent."""

    query: FixedQuery
    values: list[bytes | None] | None = None


BEGIN = FixedQuery("begin").bind()
COMMIT = FixedQuery("commit").bind()
ROLLBACK = FixedQuery("rollback").bind()


def _as_text(value: str) -> bytes:
    if "\0" in value:
        raise errors.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return value.encode()


Sendable = Statement | FixedStatement | tuple[Query, Params | None]


class Result:
    """What one statement gave. Rows are converted when they are first asked for.

    That is the moment when a value that Python cannot hold (a date in the year 20000) raises
    `psycopg.DataError`, and it needs the connection: ask before it is closed or given back.

    Attributes:
        error: What the server said if this statement failed, else None.
        aborted: It was not run, because an earlier one failed.
    """

    __slots__ = ("_columns", "_pgresult", "_rows", "_tx", "_types", "aborted", "error")

    def __init__(
        self, pgresult: PGresult, tx: TransformerLike, status: int, error: errors.Error | None
    ) -> None:
        self._pgresult = pgresult
        self._tx = tx
        self._rows: list[tuple[Any, ...]] | None = None
        self._columns: tuple[str, ...] | None = None
        self._types: tuple[int, ...] | None = None
        self.error = error
        self.aborted = status == _ABORTED

    @property
    def status(self) -> str:
        """The command's tag, such as `INSERT 0 1`; empty if it failed or was not run."""
        return (self._pgresult.command_status or b"").decode()

    @property
    def rowcount(self) -> int:
        """Rows returned or changed; -1 where the command has no such number."""
        if self._pgresult.status == _TUPLES_OK:
            return self._pgresult.ntuples
        changed = self._pgresult.command_tuples
        return -1 if changed is None else changed

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        if self._columns is None:
            result, encoding = self._pgresult, self._tx.encoding
            names = [(result.fname(i) or b"").decode(encoding) for i in range(result.nfields)]
            self._columns = tuple(names)
        return self._columns

    @property
    def types(self) -> tuple[int, ...]:
        """The type oid of each column."""
        if self._types is None:
            result = self._pgresult
            self._types = tuple([result.ftype(i) for i in range(result.nfields)])
        return self._types

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values; empty for a command without rows."""
        if self._rows is None:
            result = self._pgresult
            if result.status == _TUPLES_OK and result.ntuples:
                self._tx.set_pgresult(result)
                self._rows = self._tx.load_rows(0, result.ntuples, tuple)
            else:
                self._rows = []
        return self._rows

    @property
    def raw_rows(self) -> list[tuple[bytes | None, ...]]:
        """The rows in Postgres's text form, as received."""
        result = self._pgresult
        width = range(result.nfields)
        value = result.get_value
        return [tuple([value(i, j) for j in width]) for i in range(result.ntuples)]


class Batch(Sequence[Result]):
    """The results of a batch, one a statement, in order.

    Attributes:
        error: The error of the first statement that failed, or None.
        failed_at: The index of that statement, or None.
    """

    __slots__ = ("_results", "error", "failed_at")

    def __init__(self, results: list[Result], failed_at: int | None) -> None:
        self._results = results
        self.failed_at = failed_at
        self.error = None if failed_at is None else results[failed_at].error

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, index: Any) -> Any:
        return self._results[index]

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def check(self) -> Batch:
        """The batch itself, or raise the error of the statement that failed."""
        if self.error is not None:
            raise self.error
        return self


# The text with $1, $2; the parameters, their types and their formats.
_Converted = tuple[
    bytes, "Sequence[Buffer | None] | None", tuple[int, ...], "Sequence[Format] | None"
]
_NO = Prepare.NO
_SHOULD = Prepare.SHOULD
_UNPREPARED: tuple[Prepare, bytes] = (_NO, b"")

# A statement ready to be sent: as converted, its key, whether to prepare it, its name if prepared.
_Planned = tuple[_Converted, Key, Prepare, bytes]


async def run_batch(
    conn: Connection[Any],
    statements: Sequence[Sendable],
    *,
    finish: bool = False,
) -> Batch:
    """Run statements in one round trip; they are sent as they are, without a BEGIN of their own.

    Statements that come again are prepared after `conn.prepare_threshold` uses (None: never, as
    transaction-pooling proxies need it); that takes no round trip either. COPY is not possible.

    Args:
        conn: An open connection, not in psycopg's pipeline mode.
        statements: At least one; a plain `(query, params)` will do for a `Statement`.
        finish: Do not stop for a cancellation: for batches that end a transaction. A pending
            cancellation does not keep it from being sent.

    Returns:
        One result a statement; an error of the server is in `Batch.error`, not raised.

    Cancellation: before it is sent nothing has happened; afterwards the batch is stopped on the
    server and Cancelled is raised, or, if it was through already, it is returned.

    Raises:
        psycopg.OperationalError: The connection was lost (`conn.in_doubt` tells whether in flight).
        psycopg.ProgrammingError: A query and its parameters do not fit; nothing was sent.
    """
    if conn._pipeline is not None:
        raise errors.ProgrammingError("run_batch() inside pipeline() would mix their answers")
    try:
        batch = await conn.exchange(_batch_gen(conn, statements), finish=finish)
    finally:
        if conn.pgconn.pipeline_status != _PIPELINE_OFF:
            await conn.close()  # answers are still to come that nobody would read (law 1)
    if isinstance(batch.error, errors.QueryCanceled):
        await conn.raise_if_cancelled()
    return batch


def _batch_gen(conn: Connection[Any], statements: Sequence[Sendable]) -> PQGen[Batch]:
    """The protocol of a batch: convert, send, flush, read up to the Sync."""
    conn._check_connection_ok()
    tx = Transformer(conn)
    planned = _plan(conn, tx, statements)
    pgconn = conn.pgconn
    pgconn.enter_pipeline_mode()
    try:
        closings = _send(conn, planned)
        yield from _flush(pgconn)
        answers = yield from _read_to_sync(pgconn)
    finally:
        if pgconn.status == _CONN_OK:
            try:  # noqa: SIM105  (a context manager costs more than the call)
                pgconn.exit_pipeline_mode()
            except errors.OperationalError:
                pass  # answers unread: run_batch closes
    return _collect(conn, tx, planned, answers[closings:])


def _plan(
    conn: Connection[Any],
    tx: TransformerLike,
    statements: Sequence[Sendable],
) -> list[_Planned]:
    # All are converted before one is looked up: what cannot be converted is not sent, and none of
    # the names that the server would have learnt with it may be taken for known.
    converted: list[tuple[_Converted, Key, bool]] = []
    for statement in statements:
        if type(statement) is FixedStatement:
            fixed, values = statement
            key = fixed.key
            converted.append(((key[0], values, key[1], None), key, True))
            continue
        query, params, native, prepare = statement if len(statement) == 4 else Statement(*statement)
        whole = _convert(tx, query, params, native)
        converted.append((whole, (whole[0], whole[2]), prepare))
    look_up = conn.prepared.look_up
    return [
        (whole, key, *(look_up(key) if prepare else _UNPREPARED))
        for whole, key, prepare in converted
    ]


def _convert(tx: TransformerLike, query: Query, params: Params | None, native: bool) -> _Converted:
    """The statement as Postgres takes it. psycopg's own classes do it, but for the common case."""
    if type(query) is str and len(query) <= _MAX_CACHED:
        if params is None:
            return _encode(query, tx.encoding), None, (), None
        if not native:
            text, formats, order, parts = _parse(query, tx.encoding)
            values = PostgresQuery.validate_and_reorder_params(parts, params, order)
            if len(values) > _MAX_PARAMS:
                raise errors.ProgrammingError(f"more than {_MAX_PARAMS} parameters")
            dumped = tx.dump_sequence(values, formats)
            return text, dumped, tx.types or (), tx.formats
    long = PostgresRawQuery(tx) if native else PostgresQuery(tx)
    long.convert(query, params)
    if len(long.types) > _MAX_PARAMS:
        raise errors.ProgrammingError(f"more than {_MAX_PARAMS} parameters")
    return long.query, long.params, long.types, long.formats


@lru_cache(maxsize=1024)
def _encode(query: str, encoding: str) -> bytes:
    return query.encode(encoding)


@lru_cache(maxsize=1024)
def _parse(query: str, encoding: str) -> Any:
    """psycopg's parse, cached by the text itself, whose hash is cached with it."""
    return _query2pg_nocache(query.encode(encoding), encoding)


def _send(conn: Connection[Any], planned: list[_Planned]) -> int:
    """Queue every message and the Sync; returns how many answers come before the statements'."""
    pgconn = conn.pgconn
    closings = conn.prepared.take_closings()
    for name in closings:
        pgconn.send_close_prepared(name)
    for (query, params, types, formats), _key, prepare, name in planned:
        if prepare is _NO:
            pgconn.send_query_params(query, params, param_formats=formats, param_types=types)
            continue
        if prepare is _SHOULD:
            pgconn.send_prepare(name, query, param_types=types)
        pgconn.send_query_prepared(name, params, param_formats=formats)
    pgconn.pipeline_sync()
    return len(closings)


def _flush(pgconn: PGconn) -> PQGen[None]:
    """Send what libpq holds. Reading meanwhile keeps two full socket buffers from a deadlock."""
    while pgconn.flush():
        if (yield _WAIT_RW) & _READY_R:
            pgconn.consume_input()


def _read_to_sync(pgconn: PGconn) -> PQGen[list[PGresult]]:
    """The answers to all messages, in order, without the Sync's own."""
    answers: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield _WAIT_R
            try:
                pgconn.consume_input()
            except errors.OperationalError:
                _raise_fatal(pgconn, answers)
                raise
        answer = pgconn.get_result()
        if answer is None:  # the end of one message's answers
            if pgconn.status != _CONN_OK:
                _raise_fatal(pgconn, answers)
                raise errors.OperationalError("the connection was lost")
            continue
        if answer.status == _SYNC:
            break
        if answer.status not in _DONE and answer.status not in (_FATAL_ERROR, _ABORTED):
            raise errors.NotSupportedError("COPY cannot be part of a batch")
        answers.append(answer)
    if pgconn.notify_handler:
        while notify := pgconn.notifies():
            pgconn.notify_handler(notify)
    return answers


def _raise_fatal(pgconn: PGconn, answers: list[PGresult]) -> None:
    """If the server said why it hung up, that is the error."""
    for answer in answers:
        if answer.status == _FATAL_ERROR:
            raise errors.error_from_result(answer, encoding=pgconn._encoding)


def _collect(
    conn: Connection[Any], tx: TransformerLike, planned: list[_Planned], answers: list[PGresult]
) -> Batch:
    """Match answers to statements, and tell the prepared statements what was learnt."""
    prepared = conn.prepared
    results: list[Result] = []
    failed_at: int | None = None
    position = 0
    for index, (_query, key, prepare, _name) in enumerate(planned):
        answer = answers[position]
        parsed = True
        position += 1
        if prepare is _SHOULD:
            if parsed := answer.status == _COMMAND_OK:
                answer = answers[position]
            position += 1
        error = None
        status = answer.status
        if status == _COMMAND_OK:
            prepared.note_command(answer.command_status or b"")
        elif status not in (_TUPLES_OK, _EMPTY_QUERY):
            prepared.note_failure(key, answer, parsed=parsed)
            if status == _FATAL_ERROR:
                error = errors.error_from_result(answer, encoding=conn.pgconn._encoding)
                failed_at = index if failed_at is None else failed_at
        results.append(Result(answer, tx, status, error))
    prepared.rotate()
    return Batch(results, failed_at)
