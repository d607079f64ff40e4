"""Shapes into SQL, as sqlglot expressions: names are quoted by it, values are placeholders. Pure.

Nothing is glued from strings. Nodes are made in the order of the text, because each placeholder
notes the place of its value when it is made.

Rows of other tables come as JSON inside each row, in the same statement and so of the same moment.
Values that JSON cannot hold exactly are written there as Postgres writes them, and `Nested` says
which, so that they become what they are at the top: a Decimal, a datetime.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from sqlglot import exp

from ..errors import UsageError
from .query_catalog import Catalog, Column, Table, UnknownName
from .query_shape import (
    Asked,
    Compare,
    Count,
    Find,
    Insert,
    Null,
    Related,
    Shape,
    Update,
)
from .query_types import check_compared, check_written, is_exact_in_json, is_scalar
from .query_words import Joined, Sort

MAX_NAME = 63
"""In bytes. Of a longer name Postgres would take the beginning, which is another name."""

Answer = Literal["rows", "one", "count", "number", "page"]


class Nested(msgspec.Struct, frozen=True):
    """What stands in a column of JSON that holds related rows.

    Attributes:
        many: A list of rows, or one row or null.
        texts: Columns that hold a value's text, with the number of its type.
        inner: Columns that hold related rows themselves.
    """

    many: bool
    texts: tuple[tuple[str, int], ...]
    inner: tuple[tuple[str, Nested], ...]


class Compiled(msgspec.Struct, frozen=True):
    """A statement that serves every query of one shape.

    Attributes:
        sql: Its text, with `%s` for each parameter.
        slots: For each parameter the place of its value; None if they come in their own order.
        json: Parameters that are JSON, and whether a text is a JSON text, not a whole document.
        answer: What it gives: rows, one row or null, how many rows it touched, one number, a page.
        nested: Columns that hold related rows.
        place: Of a page: the columns that say where a row stands in the order.
        limit: Of a page: the place of its limit, which is one row more than the page may have.
        order: Of a page: the order that a cursor belongs to.
    """

    sql: str
    slots: tuple[int, ...] | None
    json: tuple[tuple[int, bool], ...]
    answer: Answer
    nested: tuple[tuple[str, Nested], ...] = ()
    place: tuple[str, ...] = ()
    limit: int = -1
    order: tuple[Sort, ...] = ()


def compile_shape(shape: Shape, catalog: Catalog | None) -> Compiled:
    """The statement of a shape.

    Args:
        shape: What was asked.
        catalog: The tables; None where they are not known. Then names are not checked, and what
            depends on columns' types or on keys cannot be had.

    Raises:
        UnknownName: A table, column, relation or key is not there, or the catalog is needed.
        UsageError: An operator or a value does not go with its column.
    """
    return _Compiler(catalog, shape.literal).compile(shape)


class _Compiler:
    """One statement in the making."""

    def __init__(self, catalog: Catalog | None, literal: bool) -> None:
        self._catalog = catalog
        self._literal = literal
        self._slots: list[int] = []
        self._json: list[tuple[int, bool]] = []
        self._aliases = 0

    def compile(self, shape: Shape) -> Compiled:
        table = self._catalog.table(shape.table) if self._catalog is not None else None
        answer: Answer = "rows"
        if isinstance(shape, Find):
            return self._find(shape, table)
        if isinstance(shape, Count):
            counted = exp.Count(this=exp.Star(), big_int=True)
            statement: exp.Expr = exp.Select(expressions=[counted])
            statement.set("from_", exp.From(this=_table(shape.table)))
            self._where(statement, self._all([shape.where], table, None))
            return self._done(statement, "number")
        if isinstance(shape, Insert):
            statement = self._insert(shape, table)
            answer = "one" if shape.single else "rows"
        elif isinstance(shape, Update):
            statement = self._update(shape, table)
        else:
            statement = exp.Delete(this=_table(shape.table))
            self._where(statement, self._all([shape.where], table, None))
        if shape.returning == ():
            return self._done(statement, "count")
        names = self._names(shape.returning, table)
        statement.set("returning", exp.Returning(expressions=names or [exp.Star()]))
        return self._done(statement, answer)

    def _done(self, statement: exp.Expr, answer: Answer, **more: Any) -> Compiled:
        slots = tuple(self._slots)
        in_order = slots == tuple(range(len(slots)))
        return Compiled(
            statement.sql(dialect="postgres"),
            None if in_order else slots,
            tuple(self._json),
            answer,
            **more,
        )

    # Writes

    def _insert(self, shape: Insert, table: Table | None) -> exp.Expr:
        into = _table(shape.table)
        if into.name == _PROPOSED:  # the row that was to be inserted is called so
            into.set("alias", exp.TableAlias(this=self._alias()))
        if not shape.columns:
            return exp.Insert(this=into, default=True)
        columns = [self._column(name, table) for name in shape.columns]
        for kinds in shape.kinds:
            for column, kind in zip(columns, kinds, strict=True):
                check_written(shape.table, column, kind)
        cells = exp.Tuple(expressions=[exp.Placeholder() for _ in columns])
        # One row is as good as another; thousands of equal nodes would only take time.
        rows = exp.Var(this=", ".join([cells.sql(dialect="postgres")] * shape.rows))
        width = len(columns)
        self._slots.extend(range(width * shape.rows))
        self._json.extend(
            (row * width + at, self._literal)
            for row in range(shape.rows)
            for at, column in enumerate(columns)
            if column is not None and column.is_json
        )
        statement = exp.Insert(
            this=exp.Schema(this=into, expressions=[_identifier(name) for name in shape.columns]),
            expression=exp.Values(expressions=[rows]),
        )
        if shape.conflict is not None:
            statement.set("conflict", self._conflict(shape, table))
        return statement

    def _conflict(self, shape: Insert, table: Table | None) -> exp.Expr:
        assert shape.conflict is not None
        for name in shape.conflict:
            self._column(name, table)
        if table is not None and shape.conflict:
            _check_key(table, shape.conflict)
        settings: list[exp.Expr] = []
        for name in shape.update:
            self._column(name, table)
            proposed = exp.Column(this=_identifier(name), table=exp.to_identifier(_PROPOSED))
            settings.append(exp.EQ(this=_identifier(name), expression=proposed))
        slot = len(shape.columns) * shape.rows
        for name, kind in shape.settings:
            settings.append(self._setting(shape.table, name, kind, slot, table))
            slot += 1
        return exp.OnConflict(
            conflict_keys=[_identifier(name) for name in shape.conflict],
            action=exp.Var(this="DO UPDATE" if settings else "DO NOTHING"),
            expressions=settings,
        )

    def _update(self, shape: Update, table: Table | None) -> exp.Expr:
        statement = exp.Update(
            this=_table(shape.table),
            expressions=[
                self._setting(shape.table, name, kind, slot, table)
                for slot, (name, kind) in enumerate(zip(shape.columns, shape.kinds, strict=True))
            ],
        )
        self._where(statement, self._all([shape.where], table, None))
        return statement

    def _setting(
        self, table_name: str, name: str, kind: type, slot: int, table: Table | None
    ) -> exp.Expr:
        column = self._column(name, table)
        check_written(table_name, column, kind)
        value = self._value(slot, is_json=column is not None and column.is_json)
        return exp.EQ(this=_identifier(name), expression=value)

    # Reads

    def _find(self, shape: Find, table: Table | None) -> Compiled:
        alias = self._alias() if shape.related else None
        shown: list[exp.Expr] = self._names(shape.columns, table, alias)
        shown = shown or [exp.Column(this=exp.Star(), table=alias) if alias else exp.Star()]
        nested: list[tuple[str, Nested]] = []
        for related in shape.related:
            target = self._need_table(table, shape.table, f"relation {related.key!r}")
            item, inside = self._related(related, target, alias)
            _check_free(related.key, shape.columns, target, (name for name, _ in nested))
            shown.append(exp.Alias(this=item, alias=_identifier(related.key)))
            nested.append((related.key, inside))
        order, place = shape.order, tuple[str, ...]()
        if shape.paged:
            known = self._need_table(table, shape.table, "a page")
            order = _total(known, order)
            place = _place(len(order), [*(c.name for c in known.columns), *dict(nested)])
            shown += [
                exp.Alias(this=_text(_column(sort.column, alias)), alias=_identifier(name))
                for sort, name in zip(order, place, strict=True)
            ]
        statement = exp.Select(expressions=shown)
        statement.set("from_", exp.From(this=_table(shape.table, alias)))
        conditions = self._all([shape.where], table, alias)
        if shape.after is not None:
            assert table is not None
            conditions += self._after(shape, order, table, alias)
        self._where(statement, conditions)
        self._order(statement, order, table, alias)
        self._limits(statement, shape.limit, shape.offset)
        answer: Answer = "page" if shape.paged else "one" if shape.single else "rows"
        asked = shape.order if shape.paged else ()
        return self._done(
            statement, answer, nested=tuple(nested), place=place, limit=shape.limit, order=asked
        )

    def _related(
        self, related: Related, table: Table, outer: exp.Identifier | None
    ) -> tuple[exp.Expr, Nested]:
        """A subquery that gives the related rows of an outer row as JSON."""
        assert self._catalog is not None
        relation = self._catalog.relation(table, related.relation)
        target = relation.target
        alias = self._alias()
        names = related.columns or tuple(column.name for column in target.columns)
        columns = [target.column(name) for name in names]
        shown: list[exp.Expr] = []
        for column in columns:
            value: exp.Expr = _column(column.name, alias)
            if not is_exact_in_json(column):
                value = exp.Alias(this=_text(value), alias=_identifier(column.name))
            shown.append(value)
        nested: list[tuple[str, Nested]] = []
        for further in related.related:
            item, inside = self._related(further, target, alias)
            _check_free(further.key, names, target, (name for name, _ in nested))
            shown.append(exp.Alias(this=item, alias=_identifier(further.key)))
            nested.append((further.key, inside))
        rows = exp.Select(expressions=shown)
        rows.set("from_", exp.From(this=_table(_name_of(target), alias)))
        joined: list[exp.Expr] = [
            exp.EQ(this=_column(theirs, alias), expression=_column(ours, outer))
            for ours, theirs in relation.pairs
        ]
        self._where(rows, joined + self._all([related.where], target, alias))
        if relation.many:
            self._order(rows, _with_key(target, related.order), target, alias)
        self._limits(rows, related.limit, related.offset)
        texts = tuple((c.name, c.oid) for c in columns if not is_exact_in_json(c))
        return self._as_json(rows, relation.many), Nested(relation.many, texts, tuple(nested))

    def _as_json(self, rows: exp.Expr, many: bool) -> exp.Expr:
        alias = self._alias()
        value: exp.Expr = _call("ROW_TO_JSON", exp.Column(this=exp.Star(), table=alias))
        if many:
            empty = exp.Cast(this=exp.Literal.string("[]"), to=exp.DataType.build("json"))
            value = _call("COALESCE", _call("JSON_AGG", value), empty)
        whole = exp.Select(expressions=[value])
        source = exp.Subquery(this=rows, alias=exp.TableAlias(this=alias.copy()))
        whole.set("from_", exp.From(this=source))
        return exp.Subquery(this=whole)

    def _order(
        self,
        statement: exp.Expr,
        order: Sequence[Sort],
        table: Table | None,
        alias: exp.Identifier | None,
    ) -> None:
        if not order:
            return
        keys = []
        for sort in order:
            self._column(sort.column, table)
            # Of Postgres's own order nothing is said: nulls last, and first when descending.
            nulls_first = sort.descending if sort.nulls is None else sort.nulls == "first"
            keys.append(
                exp.Ordered(
                    this=_column(sort.column, alias),
                    desc=sort.descending or None,
                    nulls_first=nulls_first,
                )
            )
        statement.set("order", exp.Order(expressions=keys))

    def _limits(self, statement: exp.Expr, limit: int, offset: int) -> None:
        if limit >= 0:
            statement.set("limit", exp.Limit(expression=self._value(limit)))
        if offset >= 0:
            statement.set("offset", exp.Offset(expression=self._value(offset)))

    # Pages

    def _after(
        self, shape: Find, order: Sequence[Sort], table: Table, alias: exp.Identifier | None
    ) -> list[exp.Expr]:
        """The rows behind a place in a total order.

        Where every column goes the same way and none can be null, rows are compared as wholes: an
        index on them can serve that. Otherwise: behind in the first column, or equal there and
        behind in the others.
        """
        assert shape.after is not None
        if len(shape.after) != len(order):
            raise UsageError(
                f"the cursor has {len(shape.after)} values, the order {len(order)}",
                "Pass `next` of the page before.",
                code="bad-cursor",
            )
        slot, slots = shape.after_slot, []
        for is_null in shape.after:
            slots.append(-1 if is_null else slot)
            slot += not is_null
        nullable = [table.column(sort.column).nullable for sort in order]
        if len({sort.descending for sort in order}) == 1 and not any(nullable):
            if -1 in slots:
                raise UsageError("the cursor has a null too many", code="bad-cursor")
            left = exp.Tuple(expressions=[_column(sort.column, alias) for sort in order])
            right = exp.Tuple(expressions=[self._value(slot) for slot in slots])
            return [(exp.LT if order[0].descending else exp.GT)(this=left, expression=right)]
        return [self._behind(list(zip(order, slots, nullable, strict=True)), alias)]

    def _behind(
        self, places: list[tuple[Sort, int, bool]], alias: exp.Identifier | None
    ) -> exp.Expr:
        (sort, slot, nullable), *others = places
        nulls_first = sort.descending if sort.nulls is None else sort.nulls == "first"
        ways: list[exp.Expr] = []
        if slot >= 0:
            order = exp.LT if sort.descending else exp.GT
            column = _column(sort.column, alias)
            ways.append(order(this=column, expression=self._value(slot)))
            if nullable and not nulls_first:
                ways.append(_is_null(_column(sort.column, alias)))
        elif nulls_first:
            ways.append(exp.Not(this=_is_null(_column(sort.column, alias))))
        if others:
            column = _column(sort.column, alias)
            same = (
                exp.EQ(this=column, expression=self._value(slot)) if slot >= 0 else _is_null(column)
            )
            ways.append(exp.and_(same, self._behind(others, alias), copy=False))
        return exp.or_(*ways, copy=False) if ways else exp.false()

    # Conditions

    def _where(self, statement: exp.Expr, conditions: list[exp.Expr]) -> None:
        if conditions:
            statement.set("where", exp.Where(this=exp.and_(*conditions, copy=False)))

    def _all(
        self, shapes: Iterable[Any], table: Table | None, alias: exp.Identifier | None
    ) -> list[exp.Expr]:
        """Conditions that must all be true, as a flat list."""
        found: list[exp.Expr] = []
        for shape in shapes:
            if isinstance(shape, Joined) and shape.word == "and":
                found += self._all(shape.parts, table, alias)
            elif shape is not None:
                found.append(self._condition(shape, table, alias))
        return found

    def _condition(self, shape: Any, table: Table | None, alias: exp.Identifier | None) -> exp.Expr:
        if isinstance(shape, Joined):
            if shape.word == "and":
                return exp.and_(*self._all(shape.parts, table, alias), copy=False)
            parts = [self._condition(part, table, alias) for part in shape.parts]
            if shape.word == "or":
                return exp.or_(*parts, copy=False)
            return exp.not_(parts[0], copy=False)
        if isinstance(shape, Null):
            self._column(shape.column, table)
            null = _is_null(_column(shape.column, alias))
            return null if shape.null else exp.Not(this=null)
        assert isinstance(shape, Compare)
        return self._compare(shape, table, alias)

    def _compare(
        self, shape: Compare, table: Table | None, alias: exp.Identifier | None
    ) -> exp.Expr:
        column = self._column(shape.column, table)
        left = _column(shape.column, alias)
        name = table.name if table is not None else ""
        if shape.op == "contains":
            if column is None:
                raise UnknownName(
                    f"contains on {shape.column} depends on its type, which is not known here",
                    "Compile it with a catalog.",
                )
            return self._contains(shape, column, left, name)
        if shape.op == "any" and column is not None and column.category == "A":
            shape = Compare(shape.column, "eq", list, shape.slot, shape.or_null)
            if shape.or_null:
                raise UsageError(
                    f"{name}.{shape.column} is an array: a list with null in it has two meanings",
                    "Write q.eq([...]) for an array with a null in it.",
                )
        if shape.op in ("in", "any"):
            if column is not None and column.category == "A":
                raise UsageError(
                    f"{name}.{shape.column} is an array: in would look for its elements",
                    "Write q.any_of(q.eq([...]), q.eq([...])).",
                )
            check_compared(name, column, shape.kind, "in")
            found: exp.Expr = exp.EQ(this=left, expression=_call("ANY", self._value(shape.slot)))
            return exp.or_(found, _is_null(left.copy()), copy=False) if shape.or_null else found
        check_compared(name, column, shape.kind, shape.op)
        is_json = column is not None and column.is_json
        cast = column.type if column is not None and column.category == "A" else None
        value = self._value(shape.slot, is_json=is_json, cast=cast)
        return _OPERATORS[shape.op](this=left, expression=value)

    def _contains(
        self, shape: Compare, column: Column, left: exp.Expr, table_name: str
    ) -> exp.Expr:
        check_compared(table_name, column, shape.kind, "contains")
        if column.category == "S":
            found = _call("STRPOS", left, self._value(shape.slot))
            return exp.GT(this=found, expression=exp.Literal.number(0))
        several = issubclass(shape.kind, (list, tuple, set, frozenset))
        if column.category == "A" and not several:
            value = self._value(shape.slot, cast=column.element)
            return exp.EQ(this=value, expression=_call("ANY", left))
        # Of a range's element or of an array Postgres wants the very type, not one like it.
        cast = column.type if column.category == "A" else None
        if column.category == "R" and is_scalar(shape.kind):
            cast = column.element
        value = self._value(shape.slot, is_json=column.is_json, texts=True, cast=cast)
        return exp.ArrayContainsAll(this=left, expression=value)

    # Pieces

    def _value(
        self, slot: int, *, is_json: bool = False, texts: bool = False, cast: str | None = None
    ) -> exp.Expr:
        if is_json:
            self._json.append((len(self._slots), self._literal or texts))
        self._slots.append(slot)
        if cast is None:
            return exp.Placeholder()
        kind = exp.DataType.build(cast, dialect="postgres", udt=True)
        return exp.Cast(this=exp.Placeholder(), to=kind)

    def _alias(self) -> exp.Identifier:
        self._aliases += 1
        return exp.to_identifier(f"t{self._aliases}", quoted=True)

    def _column(self, name: str, table: Table | None) -> Column | None:
        """The column of this name, if the table is known."""
        _identifier(name)
        return table.column(name) if table is not None else None

    def _names(
        self,
        names: tuple[str, ...] | None,
        table: Table | None,
        alias: exp.Identifier | None = None,
    ) -> list[exp.Expr]:
        for name in names or ():
            self._column(name, table)
        return [_column(name, alias) for name in names or ()]

    def _need_table(self, table: Table | None, name: str, what: str) -> Table:
        if table is None:
            raise UnknownName(
                f"{what} of {name} needs its keys, which are not known here",
                "Compile it with a catalog.",
            )
        return table


_PROPOSED = "excluded"
_OPERATORS: dict[str, type[exp.Binary]] = {
    "eq": exp.EQ,
    "ne": exp.NEQ,
    "lt": exp.LT,
    "lte": exp.LTE,
    "gt": exp.GT,
    "gte": exp.GTE,
    "like": exp.Like,
    "ilike": exp.ILike,
}


def _identifier(name: str) -> exp.Identifier:
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


def _column(name: str, alias: exp.Identifier | None = None) -> exp.Column:
    return exp.Column(this=_identifier(name), table=alias.copy() if alias is not None else None)


def _table(name: str, alias: exp.Identifier | None = None) -> exp.Table:
    """A table: `name`, `schema.name`, or with the database's own name before both."""
    parts = [_identifier(part) for part in name.split(".")]
    if len(parts) > 3:
        raise UsageError(f"{name!r} is not the name of a table", "Write `table` or `schema.table`.")
    named = dict(zip(("this", "db", "catalog"), reversed(parts), strict=False))
    if alias is not None:
        return exp.Table(**named, alias=exp.TableAlias(this=alias.copy()))
    return exp.Table(**named)


def _name_of(table: Table) -> str:
    return table.name if table.visible else f"{table.schema}.{table.name}"


def _is_null(column: exp.Expr) -> exp.Expr:
    return exp.Is(this=column, expression=exp.Null())


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _text(value: exp.Expr) -> exp.Expr:
    return exp.Cast(this=value, to=exp.DataType.build("text"))


def _check_key(table: Table, names: Sequence[str]) -> None:
    if any(set(key) == set(names) for key in table.keys):
        return
    keys = "; ".join(", ".join(key) for key in table.keys)
    raise UnknownName(
        f"{table.name} has no unique key on {', '.join(names)}",
        f"A conflict is one of a unique key. There are: {keys or 'none'}.",
    )


def _check_free(
    key: str, columns: Sequence[str] | None, table: Table, taken: Iterable[str]
) -> None:
    names = columns if columns is not None else [column.name for column in table.columns]
    if key in names or key in taken:
        raise UsageError(
            f"{key!r} would be both a column and a relation in the rows of {table.name}",
            'Give the relation another name: {"name": {"relation": "…"}}.',
        )


def _total(table: Table, order: tuple[Sort, ...]) -> tuple[Sort, ...]:
    """The order, with a key's columns at its end so that no two rows are equal in it."""
    if not table.row_key:
        raise UnknownName(
            f"{table.name} has no key that tells its rows apart, so it cannot be read in pages",
            "Give it a primary key; or use limit and offset.",
        )
    return _with_key(table, order)


def _place(count: int, taken: Sequence[str]) -> tuple[str, ...]:
    """Names that no column has."""
    mark = "$key"
    while any(name.startswith(mark) for name in taken):
        mark = f"${mark}"
    return tuple(f"{mark}{number}" for number in range(1, count + 1))


def _with_key(table: Table, order: tuple[Sort, ...]) -> tuple[Sort, ...]:
    given = {sort.column for sort in order}
    down = bool(order) and all(sort.descending for sort in order)
    return (*order, *(Sort(name, down) for name in table.row_key if name not in given))


def parameters_of(asked: Asked, compiled: Compiled) -> list[Any]:
    """The parameters of a statement, in the order of its text."""
    values = asked.values
    return values if compiled.slots is None else [values[slot] for slot in compiled.slots]
