"""The rows of a scratch database: those of a snapshot, table by table.

A table that nothing changed since the snapshot is copied as it is. Of any other the rows that
nothing changed are copied, and the others undone (flux.rows_before); without a key, or with another
shape then, flux.state_before gives them all, as it does for flux.state_at. What cannot be had
exactly is refused by name: nobody may read or write such a table in the scratch database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from flux_pg.replay.scratch_source import SourceTable

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
        types: Their types then, as format_type gives them.
        key_ids: Those of the key, in its order; None if there was none.
    """

    ids: list[int]
    names: list[str]
    types: list[str]
    key_ids: list[int] | None


class Loader:
    """Fills the scratch database from the source's transaction.

    Args:
        live: The source, in the transaction of `begin_reading`.
        into: The scratch database, as the loader; autocommit.
        admin: The same, as a superuser, for definitions only.
        snapshot: A pg_snapshot as text.
        adjusts: Whether the definitions are today's and are taken back; else they are another
            commit's, which stay, and rows that its migrations made are removed.
    """

    def __init__(
        self,
        live: psycopg.Connection[Any],
        into: psycopg.Connection[Any],
        admin: psycopg.Connection[Any],
        snapshot: str,
        *,
        adjusts: bool = True,
    ) -> None:
        self.adjusts = adjusts
        self._live = live
        self._into = into
        self._admin = admin
        self._snapshot = snapshot
        self.refused: list[Refused] = []
        self.columns: dict[str, Columns] = {}

    def load(self, table: SourceTable, values: Sequence[str] | None = None) -> None:
        """Load one table, or refuse it.

        Args:
            values: Load only the rows that were changed since, and those whose key is made of
                these values.
        """
        if table.kind in _KINDS:
            self.refuse(table, _KINDS[table.kind])
            return
        if table.table_id is None:
            self.refuse(table, "it is not tracked, so what it held then is not known")
            return
        try:
            with self._live.transaction(), self._into.transaction():
                columns = self.read_columns(table)
                if self.adjusts:
                    self._adjust(table, columns)
                else:
                    self.empty(table)
                self.copy_rows(table, columns, values)
                self.columns[table.quoted] = columns
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate[:2] in ("08", "57"):
                raise
            if error.sqlstate == "42883" and "flux." in str(error):
                raise  # an older schema flux at the source: no fault of the table's
            self.refuse(table, error.diag.message_primary or str(error))

    def refuse(self, table: SourceTable, reason: str) -> None:
        """Leave a table out; `close_refused` makes it unreadable."""
        self.refused.append(Refused(table.quoted, reason))

    def close_refused(self) -> None:
        """Let nobody touch what was refused. After the definitions are whole: they grant."""
        for one in self.refused:
            close_table(self._admin, one.table)

    def read_columns(self, table: SourceTable) -> Columns:
        """The columns a table had when the snapshot was taken.

        Raises:
            psycopg.Error: ZF006, the table cannot be taken back exactly.
        """
        row = self._live.execute(
            "select s.column_ids, s.column_names, s.column_types, s.key_ids"
            " from flux.shape_before(%s, %s) as s",
            (table.quoted, self._snapshot),
        ).fetchone()
        assert row is not None
        return Columns(*row)

    def _changed(self, table: SourceTable) -> bool:
        row = self._live.execute(
            "select exists (select from flux.mutations_between(%s, %s, pg_current_snapshot()))",
            (table.quoted, self._snapshot),
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

    def copy_rows(
        self, table: SourceTable, columns: Columns, values: Sequence[str] | None = None
    ) -> None:
        """Copy the rows of a snapshot into the table, which is empty.

        Raises:
            psycopg.Error: A value does not fit, or ZF006.
        """
        there = self.writable(table)
        taken = [i for i, name in enumerate(columns.names) if name in there]
        names = [columns.names[i] for i in taken]
        write = sql.SQL("copy {} ({}) from stdin").format(
            sql.SQL(table.quoted), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        images = sql.SQL(", ").join(sql.SQL("b.images[{}]").format(i + 1) for i in taken)
        asked = (sql.Literal(table.quoted), sql.Literal(self._snapshot))
        undone = sql.SQL("select {} from flux.rows_before({}, {}, {}) as b")
        as_now = (table.column_ids, table.column_names) == (columns.ids, columns.names)
        if values is not None:
            literal = sql.SQL("{}::text[]").format(sql.Literal(list(values)))
            self._copy(undone.format(images, *asked, literal), write)
        elif as_now and not self._changed(table):
            self._copy(self._plain_query(table, names), write)
        elif as_now and table.key_ids is not None:
            row = self._live.execute(
                "select flux.untouched_query(%s, %s, %s)", (table.quoted, self._snapshot, names)
            ).fetchone()
            assert row is not None
            self._copy(sql.SQL(row[0]), write)
            self._copy(undone.format(images, *asked, sql.SQL("null")), write)
        else:
            whole = sql.SQL("select {} from flux.state_before({}, {}) as b")
            self._copy(whole.format(images, *asked), write)

    def _plain_query(self, table: SourceTable, names: list[str]) -> sql.Composed:
        return sql.SQL("select {} from {} {}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL("" if table.is_partitioned else "only"),
            sql.SQL(table.quoted),
        )

    def _copy(self, read: sql.SQL | sql.Composed, write: sql.Composed) -> None:
        statement = sql.SQL("copy ({}) to stdout").format(read)
        with (
            self._live.cursor().copy(statement) as rows,
            self._into.cursor().copy(write) as sink,
        ):
            for data in rows:
                sink.write(data)

    def empty(self, table: SourceTable) -> None:
        """Delete every row; TRUNCATE would refuse where a foreign key refers to the table."""
        only = sql.SQL("" if table.is_partitioned else "only")
        self._into.execute(sql.SQL("delete from {} {}").format(only, sql.SQL(table.quoted)))

    def writable(self, table: SourceTable) -> set[str]:
        """The columns that the table has here and that can be written."""
        rows = self._into.execute(
            "select a.attname from pg_attribute as a where a.attrelid = %s::regclass"
            " and a.attnum > 0 and a.attgenerated = '' and not a.attisdropped",
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
