"""A scratch database from the state before one request to that before a later one.

What was committed between two snapshots is applied as the log tells it, netted for each row. Where
a row's key changed, or the table has none, the table is loaded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from flux_pg.replay.scratch_rows import Columns, Loader
from flux_pg.replay.scratch_source import SourceTable

Event = tuple[int, str, str | None, str | None, list[int], list[str | None], list[str | None]]
Images = dict[int, str | None]

_ALWAYS = """
select g.tgrelid::regclass::text, g.tgname, g.tgenabled::text
from pg_partition_tree(%s::regclass) as t
join pg_trigger as g on g.tgrelid = t.relid
where not g.tgisinternal and g.tgenabled in ('A', 'R')
union
select g.tgrelid::regclass::text, g.tgname, g.tgenabled::text
from pg_trigger as g
where g.tgrelid = %s::regclass and not g.tgisinternal and g.tgenabled in ('A', 'R')
"""


class ReloadNeeded(Exception):
    """The mutations of a table cannot be applied row by row."""


@dataclass
class Net:
    """What became of the rows of a table, each under its key.

    Attributes:
        gone: Keys of rows to delete: they ended, or others took their place.
        made: Whole rows to insert.
        changed: The changed columns of rows that stayed.
    """

    gone: list[str] = field(default_factory=list)
    made: list[Images] = field(default_factory=list)
    changed: dict[str, Images] = field(default_factory=dict)


def net(events: Iterable[Event]) -> Net:
    """Net mutations, in the order of seq, to one outcome for each row.

    Raises:
        ReloadNeeded: A key changed, or is a digest, so that rows cannot be named.
    """
    existed: dict[str, bool] = {}
    rows: dict[str, tuple[str, Images]] = {}
    for _, op, before, after, ids, _, new in events:
        key = after if after is not None else before
        if key is None or (before or key) != key or key.startswith("sha256:"):
            raise ReloadNeeded
        existed.setdefault(key, op != "I")
        if op == "I":
            rows[key] = ("made", dict(zip(ids, new, strict=True)))
        elif op == "U":
            how, images = rows.get(key, ("changed", {}))
            rows[key] = (how, {**images, **dict(zip(ids, new, strict=True))})
        else:
            rows[key] = ("gone", {})
    result = Net()
    for key, (how, images) in rows.items():
        if how == "changed":
            result.changed[key] = images
            continue
        if existed[key]:
            result.gone.append(key)
        if how == "made":
            result.made.append(images)
    return result


class Forward:
    """Rolls the tables of a scratch database forward.

    Args:
        live: The source, in the transaction of `begin_reading`.
        into: The scratch database, as the loader, with session_replication_role `replica`.
        admin: The same, as a superuser.
        loader: Loads tables as of the later snapshot.
    """

    def __init__(
        self,
        live: psycopg.Connection[Any],
        into: psycopg.Connection[Any],
        admin: psycopg.Connection[Any],
        loader: Loader,
    ) -> None:
        self._live = live
        self._into = into
        self._admin = admin
        self._loader = loader

    def roll(
        self,
        table: SourceTable,
        columns: Columns,
        snapshots: tuple[str, str],
        values: list[str] | None,
    ) -> None:
        """Apply to one table what was committed between two snapshots.

        Args:
            values: As for `Loader.load`: which rows are there of a table that is not there whole.
        """
        events = self._live.execute(
            "select seq, op::text, from_key, to_key, ids, old, new"
            " from flux.mutations_between(%s, %s, %s)",
            (table.quoted, *snapshots),
        ).fetchall()
        if not events:
            return
        with without_triggers(self._admin, table.quoted), self._into.transaction():
            try:
                if columns.key_ids is None:
                    raise ReloadNeeded
                self._apply(table, columns, net(events))
            except ReloadNeeded:
                self._loader.empty(table)
                self._loader.copy_rows(table, columns, values)

    def _apply(self, table: SourceTable, columns: Columns, what: Net) -> None:
        where = _key_condition(columns)
        with self._into.cursor() as cursor:
            cursor.executemany(
                sql.SQL("delete from {} where {}").format(_name(table), where),
                [_key_values(columns, key) for key in what.gone],
            )
        writable = self._loader.writable(table)
        names = dict(zip(columns.ids, columns.names, strict=True))
        taken = [number for number in columns.ids if names[number] in writable]
        self._insert(table, [names[n] for n in taken], [[m[n] for n in taken] for m in what.made])
        self._update(table, columns, what.changed, writable)

    def _insert(self, table: SourceTable, names: list[str], rows: list[list[str | None]]) -> None:
        if not rows:
            return
        write = sql.SQL("copy {} ({}) from stdin").format(
            sql.SQL(table.quoted), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._into.cursor().copy(write) as sink:
            for row in rows:
                sink.write_row(row)

    def _update(
        self, table: SourceTable, columns: Columns, changed: dict[str, Images], writable: set[str]
    ) -> None:
        names = dict(zip(columns.ids, columns.names, strict=True))
        types = dict(zip(columns.ids, columns.types, strict=True))
        alike: dict[tuple[int, ...], list[list[str | None]]] = {}
        for key, images in changed.items():
            numbers = tuple(n for n in images if names.get(n) in writable)
            values = [*(images[n] for n in numbers), *_key_values(columns, key)]
            alike.setdefault(numbers, []).append(values)
        for numbers, rows in alike.items():
            if not numbers:
                continue
            assignments = sql.SQL(", ").join(
                sql.SQL("{} = %s::{}").format(sql.Identifier(names[n]), sql.SQL(types[n]))
                for n in numbers
            )
            statement = sql.SQL("update {} set {} where {}").format(
                _name(table), assignments, _key_condition(columns)
            )
            with self._into.cursor() as cursor:
                cursor.executemany(statement, rows)


@contextmanager
def without_triggers(admin: psycopg.Connection[Any], table: str) -> Iterator[None]:
    """Switch off, for the time of the block, the triggers that fire for a replica too."""
    found = admin.execute(_ALWAYS.encode(), (table, table)).fetchall()
    _switch(admin, [(relation, name, "disable") for relation, name, _ in found])
    try:
        yield
    finally:
        words = {"A": "enable always", "R": "enable replica"}
        _switch(admin, [(relation, name, words[state]) for relation, name, state in found])


def _switch(admin: psycopg.Connection[Any], triggers: list[tuple[str, str, str]]) -> None:
    for relation, name, how in triggers:
        admin.execute(
            sql.SQL("alter table only {} {} trigger {}").format(
                sql.SQL(relation), sql.SQL(how), sql.Identifier(name)
            )
        )


def _name(table: SourceTable) -> sql.Composed:
    return sql.SQL("{} {}").format(
        sql.SQL("" if table.is_partitioned else "only"), sql.SQL(table.quoted)
    )


def _key_condition(columns: Columns) -> sql.Composed:
    """True of the row with the key of `_key_values`."""
    assert columns.key_ids is not None
    single = len(columns.key_ids) == 1
    parts = []
    for position, number in enumerate(columns.key_ids, 1):
        at = columns.ids.index(number)
        given = "%s" if single else f"(%s::text[])[{position}]"
        parts.append(
            sql.SQL("{} = {}::{}").format(
                sql.Identifier(columns.names[at]), sql.SQL(given), sql.SQL(columns.types[at])
            )
        )
    return sql.SQL(" and ").join(parts)


def _key_values(columns: Columns, key: str) -> list[str]:
    assert columns.key_ids is not None
    return [key] * len(columns.key_ids)
