"""A cron daemon that wakes up every minute, as cron(8) of Debian describes it: the slow and obvious
way to say when a rule fires. The tests compare the quick one with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from flux_pg.analysis.cron import Cron

MINUTE = timedelta(minutes=1)
THREE_HOURS = 180


def daemon_firings(cron: Cron, zone: ZoneInfo, begin: datetime, end: datetime) -> list[datetime]:
    """When a daemon started at `begin` (UTC, a whole minute) fires before `end`; several runs at
    one moment count as one."""
    fired: list[datetime] = []
    at = begin.astimezone(UTC)
    virtual = _clock(zone, at) - MINUTE
    while at < end:
        clock = _clock(zone, at)
        ahead = (clock - virtual) // MINUTE
        fires = False
        if ahead == 1:
            fires = _matches(cron, clock)
            virtual = clock
        elif 1 < ahead <= THREE_HOURS:
            # Clock followers by what it shows now; the others for each minute that was left out.
            if cron.follows_clock:
                fires = _matches(cron, clock)
            while virtual < clock:
                virtual += MINUTE
                fires = fires or (not cron.follows_clock and _matches(cron, virtual))
        elif -THREE_HOURS < ahead <= 0:
            # Those of fixed times wait until the clock has caught up.
            fires = cron.follows_clock and _matches(cron, clock)
        else:
            fires = _matches(cron, clock)
            virtual = clock
        if fires:
            fired.append(at)
        at += MINUTE
    return fired


def _clock(zone: ZoneInfo, at: datetime) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _matches(cron: Cron, local: datetime) -> bool:
    return (
        local.minute in cron.minutes and local.hour in cron.hours and cron.matches_day(local.date())
    )
