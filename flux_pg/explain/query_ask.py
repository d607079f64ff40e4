"""Structured queries as their callers ask them: each `ask_…` gives a shape and its values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import UsageError
from .query_cursor import read_cursor
from .query_given import (
    MAX_DEPTH,
    MAX_NUMBER,
    Names,
    Order,
    Relations,
    read_condition,
    read_names,
    read_number,
    read_order,
    read_relations,
    wrong,
)
from .query_shape import Asked, Compare, Count, Delete, Find, Insert, Update
from .query_words import Condition, Joined

MAX_PARAMETERS = 65_535
"""The protocol has two bytes for their number."""

Row: TypeAlias = Mapping[str, Any]


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
        read_condition(where, values) if where else None,
        None if columns is None else read_names(columns),
        read_relations(related, values, MAX_DEPTH) if related else (),
        read_order(order) if order else (),
        -1 if limit is None else read_number("limit", limit, values),
        -1 if offset is None else read_number("offset", offset, values),
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
    condition = read_condition(where, values) if where else None
    inner = read_relations(related, values, MAX_DEPTH) if related else ()
    sorts = read_order(order)
    pattern, after_slot = None, -1
    if after is not None:
        place = read_cursor(after, table, sorts)
        pattern, after_slot = tuple(text is None for text in place), len(values)
        values.extend(text for text in place if text is not None)
    slot = read_number("a page's limit", limit, values, 1, MAX_NUMBER - 1)
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
    condition = read_condition(where, values) if where else None
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
        raise wrong("what to insert", rows, "a row, or a list of rows")
    return list(rows)


def _columns_of(table: str, rows: Sequence[Row]) -> tuple[str, ...]:
    if not rows:
        raise UsageError(
            f"insert into {table}: there is no row to insert", "Pass at least one row."
        )
    first = rows[0]
    for row in rows:
        if not isinstance(row, Mapping):
            raise wrong("a row", row, "a mapping of columns to values")
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
        raise wrong("what to set", row, "a mapping of columns to values")
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
    condition = read_condition(where, values) if where else None
    if condition is not None and not (_always(condition) and all_rows is not True):
        return condition
    if all_rows is True:
        return None
    told = "without a condition" if condition is None else "with a condition that always holds"
    raise UsageError(
        f"{verb} on {table} {told} would touch every row",
        "Name at least one column, or ask for it: all_rows=True.",
    )


def _always(condition: Any) -> bool | None:
    """Whether a condition holds for every row, whatever is in it; False for none, None: depends.

    An empty list is seldom meant: `not in []` would delete everything.
    """
    if isinstance(condition, Compare):
        is_list = condition.op in ("in", "any") and not condition.or_null
        return False if is_list and condition.kind is type(None) else None
    if not isinstance(condition, Joined):
        return None
    parts = [_always(part) for part in condition.parts]
    if condition.word == "not":
        return None if parts[0] is None else not parts[0]
    ends = condition.word == "or"
    if ends in parts:
        return ends
    return None if None in parts else not ends
