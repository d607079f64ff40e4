"""Which value of a structured query could not be sent, and for which column it was meant.

psycopg says no more than "cannot adapt type 'object'". Looked for only after that has happened: to
try every value beforehand would cost each query what one in a million needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb

from ..errors import UsageError
from ..explain.query_shape import Asked, Compare, Find, Insert, Related, Shape, Update
from ..explain.query_sql import Compiled
from ..explain.query_words import Joined, Sort, Test

_WORDS = (Test, Joined, Sort)
_NESTED = "A word of q takes plain values: q.gt(1), not q.gt(q.lt(1)). q.all_of joins several."
_PLAIN = "Pass a text, number, boolean, date, UUID, bytes, a list of one of these, or JSON."


def explain_unsent(
    asked: Asked, compiled: Compiled, params: Iterable[Any], error: Exception
) -> UsageError | None:
    """The error of a query whose values psycopg did not take; None if that was not it.

    Args:
        asked: The query.
        compiled: What it was compiled to.
        params: Its parameters as they were to be sent.
        error: What running it raised.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return None  # it was sent
    transformer: Any = Transformer()
    for at, value in enumerate(params):
        # A connection of the runtime writes a dict as JSON.
        given = Jsonb(value) if isinstance(value, dict) else value
        try:
            transformer.dump_sequence([given], [PyFormat.AUTO])
        except Exception as reason:
            slot = at if compiled.slots is None else compiled.slots[at]
            return _unsendable(_label(asked.shape, slot), value, reason)
    return None


def _unsendable(label: str, value: Any, reason: Exception) -> UsageError:
    if isinstance(value, Jsonb):
        value = value.obj
    kind = type(value).__name__
    words = [one for one in (value, *_elements(value)) if isinstance(one, _WORDS)]
    told = f"{label} is given a value of type {kind}, which cannot be sent"
    if words:
        return UsageError(told, _NESTED, code="wrong-value")
    if isinstance(reason, psycopg.ProgrammingError) and not _elements(value):
        return UsageError(told, _PLAIN, code="wrong-value")
    why = str(reason).partition(" using placeholder")[0]
    return UsageError(f"{told}: {why}", "Change the value before it is given.", code="wrong-value")


def _elements(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _label(shape: Shape, slot: int) -> str:
    """The table and the column that the value of a place was meant for."""
    for column, place in _columns(shape):
        if place == slot:
            return f"{shape.table}.{column}"
    return shape.table


def _columns(shape: Shape) -> Iterator[tuple[str, int]]:
    """Every column that has a value, with the value's place."""
    if isinstance(shape, Insert):
        names = [*shape.columns * shape.rows, *(name for name, _ in shape.settings)]
        yield from zip(names, range(len(names)), strict=True)
        return
    if isinstance(shape, Update):
        yield from zip(shape.columns, range(len(shape.columns)), strict=True)
    yield from _compared(shape.where)
    if isinstance(shape, Find):
        yield from _related(shape.related)


def _compared(condition: Any) -> Iterator[tuple[str, int]]:
    if isinstance(condition, Compare):
        yield condition.column, condition.slot
    elif isinstance(condition, Joined):
        for part in condition.parts:
            yield from _compared(part)


def _related(relations: Iterable[Related]) -> Iterator[tuple[str, int]]:
    for related in relations:
        for column, place in (*_compared(related.where), *_related(related.related)):
            yield f"{related.key}.{column}", place
