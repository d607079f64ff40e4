"""A structured query taken apart: its shape, which becomes SQL once, and its values. Pure.

Laws:
- A shape holds no value, only names, operators, the Python types of values, and the place of each
  value in the list beside it. Equal shapes are the same SQL text, so that a shape which was
  compiled before costs a look-up.
- Nothing of a value can get into a shape but its type, and whether it is null.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import msgspec

from ..errors import UsageError
from .query_cursor import read_cursor
from .query_words import Condition, Joined, Sort, Test

MAX_DEPTH = 32
"""Conditions inside conditions, relations inside relations."""

MAX_NUMBER = 2**63 - 1
MAX_PARAMETERS = 65_535
"""The protocol has two bytes for their number."""

Row: TypeAlias = Mapping[str, Any]
Order: TypeAlias = str | Sort | Sequence[str | Sort]
Names: TypeAlias = str | Sequence[str]
Relations: TypeAlias = str | Sequence[str] | Mapping[str, Any]

_COMPARISONS = frozenset({"eq", "ne", "lt", "lte", "gt", "gte", "like", "ilike", "contains"})
OPERATORS = (*sorted(_COMPARISONS), "in", "is_null")
_SEVERAL = frozenset({list, tuple, set, frozenset})
_RELATION_OPTIONS = frozenset({"relation", "columns", "where", "order", "limit", "offset"})


class Compare(msgspec.Struct, frozen=True):
    """A column compared with a value.

    Attributes:
        column: Its name.
        op: One of OPERATORS; `any` for a list that stands where a value could, perhaps an array's.
        kind: The value's type; for `in` and `any` that of its first element.
        slot: The value's place.
        or_null: Of `in`: null was among the values.
    """

    column: str
    op: str
    kind: type
    slot: int
    or_null: bool = False


class Null(msgspec.Struct, frozen=True):
    """A column is null, or is not."""

    column: str
    null: bool = True


class Related(msgspec.Struct, frozen=True):
    """Rows of another table inside each row; places of values are -1 where there is none."""

    key: str
    relation: str
    columns: tuple[str, ...] | None = None
    where: Joined | None = None
    order: tuple[Sort, ...] = ()
    limit: int = -1
    offset: int = -1
    related: tuple[Related, ...] = ()


class Find(msgspec.Struct, frozen=True):
    """SELECT; places of values are -1 where there is none.

    Attributes:
        paged: One row more than the limit is asked for, and with each row its place in the order.
        after: Of a page after another: which values of the last row's place are null.
        after_slot: The place of the first of these values; nulls have none.
        literal: From JSON: a text in a JSON column is a JSON text, not a JSON document.
    """

    table: str
    where: Joined | None = None
    columns: tuple[str, ...] | None = None
    related: tuple[Related, ...] = ()
    order: tuple[Sort, ...] = ()
    limit: int = -1
    offset: int = -1
    single: bool = False
    paged: bool = False
    after: tuple[bool, ...] | None = None
    after_slot: int = -1
    literal: bool = False


class Count(msgspec.Struct, frozen=True):
    """SELECT COUNT(*)."""

    table: str
    where: Joined | None = None
    literal: bool = False


class Insert(msgspec.Struct, frozen=True):
    """INSERT; the values of the rows come first, one row after another.

    Attributes:
        kinds: The types of the values of each row, every combination once.
        single: The answer is the row, not a list.
        conflict: Columns of the key that may be taken; () for any key; None for an error.
        update: Columns that are then taken from the row to insert.
        settings: Columns that are then set to values of their own, and these values' types.
        returning: Columns; None for all, () for the number of rows.
    """

    table: str
    columns: tuple[str, ...]
    kinds: frozenset[tuple[type, ...]]
    rows: int = 1
    single: bool = False
    conflict: tuple[str, ...] | None = None
    update: tuple[str, ...] = ()
    settings: tuple[tuple[str, type], ...] = ()
    returning: tuple[str, ...] | None = None
    literal: bool = False


class Update(msgspec.Struct, frozen=True):
    """UPDATE; the values to set come first."""

    table: str
    columns: tuple[str, ...]
    kinds: tuple[type, ...]
    where: Joined | None
    returning: tuple[str, ...] | None = None
    literal: bool = False


class Delete(msgspec.Struct, frozen=True):
    """DELETE."""

    table: str
    where: Joined | None
    returning: tuple[str, ...] | None = None
    literal: bool = False


Shape: TypeAlias = Find | Count | Insert | Update | Delete


class Asked(msgspec.Struct, frozen=True):
    """A structured query: its shape, and its values in the order of their places."""

    shape: Shape
    values: list[Any]


def ask_find(
    table: str,
    where: Condition | None = None,
    *,
    columns: Names | None = None,
    related: Relations = (),
    order: Order = (),
    limit: int | None = None,
    offset: int | None = None,
    single: bool = False,
    literal: bool = False,
) -> Asked:
    """Rows."""
    values: list[Any] = []
    shape = Find(
        table,
        _condition(where, values) if where else None,
        None if columns is None else read_names(columns),
        _relations(related, values, MAX_DEPTH) if related else (),
        read_order(order) if order else (),
        -1 if limit is None else _number("limit", limit, values),
        -1 if offset is None else _number("offset", offset, values),
        single,
        literal=literal,
    )
    return Asked(shape, values)


def ask_page(
    table: str,
    where: Condition | None = None,
    *,
    columns: Names | None = None,
    related: Relations = (),
    order: Order = (),
    limit: int = 50,
    after: str | None = None,
    literal: bool = False,
) -> Asked:
    """A page of rows: those after a cursor, or the first ones.

    Raises:
        UsageError: The cursor is none of this table and order (code `bad-cursor`).
    """
    values: list[Any] = []
    condition = _condition(where, values) if where else None
    inner = _relations(related, values, MAX_DEPTH) if related else ()
    sorts = read_order(order)
    pattern, after_slot = None, -1
    if after is not None:
        place = read_cursor(after, table, sorts)
        pattern, after_slot = tuple(text is None for text in place), len(values)
        values.extend(text for text in place if text is not None)
    if limit == 0:
        raise UsageError("a page needs a limit of at least 1", "Pass how many rows it may have.")
    slot = _number("limit", limit, values)
    values[slot] += 1
    names = None if columns is None else read_names(columns)
    shape = Find(
        table, condition, names, inner, sorts, slot,
        paged=True, after=pattern, after_slot=after_slot, literal=literal,
    )  # fmt: skip
    return Asked(shape, values)


def ask_count(table: str, where: Condition | None = None, *, literal: bool = False) -> Asked:
    """How many rows."""
    values: list[Any] = []
    condition = _condition(where, values) if where else None
    return Asked(Count(table, condition, literal), values)


def ask_insert(
    table: str,
    rows: Row | Sequence[Row],
    *,
    on_conflict: Names | None = None,
    update: Names | Row = (),
    returning: Names | None = None,
    literal: bool = False,
) -> Asked:
    """Insert rows.

    Raises:
        UsageError: No row, rows that differ in their columns, too many, or `update` without
            `on_conflict`.
    """
    single = isinstance(rows, Mapping)
    several = [rows] if isinstance(rows, Mapping) else _several(rows)
    columns = _columns_of(table, several)
    values = [row[column] for row in several for column in columns]
    if len(several) == 1:
        kinds = frozenset([tuple(map(type, values))])
    else:
        kinds = frozenset(tuple([type(row[name]) for name in columns]) for row in several)
    conflict = None if on_conflict is None else read_names(on_conflict)
    taken, settings = _on_conflict(table, conflict, update, values) if update else ((), ())
    if len(values) > MAX_PARAMETERS:
        raise UsageError(
            f"insert into {table}: {len(several)} rows of {len(columns)} columns are more than "
            f"{MAX_PARAMETERS} values",
            f"Insert at most {MAX_PARAMETERS // max(1, len(columns))} rows at once.",
        )
    shape = Insert(
        table, columns, kinds, len(several), single, conflict, taken, settings,
        None if returning is None else read_names(returning), literal,
    )  # fmt: skip
    return Asked(shape, values)


def ask_update(
    table: str,
    where: Condition,
    row: Row,
    *,
    returning: Names | None = None,
    all_rows: bool = False,
    literal: bool = False,
) -> Asked:
    """Change rows.

    Raises:
        UsageError: Nothing to set, or no condition and not `all_rows`.
    """
    values = _settings(table, row)
    condition = _needed("update", table, where, all_rows, values)
    names = None if returning is None else read_names(returning)
    kinds = tuple(map(type, row.values()))
    return Asked(Update(table, read_names(row), kinds, condition, names, literal), values)


def ask_delete(
    table: str,
    where: Condition,
    *,
    returning: Names | None = None,
    all_rows: bool = False,
    literal: bool = False,
) -> Asked:
    """Delete rows.

    Raises:
        UsageError: No condition and not `all_rows`.
    """
    values: list[Any] = []
    condition = _needed("delete", table, where, all_rows, values)
    names = None if returning is None else read_names(returning)
    return Asked(Delete(table, condition, names, literal), values)


def _several(rows: Any) -> list[Row]:
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise _wrong("what to insert", rows, "a row, or a list of rows")
    return list(rows)


def _columns_of(table: str, rows: Sequence[Row]) -> tuple[str, ...]:
    if not rows:
        raise UsageError(
            f"insert into {table}: there is no row to insert", "Pass at least one row."
        )
    first = rows[0]
    for row in rows:
        if not isinstance(row, Mapping):
            raise _wrong("a row", row, "a mapping of columns to values")
        if row.keys() != first.keys():
            raise UsageError(
                f"insert into {table}: the rows differ in their columns "
                f"({', '.join(map(str, first))} against {', '.join(map(str, row))})",
                "Give every row the same columns.",
            )
    if not first and len(rows) > 1:
        raise UsageError(
            f"insert into {table}: several rows without columns", "Insert them one by one."
        )
    return read_names(first)


def _settings(table: str, row: Any) -> list[Any]:
    if not isinstance(row, Mapping):
        raise _wrong("what to set", row, "a mapping of columns to values")
    if not row:
        raise UsageError(f"update {table}: there is nothing to set", "Pass at least one column.")
    return list(row.values())


def _on_conflict(
    table: str, conflict: tuple[str, ...] | None, update: Names | Row, values: list[Any]
) -> tuple[tuple[str, ...], tuple[tuple[str, type], ...]]:
    if not conflict:
        raise UsageError(
            f"insert into {table}: update needs on_conflict with the columns of a key",
            'For example on_conflict="email", update=["name"].',
        )
    if not isinstance(update, Mapping):
        return read_names(update), ()
    values.extend(update.values())
    return (), tuple(zip(read_names(update), map(type, update.values()), strict=True))


def _needed(
    verb: str, table: str, where: Condition | None, all_rows: bool, values: list[Any]
) -> Joined | None:
    if where:
        return _condition(where, values)
    if all_rows is True:
        return None
    raise UsageError(
        f"{verb} on {table} without a condition would touch every row",
        "Name at least one column, or ask for it: all_rows=True.",
    )


# Conditions


def _condition(where: Condition, values: list[Any], depth: int = MAX_DEPTH) -> Joined:
    """The shape of a condition on a row.

    Raises:
        UsageError: It is none, is nested too deep, or is empty somewhere inside: an empty part is
            true for every row, which nobody means.
    """
    if isinstance(where, Joined):
        parts = [_condition(part, values, deeper(depth)) for part in where.parts]
        if not parts:
            _refuse_empty()
        return Joined(where.word, tuple(parts))
    if not isinstance(where, Mapping):
        raise _wrong("a condition", where, "a mapping of columns to values, or made by q")
    if not where:
        _refuse_empty()
    return Joined(
        "and", tuple([_test(column, given, values, depth) for column, given in where.items()])
    )


def _test(column: str, given: Any, values: list[Any], depth: int) -> Any:
    """The shape of what is asked of one column."""
    if type(column) is not str:
        raise _wrong("a column's name", column, "a text")
    if given is None:
        return Null(column)
    kind = type(given)
    if kind is Test:
        return _word(column, given.op, given.value, values)
    if kind is Joined:
        parts = [_test(column, part, values, deeper(depth)) for part in given.parts]
        if not parts:
            _refuse_empty()
        return Joined(given.word, tuple(parts))
    if kind in _SEVERAL:
        return _any(column, "any", given, values)
    values.append(given)
    return Compare(column, "eq", kind, len(values) - 1)


def _word(column: str, op: str, value: Any, values: list[Any]) -> Any:
    if op == "is_null":
        if type(value) is not bool:
            raise _wrong(f"{column}: is_null", value, "true or false")
        return Null(column, value)
    if op == "in":
        if type(value) not in _SEVERAL:
            raise _wrong(f"{column}: in", value, "a list")
        return _any(column, "in", value, values)
    if op not in _COMPARISONS:
        raise UsageError(
            f"{column}: there is no operator {op!r}", f"There are: {', '.join(OPERATORS)}."
        )
    if value is None:
        if op in ("eq", "ne"):
            return Null(column, op == "eq")
        raise UsageError(
            f"{column}: {op} with null is true for no row", "Use is_null, eq or ne with null."
        )
    if op in ("like", "ilike") and not isinstance(value, str):
        raise _wrong(f"{column}: {op}", value, "a text")
    values.append(value)
    return Compare(column, op, type(value), len(values) - 1)


def _any(column: str, op: str, given: Any, values: list[Any]) -> Compare:
    elements = list(given)
    or_null = any(element is None for element in elements)
    if or_null:
        elements = [element for element in elements if element is not None]
    values.append(elements)
    kind = type(elements[0]) if elements else type(None)
    return Compare(column, op, kind, len(values) - 1, or_null)


def deeper(depth: int) -> int:
    """One step down.

    Raises:
        UsageError: It was the last.
    """
    if not depth:
        raise UsageError(f"it is nested more than {MAX_DEPTH} deep", "Ask for less at once.")
    return depth - 1


def _refuse_empty() -> NoReturn:
    raise UsageError(
        "a part of the condition is empty, which would be true for every row",
        "Leave it out, or name a column in it.",
    )


# Names, orders, relations


def read_names(names: Any) -> tuple[str, ...]:
    """Names of columns; one may stand for itself."""
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, (Sequence, Mapping)) or isinstance(names, (bytes, bytearray)):
        raise _wrong("columns", names, "a list of names")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise _wrong("a column's name", name, "a text")
    if len(set(found)) < len(found):
        raise UsageError(f"columns are named twice: {', '.join(found)}", "Name each once.")
    return found


def read_order(order: Any) -> tuple[Sort, ...]:
    """What to order by: `"name"`, `"-name"` for downwards, `q.asc(...)`, `q.desc(...)`."""
    if isinstance(order, (str, Sort)):
        order = (order,)
    if not isinstance(order, (list, tuple)):
        raise _wrong("order", order, 'a column, like "name" or "-name", or a list of them')
    return tuple([_sort(one) for one in order])


def _sort(one: Any) -> Sort:
    if isinstance(one, str):
        return Sort(one[1:], True) if one.startswith("-") else Sort(one)
    if not isinstance(one, Sort):
        raise _wrong("order", one, 'a column, like "name" or "-name", or made by q')
    if not isinstance(one.column, str):
        raise _wrong("a column's name", one.column, "a text")
    if one.nulls not in (None, "first", "last") or type(one.descending) is not bool:
        raise _wrong(f"order by {one.column}: nulls", one.nulls, '"first" or "last"')
    return one


def _relations(related: Relations, values: list[Any], depth: int) -> tuple[Related, ...]:
    if isinstance(related, str):
        related = {related: True}
    elif isinstance(related, (list, tuple)):
        related = dict.fromkeys(read_names(related), True)
    if not isinstance(related, Mapping):
        raise _wrong("related", related, "a relation's name, a list of them, or a mapping")
    return tuple([_relation(key, given, values, depth) for key, given in related.items()])


def _relation(key: Any, given: Any, values: list[Any], depth: int) -> Related:
    if not isinstance(key, str):
        raise _wrong("a relation's name", key, "a text")
    if given is True:
        return Related(key, key)
    if not isinstance(given, Mapping):
        return Related(key, key, read_names(given))
    unknown = [option for option in given if option not in {*_RELATION_OPTIONS, "related"}]
    if unknown:
        raise UsageError(
            f"relation {key}: there is no option {unknown[0]!r}",
            f"There are: {', '.join(sorted(_RELATION_OPTIONS))}, related.",
        )
    get = given.get
    relation = get("relation", key)
    if not isinstance(relation, str):
        raise _wrong("a relation's name", relation, "a text")
    where, inner, limit, offset = get("where"), get("related"), get("limit"), get("offset")
    return Related(
        key,
        relation,
        None if get("columns") is None else read_names(given["columns"]),
        _condition(where, values) if where else None,
        read_order(given["order"]) if get("order") else (),
        -1 if limit is None else _number("limit", limit, values),
        -1 if offset is None else _number("offset", offset, values),
        _relations(inner, values, deeper(depth)) if inner else (),
    )


def _number(what: str, number: Any, values: list[Any]) -> int:
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise _wrong(what, number, "a whole number that is not negative")
    values.append(number)
    return len(values) - 1


def _wrong(what: str, given: Any, wanted: str) -> UsageError:
    shown = reprlib.repr(given)  # of bounded depth
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    return UsageError(f"{what} is {shown}", f"It must be {wanted}.", code="bad-query")
