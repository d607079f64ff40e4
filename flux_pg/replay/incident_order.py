"""The order in which the requests of an incident are replayed, and which of them may run at once.

Pure. Laws:
- Who changed rows stands where its record was made, just before it committed: of two that changed
  one row, the second could go on only once the first had committed.
- Who only read stands behind all whose commits its snapshot saw, and before the others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

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


def in_commit_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Put requests in the order of the module."""
    writers = sorted(
        (one for one in candidates if one.writes), key=lambda one: (one.ended_us, one.request_id)
    )
    ends = [one.ended_us for one in writers]
    placed = [((place, 1, one.ended_us), one) for place, one in enumerate(writers)]
    for one in candidates:
        if not one.writes:
            placed.append(((_place_of_reader(one, writers, ends), 2, one.started_us), one))
    placed.sort(key=lambda pair: (pair[0], pair[1].request_id))
    return [one for _, one in placed]


def _place_of_reader(reader: Candidate, writers: Sequence[Candidate], ends: list[int]) -> int:
    """The place of the last writer that it saw; -1 if there is none."""
    if reader.snapshot is None:
        return bisect_left(ends, reader.started_us) - 1
    snapshot = read_snapshot(reader.snapshot)
    # Whose record was made after this one's end committed later, too.
    for place in range(bisect_left(ends, reader.ended_us) - 1, -1, -1):
        if any(snapshot.sees(xid) for xid in writers[place].xids):
            return place
    return -1
