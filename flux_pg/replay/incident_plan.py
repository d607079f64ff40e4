"""What is done in which order: the requests of an incident, and between them what others did.

Pure. Laws:
- `chained`: the requests stand in commit order. A transaction of somebody else's stands before the
  first request that saw it, and before the first that changed one of its rows after it.
- `isolated`: each request stands behind everything that its snapshot saw, as it was recorded, the
  other requests included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flux_pg.replay.incident_changes import Change, Row
from flux_pg.replay.incident_order import (
    Snapshot,
    age_of,
    in_commit_order,
    read_snapshot,
    with_snapshots,
)
from flux_pg.replay.incident_selection import Candidate


@dataclass(frozen=True)
class Step:
    """One request, or one transaction of somebody else's."""

    request: Candidate | None = None
    outside: Sequence[Change] = ()


def plan_chained(candidates: Sequence[Candidate], changes: Iterable[Change]) -> list[Step]:
    """The steps of a chained replay."""
    changes = sorted(changes, key=lambda change: change.seq)
    ordered = in_commit_order(candidates, {change.xid: change.seq for change in changes})
    own = {xid: place for place, one in enumerate(ordered) for xid in one.xids}
    touched: dict[Row, list[tuple[int, int]]] = defaultdict(list)
    others: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        place = own.get(change.xid)
        if place is None:
            others[change.xid].append(change)
            continue
        for row in change.rows:
            touched[row].append((change.seq, place))
    before: dict[int, list[Sequence[Change]]] = defaultdict(list)
    snapshots = _snapshots(ordered)
    for xid, group in others.items():
        later = [
            place
            for change in group
            for row in change.rows
            for seq, place in touched.get(row, ())
            if seq > change.seq
        ]
        places = [*later, *_first_to_see(xid, snapshots)]
        if places:
            before[min(places)].append(group)
    return _interleave(ordered, before)


def plan_isolated(candidates: Sequence[Candidate], changes: Iterable[Change]) -> list[Step]:
    """The steps of an isolated replay."""
    ordered = sorted(with_snapshots(candidates), key=_age)
    groups: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        groups[change.xid].append(change)
    before: dict[int, list[Sequence[Change]]] = defaultdict(list)
    snapshots = _snapshots(ordered)
    for xid, group in groups.items():
        for place in _first_to_see(xid, snapshots):
            before[place].append(group)
    return _interleave(ordered, before)


def _interleave(
    ordered: Sequence[Candidate], before: dict[int, list[Sequence[Change]]]
) -> list[Step]:
    steps = []
    for place, one in enumerate(ordered):
        groups = sorted(before.get(place, ()), key=lambda group: group[-1].seq)
        steps += [Step(outside=group) for group in groups]
        steps.append(Step(one))
    return steps


def _age(one: Candidate) -> tuple[tuple[int, int, int], str]:
    return (age_of(one.snapshot) if one.snapshot else (0, 0, 0)), one.request_id


def _snapshots(ordered: Sequence[Candidate]) -> list[tuple[int, Snapshot]]:
    return [
        (place, read_snapshot(one.snapshot)) for place, one in enumerate(ordered) if one.snapshot
    ]


def _first_to_see(xid: int, snapshots: Sequence[tuple[int, Snapshot]]) -> list[int]:
    return next(([place] for place, snapshot in snapshots if snapshot.sees(xid)), [])
