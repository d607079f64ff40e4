"""What stands in FROM, and what can be seen from one place of a statement."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from flux_pg.explain.catalog import Relation
from flux_pg.explain.text import name_of

UNSURE = "?column?"  # a column of a result whose name is not told for sure


@dataclass(eq=False)
class TableRef:
    """One place in a statement where a relation of the catalog is read or written.

    Attributes:
        reads: The columns that are read here.
        reads_row: Whether its whole row is read (`t.*`, `t`, `*`).
        inserts: The columns given to new rows; None if there are none.
        updates: The columns that are set.
        command: INSERT, UPDATE, DELETE or MERGE if it is that statement's target, else SELECT.
        locked: Whether FOR UPDATE or FOR SHARE holds its rows.
        select: The query in whose FROM it stands.
    """

    node: exp.Table
    relation: Relation
    alias: str
    command: str = "SELECT"
    reads: set[str] = field(default_factory=set)
    reads_row: bool = False
    inserts: set[str] | None = None
    updates: set[str] = field(default_factory=set)
    deletes: bool = False
    system: set[str] = field(default_factory=set)
    locked: bool = False
    select: exp.Expr | None = None

    @property
    def is_read(self) -> bool:
        """Whether anything of its rows is looked at: then SELECT rights are needed."""
        return bool(self.reads or self.reads_row or self.system)


@dataclass(eq=False)
class Source:
    """Something in FROM; `columns` is None if they are not known."""

    alias: str
    columns: tuple[str, ...] | None
    ref: TableRef | None = None

    def real_name(self, column: str) -> str:
        """What a column that the statement may have renamed is called in its table."""
        if self.ref is None or self.columns is None:
            return column
        return self.ref.relation.column_names[self.columns.index(column)]


@dataclass(eq=False)
class Scope:
    """The names that can be seen at one level of a statement."""

    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    ctes: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    outputs: frozenset[str] = frozenset()

    def cte(self, name: str) -> tuple[bool, tuple[str, ...] | None]:
        """Whether a CTE of this name is in sight, and its columns."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return True, scope.ctes[name]
            scope = scope.parent
        return False, None


def rename(columns: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Columns of which the first ones have other names."""
    if columns is None or not columns:
        return names or columns
    return (*names, *columns[len(names) :])


def column_of(node: exp.Expr) -> object:
    """The identifier of a column in a list of columns."""
    while isinstance(node, (exp.Column, exp.ColumnDef, exp.Dot)):
        node = node.this
    return node


def star_of(item: exp.Expr) -> str | None:
    """The alias before a star, empty for a bare one; None if it is no star."""
    if isinstance(item, exp.Star):
        return ""
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        return name_of(item.args.get("table"))
    return None


def output_name(item: exp.Expr) -> str:
    """The name that Postgres gives an item of a result, where that is easily told."""
    if isinstance(item, exp.Alias):
        return name_of(item.args.get("alias"))
    if isinstance(item, exp.Star):
        return "*"
    if isinstance(item, exp.Column):
        return name_of(item.this) if not isinstance(item.this, exp.Star) else "*"
    if isinstance(item, exp.Cast):
        return output_name(item.this) if isinstance(item.this, exp.Column) else UNSURE
    if isinstance(item, exp.Count):
        return "count"
    if isinstance(item, exp.Anonymous):
        return item.name.lower()
    return UNSURE
