"""What is known of the tables in a statement: which column equals what, and so which rows it read.

Laws:
- A column is told to come from a table only if it shows that table's column as it is; an
  expression over columns only `uses` them.
- A row is named only if every column of its key is in the result or fixed by an equality in the
  statement. What cannot be told is left out, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp

from flux_pg.analysis.placeholders import numbered

# It warns on standard error of statements that it does not know; what they are is told here.
logging.getLogger("sqlglot").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Table:
    """A tracked table; `columns` in the table's order, `key` in the key's."""

    table_id: int
    schema: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A value that the statement is given: a parameter by number, or a literal by its text."""

    number: int | None = None
    literal: str | None = None


@dataclass(slots=True)
class Source:
    """One table as it stands in a statement.

    Attributes:
        shown: Column to its position in the result.
        used: Columns that only went into expressions.
        key: For each column of the key its position in the result, or the operand it equals.
        nullable: Whether an outer join may have given a row of NULLs for it.
    """

    table: Table
    shown: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    key: tuple[int | Operand, ...] | None = None
    nullable: bool = False


Place = tuple[int, str]  # which source, which column
Known = int | Operand


class Catalog:
    """The tracked tables, by name."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._by_name: dict[str, list[Table]] = {}
        for table in tables:
            self._by_name.setdefault(table.name, []).append(table)

    def find(self, schema: str, name: str) -> Table | None:
        """The table that a statement means; None if it is not tracked, or not to be told."""
        found = [t for t in self._by_name.get(name, []) if not schema or t.schema == schema]
        if len(found) > 1:
            found = [t for t in found if t.schema == "public"]
        return found[0] if len(found) == 1 else None


def operand_text(
    operand: Operand, sql: str, params: Sequence[Any] | Mapping[str, Any] | None
) -> str | None:
    """The text of an operand's value, as recorded; None if it is NULL or not to be told."""
    if operand.number is None:
        return operand.literal
    keys = _keys(sql)
    place = keys.get(operand.number, operand.number - 1) if keys else operand.number - 1
    try:
        value = params[place] if params is not None else None  # type: ignore[index]
    except (LookupError, TypeError):
        return None
    if value is None or isinstance(value, (Mapping, list)):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=512)
def parse(sql: str) -> exp.Expr | None:
    """The tree of a recorded statement; None if the parser does not understand it."""
    try:
        return sqlglot.parse_one(numbered(sql)[0], dialect="postgres")
    except Exception:  # sqlglot raises more than its own errors on odd input
        return None


@lru_cache(maxsize=512)
def _keys(sql: str) -> dict[int, int | str]:
    return numbered(sql)[1]


def name_of(identifier: Any) -> str:
    """An identifier as Postgres stores it: folded unless quoted."""
    if not isinstance(identifier, exp.Identifier):
        return str(identifier or "")
    text = str(identifier.this)
    return text if identifier.args.get("quoted") else text.lower()


def bare(node: exp.Expr | None) -> exp.Expr | None:
    """An expression without brackets and casts around it."""
    while isinstance(node, (exp.Paren, exp.Cast)):
        node = node.this
    return node


def operand_of(node: exp.Expr | None) -> Operand | None:
    """The parameter or literal that an expression is; None if it is something else."""
    node = bare(node)
    if isinstance(node, exp.Parameter) and node.this is not None and node.this.name.isdigit():
        return Operand(number=int(node.this.name))
    if isinstance(node, exp.Literal):
        return Operand(literal=str(node.this))
    return None


def conjuncts(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """The conditions that all hold where this one holds."""
    node = node.this if isinstance(node, (exp.Where, exp.Paren)) else node
    if isinstance(node, exp.And):
        yield from conjuncts(node.left)
        yield from conjuncts(node.right)
    elif node is not None:
        yield node


class Sources:
    """Sources found so far, and what is known of their columns."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.sources: list[Source] = []
        self._numbers: dict[int, int | None] = {}
        self._known: dict[Place, Known] = {}
        self._edges: list[tuple[Place, Place]] = []

    def number(self, node: exp.Table) -> int | None:
        """The number of the source that a table in the statement is; None if it is not tracked."""
        if id(node) not in self._numbers:
            table = self.catalog.find(name_of(node.args.get("db")), name_of(node.this))
            if table is None or not table.key:
                self._numbers[id(node)] = None
            else:
                self._numbers[id(node)] = len(self.sources)
                self.sources.append(Source(table))
        return self._numbers[id(node)]

    def show(self, place: Place, position: int) -> None:
        """Note that the result shows a column at a position."""
        self.sources[place[0]].shown.setdefault(place[1], position)
        self.know(place, position)

    def know(self, place: Place, known: Known) -> None:
        """Note what a column's value is, without showing it."""
        self._known.setdefault(place, known)

    def equal(self, place: Place, other: Place | Operand) -> None:
        """Note that a column has the value of another one or of an operand."""
        if isinstance(other, Operand):
            self._known.setdefault(place, other)
        else:
            self._edges.append((place, other))

    def finish(self) -> list[Source]:
        """The sources whose rows can be named, or that at least were read."""
        for _ in range(len(self._edges) + 1):
            before = len(self._known)
            for place, other in self._edges:
                if other in self._known:
                    self._known.setdefault(place, self._known[other])
            if len(self._known) == before:
                break
        for at, source in enumerate(self.sources):
            parts = [self._known.get((at, column)) for column in source.table.key]
            if None not in parts:
                source.key = tuple(part for part in parts if part is not None)
            source.used -= source.shown.keys()
        return [source for source in self.sources if source.shown or source.used]
