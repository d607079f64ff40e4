"""What a schedule does next: fire, move on, or wait. Pure: its row and the database's time decide.

Every scheduler of every node comes to the same steps, and flux.fire_schedule lets one of them take
each. Policies for what was missed (no scheduler ran, the database was away):

- `skip`: nothing is made up for, but a time that passed less than a minute ago still counts;
- `once`: the newest missed time is fired, once for all of them;
- `all`: each is fired, the oldest first, of the newest hundred.

A clock that was put back by up to three hours is waited for, so that nothing is fired twice; one
that was wrong by more than that was a mistake, and the schedule goes by the corrected one at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from flux_pg.analysis.cron import Cron, parse_cron
from flux_pg.analysis.cron_times import CORRECTION, find_zone, next_firing, previous_firing
from flux_pg.errors import FluxError

GRACE = timedelta(minutes=1)
"""A time that passed no longer ago than this is late, not missed."""

MAX_MISSED = 100

_INSTANT = timedelta(microseconds=1)


class ScheduleState(NamedTuple):
    """A row of flux.tick_schedules, columns in its order."""

    name: str
    cron: str
    time_zone: str
    overlap: str
    missed: str
    revision: int
    anchored_at: datetime
    last_at: datetime | None
    next_at: datetime | None
    waiting_at: datetime | None
    busy: bool
    error: str | None
    outcome: str | None
    read_at: datetime


class Step(msgspec.Struct, frozen=True):
    """What is to be done with a schedule, if nobody else took a step: see flux.fire_schedule."""

    name: str
    revision: int
    expected: datetime | None
    due: datetime | None
    next: datetime | None
    error: str | None = None


def plan_step(state: ScheduleState, now: datetime) -> Step | None:
    """Return the step that a schedule has to take, None if there is none yet.

    Args:
        state: The schedule as it was read.
        now: The database's time.
    """
    try:
        cron, zone = _rule(state.cron, state.time_zone)
    except FluxError as error:
        # Its zone is not known on this machine, or a newer Flux has made it.
        if state.error == error.message:
            return None
        return Step(state.name, state.revision, state.next_at, None, None, error.message)
    served = state.last_at if state.last_at and state.last_at - now <= CORRECTION else None
    if state.next_at is None:
        begin = min(state.anchored_at, now)
        return _step(state, None, next_firing(cron, zone, max(begin, served or begin)))
    if state.next_at > now:
        soonest = next_firing(cron, zone, max(now, served or now))
        if state.next_at > soonest:
            # Worked out while the clock was ahead, or the rules of the zone have changed.
            return _step(state, None, soonest)
    if state.waiting_at is not None and not state.busy:
        return _step(state, state.waiting_at, state.next_at)
    if state.next_at > now:
        return None
    return _due_step(state, state.next_at, cron, zone, now)


def _due_step(
    state: ScheduleState, first: datetime, cron: Cron, zone: ZoneInfo, now: datetime
) -> Step:
    newest = max(first, previous_firing(cron, zone, now + _INSTANT))
    if state.missed == "all":
        due = _oldest_to_fire(first, newest, cron, zone)
        return _step(state, due, next_firing(cron, zone, due))
    too_late = state.missed == "skip" and now - newest > GRACE
    return _step(state, None if too_late else newest, next_firing(cron, zone, newest))


def _oldest_to_fire(first: datetime, newest: datetime, cron: Cron, zone: ZoneInfo) -> datetime:
    """The first of the newest MAX_MISSED times from `first` to `newest`."""
    oldest = newest
    for _ in range(MAX_MISSED - 1):
        before = previous_firing(cron, zone, oldest)
        if before < first:
            return first
        oldest = before
    return oldest


def seconds_to_next(states: Sequence[ScheduleState], now: datetime) -> float | None:
    """In how many seconds the next of these is due; None if none ever is."""
    times = [state.next_at for state in states if state.next_at is not None]
    return max(0.0, (min(times) - now).total_seconds()) if times else None


def _step(state: ScheduleState, due: datetime | None, following: datetime | None) -> Step:
    return Step(state.name, state.revision, state.next_at, due, following)


@lru_cache(maxsize=1024)
def _rule(cron: str, time_zone: str) -> tuple[Cron, ZoneInfo]:
    return parse_cron(cron), find_zone(time_zone)
