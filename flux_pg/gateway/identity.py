"""Ids and clocks of the gateway, bound once.

The boundary shims of the runtime replace `time.time`, `os.urandom` and friends for user code. The
gateway is not user code: it keeps the originals, so what it measures is never a recorded value
and nothing it draws appears in a record of boundaries.
"""

from __future__ import annotations

from os import urandom as random_bytes
from time import perf_counter_ns, time_ns
from uuid import UUID

from uuid_utils.compat import uuid7 as new_request_id

__all__ = [
    "UUID",
    "client_request_id",
    "new_request_id",
    "new_span_ids",
    "perf_counter_ns",
    "random_bytes",
    "time_ns",
]

MAX_CLIENT_REQUEST_ID = 128


def new_span_ids(count: int) -> list[str]:
    """Draw `count` span ids (16 hex digits each, never all zero) with one system call."""
    drawn = random_bytes(8 * count).hex()
    ids = [drawn[i : i + 16] for i in range(0, 16 * count, 16)]
    return [i if i != "0000000000000000" else "0000000000000001" for i in ids]


def client_request_id(value: str | None) -> str | None:
    """Keep a client's own X-Request-Id as a note: bounded, printable ASCII, never the identity.

    A character outside printable ASCII becomes `?`; what is longer than 128 is cut and marked
    with a closing `...`.
    """
    if not value:
        return None
    if not (value.isascii() and value.isprintable()):
        value = "".join(c if c.isascii() and c.isprintable() else "?" for c in value)
    if len(value) > MAX_CLIENT_REQUEST_ID:
        value = value[: MAX_CLIENT_REQUEST_ID - 3] + "..."
    return value
