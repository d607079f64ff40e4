"""Cron rules: reading one, and the calendar that it describes. No clock and no time zone in here;
`cron_times` puts a rule on a zone's clock.

The language is that of Debian's cron (crontab(5)): five fields, `*`, numbers, names, ranges, lists,
steps, and the `@daily` forms. Two laws of it surprise people and are kept all the same:

1. If day of month and day of week are both restricted, a day matches when EITHER does. A field
   that begins with `*` counts as unrestricted, also `*/2`: then BOTH have to match.
2. A rule whose minute or hour begins with `*` follows the wall clock through clock changes; any
   other one has fixed times and runs once for each (see `cron_times`).

`flux.check_cron` in SQL accepts the same texts with the same messages; a test compares them.

Source: crontab(5) and cron(8) of Debian.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

from flux_pg.errors import UsageError

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SUNDAY = 7

_TERM = re.compile(
    r"(?:\*|(?P<low>[0-9]{1,4}|[a-z]{3})(?:-(?P<high>[0-9]{1,4}|[a-z]{3}))?)(?:/(?P<step>[0-9]{1,4}))?"
)
_SPACE = " \t\n\r\f\v"
_FORMS = "Write *, 5, 1-5, */15, 10-50/20, or several of these with commas."


class CronError(UsageError):
    """A cron rule that cannot be read.

    Attributes:
        field: The field's name, such as `day of month`; empty if it concerns the whole rule.
        position: The character where the trouble begins, from 1; 0 if it concerns the whole rule.
    """

    code = "bad-cron"

    def __init__(self, message: str, hint: str, *, field: str = "", position: int = 0) -> None:
        super().__init__(message, hint)
        self.field = field
        self.position = position


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def fail(self, problem: str, position: int, hint: str = _FORMS) -> CronError:
        message = f"{self.name}: {problem} (character {position})"
        return CronError(message, hint, field=self.name, position=position)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron rule that has been read.

    Attributes:
        text: As it was written, with single spaces.
        weekdays: 0 is Sunday.
        both_days: Whether day of month and day of week must both match; else one is enough.
        follows_clock: Whether it follows the wall clock through clock changes (law 2).
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    both_days: bool
    follows_clock: bool

    def __str__(self) -> str:
        return self.text

    def matches_day(self, day: date) -> bool:
        """Whether it fires on that day at all."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date and by_weekday if self.both_days else by_date or by_weekday

    def first_from(self, local: datetime) -> datetime:
        """Return the first matching minute at or after `local`, a time without zone.

        Raises:
            OverflowError: There is none that a datetime can hold.
        """
        day = local.date()
        if self.matches_day(day):
            if local.second or local.microsecond:
                local += timedelta(minutes=1)
            if local.date() == day:
                found = self._time_from(local.hour, local.minute)
                if found is not None:
                    return datetime.combine(day, found)
        day = self._following_day(day)
        return datetime.combine(day, time(self.hours[0], self.minutes[0]))

    def last_before(self, local: datetime) -> datetime:
        """Return the last matching minute before `local`, a time without zone.

        Raises:
            OverflowError: There is none that a datetime can hold.
        """
        local -= timedelta(microseconds=1)
        day = local.date()
        if self.matches_day(day):
            found = self._time_until(local.hour, local.minute)
            if found is not None:
                return datetime.combine(day, found)
        day = self._preceding_day(day)
        return datetime.combine(day, time(self.hours[-1], self.minutes[-1]))

    def _time_from(self, hour: int, minute: int) -> time | None:
        if hour in self.hours:
            index = bisect_left(self.minutes, minute)
            if index < len(self.minutes):
                return time(hour, self.minutes[index])
        index = bisect_left(self.hours, hour + 1)
        return time(self.hours[index], self.minutes[0]) if index < len(self.hours) else None

    def _time_until(self, hour: int, minute: int) -> time | None:
        if hour in self.hours:
            index = bisect_left(self.minutes, minute + 1)
            if index:
                return time(hour, self.minutes[index - 1])
        index = bisect_left(self.hours, hour)
        return time(self.hours[index - 1], self.minutes[-1]) if index else None

    def _following_day(self, day: date) -> date:
        day += timedelta(days=1)
        while not self.matches_day(day):
            if day.month in self.months:
                day += timedelta(days=1)
            else:
                day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
        return day

    def _preceding_day(self, day: date) -> date:
        day -= timedelta(days=1)
        while not self.matches_day(day):
            if day.month in self.months:
                day -= timedelta(days=1)
            else:
                day = day.replace(day=1) - timedelta(days=1)
        return day


def parse_cron(text: str) -> Cron:
    """Read a cron rule.

    Args:
        text: Five fields, or a nickname such as `@daily`; case does not matter.

    Raises:
        CronError: It is none; says in which field and at which character.
    """
    written = text.strip(_SPACE)
    if written.startswith("@"):
        return _parse_fields(written.lower(), _expand(written.lower()))
    return _parse_fields(" ".join(re.split(f"[{_SPACE}]+", written)), text)


def _expand(nickname: str) -> str:
    if nickname == "@reboot":
        raise CronError(
            "@reboot is no time: Flux has no reboot to count from",
            "Write a rule of five fields; what is to run at every start belongs into a migration"
            " or the deployment's own script.",
            position=1,
        )
    if nickname not in NICKNAMES:
        raise CronError(
            f"there is no {nickname}", f"There are {', '.join(sorted(NICKNAMES))}.", position=1
        )
    return NICKNAMES[nickname]


def _parse_fields(shown: str, text: str) -> Cron:
    parts = [(found.start() + 1, found[0].lower()) for found in re.finditer(f"[^{_SPACE}]+", text)]
    if len(parts) != len(_FIELDS):
        extra = " Seconds are not part of cron." if len(parts) == len(_FIELDS) + 1 else ""
        raise CronError(
            f"a cron rule has five fields, not {len(parts)}",
            f"Write minute, hour, day of month, month, day of week, such as 30 3 * * 1-5.{extra}",
        )
    sets = [
        _parse_field(field, part, position)
        for field, (position, part) in zip(_FIELDS, parts, strict=True)
    ]
    minutes, hours, days, months, weekdays = sets
    stars = [part.startswith("*") for _, part in parts]
    both_days = stars[2] or stars[4]
    if both_days and not any(min(days) <= _LONGEST[month - 1] for month in months):
        raise _FIELDS[2].fail(
            f"none of these months has {_ordinal(min(days))} day",
            parts[2][0],
            "It would never fire; February has at most 29 days.",
        )
    return Cron(
        text=shown,
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        both_days=both_days,
        follows_clock=stars[0] or stars[1],
    )


def _ordinal(day: int) -> str:
    return f"a {day}st" if day == 31 else f"a {day}th"


def _parse_field(field: _Field, text: str, position: int) -> set[int]:
    found: set[int] = set()
    for term in text.split(","):
        found.update(_parse_term(field, term, position))
        position += len(term) + 1
    return found


def _parse_term(field: _Field, term: str, position: int) -> range:
    matched = _TERM.fullmatch(term)
    if matched is None:
        problem = f'"{term}" is not understood' if term else "there is nothing between the commas"
        hint = _FORMS
        if re.search("[lw#?]", term):
            hint = "L, W, # and ? are not part of cron. " + _FORMS
        raise field.fail(problem, position, hint)
    low, high = field.low, field.high
    if matched["low"] is not None:
        low = _value(field, matched["low"], position)
        if matched["high"] is not None:
            high = _value(field, matched["high"], position + matched.start("high"))
            if matched["high"] == "sun" and low > high:
                high = _SUNDAY
        elif matched["step"] is None:
            high = low
    if low > high:
        raise field.fail(
            f"the range {matched['low']}-{matched['high']} goes backwards",
            position,
            f"Write {low}-{field.high},{field.low}-{high} to go round.",
        )
    step = int(matched["step"] or 1)
    if step == 0:
        raise field.fail("a step must be at least 1", position + matched.start("step"))
    return range(low, high + 1, step)


def _value(field: _Field, text: str, position: int) -> int:
    if text in field.names:
        return field.names.index(text) + field.low
    if not text.isdecimal():
        hint = f"There are {', '.join(field.names)}." if field.names else _FORMS
        raise field.fail(f'there is no "{text}"', position, hint)
    if not field.low <= int(text) <= field.high:
        raise field.fail(f"{text} is not within {field.low}-{field.high}", position)
    return int(text)
