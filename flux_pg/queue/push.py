"""What `ctx.queue.push` was given, checked before anything is sent: a mistake must not cost the
caller its transaction. Pure but for `due_in_s`, which reads the clock."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from flux_pg.errors import UsageError
from flux_pg.queue.durations import read_duration

PRIORITIES = range(-1000, 1001)


class Push(msgspec.Struct, frozen=True):
    """A job to be enqueued. `payload` is JSON; `delay_s` and `run_at` are not both given."""

    function: str
    given: dict[str, Any]
    payload: str
    delay_s: float | None
    run_at: datetime.datetime | None
    priority: int
    max_attempts: int | None
    idempotency_key: str | None

    def parameters(self, trace_id: str) -> list[Any]:
        """The parameters of `flux.enqueue`."""
        return [
            self.function,
            self.payload,
            None if self.delay_s is None else str(self.delay_s),
            None if self.run_at is None else self.run_at.isoformat(),
            str(self.priority),
            None if self.max_attempts is None else str(self.max_attempts),
            self.idempotency_key,
            trace_id,
        ]

    def shown(self) -> dict[str, Any]:
        """The input of its span; to be redacted."""
        options = {
            "delay_s": self.delay_s,
            "run_at": None if self.run_at is None else self.run_at.isoformat(),
            "priority": self.priority or None,
            "max_attempts": self.max_attempts,
            "idempotency_key": self.idempotency_key,
        }
        return {
            "payload": self.given,
            **{name: value for name, value in options.items() if value is not None},
        }

    def due_in_s(self) -> float:
        """In how many seconds it can run."""
        if self.run_at is not None:
            now = datetime.datetime.now(datetime.UTC)
            return max(0.0, (self.run_at - now).total_seconds())
        return self.delay_s or 0.0


def read_push(function: str, options: Mapping[str, Any]) -> Push:
    """Check the arguments of a push.

    Raises:
        UsageError: One of them is not what it can be; the message names it.
    """
    delay, run_at = options.get("delay"), options.get("run_at")
    if delay is not None and run_at is not None:
        raise _refused(function, "it was given both delay and run_at", "Leave one of them out.")
    payload, text = _payload(function, options.get("payload"))
    return Push(
        function,
        payload,
        text,
        None if delay is None else read_duration(delay),
        _run_at(function, run_at),
        _priority(function, options.get("priority", 0)),
        _max_attempts(function, options.get("max_attempts")),
        _key(function, options.get("idempotency_key")),
    )


def _payload(function: str, payload: Any) -> tuple[dict[str, Any], str]:
    if payload is None:
        return {}, "{}"
    if not isinstance(payload, Mapping) or not all(isinstance(name, str) for name in payload):
        raise _refused(
            function, "its payload is no mapping", "Its keys are the function's parameters."
        )
    try:
        text = msgspec.json.encode(dict(payload)).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _refused(
            function,
            f"its payload has no JSON form: {error}",
            "Give it dicts, lists, strings, numbers, dates, UUIDs.",
        ) from error
    if "\\u0000" in text:
        raise _refused(
            function, "its payload holds a NUL character", "Postgres cannot keep one in JSON."
        )
    given: dict[str, Any] = msgspec.json.decode(text)
    return given, text


def _run_at(function: str, run_at: Any) -> datetime.datetime | None:
    if run_at is None:
        return None
    if not isinstance(run_at, datetime.datetime) or run_at.tzinfo is None:
        raise _refused(
            function,
            f"run_at {run_at!r} is no time with a time zone",
            "Write ctx.now() + timedelta(...), or use delay=.",
        )
    return run_at


def _priority(function: str, priority: Any) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        raise _refused(
            function,
            f"priority {priority!r} is no whole number from -1000 to 1000",
            "Leave it out for 0; a higher one goes first.",
        )
    return priority


def _max_attempts(function: str, attempts: Any) -> int | None:
    if attempts is None:
        return None
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 0 < attempts < 2**31:
        raise _refused(
            function,
            f"max_attempts {attempts!r} is no whole number above 0",
            "Leave it out for the function's own.",
        )
    return attempts


def _key(function: str, key: Any) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not key or "\x00" in key:
        raise _refused(
            function, f"idempotency_key {key!r} is no text", "Write one that names the work."
        )
    return key


def _refused(function: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"no job of {function} was enqueued: {reason}", hint, code="bad-job")
