"""When a cron rule fires in a time zone: the next time, the one before. No clock in here.

Laws, those of Debian's cron (cron(8), "Special considerations exist when the clock is changed by
less than 3 hours"):

1. A rule that follows the clock (its minute or hour begins with `*`) fires whenever the wall clock
   shows a matching minute: twice in an hour that comes twice, not at all in one that is left out.
2. Any other rule fires once for each of its times. Those that the clock leaves out fire at the
   moment of the jump, several of them as one; those that come twice fire the first time.
3. A jump of three hours or more (a zone that changes sides of the date line) is a correction: what
   it leaves out does not fire, what it repeats fires again. Like the daemon, which looks at its
   clock once a minute, we count exactly three hours as a correction forwards, not backwards.

A zone's clock is a row of stretches of one UTC offset each. The search jumps from match to match
in the calendar and from stretch to stretch, never from minute to minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flux_pg.analysis.cron import Cron
from flux_pg.errors import UsageError

CORRECTION = timedelta(hours=3)

_INSTANT = timedelta(microseconds=1)
_PROBE = timedelta(hours=6)
"""Two changes of one zone's clock are further apart than this."""
_NEAR = timedelta(days=2)
"""Longer than any jump: only changes this near to a time have to do with it."""
_FAR = timedelta(days=400)


class _Change(NamedTuple):
    """A jump of a zone's clock; `at` is in UTC."""

    at: datetime
    before: timedelta
    after: timedelta


class _Stretch(NamedTuple):
    """A time of one offset: [begin, end) in UTC; `counted` is the local time up to which rules of
    fixed times have been served when it begins."""

    begin: datetime
    end: datetime
    offset: timedelta
    counted: datetime

    def counted_for(self, cron: Cron) -> datetime:
        return self.begin + self.offset if cron.follows_clock else self.counted


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name in the tz database, such as `Europe/Riga`.

    Raises:
        UsageError: There is no such zone on this machine.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"there is no time zone {name}",
            "Write it as in the tz database, such as Europe/Riga or UTC.",
            code="no-time-zone",
        ) from None


def next_firing(cron: Cron, zone: ZoneInfo, after: datetime) -> datetime:
    """Return the first time that `cron` fires later than `after`, in UTC.

    Args:
        cron: The rule.
        zone: The zone whose clock it goes by.
        after: An aware time.

    Raises:
        OverflowError: It is further away than a datetime can hold.
    """
    start = after.astimezone(UTC).replace(tzinfo=None)
    moment = start
    while True:
        stretch = _stretch_at(zone, moment)
        local = stretch.counted_for(cron)
        if stretch.begin <= start or stretch.begin < moment:
            # Only where the search comes over a jump does what that left out count.
            local = max(local, max(moment, start + _INSTANT) + stretch.offset)
        found = cron.first_from(local)
        at = max(found - stretch.offset, stretch.begin)
        if at < stretch.end:
            return at.replace(tzinfo=UTC)
        # Nothing matches up to `found`, but what a jump repeats; those near `after` are looked at.
        skip_to = found - stretch.offset - _NEAR if moment - start > _NEAR else stretch.end
        moment = max(stretch.end, skip_to)


def previous_firing(cron: Cron, zone: ZoneInfo, before: datetime) -> datetime:
    """Return the last time that `cron` fired earlier than `before`, in UTC.

    Raises:
        OverflowError: It is further back than a datetime can hold.
    """
    end = before.astimezone(UTC).replace(tzinfo=None)
    while True:
        stretch = _stretch_at(zone, end - _INSTANT)
        found = cron.last_before(end + stretch.offset)
        if found >= stretch.counted_for(cron):
            return max(found - stretch.offset, stretch.begin).replace(tzinfo=UTC)
        end = stretch.begin


def firings(cron: Cron, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Yield every time that `cron` fires later than `after`, in UTC, the earliest first."""
    while True:
        after = next_firing(cron, zone, after)
        yield after


def _stretch_at(zone: ZoneInfo, moment: datetime) -> _Stretch:
    """Return the stretch around a time in UTC; one that lasts for long is cut where nothing is."""
    begin, end, change = moment - _FAR, moment + _FAR, None
    for year in range(begin.year, end.year + 1):
        for found in _changes(zone, year):
            if begin < found.at <= moment:
                begin, change = found.at, found
            elif moment < found.at < end:
                end = found.at
    offset = _offset(zone, moment)
    counted = begin + offset
    if change is not None:
        jump = change.after - change.before
        if -CORRECTION <= jump < CORRECTION:
            counted = begin + change.before
    return _Stretch(begin, end, offset, counted)


@lru_cache(maxsize=4096)
def _changes(zone: ZoneInfo, year: int) -> tuple[_Change, ...]:
    """The jumps of a zone's clock in a year of UTC. zoneinfo keeps them to itself, so they are
    found by asking for the offset every few hours."""
    if not MINYEAR < year < MAXYEAR:
        raise OverflowError(f"the year {year} is at the end of the calendar")
    found = []
    at, end = datetime(year, 1, 1), datetime(year + 1, 1, 1)
    before = _offset(zone, at)
    while at < end:
        later = min(at + _PROBE, end)
        after = _offset(zone, later)
        if after != before:
            found.append(_Change(_bisect(zone, at, later), before, after))
        at, before = later, after
    return tuple(found)


def _bisect(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first second at which the offset is no longer that of `low`."""
    before = _offset(zone, low)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.replace(tzinfo=UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return offset
