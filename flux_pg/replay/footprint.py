"""What a recorded request touched, so that requests that touch nothing in common run at once.

Pure. A superset on purpose, from the record: rows it changed, rows or whole tables its statements
read, tables that are looked at because of a foreign key. Where it drew from a sequence, or a
statement may read what its text does not name (a view, a function, a trigger, a policy), nothing
runs beside it. What the code of today touches on top is not known before it runs; rows that two of
them change are ordered by Postgres's own locks then.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlglot import exp

from flux_pg.analysis.sql_sources import bare, conjuncts, name_of, operand_of, operand_text, parse
from flux_pg.replay.draws import Draw
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.source import RecordedRun

Resource = tuple[str, tuple[str | None, ...] | None]
"""A table, or something like one, and the key of a row; None for all of it."""

EVERYTHING = "*"
INSERTS = "inserts"

_TABLES = """
select c.relname::text as name, c.relkind in ('r', 'p') and not c.relispartition
        and not c.relrowsecurity and not exists (
            select from pg_trigger as g
            join pg_proc as p on p.oid = g.tgfoid
            where g.tgrelid = c.oid and not g.tgisinternal
                and p.pronamespace <> 'flux'::regnamespace
        ) and not exists (
            select from pg_rewrite as w where w.ev_class = c.oid
        ) as is_plain,
    array(
        select a.attname::text
        from pg_index as i
        cross join unnest(i.indkey::int2[]) with ordinality as k (number, place)
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.number
        where i.indrelid = c.oid and i.indisprimary
            and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype,
                'varchar'::regtype)
        order by k.place
    ) as key,
    (
        select count(*) from pg_index as i cross join unnest(i.indkey::int2[])
        where i.indrelid = c.oid and i.indisprimary
    ) as parts,
    array(
        select t.relname::text
        from pg_constraint as f
        join pg_class as t on t.oid in (f.confrelid, f.conrelid) and t.oid <> c.oid
        where f.contype = 'f' and c.oid in (f.conrelid, f.confrelid)
    ) as tied
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('flux', 'information_schema')
    and n.nspname !~ '^pg_'
"""
_FUNCTIONS = """
select distinct p.proname::text
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
where n.nspname not in ('flux', 'information_schema', 'pg_catalog') and n.nspname !~ '^pg_'
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A relation of the live database.

    Attributes:
        is_plain: Whether its statements touch what they name and nothing else.
        key: Its key, if the key's texts can be compared; else nothing.
        tied: Tables that a foreign key ties it to.
    """

    is_plain: bool
    key: tuple[str, ...]
    tied: tuple[str, ...]


@dataclass
class Footprint:
    """What a request reads and writes."""

    reads: set[Resource] = field(default_factory=set)
    writes: set[Resource] = field(default_factory=set)

    @property
    def is_known(self) -> bool:
        """Whether nothing was touched that is not named."""
        return (EVERYTHING, None) not in self.writes

    def may_touch(self, resources: Iterable[Resource]) -> bool:
        """Whether one of these rows, or tables, may be among what was touched."""
        if not self.is_known:
            return any(True for _ in resources)
        touched = self.reads | self.writes
        return any(
            (table, key) in touched
            or (table, None) in touched
            or (f"{INSERTS} {table}", None) in touched
            or (key is None and any(name == table for name, _ in touched))
            for table, key in resources
        )


class Catalog:
    """The relations and functions of the live database. Read once, blocking."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._tables: dict[str, Table] = {}
        with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            for name, is_plain, key, parts, tied in cursor.execute(_TABLES.encode()):
                known = self._tables.get(name)
                comparable = tuple(key) if len(key) == parts else ()
                # Of two with one name nobody can tell which is meant.
                self._tables[name] = Table(is_plain and known is None, comparable, tuple(tied))
            functions = [row[0] for row in cursor.execute(_FUNCTIONS.encode())]
        self._functions = frozenset(functions)

    def footprint(
        self, run: RecordedRun, own: Iterable[Change], draws: Sequence[Draw]
    ) -> Footprint:
        """What a request touched; `own` are the changes it committed."""
        found = Footprint({(EVERYTHING, None)})
        for statement in statements_of(run):
            self._add(found, statement)
        for change in own:
            found.writes |= resources_of(change)
            found.reads |= {(name, None) for name in self._tied(change.table)}
        if draws:
            # A sequence stands where this one drew: the code of today may draw in any other, too.
            found.writes.add((EVERYTHING, None))
        return found

    def of_statements(self, statements: Iterable[Mapping[str, Any]]) -> Footprint:
        """What statements touch."""
        found = Footprint()
        for statement in statements:
            self._add(found, statement)
        return found

    def _tied(self, name: str) -> tuple[str, ...]:
        table = self._tables.get(name)
        return table.tied if table is not None else ()

    def _add(self, found: Footprint, statement: Mapping[str, Any]) -> None:
        sql = str(statement["sql"])
        words = set(re.findall(r"\w+", sql.lower()))
        named = [name for name in self._tables if name.lower() in words]
        tree = parse(sql)
        if (
            tree is None
            or words & self._functions
            or not all(self._tables[name].is_plain for name in named)
        ):
            found.writes.add((EVERYTHING, None))
            return
        is_write = not isinstance(tree, exp.Select) or tree.find(exp.Insert, exp.Update, exp.Delete)
        if isinstance(tree, exp.Insert):
            # Two of them may meet in a unique index, whatever their rows.
            found.writes |= {(f"{INSERTS} {name}", None) for name in named}
        key = self._key(tree, sql, statement.get("params"), named)
        for name in named:
            if not isinstance(tree, exp.Insert) or len(named) > 1:
                found.reads.add((name, key))
            if is_write:
                found.reads |= {(tied, None) for tied in self._tied(name)}

    def _key(
        self, tree: exp.Expr, sql: str, params: Any, named: Sequence[str]
    ) -> tuple[str | None, ...] | None:
        """The one row that a statement is about; None if it may be about others."""
        if len(named) != 1 or len(list(tree.find_all(exp.Table))) != 1:
            return None
        key = self._tables[named[0]].key
        known: dict[str, str] = {}
        for condition in conjuncts(tree.args.get("where")):
            if isinstance(condition, exp.EQ):
                for column, other in ((condition.left, condition.right),
                                      (condition.right, condition.left)):  # fmt: skip
                    inner, operand = bare(column), operand_of(other)
                    if isinstance(inner, exp.Column) and operand is not None:
                        text = operand_text(operand, sql, params)
                        if text is not None:
                            known[name_of(inner.this)] = text
        return tuple(known[name] for name in key) if key and known.keys() >= set(key) else None


def footprint_of(changes: Iterable[Change]) -> Footprint:
    """What a transaction of somebody else's touches."""
    found = Footprint({(EVERYTHING, None)})
    for change in changes:
        found.writes |= resources_of(change)
    return found


def resources_of(change: Change) -> set[Resource]:
    """The row of a change, before and after; its table, if it has no key."""
    if change.key is None:
        return {(change.table, None)}
    return {(table, key) for _, table, key in change.rows}


def statements_of(run: RecordedRun) -> Iterator[Mapping[str, Any]]:
    """What a request asked the database, and what those that it called did."""
    for span in run.spans:
        if span.kind == "db" and isinstance(span.input, dict) and "sql" in span.input:
            yield span.input
    for called in run.calls:
        yield from statements_of(called)


class Queue:
    """Who has to wait for whom, told one step after the other."""

    def __init__(self) -> None:
        self._writers: dict[str, dict[Any, int]] = defaultdict(dict)
        self._readers: dict[str, dict[Any, set[int]]] = defaultdict(dict)

    def add(self, step: int, footprint: Footprint) -> set[int]:
        """The earlier steps that a step must come after."""
        before: set[int] = set()
        for name, key in footprint.reads:
            before |= self._overlapping(self._writers[name], key)
        for name, key in footprint.writes:
            before |= self._overlapping(self._writers[name], key)
            for readers in self._overlapping_sets(self._readers[name], key):
                before |= readers
        for name, key in footprint.reads:
            self._readers[name].setdefault(key, set()).add(step)
        for name, key in footprint.writes:
            if key is None:
                # Whoever comes later waits for this one, and so for all before it.
                self._writers[name].clear()
                self._readers[name].clear()
            self._writers[name][key] = step
            self._readers[name].pop(key, None)
        before.discard(step)
        return before

    def _overlapping(self, known: dict[Any, int], key: Any) -> set[int]:
        if key is None:
            return set(known.values())
        return {known[one] for one in (key, None) if one in known}

    def _overlapping_sets(self, known: dict[Any, set[int]], key: Any) -> list[set[int]]:
        if key is None:
            return list(known.values())
        return [known[one] for one in (key, None) if one in known]
