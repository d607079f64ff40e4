"""What is defined in the scratch database, as far as an export needs it: tables, what they refer
to, what draws their keys, and how to read their values."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

_TABLES = """
select c.oid::bigint as id, n.nspname as schema, c.relname as name,
    case when n.nspname = 'public' then quote_ident(c.relname)
        else quote_ident(n.nspname) || '.' || quote_ident(c.relname) end as quoted,
    array(
        select a.attname::text from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        order by a.attnum
    ) as columns,
    array(
        select format_type(a.atttypid, null) from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        order by a.attnum
    ) as types,
    array(
        select a.attname::text from pg_index as i
        cross join unnest(i.indkey) with ordinality as k (number, place)
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.number
        where i.indrelid = c.oid and i.indisprimary
        order by k.place
    ) as key
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
    and n.nspname not in ('flux', 'information_schema') and n.nspname !~ '^pg_'
order by c.oid
"""
_FOREIGN_KEYS = """
select k.conname as name, k.conrelid::bigint as child, k.confrelid::bigint as parent,
    array(
        select a.attname::text from unnest(k.conkey) with ordinality as c (number, place)
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.number order by place
    ) as child_columns,
    array(
        select a.attname::text from unnest(k.confkey) with ordinality as c (number, place)
        join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = c.number order by place
    ) as parent_columns
from pg_constraint as k
where k.contype = 'f' and k.conparentid = 0
"""
# Tables under a view, also through other views.
_UNDER_VIEW = """
with recursive used (id) as (
    select c.oid from pg_class as c where c.relname = %s and c.relkind in ('v', 'm')
    union
    select d.refobjid
    from used as u
    join pg_rewrite as r on r.ev_class = u.id
    join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    where d.refclassid = 'pg_class'::regclass
)
select u.id::bigint as id from used as u
"""
_SEQUENCES = """
select q.oid::regclass::text as name, q.oid::bigint as id
from pg_class as q
join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = q.oid
    and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
where q.relkind = 'S' and d.refobjid = any (%s)
order by q.oid
"""


@dataclass(frozen=True)
class KnownTable:
    """A table. `quoted` is its name as a statement would write it, with search_path `public`."""

    id: int
    schema: str
    name: str
    quoted: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key, of which the columns stand in the same order on both sides."""

    name: str
    child: int
    parent: int
    child_columns: list[str]
    parent_columns: list[str]


class Definitions:
    """Read once.

    Args:
        conn: As a role that may read the catalog; rows as tuples, search_path `public`.

    Attributes:
        tables: By number.
        foreign_keys: All of them.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self.tables = {
            row[0]: KnownTable(*row[:4], *map(tuple, row[4:])) for row in conn.execute(_TABLES)
        }
        self.foreign_keys = [ForeignKey(*row) for row in conn.execute(_FOREIGN_KEYS)]
        self._by_name = {(one.schema, one.name): one for one in self.tables.values()}

    def find(self, schema: str, name: str) -> KnownTable | None:
        """A table by its name."""
        return self._by_name.get((schema, name))

    def named(self, schema: str, name: str) -> list[KnownTable]:
        """The tables that a statement means by a name; of a view those under it."""
        found = self.find(schema or "public", name)
        if found is not None:
            return [found]
        others = [one for one in self.tables.values() if one.name == name]
        if others:
            return others
        rows = self._conn.execute(_UNDER_VIEW, (name,)).fetchall()
        return [self.tables[number] for (number,) in rows if number in self.tables]

    def next_values(self, tables: Sequence[int]) -> dict[str, int]:
        """What the sequences of tables give next, by their names."""
        found: dict[str, int] = {}
        for name, number in self._conn.execute(_SEQUENCES, (list(tables),)).fetchall():
            row = self._conn.execute(
                sql.SQL(
                    "select case when q.is_called then q.last_value + s.seqincrement"
                    " else q.last_value end from {} as q, pg_sequence as s where s.seqrelid = {}"
                ).format(sql.SQL(name), sql.Literal(number))
            ).fetchone()
            assert row is not None
            found[name] = row[0]
        return found


def quote(name: str) -> str:
    """A name as format('%I') writes it, as far as that matters here."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def read_image(kind: str, image: str | None) -> Any:
    """A value of a type, from Postgres's text: one that is written back as this very text, or that
    means the same."""
    if image is None:
        return None
    if kind in ("smallint", "integer", "bigint"):
        return int(image)
    if kind == "boolean":
        return image in ("t", "true")
    if kind in ("double precision", "real", "numeric") and repr(_number(image)) == image:
        return _number(image)
    if kind in ("json", "jsonb"):
        return _document(image)
    return image


def _number(image: str) -> float:
    try:
        return float(image)
    except ValueError:
        return float("nan")


def _document(image: str) -> Any:
    value = json.loads(image)
    exact = json.dumps(value, ensure_ascii=False) == image
    return value if exact and isinstance(value, (dict, list)) else image
