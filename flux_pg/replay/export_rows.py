"""The rows that a test of a recorded request has to have: few enough to read, enough to be right.

Looked for on a scratch database that holds the state just before the request:

- every row that a statement returned, by its key;
- every row that the request changed, and the rows that new foreign keys point to;
- every row that a constraint was violated with;
- of tables that a statement looked at in another way (an aggregate, a subquery, a row whose key it
  did not show): all rows of a small table, of others those that hold a value of the record.

Law: a table that the scratch database could not hold is no empty table; a request that touched one
is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from sqlglot import exp

from flux_pg.analysis.read_set import read_set
from flux_pg.analysis.sql_results import find_sources
from flux_pg.analysis.sql_sources import Catalog, Table, parse
from flux_pg.records import ErrorRecord
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.withheld import UNKNOWN
from flux_pg.runtime.redaction import Redactor

SMALL_TABLE = 100
"""Rows up to which a table is taken whole where it is not known which of them were looked at."""
MOST_ROWS = 1000
"""Rows that are taken of one table at most."""

_KEY_OF = re.compile(r"\(([^()]+)\)=\((.*)\)", re.S)
_COMMON = frozenset({"0", "1", "true", "false", "t", "f", ""})

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
select q.oid::regclass::text as name, q.oid::bigint as id, d.refobjid::bigint as table
from pg_class as q
join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = q.oid
    and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
where q.relkind = 'S' and d.refobjid = any (%s)
order by q.oid
"""

Values = tuple[tuple[str, str], ...]
"""Columns of a row with their values as text."""


@dataclass
class Fixture:
    """What a test puts into its database.

    Attributes:
        rows: By table, as Python values where that is exact, else as Postgres's text.
        sequences: The next value of each.
        notes: What a reader should know of them.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Known:
    """A table of the scratch database."""

    id: int
    schema: str
    name: str
    quoted: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]


class RowFinder:
    """Finds the rows; one use.

    Args:
        conn: The scratch database, as a role that may read all of it; autocommit, rows as tuples.
        values: Every scalar of the record (`scratch_values.recorded_values`).
        rules: Say which values may not be written down.
        refused: Tables that the scratch database does not hold (`"schema"."name"`), and why.
        is_wide: Take every row of small tables, whether they were looked at or not.

    Attributes:
        missing: Those of the refused tables that the request touched.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        values: Sequence[str],
        rules: Redactor,
        refused: Mapping[str, str],
        *,
        is_wide: bool = False,
    ) -> None:
        self.missing: dict[str, str] = {}
        self._refused = refused
        self._is_wide = is_wide
        self._conn = conn
        self._values = sorted(set(values) - _COMMON)
        self._rules = rules
        self._tables = {
            row[0]: _Known(*row[:4], *map(tuple, row[4:])) for row in conn.execute(_TABLES)
        }
        self._by_name = {(one.schema, one.name): one for one in self._tables.values()}
        self._keys = [_ForeignKey(*row) for row in conn.execute(_FOREIGN_KEYS)]
        # In the order in which they were met; None: whole, as far as that goes.
        self._wanted: dict[int, dict[Values, None]] = {}
        self._whole: set[int] = set()

    def find(self, runs: Iterable[RecordedRun], mutations: Iterable[Mapping[str, Any]]) -> Fixture:
        """The fixture for a request, what it called included.

        Args:
            runs: The request and the functions it called.
            mutations: Their row changes, as in `flux.mutations`, also those rolled back.
        """
        changed = list(mutations)
        for run in runs:
            self._want_read(run)
            for span in run.spans:
                if span.error is not None:
                    self._want_conflict(span.error)
        for mutation in changed:
            self._want_changed(mutation)
        self._check_refused()
        fixture = Fixture()
        for number in self._wanted:
            if self._tables[number].quoted not in self.missing:
                self._read(self._tables[number], fixture)
        if self._is_wide:
            self._read_others(fixture)
        self._read_sequences(changed, fixture)
        return fixture

    def _check_refused(self) -> None:
        for number in self._wanted:
            table = self._tables[number]
            reason = self._refused.get(f"{table.schema}.{table.name}") or self._refused.get(
                f"{_identifier(table.schema)}.{_identifier(table.name)}"
            )
            if reason is not None:
                self.missing[table.quoted] = reason

    def _read_others(self, fixture: Fixture) -> None:
        for table in self._tables.values():
            if table.quoted in fixture.rows and table.id in self._whole:
                continue
            try:
                if self._count(table) <= SMALL_TABLE:
                    self._wanted.setdefault(table.id, {})
                    self._whole.add(table.id)
                    self._read(table, fixture)
            except psycopg.errors.InsufficientPrivilege:
                continue  # not to be had, and not touched

    # What is wanted

    def _want(self, table: _Known, columns: Sequence[str], values: Sequence[Any]) -> None:
        texts = [_as_text(value) for value in values]
        if columns and all(text is not None for text in texts):
            row = tuple(zip(columns, (str(text) for text in texts), strict=True))
            self._wanted.setdefault(table.id, {})[row] = None

    def _want_whole(self, table: _Known) -> None:
        self._wanted.setdefault(table.id, {})
        self._whole.add(table.id)

    def _want_read(self, run: RecordedRun) -> None:
        catalog = Catalog(
            Table(one.id, one.schema, one.name, one.columns, one.key)
            for one in self._tables.values()
            if one.key
        )
        spans = [msgspec.to_builtins(span) for span in run.spans]
        for span in spans:
            given = span.get("input")
            if span["kind"] == "db" and isinstance(given, dict) and "sql" in given:
                for table in self._looked_at(str(given["sql"]), span.get("output"), catalog):
                    self._want_whole(table)
        for read in read_set(spans, catalog).rows:
            self._want(self._tables[read.table.table_id], read.table.key, read.key)

    def _looked_at(self, statement: str, output: Any, catalog: Catalog) -> Iterator[_Known]:
        """The tables of a statement of which the returned rows do not say all."""
        tree = parse(statement)
        if tree is None:
            # Not to be read: it may look at anything.
            yield from self._tables.values()
            return
        target = _target(tree)
        columns = output.get("columns", []) if isinstance(output, dict) else []
        keyed: list[int] = []
        if not list(tree.find_all(exp.AggFunc, exp.Window)):
            keyed = [
                one.table.table_id
                for one in find_sources(statement, columns, catalog)
                if one.key is not None
            ]
        local = {cte.alias for cte in tree.find_all(exp.CTE)}
        for node in tree.find_all(exp.Table):
            if node is target or (node.name in local and not node.db):
                continue
            for table in self._named(node):
                if table.id in keyed:
                    keyed.remove(table.id)
                else:
                    yield table
        conflict = tree.args.get("conflict")
        if isinstance(tree, exp.Insert) and conflict is not None and target is not None:
            yield from self._named(target)

    def _named(self, node: exp.Table) -> list[_Known]:
        for schema in (node.db, "public") if node.db else ("public",):
            if (schema, node.name) in self._by_name:
                return [self._by_name[schema, node.name]]
        found = [one for one in self._tables.values() if one.name == node.name]
        if found:
            return found
        rows = self._conn.execute(_UNDER_VIEW, (node.name,)).fetchall()
        return [self._tables[number] for (number,) in rows if number in self._tables]

    def _want_conflict(self, error: ErrorRecord) -> None:
        """The row that was in the way: of a unique key, or one that still refers to another."""
        named = error.diagnostics
        table = self._by_name.get((named.get("schema", "public"), named.get("table", "")))
        found = _KEY_OF.search(error.detail)
        if table is None or found is None:
            return
        columns, values = found[1].split(", "), found[2].split(", ")
        if len(columns) == 1:
            values = [found[2]]
        if error.sqlstate == "23503":
            keys = [one for one in self._keys if one.name == named.get("constraint")]
            columns = keys[0].child_columns if keys else []
        if len(columns) == len(values) and set(columns) <= set(table.columns):
            self._want(table, columns, values)
        else:
            self._want_whole(table)  # an expression, or a value with a comma

    def _want_changed(self, mutation: Mapping[str, Any]) -> None:
        table = self._by_name.get((mutation["schema"], mutation["table"]))
        if table is None:
            return
        if mutation["op"] == "TRUNCATE" or not table.key:
            self._want_whole(table)
        elif mutation["op"] != "INSERT":
            key = {**mutation["pk"], **_fields(mutation["old"], table.key)}
            self._want(table, table.key, [key.get(column) for column in table.key])
        else:
            # The table is the test's from the first row on; what the migrations put there is not.
            self._wanted.setdefault(table.id, {})
        new = mutation["new"] or {}
        for one in self._keys:
            if one.child == table.id and any(column in new for column in one.child_columns):
                whole = {**(mutation["old"] or {}), **new}
                values = [whole.get(column) for column in one.child_columns]
                self._want(self._tables[one.parent], one.parent_columns, values)

    # Reading it

    def _read(self, table: _Known, fixture: Fixture) -> None:
        found: dict[tuple[Any, ...], None] = {}
        wanted = [dict(row) for row in self._wanted[table.id]]
        if table.id in self._whole:
            count = self._count(table)
            if count <= SMALL_TABLE:
                found |= dict.fromkeys(self._select(table, sql.SQL("true"), ()))
            else:
                rows = self._holding(table)
                found |= dict.fromkeys(rows)
                fixture.notes.append(
                    f"{table.quoted}: {len(rows)} of {count} rows, those that hold a value of the "
                    "record"
                )
        for row in wanted:
            condition = sql.SQL(" and ").join(
                sql.SQL("{}::text = %s").format(sql.Identifier(column)) for column in row
            )
            found |= dict.fromkeys(self._select(table, condition, tuple(row.values())))
        if len(found) > MOST_ROWS:
            fixture.notes.append(f"{table.quoted}: only the first {MOST_ROWS} rows")
        fixture.rows[table.quoted] = [
            self._row(table, images) for images in list(found)[:MOST_ROWS]
        ]

    def _count(self, table: _Known) -> int:
        query = sql.SQL("select count(*) from (select from {} limit {}) as t").format(
            sql.SQL(table.quoted), sql.Literal(1_000_000)
        )
        row = self._conn.execute(query).fetchone()
        return int(row[0]) if row else 0

    def _holding(self, table: _Known) -> list[tuple[Any, ...]]:
        each = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.columns
        )
        condition = sql.SQL("array[{}] && %s::text[]").format(each)
        return self._select(table, condition, (self._values,))

    def _select(
        self, table: _Known, condition: sql.Composable, params: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        columns = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.columns
        )
        order = sql.SQL(", ").join(map(sql.Identifier, table.key)) if table.key else sql.SQL("1")
        query = sql.SQL("select {} from {} where {} order by {} limit {}").format(
            columns, sql.SQL(table.quoted), condition, order, sql.Literal(MOST_ROWS + 1)
        )
        return self._conn.execute(query, params).fetchall()

    def _row(self, table: _Known, images: Sequence[str | None]) -> dict[str, Any]:
        row = {}
        for column, kind, image in zip(table.columns, table.types, images, strict=True):
            secret = image is not None and self._rules.is_secret(column)
            row[column] = UNKNOWN if secret else self._rules.value(_as_python(kind, image))
        return row

    def _read_sequences(self, mutations: Iterable[Mapping[str, Any]], fixture: Fixture) -> None:
        filled = {
            self._by_name[one["schema"], one["table"]].id
            for one in mutations
            if one["op"] == "INSERT" and (one["schema"], one["table"]) in self._by_name
        }
        for name, number, _ in self._conn.execute(_SEQUENCES, (sorted(filled),)).fetchall():
            row = self._conn.execute(
                sql.SQL(
                    "select case when q.is_called then q.last_value + s.seqincrement"
                    " else q.last_value end from {} as q, pg_sequence as s where s.seqrelid = {}"
                ).format(sql.SQL(name), sql.Literal(number))
            ).fetchone()
            assert row is not None
            fixture.sequences[name.removeprefix("public.")] = row[0]


@dataclass(frozen=True)
class _ForeignKey:
    name: str
    child: int
    parent: int
    child_columns: list[str]
    parent_columns: list[str]


def _identifier(name: str) -> str:
    """A name as format('%I') writes it, as far as that matters here."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _target(tree: exp.Expr) -> exp.Table | None:
    """The table that a statement writes; its rows are among the changed ones."""
    if not isinstance(tree, (exp.Insert, exp.Update, exp.Delete)):
        return None
    target = tree.this
    if isinstance(target, exp.Schema):
        target = target.this
    return target if isinstance(target, exp.Table) else None


def _fields(document: Any, names: Sequence[str]) -> dict[str, Any]:
    given = document or {}
    return {name: given[name] for name in names if name in given}


def _as_text(value: Any) -> str | None:
    """A value of a key, as Postgres writes it."""
    if value is None or isinstance(value, (dict, list)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _as_python(kind: str, image: str | None) -> Any:
    """A value that is written back as this very image, or one that means the same."""
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
