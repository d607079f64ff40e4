"""The order in which the requests of an incident are replayed, and which of them may run at once.

Pure. Laws:
- Who changed rows stands before all whose snapshot saw that, and behind all others. Among those
  that no snapshot tells apart it stands by its last change (where these are not known, by when its
  record was made): of two that changed one row, the second could go on only once the first had
  committed.
- Who only read stands behind all whose commits its snapshot saw, and before the others.
- What others saw is surer than any clock: those of two nodes differ, and of two that commit at once
  the first to be recorded may be the second to be seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from flux_pg.replay.incident_selection import Candidate


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pg_snapshot: which transactions had ended when it was taken."""

    xmin: int
    xmax: int
    open: frozenset[int]

    def sees(self, xid: int) -> bool:
        """Whether a transaction that committed had done so by then."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.open)


def read_snapshot(text: str) -> Snapshot:
    """Read `xmin:xmax:xid,xid`."""
    xmin, xmax, running = text.split(":")
    return Snapshot(
        int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid)
    )  # fmt: skip


def earliest(candidates: Sequence[Candidate]) -> Candidate | None:
    """The request whose snapshot is the oldest; None if none has any."""
    with_snapshot = [one for one in candidates if one.snapshot is not None]
    return min(with_snapshot, key=lambda one: age_of(one.snapshot or ""), default=None)


def age_of(text: str) -> tuple[int, int, int]:
    """What snapshots are sorted by: the ends only grow, and those between only end."""
    snapshot = read_snapshot(text)
    return snapshot.xmax, snapshot.xmin, -len(snapshot.open)


def with_snapshots(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Requests by their start. Who has no snapshot is given that of the one before it, or, if that
    sees what it committed itself, the newest that does not; nobody gets one if nobody has any."""
    known = sorted({one.snapshot for one in candidates if one.snapshot is not None}, key=age_of)
    last = known[0] if known else None
    placed = []
    for one in sorted(candidates, key=lambda one: (one.started_us, one.request_id)):
        last = one.snapshot or last
        if one.snapshot is None and last is not None:
            before = known[max(_first_to_see_any(one, known) - 1, 0)]
            placed.append(replace(one, snapshot=min(last, before, key=age_of)))
        else:
            placed.append(one)
    return placed


def _first_to_see_any(one: Candidate, known: Sequence[str]) -> int:
    return bisect_left(known, True, key=lambda text: any(map(read_snapshot(text).sees, one.xids)))


def in_commit_order(
    candidates: Sequence[Candidate], last_changes: Mapping[int, int] = MappingProxyType({})
) -> list[Candidate]:
    """Put requests in the order of the module.

    Args:
        candidates: The requests.
        last_changes: For transactions that changed rows the number of their last change (`seq`),
            as far as it is known.
    """
    placed = with_snapshots(candidates)
    texts = sorted({one.snapshot for one in placed if one.snapshot is not None}, key=age_of)
    snapshots = [read_snapshot(text) for text in texts]
    numbers = {text: number for number, text in enumerate(texts)}

    def place(one: Candidate) -> tuple[int, bool, int, str]:
        changes = [last_changes[xid] for xid in one.xids if xid in last_changes]
        if changes or (one.writes and one.xids):
            seen = bisect_left(snapshots, True, key=lambda s: all(map(s.sees, one.xids)))
            return seen, False, max(changes, default=one.ended_us), one.request_id
        return numbers.get(one.snapshot or "", 0), True, one.started_us, one.request_id

    return sorted(placed, key=place)
