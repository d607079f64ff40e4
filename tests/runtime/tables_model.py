"""What structured queries mean, on plain lists of dicts: the oracle. It shares no code with Flux.

A query is made of neutral parts, so that the same one can be written with `q`, as JSON, and be
answered here: a condition is `("test", column, operator, value)`, `("and", [...])`, `("or", [...])`
or `("not", condition)`; an order is a list of `(column, descending, nulls)`.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from functools import cmp_to_key
from typing import Any

Row = dict[str, Any]

KEYS = {
    "regions": ["id"],
    "customers": ["id"],
    "orders": ["id"],
    "lines": ["order_id", "number"],
}
# Relation: the other table, pairs of columns, and whether there may be several rows.
RELATIONS: dict[str, dict[str, tuple[str, list[tuple[str, str]], bool]]] = {
    "regions": {"customers": ("customers", [("id", "region_id")], True)},
    "customers": {
        "region": ("regions", [("region_id", "id")], False),
        "orders": ("orders", [("id", "customer_id")], True),
    },
    "orders": {
        "customer": ("customers", [("customer_id", "id")], False),
        "lines": ("lines", [("id", "order_id")], True),
    },
    "lines": {"order": ("orders", [("order_id", "id")], False)},
}


def comparable(value: Any) -> Any:
    """A value as Postgres sorts it: NaN equals itself and is the largest."""
    if isinstance(value, float):
        return (1, 0.0) if math.isnan(value) else (0, value)
    if isinstance(value, decimal.Decimal):
        return (1, decimal.Decimal(0)) if value.is_nan() else (0, value)
    if isinstance(value, str):
        return value.encode()  # the columns are collated "C"
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    return value


def compare(left: Any, right: Any) -> int:
    one, other = comparable(left), comparable(right)
    return (one > other) - (one < other)


def truth(row: Row, condition: Any) -> bool | None:
    """Whether a row fulfils a condition; None is SQL's unknown."""
    word = condition[0]
    if word == "test":
        return test(row[condition[1]], condition[2], condition[3])
    if word == "not":
        inner = truth(row, condition[1])
        return None if inner is None else not inner
    found = [truth(row, part) for part in condition[1]]
    decisive = word == "or"
    if decisive in found:
        return decisive
    return None if None in found else not decisive


def test(value: Any, op: str, given: Any) -> bool | None:
    if op == "is_null":
        return (value is None) == given
    if op in ("eq", "ne") and given is None:
        return (value is None) == (op == "eq")
    if op == "in":
        if value is None:
            return True if None in given else (None if given else False)
        return any(one is not None and compare(value, one) == 0 for one in given)
    if value is None:
        return None
    if op in ("like", "ilike"):
        pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in given)
        flags = re.S | (re.I if op == "ilike" else 0)
        return re.fullmatch(pattern, value, flags) is not None
    if op == "contains":
        if isinstance(value, str):
            return given in value
        return set(given if isinstance(given, list) else [given]) <= set(value)
    sign = compare(value, given)
    return {
        "eq": sign == 0, "ne": sign != 0, "lt": sign < 0,
        "lte": sign <= 0, "gt": sign > 0, "gte": sign >= 0,
    }[op]  # fmt: skip


def ordered(rows: list[Row], order: list[tuple[str, bool, str | None]]) -> list[Row]:
    def before(one: Row, other: Row) -> int:
        for column, descending, nulls in order:
            left, right = one[column], other[column]
            if (left is None) != (right is None):
                first = descending if nulls is None else nulls == "first"
                return -1 if (left is None) == first else 1
            sign = 0 if left is None else compare(left, right)
            if sign:
                return -sign if descending else sign
        return 0

    return sorted(rows, key=cmp_to_key(before))


def total(table: str, order: list[Any]) -> list[Any]:
    """The order with the key at its end, downwards where all of it goes down."""
    given = {column for column, _, _ in order}
    down = bool(order) and all(descending for _, descending, _ in order)
    return [*order, *((key, down, None) for key in KEYS[table] if key not in given)]


class Model:
    """The tables, as lists of rows."""

    def __init__(self, tables: dict[str, list[Row]]) -> None:
        self.tables = tables

    def matching(self, table: str, condition: Any) -> list[Row]:
        rows = self.tables[table]
        return [row for row in rows if condition is None or truth(row, condition) is True]

    def find(self, table: str, query: dict[str, Any], rows: list[Row] | None = None) -> list[Row]:
        """Rows of a table, or of those given, by `where`, `order`, `limit`, `offset`, `columns`
        and `related`."""
        condition = query.get("where")
        found = self.tables[table] if rows is None else rows
        found = [row for row in found if condition is None or truth(row, condition) is True]
        found = ordered(found, total(table, query.get("order") or []))
        start = query.get("offset") or 0
        limit = query.get("limit")
        found = found[start:] if limit is None else found[start : start + limit]
        return [self._shown(table, row, query) for row in found]

    def _shown(self, table: str, row: Row, query: dict[str, Any]) -> Row:
        shown = {name: row[name] for name in query.get("columns") or row}
        for key, (relation, inner) in (query.get("related") or {}).items():
            other, pairs, many = RELATIONS[table][relation]
            rows = [
                one
                for one in self.tables[other]
                if all(row[ours] is not None and row[ours] == one[theirs] for ours, theirs in pairs)
            ]
            answer = self.find(other, inner, rows)
            shown[key] = answer if many else next(iter(answer), None)
        return shown


def shown(value: Any) -> Any:
    """A value with its type, so that 1 and True, or NaN and NaN, are told apart or alike."""
    if isinstance(value, dict):
        return {key: shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shown(inner) for inner in value]
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat()
    return f"{type(value).__name__} {value!r}"
