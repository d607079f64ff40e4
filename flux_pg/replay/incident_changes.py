"""Recorded row changes, done again in a scratch database or taken back there.

Laws:
- A transaction is done whole or not at all, and only where every row is as it was when it was
  recorded: else the replayed requests have changed what it was about, and nobody knows what it
  would have done.
- As a replica: no trigger and no foreign key acts; what they did then is recorded too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from flux_pg.replay.scratch_maker import pin

_CHANGES = """
select seq, (extract(epoch from at) * 1000000)::bigint, xid::text::bigint, request_id::text, actor,
    schema_name, table_name, op::text, key, key_columns, columns, old, new
from flux.changes_between(%s::pg_snapshot, pg_current_snapshot(), %s, %s::uuid[])
"""
_COLUMNS = """
select a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated = ''
from pg_attribute as a
where a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and a.attnum > 0
    and not a.attisdropped
"""
_ALIKE = ("schema", "table", "op", "key", "columns", "old")
Row = tuple[str, str, tuple[str | None, ...]]


class Change(NamedTuple):
    """A row change, exact; see flux.changes_between.

    Attributes:
        key: The row's key after the change (before it, if the row is gone); None without a key.
        columns: Those that `old` and `new` hold.
    """

    seq: int
    at_us: int
    xid: int
    request_id: str | None
    actor: str
    schema: str
    table: str
    op: str
    key: list[str] | None
    key_columns: list[str] | None
    columns: list[str]
    old: list[str | None] | None
    new: list[str | None] | None

    @property
    def key_before(self) -> list[str | None] | None:
        """The key that the row had before."""
        if self.key is None or self.key_columns is None or self.op != "U":
            return list(self.key) if self.key is not None else None
        before = dict(zip(self.columns, self.old or (), strict=True))
        return [before.get(c, k) for c, k in zip(self.key_columns, self.key, strict=True)]

    @property
    def rows(self) -> set[Row]:
        """What names the row, before and after."""
        keys = (self.key_before, self.key)
        return {(self.schema, self.table, tuple(key)) for key in keys if key is not None}

    def inverse(self) -> Change:
        """What takes it back."""
        op = {"I": "D", "U": "U"}.get(self.op, "I")
        key = [str(part) for part in self.key_before or ()] if self.key is not None else None
        return self._replace(op=op, key=key, old=self.new, new=self.old)


class CannotApply(Exception):
    """A row is not as it was recorded; the message names it."""


def read_changes(
    conn: psycopg.Connection[Any],
    begin: str | None,
    until: datetime | None,
    request_ids: Sequence[str] = (),
) -> list[Change]:
    """Recorded changes in their order, blocking.

    Args:
        conn: Where they are recorded.
        begin: A snapshot that does not see them; None for those of the requests only.
        until: When the last was made.
        request_ids: Requests whose changes are wanted in any case.
    """
    with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        rows = cursor.execute(_CHANGES, (begin, until, list(request_ids))).fetchall()
    return sorted((Change(*row) for row in rows), key=lambda change: change.seq)


def corrections(done: Sequence[Change], wanted: Sequence[Change]) -> list[Change] | None:
    """What makes the rows of the one those of the other, where these change the same rows alike.

    Mostly only what the database makes anew differs (the time of a row, say), and to take
    everything back and do it again would be several times as much.

    Returns:
        Updates of what differs; None where they are not so much alike.
    """
    rows = {(one.schema, one.table, *(one.key or ())) for one in done}
    if not len(rows) == len(done) == len(wanted):
        return None
    found = []
    for one, other in zip(done, wanted, strict=True):
        if not one.key or any(getattr(one, name) != getattr(other, name) for name in _ALIKE):
            return None
        pairs = zip(one.columns, one.new or (), other.new or (), strict=False)
        differing = [(name, now, then) for name, now, then in pairs if now != then]
        if not differing:
            continue
        names, old, new = (list(side) for side in zip(*differing, strict=True))
        if not set(names).isdisjoint(one.key_columns or ()):
            return None
        found.append(other._replace(op="U", columns=names, old=old, new=new))
    return found


class Applier:
    """Does changes again in a scratch database. Blocks; one thread at a time.

    Args:
        conn: To the scratch database, as the role that loaded it; this object's own from now on.
        refused: Tables that are not there.
    """

    def __init__(self, conn: psycopg.Connection[Any], refused: Iterable[str]) -> None:
        self._conn = conn
        self._refused = frozenset(refused)
        self._columns: dict[tuple[str, str], dict[str, tuple[str, bool]]] = {}
        pin(conn, replica=True)

    def apply(self, changes: Iterable[Change]) -> None:
        """Do the changes of one transaction.

        Raises:
            CannotApply: One cannot be done; none was.
        """
        changes = list(changes)
        # One statement is a transaction by itself.
        with self._conn.transaction() if len(changes) > 1 else nullcontext():
            for change in changes:
                self._apply(change)

    def _apply(self, change: Change) -> None:
        table = sql.SQL("{}.{}").format(
            sql.Identifier(change.schema), sql.Identifier(change.table)
        )  # fmt: skip
        columns = self._columns_of(change)
        if columns is None:
            return
        statement, values = _statement(change, table, columns)
        try:
            done = self._conn.execute(statement, values).rowcount
        except psycopg.Error as error:
            raise CannotApply(f"{_name(change)}: {error.diag.message_primary}") from error
        if done != 1:
            raise CannotApply(f"{_name(change)} is not as it was then")

    def _columns_of(self, change: Change) -> dict[str, tuple[str, bool]] | None:
        """Types, and whether they can be written; None for a table that is not there."""
        place = (change.schema, change.table)
        if place not in self._columns:
            rows = self._conn.execute(_COLUMNS, place).fetchall()
            self._columns[place] = {name: (kind, writable) for name, kind, writable in rows}
        quoted = sql.SQL("{}.{}").format(*map(sql.Identifier, place)).as_string()
        return None if quoted in self._refused else self._columns[place] or None


def _statement(
    change: Change, table: sql.Composed, columns: dict[str, tuple[str, bool]]
) -> tuple[sql.Composed, list[Any]]:
    unknown = [name for name in change.columns if name not in columns]
    if change.op not in ("I", "U", "D", "T") or unknown:
        raise CannotApply(f"{_name(change)}: what became of it is not recorded")
    writable = [at for at, name in enumerate(change.columns) if columns[name][1]]
    names = sql.SQL(", ").join(sql.Identifier(change.columns[at]) for at in writable)
    given = sql.SQL(", ").join(_typed(columns, change.columns[at]) for at in writable)
    new = [change.new[at] for at in writable] if change.new is not None else []
    if change.op == "I":
        insert = "insert into {} ({}) overriding system value values ({}) on conflict do nothing"
        return sql.SQL(insert).format(table, names, given), new
    condition, values = _condition(change, table, columns)
    if change.op == "U":
        update = sql.SQL("update {} set ({}) = row({}) where ").format(table, names, given)
        return update + condition, [*new, *values]
    return sql.SQL("delete from {} where ").format(table) + condition, values


def _condition(
    change: Change, table: sql.Composed, columns: dict[str, tuple[str, bool]]
) -> tuple[sql.Composed, list[Any]]:
    """True of the row if it is as it was before the change."""
    old = list(change.old or ())
    # As texts: not every type can be compared, and an image is the text of the value.
    same = sql.SQL("row({})::text = row({})::text").format(
        sql.SQL(", ").join(map(sql.Identifier, change.columns)),
        sql.SQL(", ").join(_typed(columns, name) for name in change.columns),
    )
    key = change.key_before
    if key is None or change.key_columns is None:
        if change.op == "U":
            raise CannotApply(f"{_name(change)}: the table has no key")
        one = "ctid = (select ctid from {} where {} limit 1)"
        return sql.SQL(one).format(table, same), old
    named = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), _typed(columns, name))
        for name in change.key_columns
    )
    return sql.SQL("{} and {}").format(named, same), [*key, *old]


def _typed(columns: dict[str, tuple[str, bool]], name: str) -> sql.Composed:
    return sql.SQL("%s::{}").format(sql.SQL(columns[name][0]))


def _name(change: Change) -> str:
    key = change.key[0] if change.key and len(change.key) == 1 else change.key
    return f"{change.schema}.{change.table} {key if key is not None else '(a row without a key)'}"
