"""What structured queries know of the tables: columns, keys, foreign keys. Pure.

A snapshot, as JSON (`CATALOG_QUERY` reads it), so that it can be sent to another process and used
without a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from ..errors import UsageError

CATALOG_QUERY = """
select json_build_object(
    'schema', n.nspname, 'name', c.relname, 'visible', pg_catalog.pg_table_is_visible(c.oid),
    'columns', coalesce((
        select json_agg(json_build_object(
            'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, null),
            'oid', coalesce(nullif(t.typbasetype, 0), t.oid)::bigint, 'category', t.typcategory,
            'nullable', not a.attnotnull,
            'element', coalesce(
                pg_catalog.format_type(r.rngsubtype, null),
                pg_catalog.format_type(nullif(t.typelem, 0), null)
            )
        ) order by a.attnum)
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_type as t on t.oid = a.atttypid
        left join pg_catalog.pg_range as r on r.rngtypid = t.oid
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ), '[]'::json),
    'keys', coalesce((
        select json_agg(k.columns order by k.is_primary desc, k.name)
        from (
            select i.indisprimary as is_primary, x.relname as name, (
                select json_agg(a.attname order by p.place)
                from unnest(i.indkey) with ordinality as p (number, place)
                join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum = p.number
                where p.place <= i.indnkeyatts
            ) as columns
            from pg_catalog.pg_index as i
            join pg_catalog.pg_class as x on x.oid = i.indexrelid
            where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                and i.indpred is null and i.indexprs is null
        ) as k
    ), '[]'::json),
    'foreign_keys', coalesce((
        select json_agg(json_build_object(
            'name', f.conname, 'schema', fn.nspname, 'table', fc.relname,
            'columns', (
                select json_agg(a.attname order by p.place)
                from unnest(f.conkey) with ordinality as p (number, place)
                join pg_catalog.pg_attribute as a on a.attrelid = f.conrelid and a.attnum = p.number
            ),
            'targets', (
                select json_agg(a.attname order by p.place)
                from unnest(f.confkey) with ordinality as p (number, place)
                join pg_catalog.pg_attribute as a
                    on a.attrelid = f.confrelid and a.attnum = p.number
            )
        ) order by f.conname)
        from pg_catalog.pg_constraint as f
        join pg_catalog.pg_class as fc on fc.oid = f.confrelid
        join pg_catalog.pg_namespace as fn on fn.oid = fc.relnamespace
        where f.conrelid = c.oid and f.contype = 'f' and f.conparentid = 0
    ), '[]'::json)
) as "table"
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'flux')
order by n.nspname, c.relname
"""
"""One JSON object per table or view, those of schema flux and of Postgres itself left out."""

UNLISTED = frozenset({"pg_catalog", "information_schema", "flux"})
"""Schemas whose tables are not in the snapshot: of their names nothing is checked."""

_JSON_OIDS = frozenset({114, 3802})


class UnknownName(UsageError):
    """A name that the snapshot does not know; a newer one may."""

    code = "unknown-name"


class Column(msgspec.Struct, frozen=True):
    """A column.

    Attributes:
        name: Its name.
        type: Its type as SQL writes it, without length or precision.
        oid: Its type's number; of a domain that of the type below.
        category: `pg_type.typcategory`: N number, S string, B boolean, D date, A array, R range …
        nullable: Whether it may hold null.
        element: Of arrays and ranges the type of what they contain.
    """

    name: str
    type: str
    oid: int
    category: str
    nullable: bool = True
    element: str | None = None

    @property
    def is_json(self) -> bool:
        """Whether its values are JSON."""
        return self.oid in _JSON_OIDS


class ForeignKey(msgspec.Struct, frozen=True):
    """A foreign key: `columns` of this table hold `targets` of another."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    targets: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """A table or view.

    Attributes:
        schema, name: What it is called.
        columns: Its columns, in order.
        visible: Whether it is found without its schema.
        keys: Columns of its unique indexes, the primary key first.
        foreign_keys: Its foreign keys.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    visible: bool = True
    keys: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()

    def column(self, name: str) -> Column:
        """The column of this name.

        Raises:
            UnknownName: There is none; the hint says which there are.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise unknown(
            f"{self.name} has no column {name!r}", name, [column.name for column in self.columns]
        )

    @property
    def row_key(self) -> tuple[str, ...]:
        """A key that tells every two rows apart: unique, and never null; () if there is none."""
        never_null = {column.name for column in self.columns if not column.nullable}
        return next((key for key in self.keys if never_null.issuperset(key)), ())


class Relation(NamedTuple):
    """A way from one table to the rows of another.

    Attributes:
        target: The other table.
        pairs: Columns that are equal: the first table's, the other's.
        many: Whether several rows may be there.
        names: What it can be called, the shortest first.
    """

    target: Table
    pairs: tuple[tuple[str, str], ...]
    many: bool
    names: tuple[str, ...]


class Catalog:
    """The tables of a database."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self.tables = tuple(tables)
        self._by_name: dict[str, Table] = {}
        self._relations: dict[tuple[str, str], tuple[Relation, ...]] = {}
        for table in self.tables:
            self._by_name[f"{table.schema}.{table.name}"] = table
            if table.visible:
                self._by_name[table.name] = table

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Catalog:
        """From the objects that `CATALOG_QUERY` gives."""
        return cls(msgspec.convert(list(rows), list[Table]))

    def rows(self) -> list[dict[str, Any]]:
        """The objects that `of` takes."""
        found: list[dict[str, Any]] = msgspec.to_builtins(self.tables)
        return found

    def table(self, name: str) -> Table | None:
        """The table of this name (`schema.name` for one outside the search path).

        Returns:
            None if it is in a schema of which the snapshot says nothing.

        Raises:
            UnknownName: There is none.
        """
        found = self._by_name.get(name)
        if found is None and name.partition(".")[0] not in UNLISTED:
            raise unknown(f"there is no table {name!r}", name, sorted(self._names()))
        return found

    def _names(self) -> Iterable[str]:
        """What a user may call the tables: each by its shortest name, none of Flux or Postgres."""
        for table in self.tables:
            if table.schema not in UNLISTED:
                yield table.name if table.visible else f"{table.schema}.{table.name}"

    def relation(self, table: Table, name: str) -> Relation:
        """The relation of this name.

        A row's foreign key is called by its column, with or without `_id`, by its constraint, or by
        the other table if no second key leads there; the way back by the other table, or by
        `table.column` or `table.constraint` if several keys come from there.

        Raises:
            UnknownName: There is none.
            UsageError: The name fits several.
        """
        relations = self.relations(table)
        found = [relation for relation in relations if name in relation.names]
        if len(found) == 1:
            return found[0]
        if not found:
            names = [relation.names[0] for relation in relations]
            raise unknown(f"{table.name} has no relation {name!r}", name, names)
        ways = [next(n for n in one.names if _names(relations, n) == 1) for one in found]
        raise UsageError(
            f"relation {name!r} of {table.name} can be any of {', '.join(ways)}",
            "Several foreign keys lead there: use one of these names.",
            code="ambiguous-relation",
        )

    def relations(self, table: Table) -> tuple[Relation, ...]:
        """Every relation of a table, in both directions."""
        key = (table.schema, table.name)
        if key not in self._relations:
            self._relations[key] = (*self._towards(table), *self._back(table))
        return self._relations[key]

    def _towards(self, table: Table) -> Iterable[Relation]:
        for foreign in table.foreign_keys:
            target = self._by_name.get(f"{foreign.schema}.{foreign.table}")
            if target is not None:
                pairs = tuple(zip(foreign.columns, foreign.targets, strict=True))
                names: tuple[str, ...] = (foreign.table, foreign.name)
                if len(foreign.columns) == 1:
                    column = foreign.columns[0]
                    names = (column.removesuffix("_id"), column, *names)
                yield Relation(target, pairs, False, names)

    def _back(self, table: Table) -> Iterable[Relation]:
        for other in self.tables:
            for foreign in other.foreign_keys:
                if (foreign.schema, foreign.table) == (table.schema, table.name):
                    pairs = tuple(zip(foreign.targets, foreign.columns, strict=True))
                    many = not any(set(key) <= set(foreign.columns) for key in other.keys)
                    names = [other.name, f"{other.name}.{foreign.name}"]
                    if len(foreign.columns) == 1:
                        names.insert(1, f"{other.name}.{foreign.columns[0]}")
                    yield Relation(other, pairs, many, tuple(names))


def _names(relations: Iterable[Relation], name: str) -> int:
    return sum(name in relation.names for relation in relations)


def unknown(message: str, name: str, known: list[str]) -> UnknownName:
    """The error for a name that is not there: what was meant, perhaps, and what there is."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    shown = ", ".join(known[:40]) + (", …" if len(known) > 40 else "")
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return UnknownName(message, f"{meant}There are: {shown or 'none'}.")
