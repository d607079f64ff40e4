"""The words of conditions and orders: `from flux_pg import q`, then `{"total": q.gte(9)}`. Pure.

A condition on a row is a mapping of columns to what they must be, all of them at once: a plain
value (equal; None: is null; a list: any of them) or one of these words. `any_of`, `all_of` and
`not_` join such mappings, or words about one column.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

import msgspec


class Test(msgspec.Struct, frozen=True):
    """What a column is asked: an operator and its value."""

    __test__ = False  # pytest: this is no test of ours
    op: str
    value: Any


class Joined(msgspec.Struct, frozen=True):
    """Conditions joined by `and`, `or`, or one negated by `not`."""

    word: str
    parts: tuple[Any, ...]


class Sort(msgspec.Struct, frozen=True):
    """A column to order by.

    Attributes:
        column: Its name.
        descending: From the largest down.
        nulls: Where rows without a value go; None for Postgres's own way (last, and first when
            descending).
    """

    column: str
    descending: bool = False
    nulls: Literal["first", "last"] | None = None


Condition: TypeAlias = Mapping[str, Any] | Joined
"""What a row must be."""


def eq(value: Any) -> Test:
    """Equal; also to a list or a dict as a whole. None: is null."""
    return Test("eq", value)


def ne(value: Any) -> Test:
    """Not equal, as SQL means it: a row without a value is not found. None: is not null."""
    return Test("ne", value)


def lt(value: Any) -> Test:
    """Less than."""
    return Test("lt", value)


def lte(value: Any) -> Test:
    """Less than or equal."""
    return Test("lte", value)


def gt(value: Any) -> Test:
    """Greater than."""
    return Test("gt", value)


def gte(value: Any) -> Test:
    """Greater than or equal."""
    return Test("gte", value)


def like(pattern: str) -> Test:
    """Like a pattern: `%` stands for any text, `_` for one character."""
    return Test("like", pattern)


def ilike(pattern: str) -> Test:
    """Like a pattern, upper and lower case alike."""
    return Test("ilike", pattern)


def in_(values: Collection[Any]) -> Test:
    """Any of these; None among them: or null."""
    return Test("in", values)


def is_null(null: bool = True) -> Test:
    """Without a value; `is_null(False)`: with one."""
    return Test("is_null", null)


def contains(value: Any) -> Test:
    """Contains: text a text, an array an element or all elements of a list, jsonb and ranges as
    Postgres's `@>`."""
    return Test("contains", value)


def all_of(*conditions: Any) -> Joined:
    """All of these: conditions on a row, or words about one column."""
    return Joined("and", conditions)


def any_of(*conditions: Any) -> Joined:
    """At least one of these: conditions on a row, or words about one column."""
    return Joined("or", conditions)


def not_(condition: Any) -> Joined:
    """Not this, as SQL means it: where a comparison with null is unknown, so is its negation."""
    return Joined("not", (condition,))


def asc(column: str, *, nulls: Literal["first", "last"] | None = None) -> Sort:
    """Order by a column, the smallest first."""
    return Sort(column, False, nulls)


def desc(column: str, *, nulls: Literal["first", "last"] | None = None) -> Sort:
    """Order by a column, the largest first."""
    return Sort(column, True, nulls)
