"""Order, and who may run beside whom, of the requests of an incident."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from flux_pg.replay.footprint import EVERYTHING, Footprint, Queue
from flux_pg.replay.incident_changes import Change
from flux_pg.replay.incident_order import in_commit_order, read_snapshot
from flux_pg.replay.incident_plan import plan_chained, plan_isolated
from flux_pg.replay.incident_selection import Candidate
from flux_pg.replay.interleaved import Changes


def request(
    name: str, *, snapshot: str | None, xid: int = 0, start: int = 0, end: int = 0
) -> Candidate:
    return Candidate(
        name, "http", "f", "ok", snapshot, (xid,) if xid else (), start, end, None, xid > 0
    )  # fmt: skip


def change(seq: int, xid: int, key: str, op: str = "U") -> Change:
    return Change(
        seq, seq, xid, None, "psql", "public", "t", op, [key], ["id"], ["n"], ["0"], ["1"]
    )  # fmt: skip


def told(steps: Any) -> list[str]:
    return [s.request.request_id if s.request else f"xid {s.outside[0].xid}" for s in steps]


def test_a_snapshot_sees_what_had_ended() -> None:
    snapshot = read_snapshot("10:20:12,15")
    assert [xid for xid in (9, 10, 12, 13, 15, 19, 20) if snapshot.sees(xid)] == [9, 10, 13, 19]


def test_writers_stand_by_their_end_and_readers_behind_what_they_saw() -> None:
    slow = request("slow", snapshot="10:11:", xid=10, start=0, end=100)
    quick = request("quick", snapshot="10:12:10", xid=11, start=10, end=50)
    before = request("before", snapshot="10:12:10,11", start=90, end=95)
    between = request("between", snapshot="10:12:10", start=60, end=200)
    after = request("after", snapshot="12:12:", start=20, end=300)
    ordered = in_commit_order([after, between, before, quick, slow])
    assert [one.request_id for one in ordered] == ["before", "quick", "between", "slow", "after"]


def test_what_was_seen_tells_the_order_of_commits_better_than_clocks_do() -> None:
    late = request("late", snapshot="10:10:", xid=11, start=0, end=90)
    early = request("early", snapshot="10:10:", xid=10, start=0, end=100)  # its clock is ahead
    between = request("between", snapshot="11:12:11", start=50, end=60)
    ordered = in_commit_order([late, between, early])
    assert [one.request_id for one in ordered] == ["early", "between", "late"]


def test_of_two_that_changed_one_row_the_one_that_changed_it_first_stands_first() -> None:
    # Clocks say otherwise; and what a called function changed is its caller's.
    first = request("first", snapshot="10:10:", xid=11, start=0, end=100)
    second = replace(request("second", snapshot="10:10:", xid=10, end=90), writes=False)
    steps = plan_chained([second, first], [change(1, 11, "1"), change(2, 10, "1")])
    assert told(steps) == ["first", "second"]


def test_who_has_no_snapshot_does_not_stand_behind_what_it_committed_itself() -> None:
    unknown = request("unknown", snapshot=None, xid=20, start=30, end=50)
    slow = request("slow", snapshot="30:30:", start=20, end=90)  # it began, then waited
    first = request("first", snapshot="15:15:", xid=15, start=10, end=15)
    steps = plan_isolated([slow, unknown, first], [change(1, 15, "1"), change(2, 20, "1")])
    assert told(steps) == ["first", "unknown", "xid 15", "xid 20", "slow"]
    steps = plan_chained([slow, unknown, first], [])
    assert told(steps) == ["first", "unknown", "slow"]


def test_what_others_did_stands_before_who_saw_it_and_before_who_came_after_it_on_a_row() -> None:
    reader = request("reader", snapshot="10:10:", end=5)
    # Its snapshot does not see 20, but its change of row 1 came after that one's.
    writer = request("writer", snapshot="20:21:20", xid=21, end=100)
    later = request("later", snapshot="40:40:", start=150, end=160)
    changes = [change(1, 20, "1"), change(2, 21, "1"), change(3, 30, "2"), change(4, 50, "3")]
    steps = plan_chained([later, writer, reader], changes)
    assert told(steps) == ["reader", "xid 20", "writer", "xid 30", "later"]
    alone = plan_isolated([later, writer, reader], changes)
    assert told(alone) == ["reader", "writer", "xid 20", "xid 21", "xid 30", "later"]


def test_steps_that_touch_one_row_keep_their_order_and_others_do_not_wait() -> None:
    queue = Queue()
    one = Footprint({(EVERYTHING, None)}, {("t", ("1",))})
    other = Footprint({(EVERYTHING, None)}, {("t", ("2",))})
    whole = Footprint({(EVERYTHING, None), ("t", None)})
    barrier = Footprint(set(), {(EVERYTHING, None)})
    assert queue.add(0, one) == set()
    assert queue.add(1, other) == set()
    assert queue.add(2, one) == {0}
    assert queue.add(3, whole) == {1, 2}
    assert queue.add(4, other) == {1, 3}
    assert queue.add(5, barrier) >= {4}
    assert queue.add(6, one) >= {5}


def test_whoever_conflicts_is_waited_for_directly_or_not() -> None:
    rng = random.Random(4)
    tables, keys = ["a", "b"], [("1",), ("2",), None]
    for _ in range(200):
        queue, prints, reach = Queue(), [], []
        for step in range(12):
            reads = {(rng.choice(tables), rng.choice(keys)) for _ in range(rng.randrange(3))}
            writes = {(rng.choice(tables), rng.choice(keys)) for _ in range(rng.randrange(2))}
            before = queue.add(step, Footprint(set(reads), set(writes)))
            reached = set(before).union(*(reach[one] for one in before))
            prints.append((reads, writes))
            reach.append(reached)
            must = {earlier for earlier in range(step) if _conflict(prints[earlier], prints[step])}
            assert must <= reached, (must, reached, prints)


def _conflict(one: Any, two: Any) -> bool:
    pairs = [(a, b) for a in one[1] for b in two[0] | two[1]]
    pairs += [(a, b) for a in one[0] for b in two[1]]
    return any(a[0] == b[0] and (a[1] == b[1] or None in (a[1], b[1])) for a, b in pairs)


def test_what_was_committed_meanwhile_is_found_as_by_looking_at_everything() -> None:
    dice = random.Random(7)
    for _ in range(200):
        changes = [
            change(seq, dice.randrange(1, 40), "1")._replace(at_us=seq + dice.randrange(10))
            for seq in range(dice.randrange(40))
        ]
        xmin = dice.randrange(1, 40)
        xmax = dice.randrange(xmin, 41)
        running = {dice.randrange(xmin, xmax) for _ in range(3)} if xmin < xmax else set()
        text = f"{xmin}:{xmax}:{','.join(map(str, sorted(running)))}"
        one = request("r", snapshot=text, xid=dice.randrange(1, 40), end=50)
        until_us = dice.randrange(50)
        snapshot = read_snapshot(text)
        known = Changes(changes)
        assert known.meanwhile(one, until_us) == [
            other
            for other in changes
            if other.xid not in one.xids
            and other.at_us <= until_us
            and not snapshot.sees(other.xid)
        ]
        assert list(known.of(one.xids)) == [other for other in changes if other.xid in one.xids]
