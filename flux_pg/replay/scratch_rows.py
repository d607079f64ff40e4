"""The rows of a scratch database: those of a snapshot, table by table, and its sequences.

A table that nothing changed since the snapshot is copied as it is; any other goes through
flux.state_before, which `flux.state_at` uses too. What cannot be had exactly is refused by name:
nobody may read or write such a table in the scratch database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from flux_pg.replay.scratch_source import Source, SourceSequence, SourceTable

_KINDS = {
    "m": "a materialized view, whose contents are not recorded",
    "f": "a foreign table, whose rows are elsewhere",
}


@dataclass(frozen=True)
class Refused:
    """A table that is not in the scratch database, and why; nobody may touch it there."""

    table: str
    reason: str


@dataclass(frozen=True)
class Columns:
    """The columns a table had when the snapshot was taken.

    Attributes:
        ids: Their numbers in the log.
        names: Their names then.
    """

    ids: list[int]
    names: list[str]


class Loader:
    """Fills the scratch database from the source's transaction.

    Args:
        live: The source, in the transaction of `begin_reading`.
        into: The scratch database, as the loader; autocommit.
        admin: The same, as a superuser, for definitions only.
        snapshot: A pg_snapshot as text.
    """

    def __init__(
        self,
        live: psycopg.Connection[Any],
        into: psycopg.Connection[Any],
        admin: psycopg.Connection[Any],
        snapshot: str,
    ) -> None:
        self._live = live
        self._into = into
        self._admin = admin
        self._snapshot = snapshot
        self.refused: list[Refused] = []

    def load(self, table: SourceTable) -> None:
        """Load one table, or refuse it."""
        if table.kind in _KINDS:
            self.refuse(table, _KINDS[table.kind])
            return
        if table.table_id is None:
            self.refuse(table, "it is not tracked, so what it held then is not known")
            return
        try:
            with self._live.transaction(), self._into.transaction():
                columns = self._columns(table)
                self._adjust(table, columns)
                self._copy(table, columns, self._changed(table))
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate[:2] in ("08", "57"):
                raise
            self.refuse(table, error.diag.message_primary or str(error))

    def refuse(self, table: SourceTable, reason: str) -> None:
        """Leave a table out; `close_refused` makes it unreadable."""
        self.refused.append(Refused(table.quoted, reason))

    def close_refused(self) -> None:
        """Let nobody touch what was refused. After the definitions are whole: they grant."""
        for one in self.refused:
            close_table(self._admin, one.table)

    def _columns(self, table: SourceTable) -> Columns:
        row = self._live.execute(
            "select s.column_ids, s.column_names from flux.shape_before(%s, %s) as s",
            (table.quoted, self._snapshot),
        ).fetchone()
        assert row is not None
        return Columns(*row)

    def _changed(self, table: SourceTable) -> bool:
        row = self._live.execute(
            "select exists (select from flux.undo_rows(%s, %s))",
            (table.table_id, self._snapshot),
        ).fetchone()
        return bool(row and row[0])

    def _adjust(self, table: SourceTable, columns: Columns) -> None:
        """Take back added and renamed columns; the live definition has them already."""
        assert table.column_ids is not None and table.column_names is not None
        now = dict(zip(table.column_ids, table.column_names, strict=True))
        then = dict(zip(columns.ids, columns.names, strict=True))
        if now == then:
            return
        alter = sql.SQL("alter table " + table.quoted + " ")
        for number in now.keys() - then.keys():
            self._into.execute(
                alter + sql.SQL("drop column {} cascade").format(sql.Identifier(now[number]))
            )
        renamed = [n for n in then if n in now and now[n] != then[n]]
        # By way of names that nothing has: two columns may have swapped theirs.
        for number in renamed:
            self._into.execute(
                alter
                + sql.SQL("rename {} to {}").format(
                    sql.Identifier(now[number]), sql.Identifier(f"flux renamed {number}")
                )
            )
        for number in renamed:
            self._into.execute(
                alter
                + sql.SQL("rename {} to {}").format(
                    sql.Identifier(f"flux renamed {number}"), sql.Identifier(then[number])
                )
            )

    def _copy(self, table: SourceTable, columns: Columns, changed: bool) -> None:
        name = sql.SQL(table.quoted)
        taken = [i for i, n in enumerate(columns.names) if n not in self._generated(table)]
        wanted = sql.SQL(", ").join(sql.Identifier(columns.names[i]) for i in taken)
        # Also where today's table has no other columns: yesterday's images are picked by place.
        if changed or not self._is_as_now(table, columns):
            read = sql.SQL("select {} from flux.state_before({}, {}) as b").format(
                sql.SQL(", ").join(sql.SQL("b.images[{}]").format(i + 1) for i in taken),
                sql.Literal(table.quoted), sql.Literal(self._snapshot),
            )  # fmt: skip
        else:
            read = sql.SQL("select {} from {} {}").format(
                wanted, sql.SQL("" if table.is_partitioned else "only"), name
            )
        self.copy(read, sql.SQL("copy {} ({}) from stdin").format(name, wanted))

    def copy(self, read: sql.Composed, write: sql.Composed) -> None:
        """Copy what a query of the source gives into the scratch database."""
        statement = sql.SQL("copy ({}) to stdout").format(read)
        with (
            self._live.cursor().copy(statement) as rows,
            self._into.cursor().copy(write) as sink,
        ):
            for data in rows:
                sink.write(data)

    def _is_as_now(self, table: SourceTable, columns: Columns) -> bool:
        return (table.column_ids, table.column_names) == (columns.ids, columns.names)

    def _generated(self, table: SourceTable) -> set[str]:
        rows = self._into.execute(
            "select a.attname from pg_attribute as a where a.attrelid = %s::regclass"
            " and a.attgenerated <> '' and not a.attisdropped",
            (table.quoted,),
        )
        return {name for (name,) in rows}


def close_table(admin: psycopg.Connection[Any], table: str) -> None:
    """Take every right on a table from everybody, its owner included. admin is a superuser's."""
    rows = admin.execute(
        "select distinct r.rolname from pg_class as c cross join aclexplode("
        "coalesce(c.relacl, acldefault('r', c.relowner))) as a"
        " left join pg_roles as r on r.oid = a.grantee where c.oid = to_regclass(%s)",
        (table,),
    ).fetchall()
    name = sql.SQL(table)
    for (role,) in rows:
        grantee = sql.SQL("public") if role is None else sql.Identifier(role)
        admin.execute(sql.SQL("revoke all on table {} from {} cascade").format(name, grantee))


def set_sequences(
    live: psycopg.Connection[Any],
    admin: psycopg.Connection[Any],
    source: Source,
    snapshot: str,
    request_id: str | None,
) -> None:
    """Set each sequence so that it gives what it gave then, as far as the record knows."""
    for sequence in source.sequences:
        drawn = [
            value for at in sequence.columns for value in _drawn(live, at, snapshot, request_id)
        ]
        value = next_value(sequence, drawn, _greatest(admin, sequence))
        admin.execute(
            "select setval(%s::regclass, %s, %s) where to_regclass(%s) is not null",
            (sequence.quoted, *value, sequence.quoted),
        )


def next_value(
    sequence: SourceSequence, drawn: list[tuple[int, bool]], greatest: int | None
) -> tuple[int, bool]:
    """What to give setval: a value, and whether it was given out already.

    A value counts as drawn if the sequence has come past it and the snapshot's rows have not:
    others were written by hand.

    Args:
        drawn: Values of INSERTs that the snapshot does not see, with whether they are the
            request's own, which win: another's may have been drawn earlier and written later.
        greatest: The furthest value among the rows that the sequence has come past.
    """
    last = sequence.last_value
    if last is None:
        return sequence.start, False
    sign = 1 if sequence.increment > 0 else -1
    fitting = [
        (not own, value * sign)
        for value, own in drawn
        if value * sign <= last * sign and (greatest is None or value * sign > greatest * sign)
    ]
    if not fitting:
        return last, True
    return min(fitting)[1] * sign, False


def _drawn(
    live: psycopg.Connection[Any], at: tuple[str, str], snapshot: str, request_id: str | None
) -> list[tuple[int, bool]]:
    try:
        with live.transaction():
            rows = live.execute(
                "select v.value, bool_or(v.is_own) from flux.values_drawn_since(%s, %s, %s, %s)"
                " as v where v.value ~ '^-?[0-9]{1,18}$' group by v.value",
                (*at, snapshot, request_id),
            ).fetchall()
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] != "ZF":
            raise
        return []  # not tracked: the table is refused
    return [(int(value), own) for value, own in rows]


def _greatest(admin: psycopg.Connection[Any], sequence: SourceSequence) -> int | None:
    """The furthest value in the rows that the sequence has come past."""
    found: list[int] = []
    ends, within = ("max", "<=") if sequence.increment > 0 else ("min", ">=")
    for table, column in sequence.columns:
        try:
            row = admin.execute(
                sql.SQL("select {}({})::bigint from {} where {} {} {}").format(
                    sql.SQL(ends), sql.Identifier(column),
                    sql.SQL(table), sql.Identifier(column),
                    sql.SQL(within), sql.Literal(sequence.last_value),
                )
            ).fetchone()  # fmt: skip
        except psycopg.Error:
            continue  # refused, or not a number, or called otherwise then
        if row is not None and row[0] is not None:
            found.append(row[0])
    if not found:
        return None
    return max(found) if sequence.increment > 0 else min(found)
