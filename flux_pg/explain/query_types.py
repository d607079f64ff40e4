"""Which values go with which columns, as far as their types alone tell. Pure.

Only what Postgres would surely refuse is refused here, with the column's name; whether a text is a
date or a number is left to Postgres, which knows.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from functools import lru_cache

from ..errors import UsageError
from .query_catalog import Column

_BYTEA, _UUID = 17, 2950
_CATEGORIES = frozenset("ABDNST")
# What JSON holds as it is: boolean, integers, floats, text types, JSON itself.
_EXACT_IN_JSON = frozenset({16, 20, 21, 23, 25, 114, 1042, 1043, 3802})
_FAMILIES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "B"),
    ((int, float, decimal.Decimal), "N"),
    ((datetime.date, datetime.time), "D"),
    (datetime.timedelta, "T"),
    (uuid.UUID, "uuid"),
    ((bytes, bytearray, memoryview), "bytea"),
    ((list, tuple, set, frozenset), "A"),
    (dict, "json"),
)
_SHOWN = {
    "S": "a text",
    "B": "a boolean",
    "N": "a number",
    "D": "a date or time",
    "T": "a timedelta",
    "uuid": "a UUID",
    "bytea": "bytes",
    "A": "a list",
    "json": "an object",
}


def is_exact_in_json(column: Column) -> bool:
    """Whether JSON holds the column's values as they are."""
    return column.oid in _EXACT_IN_JSON


def is_written_alike(column: Column) -> bool:
    """Whether JSON has the values as Postgres writes them, where a cast to text has not."""
    return column.category == "I"


def cast_of(column: Column | None) -> str | None:
    """What a value must be cast to, because Postgres does not find out by itself."""
    return column.type if column is not None and column.category == "C" else None


def is_scalar(kind: type) -> bool:
    """Whether a value is a number, a date or a time."""
    return _family(kind) in ("N", "D")


def check_written(table: str, column: Column | None, kind: type) -> None:
    """A value of this type may be written to the column.

    Raises:
        UsageError: Postgres has no way from one to the other.
    """
    # A text column takes anything, JSON holds anything.
    if column is None or column.is_json or column.category == "S":
        return
    family = _family(kind)
    if family and _column_family(column) not in (None, family):
        raise _mismatch(table, column, f"cannot be set to {_SHOWN[family]}")


def check_compared(table: str, column: Column | None, kind: type, op: str) -> None:
    """A column may be compared with a value of this type.

    Raises:
        UsageError: Postgres has no such operator.
    """
    if column is None or column.is_json:
        if column is not None and op in ("like", "ilike"):
            raise _mismatch(table, column, f"cannot be compared by {op}")
        return
    mine, family = _column_family(column), _family(kind)
    if op in ("like", "ilike") and mine not in (None, "S"):
        raise _mismatch(table, column, f"cannot be compared by {op}")
    if op == "contains":
        if mine not in (None, "S", "A"):
            raise _mismatch(table, column, "contains nothing: it is no text, array or JSON")
        if mine == "A":
            return
    if family and mine not in (None, family):
        raise _mismatch(table, column, f"cannot be compared with {_SHOWN[family]}")


def _column_family(column: Column) -> str | None:
    """Which values are the column's own; None if that is not known here."""
    if column.oid == _UUID:
        return "uuid"
    if column.oid == _BYTEA:
        return "bytea"
    return column.category if column.category in _CATEGORIES else None


@lru_cache(maxsize=1024)
def _family(kind: type) -> str | None:
    """Which columns take values of a Python type; None for those that any might take."""
    for kinds, family in _FAMILIES:
        if issubclass(kind, kinds):
            return family
    return None


def _mismatch(table: str, column: Column, what: str) -> UsageError:
    name = f"{table}.{column.name}" if table else column.name
    family = "json" if column.is_json else _column_family(column)
    takes = _SHOWN.get(family or "", "a value of that type")
    hint = f"It takes {takes}." if family == "S" else f"It takes {takes}, or its text."
    return UsageError(f"{name} is {column.type}: it {what}", hint, code="wrong-type")
