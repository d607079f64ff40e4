"""`ctx.db.table(...)`: structured queries. How they are read is told in
flux_pg/explain/query_ask.py, how they become SQL in query_sql.py; this is the shell around it.

A statement is compiled once for each shape of a query. Names are checked against a snapshot of the
tables, which is read at the first need and again when a name is not in it: a table may have been
made since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import msgspec
import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from ..explain.query import ask_document
from ..explain.query_ask import (
    Row,
    ask_count,
    ask_delete,
    ask_find,
    ask_insert,
    ask_page,
    ask_update,
)
from ..explain.query_catalog import Catalog, UnknownName
from ..explain.query_cursor import write_cursor
from ..explain.query_given import Names, Order, Relations
from ..explain.query_shape import Asked, Insert, Shape
from ..explain.query_sql import Compiled, Nested, compile_shape, parameters_of
from ..explain.query_words import Condition
from .unsendable import explain_unsent

Handle = Callable[[str, dict[str, Any]], Awaitable[Any]]

MAX_SHAPES = 4096
MAX_KEPT_ROWS = 64
"""The text of an INSERT of more rows is made anew each time: there would be too many to keep."""

_FETCH: dict[str, Literal["rows", "one", "count"]] = {
    "rows": "rows", "one": "one", "count": "count", "number": "one", "page": "rows",
}  # fmt: skip
# psycopg knows how to write a dict, and takes a text for the document itself.
_WRAPPED = frozenset({list, tuple, int, float, bool})


class Page(msgspec.Struct, frozen=True):
    """Some rows of an ordered whole. As JSON: `{"rows": [...], "next": ...}`.

    Attributes:
        rows: The rows.
        next: The cursor for the page after this one; None if there is no row behind it.
    """

    rows: list[dict[str, Any]]
    next: str | None


class Tables:
    """The compiled queries of a process, and what they know of the tables.

    Args:
        catalog: The tables, where they cannot be read (a replay without a database).
        fixed: The catalog is all there is.
    """

    def __init__(self, catalog: Catalog | None = None, *, fixed: bool = False) -> None:
        self._catalog = catalog
        self._fixed = fixed
        self._known: dict[Shape, Compiled] = {}

    def known(self, shape: Shape) -> Compiled | None:
        """The statement of a shape that was compiled before."""
        return self._known.get(shape)

    async def compiled(self, shape: Shape, handle: Handle) -> Compiled:
        """The statement of a shape.

        Raises:
            UnknownName: A name in it is not there, and the tables were looked at again.
            UsageError: As `compile_shape`.
        """
        found = self._known.get(shape)
        if found is not None:
            return found
        if self._catalog is None and not self._fixed:
            # In a transaction that has failed, the statement itself shall say so.
            with suppress(psycopg.Error):
                await self._read(handle)
        try:
            found = compile_shape(shape, self._catalog)
        except UnknownName:
            if self._fixed:
                raise
            await self._read(handle)
            found = compile_shape(shape, self._catalog)
        self._keep(shape, found)
        return found

    def _keep(self, shape: Shape, compiled: Compiled) -> None:
        if self._catalog is None and not self._fixed:
            return  # nothing was checked
        if isinstance(shape, Insert) and shape.rows > MAX_KEPT_ROWS:
            return
        if len(self._known) >= MAX_SHAPES:
            self._known.clear()
        self._known[shape] = compiled

    async def _read(self, handle: Handle) -> None:
        """Look at the tables, in the transaction of who asks: it may have made one itself.

        Raises:
            psycopg.Error: The transaction has failed before.
        """
        self._catalog = Catalog.of(await handle("db.catalog", {}))
        self._known.clear()

    async def answer(self, handle: Handle, op: str, arguments: dict[str, Any]) -> Any:
        """Run a structured query (`{"asked": Asked}`, or `{"document": flux.query/1}`).

        Raises:
            UsageError: It cannot be asked like this.
            psycopg.Error: Postgres refused it.
        """
        asked = arguments.get("asked")
        if asked is None:
            asked = ask_document(arguments["document"])
        compiled = await self.compiled(asked.shape, handle)
        return finish(asked, compiled, await send(handle, asked, compiled))


async def send(handle: Handle, asked: Asked, compiled: Compiled) -> Any:
    """Run a compiled query: what the database gave.

    Raises:
        UsageError: A value is none that can be sent; nothing was.
        psycopg.Error: Postgres refused it.
    """
    asking = message(asked, compiled)
    try:
        return await handle("db.query", asking)
    except (psycopg.Error, TypeError, ValueError) as error:
        unsent = explain_unsent(asked, compiled, asking["params"], error)
        if unsent is None:
            raise
        raise unsent from error


def message(asked: Asked, compiled: Compiled) -> dict[str, Any]:
    """The operation that runs a compiled query."""
    params = parameters_of(asked, compiled)
    if compiled.json:
        params = list(params)
        for at, texts in compiled.json:
            params[at] = _document(params[at], texts)
    return {"sql": compiled.sql, "params": params, "fetch": _FETCH[compiled.answer]}


def _document(value: Any, texts: bool) -> Any:
    if type(value) in _WRAPPED or (texts and isinstance(value, (str, Mapping))):
        return Jsonb(value)
    return value


def is_plain(compiled: Compiled) -> bool:
    """Whether the answer of the database is the answer."""
    return not compiled.nested and compiled.answer not in ("number", "page")


def finish(asked: Asked, compiled: Compiled, result: Any) -> Any:
    """What the caller gets, from what the database gave."""
    if compiled.answer == "number":
        return next(iter(result.values()))
    rows = [result] if compiled.answer == "one" and result is not None else result
    if compiled.nested and rows:
        read = _Reader()
        for row in rows:
            read.inside(row, compiled.nested)
    return _page(asked, compiled, rows) if compiled.answer == "page" else result


def _page(asked: Asked, compiled: Compiled, rows: list[dict[str, Any]]) -> Page:
    places = [[row.pop(name) for name in compiled.place] for row in rows]
    limit = asked.values[compiled.limit] - 1
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], write_cursor(asked.shape.table, compiled.order, places[limit - 1]))


class _Reader:
    """Gives values inside JSON the types that they have at the top."""

    def __init__(self) -> None:
        self._transformer: Any = Transformer()

    def inside(self, row: dict[str, Any], nested: tuple[tuple[str, Nested], ...]) -> None:
        """Read the related rows of a row, in place."""
        for key, shape in nested:
            found = row[key]
            if type(found) not in (list, dict):
                continue  # nothing there, or a replay withholds it
            for inner in found if shape.many else (found,):
                for column, oid in shape.texts:
                    if type(inner[column]) is str:
                        inner[column] = self._value(inner[column], oid)
                self.inside(inner, shape.inner)

    def _value(self, text: str, oid: int) -> Any:
        try:
            return self._transformer.get_loader(oid, Format.TEXT).load(text.encode())
        except (ValueError, psycopg.Error):
            return text  # the hash of a secret


class _Database(Protocol):
    """What a table needs of `ctx.db`."""

    def _ask_table(self, asked: Asked) -> Any: ...


class Table:
    """Structured queries on one table: names are checked, values always bound as parameters.

    Every method is awaited in `async def` functions, and blocks in plain ones. A condition is a
    mapping of columns to what they must be, or made by `flux_pg.q`: see docs/tables.md.

    Every method raises:
        UsageError: A name, operator or value that cannot be; nothing was sent then, and the
            transaction goes on. Its hint says what there is.
        psycopg.Error: Postgres refused the statement.
    """

    __slots__ = ("_ask", "_name")

    def __init__(self, db: _Database, name: str) -> None:
        self._ask = db._ask_table
        self._name = name

    def insert(
        self,
        values: Row | Sequence[Row],
        *,
        on_conflict: Names | None = None,
        update: Names | Row = (),
        returning: Names | None = None,
    ) -> Any:
        """Insert one row or several.

        Args:
            values: A row, or a list of rows that have the same columns.
            on_conflict: Columns of a unique key: a row whose key is taken is not inserted. `[]`:
                whatever key it is.
            update: What becomes then of the row that is there: columns that it takes from the row
                to insert, or a mapping of columns to values.
            returning: Columns of the answer, default all; `[]` for the number of rows.

        Returns:
            The row, as it is in the table; None if it was not inserted. Of several a list.
        """
        return self._ask(
            ask_insert(
                self._name, values, on_conflict=on_conflict, update=update, returning=returning
            )
        )

    def find(
        self,
        where: Condition | None = None,
        *,
        columns: Names | None = None,
        related: Relations = (),
        order: Order = (),
        limit: int | None = None,
        offset: int | None = None,
    ) -> Any:
        """Find rows.

        Args:
            where: What they must be; all rows without it.
            columns: Columns of the answer, default all.
            related: Rows of other tables inside each row, through foreign keys: a relation's name,
                a list of names, or a mapping of names to columns or to options (`columns`, `where`,
                `order`, `limit`, `offset`, `related`, `relation`).
            order: `"name"`, `"-name"` for downwards, or a list of these.
            limit: At most so many.
            offset: Leave out so many at the start.

        Returns:
            A list of dicts. A related row is a dict or None, several are a list of dicts.
        """
        return self._ask(
            ask_find(
                self._name,
                where,
                columns=columns,
                related=related,
                order=order,
                limit=limit,
                offset=offset,
            )
        )

    def find_one(
        self,
        where: Condition | None = None,
        *,
        columns: Names | None = None,
        related: Relations = (),
        order: Order = (),
    ) -> Any:
        """The first row that `find` would give, as a dict; None if there is none."""
        return self._ask(
            ask_find(
                self._name,
                where,
                columns=columns,
                related=related,
                order=order,
                limit=1,
                single=True,
            )
        )

    def page(
        self,
        where: Condition | None = None,
        *,
        columns: Names | None = None,
        related: Relations = (),
        order: Order = (),
        limit: int = 50,
        after: str | None = None,
    ) -> Any:
        """Rows by the page: each goes on where the one before ended, whatever was written since.

        Args:
            where, columns, related: As for `find`.
            order: As for `find`. A key's columns are added at its end, so that it is total.
            limit: At most so many rows.
            after: `next` of the page before; None for the first page.

        Returns:
            A `Page`: `rows`, and `next`, which is None on the last one.

        Raises:
            UsageError: Also if `after` is no cursor of this table and order (code `bad-cursor`).
        """
        return self._ask(
            ask_page(
                self._name,
                where,
                columns=columns,
                related=related,
                order=order,
                limit=limit,
                after=after,
            )
        )

    def count(self, where: Condition | None = None) -> Any:
        """How many rows there are, as an int."""
        return self._ask(ask_count(self._name, where))

    def update(
        self,
        where: Condition,
        values: Row,
        *,
        returning: Names | None = None,
        all_rows: bool = False,
    ) -> Any:
        """Change rows.

        Args:
            where: Which.
            values: Columns and their new values.
            returning: Columns of the answer, default all; `[]` for the number of rows.
            all_rows: Without a condition, change every row; it is refused otherwise.

        Returns:
            The rows as they are then, as a list of dicts.
        """
        return self._ask(
            ask_update(self._name, where, values, returning=returning, all_rows=all_rows)
        )

    def delete(
        self, where: Condition, *, returning: Names | None = None, all_rows: bool = False
    ) -> Any:
        """Delete rows.

        Args:
            where: Which.
            returning: Columns of the answer, default all; `[]` for the number of rows.
            all_rows: Without a condition, delete every row; it is refused otherwise.

        Returns:
            The rows as they were, as a list of dicts.
        """
        return self._ask(ask_delete(self._name, where, returning=returning, all_rows=all_rows))
