"""Shapes into SQL, as sqlglot expressions: names are quoted by it, values are placeholders. Pure.

Nothing is glued from strings. Nodes are made in the order of the text, because each placeholder
notes the place of its value when it is made.

Rows of other tables come as JSON inside each row, in the same statement and so of the same moment.
Values that JSON cannot hold exactly are written there as Postgres writes them, and `Nested` says
which, so that they become what they are at the top: a Decimal, a datetime.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from sqlglot import exp

from ..errors import UsageError
from .query_catalog import Catalog, Table, UnknownName
from .query_conditions import conditions_of
from .query_pages import behind, place_names, set_order, total_order, with_key
from .query_parts import Parameters, Source, as_text, call, identifier, name_of
from .query_shape import Asked, Count, Find, Insert, Related, Shape, Update
from .query_types import check_written, is_exact_in_json, is_written_alike
from .query_words import Sort

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
        self._parameters = Parameters(literal)
        self._aliases = 0

    def compile(self, shape: Shape) -> Compiled:
        table = self._catalog.table(shape.table) if self._catalog is not None else None
        source = Source(shape.table, table)
        answer: Answer = "rows"
        if isinstance(shape, Find):
            return self._find(shape, source)
        if isinstance(shape, Count):
            counted = exp.Count(this=exp.Star(), big_int=True)
            statement = self._select([counted], source)
            self._where(statement, [shape.where], source)
            return self._done(statement, "number")
        if isinstance(shape, Insert):
            statement = self._insert(shape, source)
            answer = "one" if shape.single else "rows"
        elif isinstance(shape, Update):
            settings = zip(shape.columns, shape.kinds, strict=True)
            statement = exp.Update(
                this=source.node(), expressions=self._settings(settings, 0, source)
            )
            self._where(statement, [shape.where], source)
        else:
            statement = exp.Delete(this=source.node())
            self._where(statement, [shape.where], source)
        if shape.returning == ():
            return self._done(statement, "count")
        names = [source.column(name) for name in shape.returning or ()]
        statement.set("returning", exp.Returning(expressions=names or [exp.Star()]))
        return self._done(statement, answer)

    def _done(self, statement: exp.Expr, answer: Answer, **more: Any) -> Compiled:
        slots = tuple(self._parameters.slots)
        in_order = slots == tuple(range(len(slots)))
        return Compiled(
            statement.sql(dialect="postgres"),
            None if in_order else slots,
            tuple(self._parameters.json),
            answer,
            **more,
        )

    # Writes

    def _insert(self, shape: Insert, source: Source) -> exp.Expr:
        into = source.node()
        if into.name == _PROPOSED:  # the row that was to be inserted is called so
            into.set("alias", exp.TableAlias(this=self._alias()))
        if not shape.columns:
            return exp.Insert(this=into, default=True)
        columns = [source.known(name) for name in shape.columns]
        for kinds in shape.kinds:
            for column, kind in zip(columns, kinds, strict=True):
                check_written(shape.table, column, kind)
        cells = exp.Tuple(expressions=[exp.Placeholder() for _ in columns])
        # One row is as good as another; thousands of equal nodes would only take time.
        rows = exp.Var(this=", ".join([cells.sql(dialect="postgres")] * shape.rows))
        self._parameters.rows(columns, shape.rows)
        statement = exp.Insert(
            this=exp.Schema(this=into, expressions=[identifier(name) for name in shape.columns]),
            expression=exp.Values(expressions=[rows]),
        )
        if shape.conflict is not None:
            statement.set("conflict", self._conflict(shape, shape.conflict, source))
        return statement

    def _conflict(self, shape: Insert, key: tuple[str, ...], source: Source) -> exp.Expr:
        for name in (*key, *shape.update):
            source.known(name)
        if source.table is not None and key:
            _check_key(source.table, key)
        settings: list[exp.Expr] = []
        for name in shape.update:
            proposed = exp.Column(this=identifier(name), table=exp.to_identifier(_PROPOSED))
            settings.append(exp.EQ(this=identifier(name), expression=proposed))
        first = len(shape.columns) * shape.rows
        settings += self._settings(shape.settings, first, source)
        return exp.OnConflict(
            conflict_keys=[identifier(name) for name in key],
            action=exp.Var(this="DO UPDATE" if settings else "DO NOTHING"),
            expressions=settings,
        )

    def _settings(
        self, settings: Iterable[tuple[str, type]], first: int, source: Source
    ) -> list[exp.Expr]:
        """Columns set to the values from a place on."""
        found: list[exp.Expr] = []
        for slot, (name, kind) in enumerate(settings, first):
            column = source.known(name)
            check_written(source.name, column, kind)
            is_json = column is not None and column.is_json
            value = self._parameters.value(slot, is_json=is_json)
            found.append(exp.EQ(this=identifier(name), expression=value))
        return found

    # Reads

    def _find(self, shape: Find, source: Source) -> Compiled:
        if shape.related:
            source = source._replace(alias=self._alias())
        shown: list[exp.Expr] = [source.column(name) for name in shape.columns or ()]
        shown = shown or [source.star()]
        names = shape.columns or (
            [column.name for column in source.table.columns] if source.table is not None else ()
        )
        items, nested = self._all_related(shape.related, names, source)
        shown += items
        order, place = shape.order, tuple[str, ...]()
        if shape.paged:
            table = _needed(source, "a page")
            order = total_order(table, order)
            place = place_names(len(order), [*(c.name for c in table.columns), *dict(nested)])
            shown += [
                exp.Alias(this=as_text(source.column(sort.column)), alias=identifier(name))
                for sort, name in zip(order, place, strict=True)
            ]
        statement = self._select(shown, source)
        conditions = conditions_of([shape.where], source, self._parameters)
        if shape.after is not None:
            table = _needed(source, "a page")
            conditions.append(behind(shape, order, table, source, self._parameters))
        _set_where(statement, conditions)
        set_order(statement, order, source)
        self._limits(statement, shape.limit, shape.offset)
        answer: Answer = "page" if shape.paged else "one" if shape.single else "rows"
        asked = shape.order if shape.paged else ()
        return self._done(
            statement, answer, nested=nested, place=place, limit=shape.limit, order=asked
        )

    def _all_related(
        self, wanted: Sequence[Related], columns: Sequence[str], source: Source
    ) -> tuple[list[exp.Expr], tuple[tuple[str, Nested], ...]]:
        """Columns that hold the related rows of a row."""
        items: list[exp.Expr] = []
        nested: dict[str, Nested] = {}
        for related in wanted:
            item, nested[related.key] = self._related(related, source)
            if related.key in columns:
                raise UsageError(
                    f"{related.key!r} would be both a column and a relation in the rows of "
                    f"{source.name}",
                    'Give the relation another name: {"name": {"relation": "…"}}.',
                )
            items.append(exp.Alias(this=item, alias=identifier(related.key)))
        return items, tuple(nested.items())

    def _related(self, related: Related, outer: Source) -> tuple[exp.Expr, Nested]:
        """A subquery that gives the related rows of an outer row as JSON."""
        table = _needed(outer, f"relation {related.key!r}")
        assert self._catalog is not None
        relation = self._catalog.relation(table, related.relation)
        target = relation.target
        source = Source(name_of(target), target, self._alias())
        names = related.columns or tuple(column.name for column in target.columns)
        columns = [target.column(name) for name in names]
        shown: list[exp.Expr] = []
        for column in columns:
            value: exp.Expr = source.column(column.name)
            if not (is_exact_in_json(column) or is_written_alike(column)):
                value = exp.Alias(this=as_text(value), alias=identifier(column.name))
            shown.append(value)
        items, nested = self._all_related(related.related, names, source)
        rows = self._select(shown + items, source)
        joined: list[exp.Expr] = [
            exp.EQ(this=source.column(theirs), expression=outer.column(ours))
            for ours, theirs in relation.pairs
        ]
        _set_where(rows, joined + conditions_of([related.where], source, self._parameters))
        if relation.many:
            set_order(rows, with_key(target, related.order), source)
        self._limits(rows, related.limit, related.offset)
        texts = tuple((c.name, c.oid) for c in columns if not is_exact_in_json(c))
        return self._as_json(rows, relation.many), Nested(relation.many, texts, nested)

    def _as_json(self, rows: exp.Expr, many: bool) -> exp.Expr:
        alias = self._alias()
        value: exp.Expr = call("ROW_TO_JSON", exp.Column(this=exp.Star(), table=alias))
        if many:
            empty = exp.Cast(this=exp.Literal.string("[]"), to=exp.DataType.build("json"))
            value = call("COALESCE", call("JSON_AGG", value), empty)
        whole = exp.Select(expressions=[value])
        source = exp.Subquery(this=rows, alias=exp.TableAlias(this=alias.copy()))
        whole.set("from_", exp.From(this=source))
        return exp.Subquery(this=whole)

    # Pieces

    def _select(self, shown: list[exp.Expr], source: Source) -> exp.Expr:
        statement = exp.Select(expressions=shown)
        statement.set("from_", exp.From(this=source.node()))
        return statement

    def _where(self, statement: exp.Expr, shapes: Iterable[Any], source: Source) -> None:
        _set_where(statement, conditions_of(shapes, source, self._parameters))

    def _limits(self, statement: exp.Expr, limit: int, offset: int) -> None:
        if limit >= 0:
            statement.set("limit", exp.Limit(expression=self._parameters.value(limit)))
        if offset >= 0:
            statement.set("offset", exp.Offset(expression=self._parameters.value(offset)))

    def _alias(self) -> exp.Identifier:
        self._aliases += 1
        return exp.to_identifier(f"t{self._aliases}", quoted=True)


_PROPOSED = "excluded"


def _set_where(statement: exp.Expr, conditions: list[exp.Expr]) -> None:
    if conditions:
        statement.set("where", exp.Where(this=exp.and_(*conditions, copy=False)))


def _needed(source: Source, what: str) -> Table:
    if source.table is None:
        raise UnknownName(
            f"{what} of {source.name} needs its keys, which are not known here",
            "Compile it with a catalog.",
        )
    return source.table


def _check_key(table: Table, names: Sequence[str]) -> None:
    if any(set(key) == set(names) for key in table.keys):
        return
    keys = "; ".join(", ".join(key) for key in table.keys)
    raise UnknownName(
        f"{table.name} has no unique key on {', '.join(names)}",
        f"A conflict is one of a unique key. There are: {keys or 'none'}.",
    )


def parameters_of(asked: Asked, compiled: Compiled) -> list[Any]:
    """The parameters of a statement, in the order of its text."""
    values = asked.values
    return values if compiled.slots is None else [values[slot] for slot in compiled.slots]
