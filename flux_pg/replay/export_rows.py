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
from flux_pg.analysis.sql_sources import Catalog, Table, name_of, parse
from flux_pg.records import ErrorRecord
from flux_pg.replay.export_catalog import Definitions, KnownTable, quote, read_image
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.withheld import UNKNOWN, is_mark
from flux_pg.runtime.redaction import Redactor

SMALL_TABLE = 100
"""Rows up to which a table is taken whole where it is not known which of them were looked at."""
MOST_ROWS = 1000
"""Rows that are taken of one table at most."""

_KEY_OF = re.compile(r"\(([^()]+)\)=\((.*)\)", re.S)
_COMMON = frozenset({"0", "1", "true", "false", "t", "f", ""})

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
        self._defined = Definitions(conn)
        self._tables = self._defined.tables
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
        self._read_sequences(fixture)
        return fixture

    def _check_refused(self) -> None:
        for number in self._wanted:
            table = self._tables[number]
            reason = self._refused.get(f"{table.schema}.{table.name}") or self._refused.get(
                f"{quote(table.schema)}.{quote(table.name)}"
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

    def _want(self, table: KnownTable, columns: Sequence[str], values: Sequence[Any]) -> None:
        texts = [text for text in map(_as_text, values) if text is not None]
        if columns and len(texts) == len(values):
            row = tuple(zip(columns, texts, strict=True))
            self._wanted.setdefault(table.id, {})[row] = None

    def _want_whole(self, table: KnownTable) -> None:
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

    def _looked_at(self, statement: str, output: Any, catalog: Catalog) -> Iterator[KnownTable]:
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
        local = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        for node in tree.find_all(exp.Table):
            if node is target or (node.name.lower() in local and not node.db):
                continue
            for table in self._named(node):
                if table.id in keyed:
                    keyed.remove(table.id)
                else:
                    yield table
        conflict = tree.args.get("conflict")
        if isinstance(tree, exp.Insert) and conflict is not None and target is not None:
            yield from self._named(target)

    def _named(self, node: exp.Table) -> list[KnownTable]:
        return self._defined.named(name_of(node.args.get("db")), name_of(node.this))

    def _want_conflict(self, error: ErrorRecord) -> None:
        """The row that was in the way: of a unique key, or one that still refers to another."""
        named = error.diagnostics
        table = self._defined.find(named.get("schema", "public"), named.get("table", ""))
        found = _KEY_OF.search(error.detail)
        if table is None or found is None:
            return
        columns, values = found[1].split(", "), found[2].split(", ")
        if len(columns) == 1:
            values = [found[2]]
        if error.sqlstate == "23503":
            keys = [
                one for one in self._defined.foreign_keys if one.name == named.get("constraint")
            ]
            columns = keys[0].child_columns if keys else []
        if len(columns) == len(values) and set(columns) <= set(table.columns):
            self._want(table, columns, values)
        else:
            self._want_whole(table)  # an expression, or a value with a comma

    def _want_changed(self, mutation: Mapping[str, Any]) -> None:
        table = self._defined.find(mutation["schema"], mutation["table"])
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
        for one in self._defined.foreign_keys:
            if one.child == table.id and any(column in new for column in one.child_columns):
                whole = {**(mutation["old"] or {}), **new}
                values = [whole.get(column) for column in one.child_columns]
                self._want(self._tables[one.parent], one.parent_columns, values)

    # Reading it

    def _read(self, table: KnownTable, fixture: Fixture) -> None:
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
                sql.SQL("{} = %s").format(sql.Identifier(column)) for column in row
            )
            found |= dict.fromkeys(self._select(table, condition, tuple(row.values())))
        if len(found) > MOST_ROWS:
            fixture.notes.append(f"{table.quoted}: only the first {MOST_ROWS} rows")
        fixture.rows[table.quoted] = [
            self._row(table, images) for images in list(found)[:MOST_ROWS]
        ]

    def _count(self, table: KnownTable) -> int:
        query = sql.SQL("select count(*) from (select from {} limit {}) as t").format(
            sql.SQL(table.quoted), sql.Literal(1_000_000)
        )
        row = self._conn.execute(query).fetchone()
        return int(row[0]) if row else 0

    def _holding(self, table: KnownTable) -> list[tuple[Any, ...]]:
        each = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.columns
        )
        condition = sql.SQL("array[{}] && %s::text[]").format(each)
        return self._select(table, condition, (self._values,))

    def _select(
        self, table: KnownTable, condition: sql.Composable, params: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        columns = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.columns
        )
        order = sql.SQL(", ").join(map(sql.Identifier, table.key)) if table.key else sql.SQL("1")
        query = sql.SQL("select {} from {} where {} order by {} limit {}").format(
            columns, sql.SQL(table.quoted), condition, order, sql.Literal(MOST_ROWS + 1)
        )
        return self._conn.execute(query, params).fetchall()

    def _row(self, table: KnownTable, images: Sequence[str | None]) -> dict[str, Any]:
        row = {}
        for column, kind, image in zip(table.columns, table.types, images, strict=True):
            secret = image is not None and self._rules.is_secret(column)
            row[column] = UNKNOWN if secret else self._rules.value(read_image(kind, image))
        return row

    def _read_sequences(self, fixture: Fixture) -> None:
        """Those of the tables that hold rows of the fixture: corrected code may insert into them
        what the recorded run did not, and must not draw a key that is taken."""
        filled = [number for number in self._wanted if self._tables[number].quoted in fixture.rows]
        fixture.sequences = self._defined.next_values(filled)


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
    """A value of a key, as Postgres reads it; None if it is none, or not known."""
    if value is None or isinstance(value, (dict, list)) or is_mark(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
