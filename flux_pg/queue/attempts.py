"""From a claimed job to a request: every attempt is one, with the lease as its request id."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Any

import msgspec
import trio

from flux_pg.queue.held import Claimed
from flux_pg.records import FunctionSpec, Invocation, SpanRecord
from flux_pg.runtime.arguments import InputRefused, bind_arguments
from flux_pg.runtime.run import make_span_id

_decode = msgspec.json.Decoder().decode
_MICROSECONDS = 1_000_000


def make_invocation(claimed: Claimed) -> Invocation:
    """The request of an attempt that begins now."""
    job, spec = claimed.job, claimed.function
    payload = _decode(claimed.payload)
    try:
        arguments = bind_payload(spec, payload)
    except InputRefused as refusal:
        # A record says why, as of every attempt.
        arguments, spec = {}, refusing(spec, refusal)
    root = make_span_id()
    return Invocation(
        request_id=job.lease_token,
        trace_id=claimed.trace_id.hex,
        root_span_id=root,
        parent_request_id=claimed.parent_request_id,
        parent_span_id=_hex(claimed.parent_span_id),
        kind="job" if claimed.schedule is None else "schedule",
        function=spec,
        arguments=arguments,
        input=payload,
        started_perf_ns=perf_counter_ns(),
        started_at_ns=time_ns(),
        gateway_spans=[_root_span(claimed, root)],
        attempt=job.attempt,
        job_id=job.job_id,
        job=job,
    )


def bind_payload(spec: FunctionSpec, payload: Any) -> dict[str, Any]:
    """Arguments for a function from a job's payload.

    Raises:
        InputRefused: It does not fit.
    """
    if not isinstance(payload, dict):
        fault = {"path": "payload", "message": "must be an object: the arguments by name"}
        raise InputRefused(spec.name, [fault])
    return bind_arguments(spec, payload)


def refusing(spec: FunctionSpec, refusal: InputRefused) -> FunctionSpec:
    """A function that refuses its input, in the place of one that cannot be called with it."""

    async def refuse() -> None:
        raise refusal

    return msgspec.structs.replace(
        spec, handler=refuse, takes_context=False, is_async=True, parameters=(), runtime="python"
    )


def _root_span(claimed: Claimed, span_id: str) -> SpanRecord:
    job = claimed.job
    attributes = {
        "job_id": str(job.job_id),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "wait_us": _wait_us(claimed),
        "enqueued_at": claimed.enqueued_at,
        "run_at": claimed.run_at,
    }
    if claimed.schedule is not None:
        attributes["schedule"] = claimed.schedule
        attributes["due_at"] = claimed.due_at
    return SpanRecord(
        span_id, _hex(claimed.parent_span_id), "queue", "queue.job", 0, attributes=attributes
    )


def _wait_us(claimed: Claimed) -> int:
    """From the moment it could have run until now; no two clocks are compared."""
    eligible = max(claimed.enqueued_at, claimed.run_at)
    queued_s = (claimed.claimed_at - eligible).total_seconds()
    return int((max(0.0, queued_s) + trio.current_time() - claimed.received_at) * _MICROSECONDS)


def _hex(span_id: int | None) -> str | None:
    return None if span_id is None else f"{span_id & 0xFFFFFFFFFFFFFFFF:016x}"
