"""Lengths of time as people write them. Pure."""

from __future__ import annotations

import datetime
import math
import re

from flux_pg.errors import UsageError

_UNITS = {
    "ms": 0.001,
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "w": 604_800.0,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
LONGEST_S = 10 * 366 * 86_400.0
"""Nothing is put off for longer than ten years: it would be a mistake of units."""


def read_duration(value: object, what: str = "delay") -> float:
    """Seconds of `5`, `2.5`, `"5m"`, `"1h 30m"` or a `timedelta`.

    Raises:
        UsageError: It is no length of time, negative, or longer than ten years.
    """
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_S:
        raise UsageError(
            f"{what} {value!r} is no length of time",
            'Write seconds, a timedelta, or a text such as "30s", "5m", "1h 30m" or "2d".',
            code="bad-duration",
        )
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return _read(value.lower()) if isinstance(value, str) else None


def _read(text: str) -> float | None:
    total, at = 0.0, 0
    while at < len(text) or at == 0:
        part = _PART.match(text, at)
        if part is None or part[2] not in _UNITS:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total
