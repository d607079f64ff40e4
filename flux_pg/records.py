"""The domain's records: what one request is, before and after it ran. No I/O, no clock.

These types are the seam between the gateway (which makes an `Invocation`), the runtime (which
runs it) and the analysis (which reads it back). Times are microseconds from the request's start;
the wall clock is kept once, for the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

Kind = Literal["http", "job", "schedule", "invoke", "call", "replay", "bisect"]
ExecutionOutcome = Literal["ok", "error", "timeout", "cancelled", "crashed"]
SpanStatus = Literal["ok", "error", "rolled_back", "cancelled"]
Isolation = Literal["read committed", "repeatable read", "serializable"]
Auth = Literal["none", "user", "service"]
ISOLATIONS: tuple[Isolation, ...] = ("read committed", "repeatable read", "serializable")
"""Isolation levels, the weakest first."""


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the user's code; `file` is relative to the project directory."""

    file: str
    line: int
    function: str = ""


class ErrorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something failed.

    `fingerprint` groups failures by type and place: equal for the same bug, whatever the values.
    """

    type: str
    message: str
    stack: tuple[Location, ...] = ()
    fingerprint: str = ""
    sqlstate: str = ""
    detail: str = ""
    hint: str = ""
    causes: tuple[str, ...] = ()
    """What it was raised from, `type: message`, nearest first."""
    diagnostics: dict[str, str] = {}
    """What else Postgres said of it: names of schema, table, column, data type and constraint."""


class SpanRecord(msgspec.Struct, omit_defaults=True):
    """One timed step. `span_id` is 16 hex digits; `input` and `output` are JSON-ready values."""

    span_id: str
    parent_span_id: str | None
    kind: str
    name: str
    start_us: int
    duration_us: int = 0
    status: SpanStatus = "ok"
    input: Any = None
    output: Any = None
    error: ErrorRecord | None = None
    location: Location | None = None
    attributes: dict[str, Any] | None = None


class Parameter(msgspec.Struct, frozen=True):
    """One argument of a function: where it comes from is decided by the gateway."""

    name: str
    annotation: Any
    required: bool
    default: Any = None


class Backoff(msgspec.Struct, frozen=True):
    """How long a failed job waits: `base_s` after its first attempt, `factor` times as long after
    each further one, at most `limit_s`; a random part of up to one half is taken off."""

    base_s: float = 2.0
    factor: float = 4.0
    limit_s: float = 3600.0


class Schedule(msgspec.Struct, frozen=True):
    """A cron rule by which jobs of a function are enqueued.

    `overlap` says what happens if it is due while its last job is unfinished: `allow`, `skip`, or
    `queue` (one waits). `missed` says what happens to times at which nothing ran: `skip`, `once`
    (the newest of them) or `all` (the newest hundred). `name` is the function's if it is empty.
    """

    cron: str
    time_zone: str = "UTC"
    payload: dict[str, Any] = {}
    overlap: Literal["allow", "skip", "queue"] = "skip"
    missed: Literal["skip", "once", "all"] = "once"
    name: str = ""


class JobAttempt(msgspec.Struct, kw_only=True):
    """One try at a job, as its request knows it.

    `lease_token` is the attempt's fence, and its request id. `withdrawn` says why the attempt was
    stopped from outside: `cancel` (somebody cancelled the job), `drain` (its worker ends) or
    `lost` (the lease is another worker's); empty if it was not.
    """

    job_id: UUID
    attempt: int
    max_attempts: int
    lease_token: UUID
    worker: UUID
    backoff: Backoff = Backoff()
    withdrawn: Literal["", "cancel", "drain", "lost"] = ""
    retry_in_s: float | None = None
    """Set when it has failed: after how many seconds it is tried again, None if it is not."""


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What `define_function` declares, and where.

    `transaction` False means that the function opens its own with `ctx.db.transaction()`.
    `path` may hold parameters as `{name}`; `file` is relative to the project directory.
    `auth` says who may call it over HTTP, `role` whose rights it has: its caller's or `service`.
    `max_attempts`, `concurrency` (over all nodes; None: no limit) and `backoff` are for its jobs.
    `max_rows` and `max_cost` limit each of its statements; None: as the project says.
    """

    name: str
    handler: Callable[..., Any]
    method: str = "POST"
    path: str
    auth: Auth = "none"
    role: Literal["caller", "service"] = "caller"
    timeout_s: float = 30.0
    transaction: bool = True
    isolation: Isolation = "read committed"
    durability: Literal["normal", "strict"] = "normal"
    retries: int = 0
    max_attempts: int = 5
    concurrency: int | None = None
    backoff: Backoff = Backoff()
    schedules: tuple[Schedule, ...] = ()
    cancel_on_disconnect: bool = False
    max_rows: int | None = None
    max_cost: float | None = None
    takes_context: bool = True
    is_async: bool = True
    parameters: tuple[Parameter, ...] = ()
    file: str = ""
    line: int = 0
    runtime: str = "python"


class HttpRequest(msgspec.Struct, kw_only=True):
    """One parsed HTTP request, body complete. Header names are lower case, values decoded latin-1;
    a name that came several times keeps every value, in order, in `header_list`."""

    method: str
    target: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    header_list: tuple[tuple[str, str], ...]
    body: bytes
    client: str
    received_ns: int
    """`time.perf_counter_ns` when the first byte of the head was seen."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as the gateway found out: `role` is one of [auth.roles] or `service`, `claims` what
    the token says (of a caller without one: its role)."""

    role: str
    claims: dict[str, Any]

    def shown(self) -> dict[str, Any]:
        """What the record says of it."""
        return {"role": self.role, "claims": self.claims}


class Replaying(msgspec.Struct, kw_only=True):
    """What a run repeats. `request_id` and `job` are those of the recorded request, which is what
    the function sees again; `record` is what answers it (flux_pg.replay)."""

    request_id: UUID
    job: JobAttempt | None = None
    record: Any = None


class Invocation(msgspec.Struct, kw_only=True):
    """One request that is about to run.

    `started_perf_ns` is the zero of every span's `start_us`; `started_at_ns` is the wall clock
    at the same moment (nanoseconds since the epoch). `arguments` are validated and passed by name.
    `input` is what the record keeps (JSON-ready, not yet redacted).
    """

    request_id: UUID
    trace_id: str
    """32 hex digits (W3C trace context)."""
    root_span_id: str
    """16 hex digits: the id of the request's outermost span (gateway.request, or function)."""
    parent_span_id: str | None = None
    parent_request_id: UUID | None = None
    kind: Kind = "http"
    function: FunctionSpec
    arguments: dict[str, Any]
    input: Any = None
    started_perf_ns: int
    started_at_ns: int
    http: HttpRequest | None = None
    path_parameters: Mapping[str, str] = {}
    client_request_id: str | None = None
    principal: str | None = None
    identity: Identity | None = None
    """None where nobody is asked who he is, which makes it the service: jobs, schedules,
    `flux invoke`, projects without [auth]."""
    gateway_spans: list[SpanRecord] = []
    attempt: int = 1
    job_id: UUID | None = None
    job: JobAttempt | None = None
    trace_flags: int = 1
    replay: Replaying | None = None


class Reply(msgspec.Struct, kw_only=True):
    """What goes back to the caller. `headers` includes x-request-id and, when the record could
    not be written, `x-flux-recorded: no`."""

    status_code: int
    headers: list[tuple[str, str]]
    body: bytes
    outcome: ExecutionOutcome = "ok"
    value: Any = None


class Refusal(msgspec.Struct, kw_only=True):
    """A request that was turned away before a function ran; `rule` names what refused it, such as
    `route.not_found`, `validate.input`, `limit.body`, `http.malformed`."""

    request_id: UUID
    trace_id: str
    root_span_id: str
    parent_span_id: str | None = None
    rule: str
    status_code: int
    code: str
    message: str
    hint: str = ""
    details: Any = None
    function: str | None = None
    method: str | None = None
    path: str | None = None
    input: Any = None
    client_request_id: str | None = None
    headers: list[tuple[str, str]] = []
    started_perf_ns: int
    started_at_ns: int
    gateway_spans: list[SpanRecord] = []


class Runner(Protocol):
    """What the gateway needs of the runtime."""

    @property
    def functions(self) -> tuple[FunctionSpec, ...]:
        """Every function of the deployment this worker runs."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the database answered last time (for /readyz)."""
        ...

    async def run(self, invocation: Invocation) -> Reply:
        """Run one request to its end. Returns once the record is durable (law 1).

        Never raises for what the function did; a cancellation from outside is recorded as
        `cancelled` and then propagates.
        """
        ...

    async def refuse(self, refusal: Refusal) -> Reply:
        """Record a refusal (batched, counted above a rate) and make its reply."""
        ...
