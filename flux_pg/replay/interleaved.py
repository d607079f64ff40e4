"""Whether a difference comes from others' commits while the recorded request ran. Pure.

Under READ COMMITTED each statement sees what is committed by then; a replay sees what was committed
before the request began, or (chained) everything that committed before it did. A statement that is
asked as it was and gives something else is laid to such a commit only if

- it names a table of which a row was changed by a transaction that the request's snapshot does not
  see and that wrote before the request's end; and
- the values that differ are the ones before and after such changes; or, where a result does not
  show the row (a sum, an error), nothing before it gives the replay another state than the record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flux_pg.records import SpanRecord
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.incident_order import read_snapshot
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.live_record import ReplayResult
from flux_pg.replay.source import RecordedRun


def find_cause(
    candidate: Candidate,
    run: RecordedRun,
    result: ReplayResult,
    changes: Sequence[Change],
    *,
    is_faithful: bool,
) -> dict[str, Any] | None:
    """What was committed while the request ran and explains the first difference; None if nothing.

    Args:
        candidate: The request.
        run: What was recorded of it.
        result: Its replay.
        changes: Row changes of the incident's time, by whomever, in their order.
        is_faithful: Whether the state of the replay is, up to here, the recorded one.
    """
    if candidate.snapshot is None:
        return None
    meanwhile = list(_meanwhile(candidate, changes))
    try:
        pair = _first_different(run, result)
    except _AskedAnew:
        return None
    if pair is None:
        return _describe(_of_own_rows(candidate, changes, meanwhile), run.function)
    then, now = pair
    found = [one for one in meanwhile if _names(str(then.input["sql"]), one.table)]
    cells = _different_cells(then, now)
    shown = [one for one in found if _shows(one, then, now)]
    telling = shown if cells and cells <= _values(shown) else []
    if not telling and is_faithful and (not shown or then.error or now.error):
        telling = shown or found
    return _describe(telling, then.name)


class _AskedAnew(Exception):
    """The code asks for what nobody had asked."""


def _describe(telling: Sequence[Change], path: str | None) -> dict[str, Any] | None:
    if not telling:
        return None
    cause = telling[-1]
    return {
        "path": path,
        "table": f"{cause.schema}.{cause.table}",
        "key": cause.key,
        "request_id": cause.request_id,
        "actor": cause.actor,
    }


def _of_own_rows(
    candidate: Candidate, changes: Sequence[Change], meanwhile: Sequence[Change]
) -> list[Change]:
    """Every statement gave what it gave: then only what its own rows held before can differ."""
    own = {row for one in changes if one.xid in candidate.xids for row in one.rows}
    return [one for one in meanwhile if one.rows & own]


def _meanwhile(candidate: Candidate, changes: Iterable[Change]) -> Iterator[Change]:
    snapshot = read_snapshot(candidate.snapshot or "0:0:")
    for change in changes:
        if change.xid in candidate.xids or change.at_us > candidate.ended_us:
            continue
        if not snapshot.sees(change.xid):
            yield change


def _first_different(
    run: RecordedRun, result: ReplayResult
) -> tuple[SpanRecord, SpanRecord] | None:
    """The first statement that was asked as it was and gave something else; None if all gave the
    same.

    Raises:
        _AskedAnew: One before it was not asked then.
    """
    recorded: dict[str, list[SpanRecord]] = {}
    for span in _statements(run.spans):
        recorded.setdefault(_asked(span), []).append(span)
    for now in _statements(result.spans):
        known = recorded.get(_asked(now))
        if not known:
            raise _AskedAnew
        then = known.pop(0)
        if _given(then) != _given(now):
            return then, now
    return None


def _statements(spans: Iterable[SpanRecord]) -> Iterator[SpanRecord]:
    for span in spans:
        if span.kind == "db" and isinstance(span.input, dict) and "sql" in span.input:
            yield span


def _asked(span: SpanRecord) -> str:
    return json.dumps(span.input, sort_keys=True, default=str)


def _given(span: SpanRecord) -> Any:
    output = span.output if isinstance(span.output, dict) else {}
    return output.get("rows"), output.get("rowcount"), span.error is None


def _rows(span: SpanRecord) -> list[list[str | None]]:
    output = span.output if isinstance(span.output, dict) else {}
    rows: list[list[str | None]] = output.get("rows") or []
    return rows


def _different_cells(then: SpanRecord, now: SpanRecord) -> set[str | None]:
    """The values that are there on one side only."""
    before = {tuple(row) for row in _rows(then)}
    after = {tuple(row) for row in _rows(now)}
    if len(before - after) != 1 or len(after - before) != 1:
        return {cell for row in before ^ after for cell in row}
    ((x,), (y,)) = before - after, after - before
    return {cell for a, b in zip(x, y, strict=False) if a != b for cell in (a, b)}


def _values(changes: Iterable[Change]) -> set[str | None]:
    return {value for one in changes for side in (one.old, one.new) for value in side or ()}


def _shows(change: Change, then: SpanRecord, now: SpanRecord) -> bool:
    """Whether the statement was about the row: its key went in, or came out."""
    if change.key is None:
        return False
    params = then.input.get("params") or []
    given = params.values() if isinstance(params, dict) else params
    texts = {str(value) for value in given} | set(re.findall(r"\w+", str(then.input["sql"])))
    texts |= {str(cell) for span in (then, now) for row in _rows(span) for cell in row}
    return texts.issuperset(change.key)


def _names(sql: str, table: str) -> bool:
    return re.search(rf"\b{re.escape(table)}\b", sql, re.IGNORECASE) is not None
