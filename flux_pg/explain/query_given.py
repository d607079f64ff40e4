"""What a caller says of conditions, names, orders and relations, into shapes and values. Pure."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from ..errors import UsageError
from .query_shape import COMPARISONS, OPERATORS, Compare, Null, Related
from .query_words import Condition, Joined, Sort, Test

MAX_DEPTH = 32
"""Conditions inside conditions, relations inside relations."""

MAX_NUMBER = 2**63 - 1

Order: TypeAlias = str | Sort | Sequence[str | Sort]
Names: TypeAlias = str | Sequence[str]
Relations: TypeAlias = str | Sequence[str] | Mapping[str, Any]

_SEVERAL = frozenset({list, tuple, set, frozenset})
_RELATION_OPTIONS = frozenset(
    {"relation", "columns", "where", "order", "limit", "offset", "related"}
)


def read_condition(where: Condition, values: list[Any], depth: int = MAX_DEPTH) -> Joined:
    """The shape of a condition on a row.

    Raises:
        UsageError: It is none, is nested too deep, or is empty somewhere inside: an empty part is
            true for every row, which nobody means.
    """
    if isinstance(where, Joined):
        parts = [read_condition(part, values, deeper(depth)) for part in where.parts]
        if not parts:
            _refuse_empty()
        return Joined(where.word, tuple(parts))
    if not isinstance(where, Mapping):
        raise wrong("a condition", where, "a mapping of columns to values, or made by q")
    if not where:
        _refuse_empty()
    return Joined(
        "and", tuple([_test(column, given, values, depth) for column, given in where.items()])
    )


def _test(column: str, given: Any, values: list[Any], depth: int) -> Any:
    """The shape of what is asked of one column."""
    if type(column) is not str:
        raise wrong("a column's name", column, "a text")
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
            raise wrong(f"{column}: is_null", value, "true or false")
        return Null(column, value)
    if op == "in":
        if type(value) not in _SEVERAL:
            raise wrong(f"{column}: in", value, "a list")
        return _any(column, "in", value, values)
    if op not in COMPARISONS:
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
        raise wrong(f"{column}: {op}", value, "a text")
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


def read_names(names: Any) -> tuple[str, ...]:
    """Names of columns; one may stand for itself."""
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, (Sequence, Mapping)) or isinstance(names, (bytes, bytearray)):
        raise wrong("columns", names, "a list of names")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise wrong("a column's name", name, "a text")
    if len(set(found)) < len(found):
        raise UsageError(f"columns are named twice: {', '.join(found)}", "Name each once.")
    return found


def read_order(order: Any) -> tuple[Sort, ...]:
    """What to order by: `"name"`, `"-name"` for downwards, `q.asc(...)`, `q.desc(...)`."""
    if isinstance(order, (str, Sort)):
        order = (order,)
    if not isinstance(order, (list, tuple)):
        raise wrong("order", order, 'a column, like "name" or "-name", or a list of them')
    return tuple([_sort(one) for one in order])


def _sort(one: Any) -> Sort:
    if isinstance(one, str):
        return Sort(one[1:], True) if one.startswith("-") else Sort(one)
    if not isinstance(one, Sort):
        raise wrong("order", one, 'a column, like "name" or "-name", or made by q')
    if not isinstance(one.column, str):
        raise wrong("a column's name", one.column, "a text")
    if one.nulls not in (None, "first", "last") or type(one.descending) is not bool:
        raise wrong(f"order by {one.column}: nulls", one.nulls, '"first" or "last"')
    return one


def read_relations(related: Relations, values: list[Any], depth: int) -> tuple[Related, ...]:
    """Relations: a name, names, or a mapping of names to columns or options."""
    if isinstance(related, str):
        related = {related: True}
    elif isinstance(related, (list, tuple)):
        related = dict.fromkeys(read_names(related), True)
    if not isinstance(related, Mapping):
        raise wrong("related", related, "a relation's name, a list of them, or a mapping")
    return tuple([_relation(key, given, values, depth) for key, given in related.items()])


def _relation(key: Any, given: Any, values: list[Any], depth: int) -> Related:
    if not isinstance(key, str):
        raise wrong("a relation's name", key, "a text")
    if given is True:
        return Related(key, key)
    if not isinstance(given, Mapping):
        return Related(key, key, read_names(given))
    unknown = [option for option in given if option not in _RELATION_OPTIONS]
    if unknown:
        raise UsageError(
            f"relation {key}: there is no option {unknown[0]!r}",
            f"There are: {', '.join(sorted(_RELATION_OPTIONS))}.",
        )
    get = given.get
    relation = get("relation", key)
    if not isinstance(relation, str):
        raise wrong("a relation's name", relation, "a text")
    where, inner, limit, offset = get("where"), get("related"), get("limit"), get("offset")
    return Related(
        key,
        relation,
        None if get("columns") is None else read_names(given["columns"]),
        read_condition(where, values) if where else None,
        read_order(given["order"]) if get("order") else (),
        -1 if limit is None else read_number("limit", limit, values),
        -1 if offset is None else read_number("offset", offset, values),
        read_relations(inner, values, deeper(depth)) if inner else (),
    )


def read_number(
    what: str, number: Any, values: list[Any], least: int = 0, most: int = MAX_NUMBER
) -> int:
    """The place of a limit or offset.

    Raises:
        UsageError: It is no number of rows.
    """
    if type(number) is not int or not least <= number <= most:
        raise wrong(what, number, f"a whole number from {least} to {most}")
    values.append(number)
    return len(values) - 1


def wrong(what: str, given: Any, wanted: str) -> UsageError:
    """The error for something that is not what it must be."""
    shown = reprlib.repr(given)  # of bounded depth
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    return UsageError(f"{what} is {shown}", f"It must be {wanted}.", code="bad-query")
