"""The read set of a request: which rows its recorded results returned, and what they held.

Limits, which `ReadSet.left_out` tells of: only tracked tables with a key; only rows whose whole key
is in the result or fixed by the statement; at most `MAX_ROWS` rows, the last ones read. What a
statement read without showing it (its WHERE, a subquery in an expression) is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_pg.analysis.sql_results import find_sources
from flux_pg.analysis.sql_sources import Catalog, Operand, Source, Table, operand_text
from flux_pg.analysis.text import plural

Row = Mapping[str, Any]

MAX_ROWS = 2000
"""Rows of one request that are looked at."""


@dataclass(frozen=True, slots=True)
class RowRead:
    """One row that one statement returned.

    Attributes:
        span_id: The statement's span.
        statement: Its text, blanks made one.
        place: file:function of the user's code.
        end_us: When the result was there; None if the request's clock does not tell.
        table: The table it is of.
        key: The values of the key's columns, as text.
        values: What it showed of the row: column to Postgres's text form, None for NULL.
        used: Columns that went into expressions only.
    """

    span_id: str
    statement: str
    place: str
    end_us: int | None
    table: Table
    key: tuple[str, ...]
    values: Mapping[str, str | None]
    used: tuple[str, ...] = ()

    @property
    def row(self) -> tuple[int, tuple[str, ...]]:
        """What names the row."""
        return self.table.table_id, self.key


@dataclass(slots=True)
class ReadSet:
    """The rows, in the order they were read, and why others are not among them."""

    rows: list[RowRead] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_set(spans: Iterable[Row], catalog: Catalog, *, own_clock: bool = True) -> ReadSet:
    """Return the rows that the recorded statements returned.

    Args:
        spans: Spans as in `flux.trace/1`, oldest first.
        catalog: The tracked tables.
        own_clock: Whether the spans' times count from the start of the request asked about (not
            those of a function that it called).
    """
    found = ReadSet()
    nameless: dict[str, int] = {}
    for span in spans:
        given, output = span.get("input"), span.get("output")
        if span.get("kind") != "db" or not isinstance(given, Mapping):
            continue
        if not isinstance(output, Mapping) or not output.get("columns"):
            continue
        sql = str(given.get("sql") or "")
        for source in find_sources(sql, output["columns"], catalog):
            if source.key is None:
                nameless[source.table.name] = nameless.get(source.table.name, 0) + 1
                continue
            found.rows += _rows_of(source, span, sql, own_clock)
    found.left_out += [
        f"{plural(count, 'statement')} read {name} without showing its key"
        for name, count in nameless.items()
    ]
    if len(found.rows) > MAX_ROWS:
        found.left_out.append(f"the first {len(found.rows) - MAX_ROWS} rows that were read")
        del found.rows[:-MAX_ROWS]
    return found


def _rows_of(source: Source, span: Row, sql: str, own_clock: bool) -> list[RowRead]:
    params, output = span["input"].get("params"), span["output"]
    assert source.key is not None
    location = span.get("location")
    location = location if isinstance(location, Mapping) else {}
    end_us = (span.get("start_us") or 0) + (span.get("duration_us") or 0) if own_clock else None
    seen: dict[Any, RowRead] = {}
    for cells in output.get("rows") or []:
        key = _key(source.key, cells, sql, params)
        values = {column: _cell(cells, at) for column, at in source.shown.items()}
        absent = source.nullable and values and all(v is None for v in values.values())
        if key is None or absent:
            continue
        seen.setdefault(
            (key, tuple(values.values())),
            RowRead(
                str(span.get("span_id") or ""),
                " ".join(sql.split()),
                f"{location.get('file') or ''}:{location.get('function') or ''}",
                end_us,
                source.table,
                key,
                values,
                tuple(sorted(source.used)),
            ),
        )
    return list(seen.values())


def _key(
    parts: Sequence[int | Operand], cells: Sequence[str | None], sql: str, params: Any
) -> tuple[str, ...] | None:
    key = []
    for part in parts:
        text = operand_text(part, sql, params) if isinstance(part, Operand) else _cell(cells, part)
        if text is None:
            return None
        key.append(text)
    return tuple(key)


def _cell(cells: Sequence[str | None], at: int) -> str | None:
    return cells[at] if at < len(cells) else None
