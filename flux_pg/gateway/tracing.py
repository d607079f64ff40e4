"""W3C Trace Context: read and make `traceparent` and `tracestate`. Pure.

Source: https://www.w3.org/TR/trace-context/ (Level 1; the random-trace-id flag of Level 2 is
passed on). A malformed header is ignored, never an error: the trace simply starts here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_TRACESTATE_MEMBERS = 32
SAMPLED = 0x01
RANDOM_TRACE_ID = 0x02

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_OWS = " \t"
_KEY = re.compile(
    r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
)
_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


class TraceParent(NamedTuple):
    """Where a request comes from: the caller's trace and the span that called us."""

    trace_id: str
    """32 hex digits, not all zero."""
    span_id: str
    """16 hex digits, not all zero: the caller's span."""
    flags: int
    """Only the bits this version of the standard knows."""


def parse_traceparent(values: Sequence[str]) -> TraceParent | None:
    """Read the `traceparent` header fields of one request; None if there is no valid one.

    Two fields are as bad as none: nobody could say which of them is true. A version above 00 is
    read as far as version 00 goes, as the standard asks.
    """
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip(_OWS))
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM_TRACE_ID))


def format_traceparent(trace_id: str, span_id: str, flags: int) -> str:
    """Make the version 00 header value that names `span_id` as the parent."""
    return f"00-{trace_id}-{span_id}-{flags:02x}"


def parse_tracestate(values: Iterable[str]) -> tuple[tuple[str, str], ...] | None:
    """Read all `tracestate` fields of one request as members in order; None if malformed.

    Several fields are one list. Empty members are allowed; a double key, or more than 32 members,
    makes the whole list invalid. It only means anything beside a valid `traceparent`.
    """
    members: dict[str, str] = {}
    for member in ",".join(values).split(","):
        text = member.strip(_OWS)
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value) or key in members:
            return None
        members[key] = value
    return tuple(members.items()) if len(members) <= MAX_TRACESTATE_MEMBERS else None


def format_tracestate(members: Iterable[tuple[str, str]]) -> str:
    """Make one `tracestate` header value out of members, in their order."""
    return ",".join(f"{key}={value}" for key, value in members)
