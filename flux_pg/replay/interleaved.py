"""Whether a difference comes from others' commits while the recorded request ran. Pure.

Under READ COMMITTED each statement sees what is committed by then; a replay sees what was committed
before the request began, or (chained) everything that committed before it did. Asked here is only
where the code, given the recorded answers, does what it did (see `judging`): so it is the database
that answered otherwise, and the first statement to be asked alike and answered otherwise is what
counts. It is laid to transactions that

- the request's snapshot does not see, and that wrote before the statement ended (in a chain, before
  the request did: there a replay sees what committed later, too); and
- changed a row that the statement may touch: the one with its key, or any of a table that it reads
  otherwise;

if the rows that it may touch are, up to here, as they were recorded; or else, if the values that
differ are those before and after these changes. A statement that may read what it does not name is
laid to others only where one of their rows or values shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flux_pg.records import SpanRecord
from flux_pg.replay.footprint import Footprint, Resource, resources_of, statements_of
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.incident_order import read_snapshot
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.live_record import ReplayResult
from flux_pg.replay.source import RecordedRun

_DEPENDS_ON_ROWS = re.compile(r"\b(select|update|delete|merge|conflict)\b", re.IGNORECASE)


class Tainted:
    """Rows that are not as they were recorded, as what was replayed before did something else."""

    def __init__(self) -> None:
        self._resources: set[Resource] = set()

    def add(self, changes: Iterable[Change], replayed: Iterable[Mapping[str, Any]] = ()) -> None:
        """Note what was recorded and is not so, and what is so and was not recorded.

        Args:
            changes: Recorded ones.
            replayed: As in `flux.trace/1`.
        """
        for change in changes:
            self._resources |= resources_of(change)
        self._resources |= {(str(one["table"]), _key_of(one["pk"])) for one in replayed}

    def touches(self, footprint: Footprint) -> bool:
        """Whether one of these rows may be among what was touched."""
        return footprint.may_touch(self._resources)


def _key_of(pk: Any) -> tuple[str, ...] | None:
    """The key as the log has it; None if that cannot be told from JSON."""
    if not isinstance(pk, Mapping) or not all(type(part) in (int, str) for part in pk.values()):
        return None
    return tuple(str(part) for part in pk.values())


def find_cause(
    candidate: Candidate,
    run: RecordedRun,
    result: ReplayResult,
    changes: Sequence[Change],
    *,
    footprint: Callable[[Iterable[Mapping[str, Any]]], Footprint],
    tainted: Tainted,
    chained: bool,
) -> dict[str, Any] | None:
    """What was committed while the request ran and explains the first difference; None if nothing.

    Args:
        candidate: The request.
        run: What was recorded of it.
        result: Its replay.
        changes: Row changes of the incident's time, by whomever, in their order.
        footprint: What statements touch.
        tainted: Rows that replays before this one changed otherwise.
        chained: Whether the replay saw all that committed before the request did.
    """
    if candidate.snapshot is None:
        return None
    pair = _first_different(run, result)
    if pair is None:
        # It is inside a function that was called, or in what its own rows held before.
        touched = footprint(one for one in statements_of(run) if _depends_on_rows(one))
        if tainted.touches(touched):
            return None
        telling = _touching(_meanwhile(candidate, changes, candidate.ended_us), touched)
        return _describe(telling, run.function)
    then, now = pair
    ended = run.started_at_us + then.start_us + (then.duration_us or 0)
    touched = footprint([then.input])
    until = candidate.ended_us if chained else ended
    found = _touching(_meanwhile(candidate, changes, until), touched)
    failed = then.error is not None or now.error is not None
    if not failed and not _depends_on_rows(then.input):
        return None  # what was inserted is its own
    shown = [one for one in found if _shows(one, then, now)]
    cells = _different_cells(then, now)
    if cells and cells <= _values(shown):
        return _describe(shown, then.name)
    if tainted.touches(touched):
        return None
    if touched.is_known:
        return _describe(shown or found, then.name)
    return _describe(shown if failed or not cells else [], then.name)


def _depends_on_rows(statement: Mapping[str, Any]) -> bool:
    """Whether what a statement gives, if it does not fail, comes from rows that are there."""
    return _DEPENDS_ON_ROWS.search(str(statement["sql"])) is not None


def _touching(changes: Iterable[Change], touched: Footprint) -> list[Change]:
    return [one for one in changes if touched.may_touch(resources_of(one))]


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


def _meanwhile(candidate: Candidate, changes: Iterable[Change], until_us: int) -> Iterator[Change]:
    snapshot = read_snapshot(candidate.snapshot or "0:0:")
    for change in changes:
        if change.xid in candidate.xids or change.at_us > until_us:
            continue
        if not snapshot.sees(change.xid):
            yield change


def _first_different(
    run: RecordedRun, result: ReplayResult
) -> tuple[SpanRecord, SpanRecord] | None:
    """The first statement that was asked as it was and gave something else; None if all gave the
    same, or if one before it was not asked then."""
    recorded: dict[str, list[SpanRecord]] = {}
    for span in _statements(run.spans):
        recorded.setdefault(_asked(span), []).append(span)
    for now in _statements(result.spans):
        known = recorded.get(_asked(now))
        if not known:
            return None
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
