"""Who a request is: its ids, its place in a trace, its zero of time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flux_pg.gateway import identity
from flux_pg.gateway.tracing import SAMPLED, format_traceparent, parse_traceparent


class Origin(msgspec.Struct):
    """Who a request is: its ids, its place in a trace, its zero of time."""

    request_id: identity.UUID
    trace_id: str
    root_span_id: str
    parent_span_id: str | None
    trace_flags: int
    client_request_id: str | None
    started_perf_ns: int
    started_at_ns: int
    spare_span_ids: list[str]

    @property
    def traceparent(self) -> str:
        """The header that names this request's root span as the parent."""
        return format_traceparent(self.trace_id, self.root_span_id, self.trace_flags)


def new_origin(
    headers: Mapping[str, str], header_list: tuple[tuple[str, str], ...], received_ns: int
) -> Origin:
    """Draw the ids of a request and read where it comes from.

    Args:
        headers: Of the request, as far as they are known.
        header_list: The same, with repetitions.
        received_ns: When its first byte was seen.
    """
    parent = None
    if "traceparent" in headers:
        parent = parse_traceparent([v for n, v in header_list if n == "traceparent"])
    perf_ns = identity.perf_counter_ns()
    started_perf_ns = received_ns or perf_ns
    spans = identity.new_span_ids(6)
    return Origin(
        request_id=identity.new_request_id(),
        trace_id=parent.trace_id if parent else spans.pop() + spans.pop(),
        root_span_id=spans[0],
        parent_span_id=parent.span_id if parent else None,
        trace_flags=parent.flags if parent else SAMPLED,
        client_request_id=identity.client_request_id(headers.get("x-request-id")),
        started_perf_ns=started_perf_ns,
        started_at_ns=identity.time_ns() - (perf_ns - started_perf_ns),
        spare_span_ids=spans[1:],
    )
