"""Every bound of the gateway in one place, so that none is hidden in a loop."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection and one request may cost. Sizes in bytes, times in seconds.

    A request that breaks a bound is refused with a status that names it (408, 413, 414, 431,
    503); nothing is cut to fit.
    """

    max_body_bytes: int = 10 << 20
    max_header_bytes: int = 64 << 10
    """Request line and headers together; trailers have the same bound of their own."""
    max_header_count: int = 128
    max_target_bytes: int = 16 << 10
    max_form_parts: int = 1000
    max_json_depth: int = 128
    max_connections: int = 10_000
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: float = 30.0
    """From the end of the headers to the end of the body, extended by what arrives at
    `min_body_bytes_per_s` or faster: a long upload lives, a trickle does not."""
    min_body_bytes_per_s: int = 16 << 10
    idle_timeout_s: float = 75.0
    """How long a kept-alive connection may wait for its next request."""
    write_timeout_s: float = 30.0
    """How long a response may make no progress at all."""
    linger_timeout_s: float = 2.0
    """How long a refused client may go on sending before the connection is cut."""
    drain_grace_s: float = 0.5
    """While draining: how long a fresh connection may take to send its first byte."""
    sweep_interval_s: float = 0.5
    """How often deadlines are looked at; a deadline is late by at most this."""
