"""Conditions of a structured query into SQL. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp

from ..errors import UsageError
from .query_catalog import Column, UnknownName
from .query_parts import Parameters, Source, call, cast_to, is_null
from .query_shape import Compare, Null
from .query_types import cast_of, check_compared, is_scalar
from .query_words import Joined

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
_SEVERAL = (list, tuple, set, frozenset)


def conditions_of(shapes: Iterable[Any], source: Source, parameters: Parameters) -> list[exp.Expr]:
    """Conditions that must all be true, as a flat list.

    Raises:
        UnknownName: A column is not there, or its type must be known and is not.
        UsageError: An operator or a value does not go with its column.
    """
    found: list[exp.Expr] = []
    for shape in shapes:
        if isinstance(shape, Joined) and shape.word == "and":
            found += conditions_of(shape.parts, source, parameters)
        elif shape is not None:
            found.append(_condition(shape, source, parameters))
    return found


def _condition(shape: Any, source: Source, parameters: Parameters) -> exp.Expr:
    if isinstance(shape, Joined):
        if shape.word == "and":
            return exp.and_(*conditions_of(shape.parts, source, parameters), copy=False)
        parts = [_condition(part, source, parameters) for part in shape.parts]
        if shape.word == "or":
            return exp.or_(*parts, copy=False)
        return exp.not_(parts[0], copy=False)
    if isinstance(shape, Null):
        null = is_null(source.column(shape.column))
        return null if shape.null else exp.Not(this=null)
    assert isinstance(shape, Compare)
    column = source.known(shape.column)
    if shape.op == "contains":
        return _contains(shape, column, source, parameters)
    if column is not None and column.category == "A":
        return _compare_array(shape, column, source, parameters)
    return _compare(shape, column, source, parameters)


def _compare(
    shape: Compare, column: Column | None, source: Source, parameters: Parameters
) -> exp.Expr:
    left = source.column(shape.column)
    if shape.op in ("in", "any"):
        check_compared(source.name, column, shape.kind, "in")
        kind = cast_of(column)
        several = parameters.value(shape.slot, cast=f"{kind}[]" if kind else None)
        found = exp.EQ(this=left, expression=call("ANY", several))
        return exp.or_(found, is_null(left.copy()), copy=False) if shape.or_null else found
    check_compared(source.name, column, shape.kind, shape.op)
    is_json = column is not None and column.is_json
    value = parameters.value(shape.slot, is_json=is_json, cast=cast_of(column))
    return _OPERATORS[shape.op](this=left, expression=value)


def _compare_array(
    shape: Compare, column: Column, source: Source, parameters: Parameters
) -> exp.Expr:
    """Arrays are compared as wholes; `= ANY` would look for elements."""
    name = f"{source.name}.{shape.column}"
    if shape.op == "in":
        raise UsageError(
            f"{name} is an array: in would look for its elements",
            "Write q.any_of(q.eq([...]), q.eq([...])).",
        )
    if shape.or_null:
        raise UsageError(
            f"{name} is an array: a list with null in it has two meanings",
            "Write q.eq([...]) for an array with a null in it.",
        )
    op, kind = ("eq", list) if shape.op == "any" else (shape.op, shape.kind)
    check_compared(source.name, column, kind, op)
    value = parameters.value(shape.slot, cast=column.type)
    return _OPERATORS[op](this=source.column(shape.column), expression=value)


def _contains(
    shape: Compare, column: Column | None, source: Source, parameters: Parameters
) -> exp.Expr:
    if column is None:
        raise UnknownName(
            f"contains on {shape.column} depends on its type, which is not known here",
            "Compile it with a catalog.",
        )
    check_compared(source.name, column, shape.kind, "contains")
    left = source.column(shape.column)
    if column.category == "S":
        found = call("STRPOS", left, parameters.value(shape.slot))
        return exp.GT(this=found, expression=exp.Literal.number(0))
    if column.category == "A" and not issubclass(shape.kind, _SEVERAL):
        # Not `= ANY`: an index on an array serves `@>` only.
        one = exp.Array(expressions=[parameters.value(shape.slot)])
        return exp.ArrayContainsAll(this=left, expression=cast_to(column.type, one))
    # Of a range's element or of an array Postgres wants the very type, not one like it.
    cast = column.type if column.category == "A" else None
    if column.category == "R" and is_scalar(shape.kind):
        cast = column.element
    value = parameters.value(shape.slot, is_json=column.is_json, texts=True, cast=cast)
    return exp.ArrayContainsAll(this=left, expression=value)
