"""Orders, and the rows behind a place in one: keyset pages into SQL. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from ..errors import InputError
from .query_catalog import Table, UnknownName
from .query_parts import Parameters, Source, is_null
from .query_shape import Find
from .query_types import cast_of
from .query_words import Sort


def set_order(statement: exp.Expr, order: Sequence[Sort], source: Source) -> None:
    """ORDER BY, if there is one."""
    if not order:
        return
    # Of Postgres's own order nothing is said: nulls last, and first when descending.
    keys = [
        exp.Ordered(
            this=source.column(sort.column),
            desc=sort.descending or None,
            nulls_first=_nulls_first(sort),
        )
        for sort in order
    ]
    statement.set("order", exp.Order(expressions=keys))


def total_order(table: Table, order: tuple[Sort, ...]) -> tuple[Sort, ...]:
    """The order, with a key's columns at its end so that no two rows are equal in it.

    Raises:
        UnknownName: The table has no key that tells rows apart.
    """
    if not table.row_key:
        raise UnknownName(
            f"{table.name} has no key that tells its rows apart, so it cannot be read in pages",
            "Give it a primary key; or use limit and offset.",
        )
    return with_key(table, order)


def with_key(table: Table, order: tuple[Sort, ...]) -> tuple[Sort, ...]:
    """The order, with a key's columns at its end if there is a key."""
    given = {sort.column for sort in order}
    down = bool(order) and all(sort.descending for sort in order)
    return (*order, *(Sort(name, down) for name in table.row_key if name not in given))


def place_names(count: int, taken: Sequence[str]) -> tuple[str, ...]:
    """Names that no column has, for the columns that say where a row stands."""
    mark = "$key"
    while any(name.startswith(mark) for name in taken):
        mark = f"${mark}"
    return tuple(f"{mark}{number}" for number in range(1, count + 1))


def behind(
    shape: Find, order: Sequence[Sort], table: Table, source: Source, parameters: Parameters
) -> exp.Expr:
    """Whether a row is behind the place of a cursor in a total order.

    Where every column goes the same way and none can be null, rows are compared as wholes: an index
    on them can serve that. Otherwise: behind in the first column, or equal there and behind in the
    others.

    Raises:
        InputError: The cursor is none of this order.
    """
    assert shape.after is not None
    if len(shape.after) != len(order):
        raise InputError(
            f"the cursor has {len(shape.after)} values, the order {len(order)}",
            "Pass `next` of the page before.",
            code="bad-cursor",
        )
    slot, slots = shape.after_slot, []
    for null in shape.after:
        slots.append(-1 if null else slot)
        slot += not null
    nullable = [table.column(sort.column).nullable for sort in order]
    one_way = len({sort.descending for sort in order}) == 1
    if one_way and not any(nullable) and not any(shape.after):
        left = exp.Tuple(expressions=[source.column(sort.column) for sort in order])
        casts = [cast_of(source.known(sort.column)) for sort in order]
        values = [parameters.value(s, cast=kind) for s, kind in zip(slots, casts, strict=True)]
        right = exp.Tuple(expressions=values)
        return (exp.LT if order[0].descending else exp.GT)(this=left, expression=right)
    places = list(zip(order, slots, nullable, strict=True))
    if nullable[0] or shape.after[0] or len(order) == 1:
        return _behind(places, source, parameters)
    # Says nothing that the rest does not, but an index on the first column can serve it.
    column, cast = source.column(order[0].column), cast_of(source.known(order[0].column))
    bound = exp.LTE if order[0].descending else exp.GTE
    first = bound(this=column, expression=parameters.value(slots[0], cast=cast))
    return exp.and_(first, _behind(places, source, parameters), copy=False)


def _behind(
    places: list[tuple[Sort, int, bool]], source: Source, parameters: Parameters
) -> exp.Expr:
    (sort, slot, nullable), *others = places
    column = source.column(sort.column)
    cast = cast_of(source.known(sort.column))
    ways: list[exp.Expr] = []
    if slot >= 0:
        further = exp.LT if sort.descending else exp.GT
        ways.append(further(this=column, expression=parameters.value(slot, cast=cast)))
        if nullable and not _nulls_first(sort):
            ways.append(is_null(column.copy()))
    elif _nulls_first(sort):
        ways.append(exp.Not(this=is_null(column)))
    if others:
        same: exp.Expr = is_null(column.copy())
        if slot >= 0:
            same = exp.EQ(this=column.copy(), expression=parameters.value(slot, cast=cast))
        ways.append(exp.and_(same, _behind(others, source, parameters), copy=False))
    return exp.or_(*ways, copy=False) if ways else exp.false()


def _nulls_first(sort: Sort) -> bool:
    return sort.descending if sort.nulls is None else sort.nulls == "first"
