"""Project migrations: the files `migrations/NUMBER_name.sql`, applied in order, forward only.

Each file is one transaction, which also notes the file in flux.migrations: it happened or it did
not. A file that was applied may not change (its checksum is kept, line ends aside), and a new file
must come after the last one applied. Two nodes may migrate at once: an advisory lock, taken inside
each transaction so that it works through a pooler too, lets the second find the work done.

A file that starts with the comment `-- flux: no-transaction` is run statement by statement without
one, for `create index concurrently` and its kind; if it fails half-way, the message says so.

A new file without a statement is one that somebody is about to write: it waits. Applied empty it
could never get its text, as what was applied may not change.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg

from flux_pg.database import sql_errors
from flux_pg.database.sql_split import Statement, split
from flux_pg.errors import UsageError

MIGRATION_LOCK = (0x666C7578, 2)

_NAME = re.compile(r"^(\d+)(?:[._-].*)?\.sql$")
_NO_TRANSACTION = re.compile(r"\A(?:\s*--[^\n]*\n)*?\s*--\s*flux:\s*no-transaction\s*$", re.M)
_FROM_STDIN = re.compile(r"\bfrom\s+stdin\b", re.IGNORECASE)
_NOT_IN_A_TRANSACTION = "25001"  # create index concurrently, vacuum, create database
_TRANSACTION_CONTROL = {"begin", "commit", "rollback", "end", "abort"}


class MigrationError(UsageError):
    """A migration cannot be applied, or the files do not fit what the database has had."""

    code = "migration"


@dataclass(frozen=True)
class Migration:
    """One file.

    Attributes:
        checksum: SHA-256 of its text, line ends as in Unix.
        in_transaction: False if the file asks for none.
    """

    number: int
    name: str
    path: Path
    text: str
    checksum: str

    @property
    def in_transaction(self) -> bool:
        return _NO_TRANSACTION.search(self.text) is None


@dataclass(frozen=True)
class Applied:
    """A file that was applied just now."""

    name: str
    duration_ms: int


@dataclass(frozen=True)
class MigrationState:
    """The files against the database.

    Attributes:
        applied: Names in both, in order.
        pending: Files that the database has not had, in order.
        changed: Files whose text differs from what was applied.
        missing: Applied files that are no longer there (an older checkout).
    """

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]


def read_migrations(directory: Path) -> tuple[Migration, ...]:
    """The project's files in order; none if the directory is missing.

    Raises:
        MigrationError: A name has no number, two have the same, or a file is not UTF-8.
    """
    found = sorted((_read(path) for path in directory.glob("*.sql")), key=lambda m: m.number)
    for one, other in pairwise(found):
        if one.number == other.number:
            raise MigrationError(
                f"{one.name} and {other.name} have the same number",
                "Give the one that was not applied yet the next free number.",
            )
    return tuple(found)


def state(conn: psycopg.Connection, directory: Path) -> MigrationState:
    """Compare the files with what the database has had; changes nothing."""
    return _compare(read_migrations(directory), _recorded(conn))


def migrate(
    conn: psycopg.Connection,
    directory: Path,
    on_applied: Callable[[Applied], None] = lambda _: None,
    on_waiting: Callable[[str], None] = lambda _: None,
) -> tuple[Applied, ...]:
    """Apply every pending file, each in its own transaction.

    Args:
        conn: An idle autocommit connection of the owner of the database.
        on_applied: Called after each commit, for progress.
        on_waiting: Called with the name of a pending file that has no statement yet.

    Raises:
        MigrationError: A file failed (the message has file:line and a caret; earlier files stay
            applied, it does not), was changed after it was applied, comes too late, or is empty
            and not the last.
    """
    files = read_migrations(directory)
    recorded = _recorded(conn)
    _check(files, recorded)
    statements = {file.name: _statements(file) for file in files}
    pending = [file for file in files if file.name not in recorded]
    waiting = _waiting(pending, statements)
    for file in waiting:
        on_waiting(file.name)
    done = []
    for file in pending[: len(pending) - len(waiting)]:
        applied = _apply(conn, file, statements[file.name])
        if applied is not None:
            done.append(applied)
            on_applied(applied)
    return tuple(done)


def migrate_at(
    conninfo: str, directory: Path, on_waiting: Callable[[str], None] = lambda _: None
) -> tuple[Applied, ...]:
    """As `migrate`, on a connection of its own; for `trio.to_thread.run_sync`."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        return migrate(conn, directory, on_waiting=on_waiting)


def _read(path: Path) -> Migration:
    match = _NAME.match(path.name)
    if match is None:
        raise MigrationError(
            f"{path} has no number", "Name it like 0003_add_users.sql; numbers give the order."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise MigrationError(f"{path} is not UTF-8: {error}", "Save it as UTF-8.") from error
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(match[1]), path.name, path, text, checksum)


def _recorded(conn: psycopg.Connection) -> dict[str, str]:
    rows = conn.execute("select name, checksum from flux.migrations").fetchall()
    return dict(rows)


def _compare(files: tuple[Migration, ...], recorded: dict[str, str]) -> MigrationState:
    names = {file.name for file in files}
    return MigrationState(
        applied=tuple(file.name for file in files if file.name in recorded),
        pending=tuple(file.name for file in files if file.name not in recorded),
        changed=tuple(
            file.name for file in files if recorded.get(file.name, file.checksum) != file.checksum
        ),
        missing=tuple(sorted(name for name in recorded if name not in names)),
    )


def _check(files: tuple[Migration, ...], recorded: dict[str, str]) -> None:
    """Refuse what would make the order or the text of the files a lie."""
    compared = _compare(files, recorded)
    if compared.changed:
        raise MigrationError(
            f"{compared.changed[0]} was changed after it was applied",
            "Put the file back as it was and write the change into a new file.",
            code="migration-changed",
        )
    # A missing file (an older checkout) is no reason to refuse, but its number still counts.
    last = max((int(_NAME.match(name)[1]) for name in recorded), default=-1)  # type: ignore[index]
    late = [file for file in files if file.name not in recorded and file.number <= last]
    if late:
        raise MigrationError(
            f"{late[0].name} comes before a migration that is already applied (number {last})",
            f"Rename it to a number above {last}.",
            code="migration-order",
        )


def _waiting(pending: list[Migration], statements: dict[str, list[Statement]]) -> list[Migration]:
    """The pending files at the end that have no statement yet.

    Raises:
        MigrationError: One that has some comes after one that has none. Applied, it would bar the
            one before for ever.
    """
    empty = [file for file in pending if not statements[file.name]]
    if empty and pending[-len(empty) :] != empty:
        raise MigrationError(
            f"{empty[0].name} has no statement, and a file with some comes after it",
            "Write its SQL, or delete the file.",
            code="migration-empty",
        )
    return empty


def _statements(file: Migration) -> list[Statement]:
    found = list(split(file.text))
    for statement in found:
        problem = _problem(statement)
        if problem is not None:
            line, _ = sql_errors.line_of(file.text, statement.offset)
            raise MigrationError(
                f"migrations/{file.name}:{line}: {problem[0]}\n"
                f"{sql_errors.point_at(file.text, statement.offset)}",
                problem[1],
            )
    return found


def _problem(statement: Statement) -> tuple[str, str] | None:
    words = statement.words
    if words[:1] == ("\\",):
        return "this is a command of psql, not SQL", "Write it as SQL or leave it out."
    if words[:1] == ("copy",) and _FROM_STDIN.search(statement.text):
        return "copy from stdin has no input here", "Write the rows as `insert ... values`."
    if words[:2] in (("start", "transaction"), ("prepare", "transaction")) or (
        words[:1] and words[0] in _TRANSACTION_CONTROL and "to" not in words[1:3]
    ):
        return (
            "a migration may not control transactions",
            "Leave it out: each file is one transaction. For statements that forbid one, start "
            "the file with the comment: -- flux: no-transaction",
        )
    return None


def _apply(
    conn: psycopg.Connection, file: Migration, statements: list[Statement]
) -> Applied | None:
    """Apply one file unless the database has had it in the meantime."""
    with _locked(conn, file):
        known = conn.execute(
            "select checksum from flux.migrations where name = %s", (file.name,)
        ).fetchone()
        if known is not None:
            return None
        started = time.monotonic()
        for index, statement in enumerate(statements):
            _run(conn, file, statement, index)
        conn.execute("reset role")
        _track_new_tables(conn)
        duration_ms = round((time.monotonic() - started) * 1000)
        conn.execute(
            "select flux.record_migration(%s, %s, %s)", (file.name, file.checksum, duration_ms)
        )
    # A dump used as a migration sets search_path and more for the session.
    conn.execute("reset all")
    return Applied(file.name, duration_ms)


@contextmanager
def _locked(conn: psycopg.Connection, file: Migration) -> Iterator[None]:
    if file.in_transaction:
        with conn.transaction():
            conn.execute("select pg_advisory_xact_lock(%s, %s)", MIGRATION_LOCK)
            yield
        return
    conn.execute("select pg_advisory_lock(%s, %s)", MIGRATION_LOCK)
    try:
        yield
    finally:
        conn.execute("select pg_advisory_unlock(%s, %s)", MIGRATION_LOCK)


def _run(conn: psycopg.Connection, file: Migration, statement: Statement, index: int) -> None:
    try:
        conn.execute(statement.text.encode(conn.info.encoding))
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            raise  # the connection itself was lost
        raise _failed(error, file, statement, index) from error
    except psycopg.Error as error:
        raise _failed(error, file, statement, index) from error


def _failed(
    error: psycopg.Error, file: Migration, statement: Statement, index: int
) -> MigrationError:
    position = error.diag.statement_position
    offset = statement.offset + (int(position) - 1 if position else 0)
    hint = "Nothing of this file was applied. Correct it and run `flux db migrate` again."
    if file.in_transaction and error.sqlstate == _NOT_IN_A_TRANSACTION:
        hint = (
            "Nothing of this file was applied. Put the statement into a file of its own that "
            "starts with the comment: -- flux: no-transaction"
        )
    if not file.in_transaction and index:
        hint = (
            f"Its first {index} statements stay applied, as it asked for no transaction: undo "
            "them or make them `if not exists`, then run `flux db migrate` again."
        )
    return MigrationError(
        sql_errors.describe(error, f"migrations/{file.name}", file.text, offset), hint
    )


def _track_new_tables(conn: psycopg.Connection) -> None:
    """Where no event trigger could be installed, new tables are tracked here."""
    found = conn.execute("select to_regprocedure('flux.track_missing()') is not null").fetchone()
    if found and found[0]:
        conn.execute("select flux.track_missing()")
