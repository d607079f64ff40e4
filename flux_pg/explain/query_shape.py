"""A structured query taken apart: its shape, which becomes SQL once, and its values. Pure.

Laws:
- A shape holds no value, only names, operators, the Python types of values, and the place of each
  value in the list beside it. Equal shapes are the same SQL text, so that a shape which was
  compiled before costs a look-up.
- Nothing of a value can get into a shape but its type, and whether it is null.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from .query_words import Joined, Sort

COMPARISONS = frozenset({"eq", "ne", "lt", "lte", "gt", "gte", "like", "ilike", "contains"})
OPERATORS = (*sorted(COMPARISONS), "in", "is_null")


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
