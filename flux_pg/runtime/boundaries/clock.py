"""The clock: functions of `time`, and `now`, `utcnow`, `today` of `datetime`'s types.

A time zone is part of what is recorded where the result depends on it: naive results are kept as
they are, so that a replay on a machine in another zone gives them back unchanged. `now(tz)` keeps
the instant and computes the rest, as the original does.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from datetime import date, datetime, timezone, tzinfo
from functools import partial
from typing import Any

from .callers import call_counts
from .log import current_log
from .patching import Patches, ShimModule, bind, disguise

_READERS = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
    "process_time", "process_time_ns", "thread_time", "thread_time_ns",
)  # fmt: skip
_ONE_ARGUMENT = ("clock_gettime", "clock_gettime_ns")
# These read the clock only when the argument at this position is left out (or None).
_CLOCK_BY_DEFAULT = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}

_UTC = timezone.utc  # noqa: UP017 - must be bound even where `datetime` is replaced


def install_clock(patches: Patches) -> None:
    """Replace the clock functions of `time` and the clock methods of `datetime`'s types."""
    owner = ShimModule("time")
    for name in _READERS:
        if hasattr(time, name):
            patches.set(time, name, _reader(owner, getattr(time, name)))
    for name in _ONE_ARGUMENT:
        if hasattr(time, name):
            patches.set(time, name, _with_argument(owner, getattr(time, name)))
    for name, position in _CLOCK_BY_DEFAULT.items():
        patches.set(time, name, _by_default(owner, getattr(time, name), position))
    _install_dates(patches)


def _reader(owner: ShimModule, original: Callable[[], Any]) -> Callable[..., Any]:
    label = f"time.{original.__name__}"
    get_log = current_log.get

    def shim(self: object) -> Any:
        log = get_log()
        if log is None or not call_counts():
            return original()
        return log.observe("clock", label, original)

    return bind(shim, original, owner)


def _with_argument(owner: ShimModule, original: Callable[[Any], Any]) -> Callable[..., Any]:
    label = f"time.{original.__name__}"

    def shim(self: object, clock: Any, /) -> Any:
        log = current_log.get()
        if log is None or not call_counts():
            return original(clock)
        return log.observe("clock", f"{label}({clock})", lambda: original(clock))

    return bind(shim, original, owner)


def _by_default(
    owner: ShimModule, original: Callable[..., Any], position: int
) -> Callable[..., Any]:
    label = f"time.{original.__name__}"

    def shim(self: object, *args: Any) -> Any:
        log = current_log.get()
        given = len(args) > position and args[position] is not None
        if log is None or given or not call_counts():
            return original(*args)
        request = {"format": str(args[0])} if position and args else None
        return log.observe("clock", label, lambda: original(*args), request)

    return bind(shim, original, owner)


def _install_dates(patches: Patches) -> None:
    real_now: Callable[[Any], datetime] = vars(datetime)["now"].__get__(None, datetime)
    utc_now: Callable[[], datetime] = partial(real_now, _UTC)
    naive_now: Callable[[], datetime] = datetime.now
    genuine_now, genuine_today = vars(datetime)["now"], date.today
    date_today = vars(date)["today"]

    def now(cls: type[datetime], tz: Any = None) -> datetime:
        log = current_log.get()
        if log is None or not call_counts():
            return real_now(tz) if cls is datetime else _original(genuine_now, cls)(tz)
        if tz is None:
            return _as_class(cls, log.observe("clock", "datetime.now", naive_now))
        if not isinstance(tz, tzinfo):
            real_now(tz)  # raises what the original raises
        instant = log.observe("clock", "datetime.now(tz)", utc_now)
        if tz is _UTC and cls is datetime:
            return instant
        local: datetime = tz.fromutc(_as_class(cls, instant.replace(tzinfo=tz)))
        return local

    def utcnow(cls: type[datetime]) -> datetime:
        if sys.version_info >= (3, 12):
            warnings.warn(_UTCNOW_WARNING, DeprecationWarning, stacklevel=2)
        log = current_log.get()
        if log is None or not call_counts():
            return _as_class(cls, real_now(_UTC).replace(tzinfo=None))
        value = log.observe("clock", "datetime.utcnow", lambda: utc_now().replace(tzinfo=None))
        return _as_class(cls, value)

    def today(cls: type[Any]) -> Any:
        log = current_log.get()
        if log is None or not call_counts():
            return _original(date_today, cls)()
        if issubclass(cls, datetime):
            # The original goes through `fromtimestamp`, as `now()` without a zone does.
            return _as_class(cls, log.observe("clock", "datetime.today", naive_now))
        value = log.observe("clock", "date.today", genuine_today)
        return value if cls is date else cls(value.year, value.month, value.day)

    patches.set_builtin(datetime, "now", classmethod(disguise(now, real_now)))
    patches.set_builtin(datetime, "utcnow", classmethod(disguise(utcnow, datetime.utcnow)))
    patches.set_builtin(date, "today", classmethod(disguise(today, date.today)))


_UTCNOW_WARNING = (
    "datetime.datetime.utcnow() is deprecated and scheduled for removal in a future version. "
    "Use timezone-aware objects to represent datetimes in UTC: "
    "datetime.datetime.now(datetime.UTC)."
)


def _original(descriptor: Any, cls: type) -> Callable[..., Any]:
    bound: Callable[..., Any] = descriptor.__get__(None, cls)
    return bound


def _as_class(cls: type[datetime], value: datetime) -> datetime:
    """`value` as an instance of `cls`, made the way the originals make one of a subclass."""
    if cls is datetime:
        return value
    made = cls(
        value.year, value.month, value.day, value.hour, value.minute, value.second,
        value.microsecond, value.tzinfo,
    )  # fmt: skip
    return made.replace(fold=value.fold) if value.fold else made
