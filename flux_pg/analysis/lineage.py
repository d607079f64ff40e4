"""Which of the values that a request read explain its failure: reasons, and an order by them.

The rules say only what the record shows: a value stands in the error, went into the statement that
failed, was different when the function last succeeded. None of them proves a cause; the reasons are
told with each value, so that a person can judge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_pg.analysis.read_set import RowRead

Row = Mapping[str, Any]

IN_ERROR = "in the error"
IN_STATEMENT = "given to the statement that failed"
KEY_IN_ERROR = "its row is named in the error"
CHANGED = "different at the last success"
NEVER_SO = "unlike all values at the last success"
NEAR = "read where it failed"

_WEIGHTS = {
    IN_ERROR: 100, CHANGED: 80, IN_STATEMENT: 60, NEVER_SO: 50, KEY_IN_ERROR: 40, NEAR: 10,
}  # fmt: skip
_WORD = re.compile(r"[^\W_][\w.@+-]*", re.UNICODE)
# What stands in any error by chance.
_COMMON = frozenset({"0", "1", "t", "f", "true", "false", "null", "none", "a", "the", "of", "no"})


@dataclass(frozen=True, slots=True)
class Failure:
    """What of a failed request the values are held against.

    Attributes:
        texts: Message and detail of the error.
        params: Parameters of the statement that failed, as text.
        places: file:function of the error's stack, innermost last.
    """

    texts: tuple[str, ...] = ()
    params: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()

    def mentions(self, value: str) -> bool:
        """Whether the error tells of a value, as a whole word or in quotes or brackets."""
        value = value.strip()
        if len(value) < 2 and not value.isdigit():
            return False
        if value.lower() in _COMMON:
            return False
        if _WORD.fullmatch(value):
            return any(value in _words(text) for text in self.texts)
        return len(value) >= 3 and any(value in text for text in self.texts)


def _words(text: str) -> set[str]:
    found = set()
    for word in _WORD.findall(text):
        found |= {word, word.rstrip(".")}
    return found


@dataclass(slots=True)
class Value:
    """One value that was read, and why it is told of; `before` is that of the last success."""

    read: RowRead
    column: str
    value: str | None
    reasons: list[str] = field(default_factory=list)
    before: str | None = None
    has_before: bool = False
    is_derived: bool = False

    @property
    def weight(self) -> int:
        """How much it may explain."""
        return sum(_WEIGHTS[reason] for reason in self.reasons)


def failure_of(document: Row, spans: Iterable[Row]) -> Failure:
    """Return what a `flux.why/1` document and its spans say about the failure."""
    cause = document.get("root_cause") or {}
    texts = [str(cause.get(name) or "") for name in ("message", "detail")]
    span = next((s for s in spans if s.get("span_id") == cause.get("span_id")), {})
    given = span.get("input") if span.get("kind") == "db" else None
    params = given.get("params") if isinstance(given, Mapping) else None
    values = params.values() if isinstance(params, Mapping) else params or []
    stack = cause.get("stack") if isinstance(cause.get("stack"), list) else []
    return Failure(
        tuple(text for text in texts if text),
        frozenset(str(value) for value in values if value is not None),
        tuple(f"{frame.get('file')}:{frame.get('function')}" for frame in stack or []),
    )


def weigh(
    rows: Sequence[RowRead], failure: Failure, before: Sequence[RowRead], limit: int = 40
) -> list[Value]:
    """Return the values most likely to explain a failure, most telling first.

    Args:
        rows: What the request read, oldest first.
        failure: How it failed.
        before: What the function read when it last succeeded.
        limit: How many rows at most.
    """
    earlier = _Earlier(before)
    values: list[tuple[int, Value]] = []
    for at, read in enumerate(rows):
        names = [name for name in read.values if name not in read.table.key] or list(read.values)
        key_told = any(failure.mentions(part) for part in read.key)
        for column in [*names, *read.used]:
            value = Value(read, column, read.values.get(column))
            value.is_derived = column not in read.values
            _judge(value, failure, earlier, key_told)
            values.append((at, value))
    values.sort(key=lambda item: (-item[1].weight, -item[0]))
    found: dict[Any, Value] = {}
    kept: set[Any] = set()
    for _, value in values:
        if value.read.row not in kept and len(kept) >= limit:
            continue
        kept.add(value.read.row)
        found.setdefault((value.read.row, value.column, value.value), value)
    return list(found.values())


def _judge(value: Value, failure: Failure, earlier: _Earlier, key_told: bool) -> None:
    text = value.value
    if text is not None and not value.is_derived:
        if failure.mentions(text):
            value.reasons.append(IN_ERROR)
        if text in failure.params and text.lower() not in _COMMON:
            value.reasons.append(IN_STATEMENT)
    if not value.is_derived:
        _compare(value, earlier)
    if key_told:
        value.reasons.append(KEY_IN_ERROR)
    if value.read.place in failure.places[-2:]:
        value.reasons.append(NEAR)


def _compare(value: Value, earlier: _Earlier) -> None:
    read = value.read
    row = (*read.row, value.column)
    if row in earlier.by_row:
        value.before, value.has_before = earlier.by_row[row], True
        if value.before != value.value:
            value.reasons.append(CHANGED)
        return
    others = earlier.by_column.get((read.table.table_id, value.column, read.statement))
    if others and _kind(value.value) not in {_kind(other) for other in others}:
        value.before, value.has_before = others[0], len(others) == 1
        value.reasons.append(NEVER_SO)


class _Earlier:
    """What was read at the last success, by row and by column."""

    def __init__(self, rows: Sequence[RowRead]) -> None:
        self.by_row: dict[Any, str | None] = {}
        self.by_column: dict[Any, list[str | None]] = {}
        for read in rows:
            for column, value in read.values.items():
                self.by_row.setdefault((*read.row, column), value)
                if column not in read.table.key:
                    place = (read.table.table_id, column, read.statement)
                    self.by_column.setdefault(place, []).append(value)


def _kind(value: str | None) -> str:
    """What sort of value a text is: a bug often needs one that never came up before."""
    if value is None:
        return "null"
    if not value.strip():
        return "blank"
    try:
        number = float(value)
    except ValueError:
        return "empty" if value in ("{}", "[]") else "text"
    if math.isnan(number):
        return "nan"
    return "zero" if number == 0 else "negative" if number < 0 else "positive"
