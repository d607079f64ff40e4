"""The small parts of a compiled query: names, values, and where columns come from. Pure."""

from __future__ import annotations

import reprlib
from typing import NamedTuple

from sqlglot import exp

from ..errors import UsageError
from .query_catalog import Column, Table

MAX_NAME = 63
"""In bytes. Of a longer name Postgres would take the beginning, which is another name."""


class Parameters:
    """The parameters of a statement in the making, in the order of its text.

    Attributes:
        slots: For each the place of its value.
        json: Those that are JSON, and whether a text is a JSON text, not a whole document.
    """

    def __init__(self, literal: bool) -> None:
        self.slots: list[int] = []
        self.json: list[tuple[int, bool]] = []
        self._literal = literal

    def value(
        self, slot: int, *, is_json: bool = False, texts: bool = False, cast: str | None = None
    ) -> exp.Expr:
        """A placeholder for the value of this place, cast to a type if need be."""
        if is_json:
            self.json.append((len(self.slots), self._literal or texts))
        self.slots.append(slot)
        return exp.Placeholder() if cast is None else cast_to(cast, exp.Placeholder())

    def rows(self, columns: list[Column | None], count: int) -> None:
        """Note the values of rows, whose placeholders are written all at once."""
        self.slots.extend(range(len(columns) * count))
        self.json.extend(
            (row * len(columns) + at, self._literal)
            for row in range(count)
            for at, column in enumerate(columns)
            if column is not None and column.is_json
        )


class Source(NamedTuple):
    """Where columns come from: a table, if it is known, under an alias, if it has one."""

    name: str
    table: Table | None
    alias: exp.Identifier | None = None

    def known(self, name: str) -> Column | None:
        """What is known of a column.

        Raises:
            UnknownName: The table has no such column.
        """
        identifier(name)
        return self.table.column(name) if self.table is not None else None

    def column(self, name: str) -> exp.Column:
        """A column in the statement.

        Raises:
            UnknownName: The table has no such column.
        """
        self.known(name)
        alias = self.alias.copy() if self.alias is not None else None
        return exp.Column(this=identifier(name), table=alias)

    def star(self) -> exp.Expr:
        """All columns."""
        return exp.Column(this=exp.Star(), table=self.alias) if self.alias else exp.Star()

    def node(self) -> exp.Table:
        """The table in the statement: `name`, `schema.name`, or with the database's before both."""
        parts = [identifier(part) for part in self.name.split(".")]
        if len(parts) > 3:
            shown = reprlib.repr(self.name)
            raise UsageError(f"{shown} is not the name of a table", "Write `schema.table`.")
        named = dict(zip(("this", "db", "catalog"), reversed(parts), strict=False))
        if self.alias is not None:
            return exp.Table(**named, alias=exp.TableAlias(this=self.alias.copy()))
        return exp.Table(**named)


def identifier(name: str) -> exp.Identifier:
    """A name, quoted.

    Raises:
        UsageError: No name in SQL can be like this.
    """
    length = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < length <= MAX_NAME or "\x00" in name or not _is_text(name):
        raise UsageError(
            f"{reprlib.repr(name)} cannot be a name in SQL",
            f"A name is a text of at most {MAX_NAME} bytes: the table's, column's or relation's.",
        )
    # A percent sign in a name must not be taken for a placeholder.
    return exp.to_identifier(name.replace("%", "%%"), quoted=True)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def name_of(table: Table) -> str:
    """The table's name as a query finds it."""
    return table.name if table.visible else f"{table.schema}.{table.name}"


def is_null(column: exp.Expr) -> exp.Expr:
    """`column IS NULL`."""
    return exp.Is(this=column, expression=exp.Null())


def call(name: str, *arguments: exp.Expr) -> exp.Expr:
    """A function's call."""
    return exp.Anonymous(this=name, expressions=list(arguments))


def cast_to(kind: str, value: exp.Expr) -> exp.Expr:
    """A value cast to a type of the catalog."""
    # A percent sign must not be taken for a placeholder here either.
    name = kind.removesuffix("[]").replace("%", "%%")
    to = exp.DataType.build(name, dialect="postgres", udt=True)
    if kind.endswith("[]"):
        to = exp.DataType(this=exp.DType.ARRAY, expressions=[to], nested=True)
    return exp.Cast(this=value, to=to)


def as_text(value: exp.Expr) -> exp.Expr:
    """A value as Postgres writes it."""
    return exp.Cast(this=value, to=exp.DataType.build("text"))
