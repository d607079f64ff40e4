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

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from flux_pg.analysis.diff import Diff, SpanDiff, counts
from flux_pg.analysis.diff_values import MISSING, Leaf
from flux_pg.analysis.tree import duration_of, start_of
from flux_pg.replay.footprint import Footprint, Resource, resources_of, statements_of
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.incident_order import read_snapshot
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.source import RecordedRun

_DEPENDS_ON_ROWS = re.compile(r"\b(select|update|delete|merge|conflict)\b", re.IGNORECASE)


class Changes:
    """Row changes of an incident's time, by whomever, found without a look at all of them.

    Args:
        changes: In their order.
    """

    def __init__(self, changes: Iterable[Change]) -> None:
        self._by_xid = sorted(changes, key=lambda change: (change.xid, change.seq))
        self._xids = [change.xid for change in self._by_xid]
        # When the earliest of this one and of all with later transactions was made: it only grows.
        moments = [change.at_us for change in reversed(self._by_xid)]
        self._earliest = list(accumulate(moments, min))[::-1]

    def of(self, xids: Iterable[int]) -> Iterator[Change]:
        """Those of some transactions."""
        for xid in xids:
            yield from self._by_xid[bisect_left(self._xids, xid) : bisect_right(self._xids, xid)]

    def meanwhile(self, candidate: Candidate, until_us: int) -> list[Change]:
        """Others' that a request's snapshot does not see, made up to a moment; in their order."""
        snapshot = read_snapshot(candidate.snapshot or "0:0:")
        begin, end = (
            bisect_left(self._xids, snapshot.xmin), bisect_right(self._earliest, until_us),
        )  # fmt: skip
        found = [
            change
            for change in self._by_xid[begin:end]
            if change.xid not in candidate.xids
            and change.at_us <= until_us
            and not snapshot.sees(change.xid)
        ]
        return sorted(found, key=lambda change: change.seq)


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
    diff: Diff,
    changes: Changes,
    *,
    footprint: Callable[[Iterable[Mapping[str, Any]]], Footprint],
    tainted: Tainted,
    chained: bool,
) -> dict[str, Any] | None:
    """What was committed while the request ran and explains the first difference; None if nothing.

    Args:
        candidate: The request.
        run: What was recorded of it.
        diff: How its replay differs.
        changes: Those of the incident's time.
        footprint: What statements touch.
        tainted: Rows that replays before this one changed otherwise.
        chained: Whether the replay saw all that committed before the request did.
    """
    if candidate.snapshot is None:
        return None
    entry = _first_answered_otherwise(diff)
    if entry is None:
        # It is inside a function that was called, or in what its own rows held before.
        touched = footprint(one for one in statements_of(run) if _depends_on_rows(one))
        for change in changes.of(candidate.xids):
            touched.writes |= resources_of(change)
        if tainted.touches(touched):
            return None
        telling = _touching(changes.meanwhile(candidate, candidate.ended_us), touched)
        return _describe(telling, run.function)
    then, now = _sides(entry)
    asked = then["input"]
    failed = bool(then.get("error") or now.get("error"))
    if not failed and not _depends_on_rows(asked):
        return None  # what was inserted is its own
    touched = footprint([asked])
    ended_us = run.started_at_us + start_of(then) + duration_of(then)
    until_us = candidate.ended_us if chained else ended_us
    found = _touching(changes.meanwhile(candidate, until_us), touched)
    shown = [one for one in found if _shows(one, then, now)]
    cells = set(_cells(entry.leaves))
    if cells and cells <= _values(shown):
        return _describe(shown, entry.path)
    if tainted.touches(touched):
        return None
    if touched.is_known:
        return _describe(shown or found, entry.path)
    return _describe(shown if failed or not cells else [], entry.path)


def _first_answered_otherwise(diff: Diff) -> SpanDiff | None:
    """The first statement that was asked as it was and gave something else; None if all gave the
    same, or if one before it was not asked then."""
    steps = [one for one in diff.spans if counts(one) and _is_statement(one)]
    first = min(steps, key=lambda one: min(map(start_of, _sides(one))), default=None)
    if first is None or len(_sides(first)) < 2:
        return None
    is_asked_alike = all(
        one.place.startswith(("output", "error", "status")) for one in first.leaves
    )
    return first if first.leaves and is_asked_alike else None


def _sides(entry: SpanDiff) -> list[Mapping[str, Any]]:
    pair = entry.pair
    nodes = [] if pair is None else [pair.a, pair.b]
    return [node.span for node in nodes if node is not None]


def _is_statement(entry: SpanDiff) -> bool:
    return all(
        span.get("kind") == "db" and "sql" in (span.get("input") or {}) for span in _sides(entry)
    ) and bool(_sides(entry))


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


def _rows(span: Mapping[str, Any]) -> list[list[str | None]]:
    output = span.get("output")
    rows: list[list[str | None]] = (output if isinstance(output, Mapping) else {}).get("rows") or []
    return rows


def _cells(found: Iterable[Leaf]) -> Iterator[Any]:
    """The values of rows that differ, of both sides."""
    for leaf in found:
        if leaf.place.startswith("output.rows"):
            for side in (leaf.a, leaf.b):
                if isinstance(side, Mapping):
                    yield from side.values()
                elif isinstance(side, list):
                    yield from side
                elif side is not MISSING:
                    yield side


def _values(changes: Iterable[Change]) -> set[str | None]:
    return {value for one in changes for side in (one.old, one.new) for value in side or ()}


def _shows(change: Change, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the statement was about the row: its key went in, or came out."""
    if change.key is None:
        return False
    params = then["input"].get("params") or []
    given = params.values() if isinstance(params, dict) else params
    texts = {str(value) for value in given} | set(re.findall(r"\w+", str(then["input"]["sql"])))
    texts |= {str(cell) for span in (then, now) for row in _rows(span) for cell in row}
    return texts.issuperset(change.key)
