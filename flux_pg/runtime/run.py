"""One execution in progress: its spans, its boundaries, where in the user's code it stands.

Laws: a span's parent is the span that was open in the task that began it; spans are kept in the
order they began; nothing is added once the run is closed (an abandoned thread may still try).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from time import perf_counter_ns
from types import FrameType
from typing import Any
from urllib.parse import quote, unquote

from ..errors import FluxError
from ..records import ErrorRecord, Invocation, Location, SpanRecord, SpanStatus
from .boundaries.log import BoundaryLog
from .boundaries.redacting import redact_entry
from .redaction import Redactor, map_texts
from .values import plain, to_json

current_run: ContextVar[Run | None] = ContextVar("flux_run", default=None)
current_span: ContextVar[str | None] = ContextVar("flux_span", default=None)
asking_frame: ContextVar[FrameType | None] = ContextVar("flux_asking_frame", default=None)
"""Where a function in a thread asked for what is done now."""

# Span ids need to be unique, not secret; one generator seeded by the system serves the process.
_random_bits = random.Random(random.SystemRandom().getrandbits(128)).getrandbits

MAX_SPANS = 10_000
"""Beyond this many spans a request's record says that it is incomplete."""


class RunClosed(FluxError):
    """Code of a request that has ended already (an abandoned thread) asked for something."""

    code = "request-ended"


def make_span_id() -> str:
    """A new span id: 16 hex digits, never all zero."""
    return f"{_random_bits(64) or 1:016x}"


def signed(span_id: str) -> str:
    """A span id as the signed bigint, in decimal text, that Postgres stores."""
    number = int(span_id, 16)
    return str(number - (1 << 64) if number >= 1 << 63 else number)


class Run:
    """Everything recorded about one execution while it runs.

    Attributes:
        invocation: What was asked.
        spans: Every span so far, in the order they began.
        boundaries: Values that entered from outside.
        redacted_input: The input as it may be written.
        value_limit_bytes: Largest value that the record keeps whole.
        path: The HTTP path as it may be written; None if it did not come over HTTP.
        recording: False where nothing is kept (to measure what recording costs).
        depth: How many calls deep it runs; 0 for a request from outside.
        incomplete: Why the record is not whole; empty if it is.
        transaction_open: Whether a database transaction is open right now.
        outside_calls: How many calls left for somewhere else than the database.
        recorded: Its record is committed: the journal may forget it.
        ended_us: How long it took, once it has ended without a record; None before.
        secrets: Values that were redacted in this run, to keep them out of error texts too.
    """

    __slots__ = (
        "boundaries",
        "closed",
        "depth",
        "ended_us",
        "incomplete",
        "invocation",
        "outside_calls",
        "path",
        "project_prefix",
        "recorded",
        "recording",
        "redacted_input",
        "redactor",
        "request_id",
        "root_span_id",
        "secrets",
        "spans",
        "started_perf_ns",
        "transaction_open",
        "value_limit_bytes",
    )

    def __init__(
        self,
        invocation: Invocation,
        project_prefix: str,
        boundaries: BoundaryLog,
        redactor: Redactor,
        *,
        recording: bool = True,
        secrets: Iterable[str] = (),
        value_limit_bytes: int = 1 << 20,
    ) -> None:
        self.recording = recording
        self.value_limit_bytes = value_limit_bytes
        self.invocation = invocation
        self.request_id = str(invocation.request_id)
        self.root_span_id = invocation.root_span_id
        self.started_perf_ns = invocation.started_perf_ns
        self.project_prefix = project_prefix
        self.spans: list[SpanRecord] = list(invocation.gateway_spans)
        self.boundaries = boundaries
        self.incomplete: list[str] = []
        self.transaction_open = False
        self.outside_calls = 0
        self.secrets: set[str] = set(secrets)
        self.redactor = redactor
        self.redacted_input = redactor.value(invocation.input, self.secrets) if recording else None
        self.path = _path_without_secrets(invocation, redactor)
        if recording:
            redactor.spans(self.spans, self.secrets)
            self._clean_paths()
        self.closed = False
        self.depth = 0
        self.recorded = False
        self.ended_us: int | None = None

    def _clean_paths(self) -> None:
        """Take a secret path parameter out of the gateway's spans too."""
        path = self.invocation.http.path if self.invocation.http else None
        if path is None or self.path is None or path == self.path:
            return
        shown = self.path
        for span in self.spans:
            span.name = span.name.replace(path, shown)
            span.input = map_texts(span.input, lambda text: text.replace(path, shown))

    def redact(self, value: Any) -> Any:
        """A JSON-ready value without its secrets, which this run remembers for its error texts."""
        return self.redactor.value(value, self.secrets)

    def clean(self, value: Any) -> Any:
        """The JSON-ready form of any value, without secrets, also those quoted in its texts."""
        return self.clean_json(plain(value))

    def clean_json(self, value: Any) -> Any:
        """A JSON-ready value without secrets, also those quoted in its texts."""
        cleaned = self.redact(value)
        return self.redactor.scrub_texts(cleaned, self.secrets) if self.secrets else cleaned

    def scrub_http(self) -> None:
        """Take out what services were sent or answered of secrets, under whatever name."""
        if not self.secrets:
            return
        for span in self.spans:
            if span.kind == "http":
                span.name = self.redactor.scrub(span.name, self.secrets)
                span.input = self.redactor.scrub_texts(span.input, self.secrets)
                span.output = self.redactor.scrub_texts(span.output, self.secrets)

    def redact_boundary(self, kind: str, name: str, value: Any) -> Any:
        """What of a boundary value may be written."""
        return redact_entry(self.redactor, kind, name, value, self.secrets)

    def elapsed_us(self) -> int:
        """Microseconds since the request came in, until it ended."""
        if self.ended_us is not None:
            return self.ended_us
        return (perf_counter_ns() - self.started_perf_ns) // 1000

    def begin_span(
        self,
        kind: str,
        name: str,
        input: Any = None,
        attributes: dict[str, Any] | None = None,
        location: Location | None = None,
    ) -> SpanRecord:
        """Open a span under the one open in this task.

        Raises:
            RunClosed: The request has ended.
        """
        if self.closed:
            raise RunClosed(
                f"request {self.request_id} has ended; {kind} {name} was not done",
                "Work that outlives its request belongs in a job of its own.",
            )
        if len(self.spans) >= MAX_SPANS:
            self.mark_incomplete(f"more than {MAX_SPANS} spans")
        span = SpanRecord(
            make_span_id(),
            current_span.get() or self.root_span_id,
            kind,
            name,
            (perf_counter_ns() - self.started_perf_ns) // 1000,
            input=input,
            location=location,
            attributes=attributes,
        )
        if len(self.spans) < MAX_SPANS and self.recording:
            self.spans.append(span)
        return span

    def end_span(
        self,
        span: SpanRecord,
        output: Any = None,
        error: ErrorRecord | None = None,
        status: SpanStatus = "ok",
    ) -> None:
        """Close a span."""
        span.duration_us = (perf_counter_ns() - self.started_perf_ns) // 1000 - span.start_us
        if output is not None:
            span.output = output
        span.error = error
        span.status = "error" if error is not None and status == "ok" else status

    def mark_incomplete(self, reason: str) -> None:
        """Law 4: say what is missing from the record."""
        if reason not in self.incomplete:
            self.incomplete.append(reason)

    def size_bytes(self) -> int:
        """About how much of the memory its record holds; costs what writing the spans costs."""
        http = self.invocation.http
        # As bytes, as arguments, and as what is recorded of it.
        return len(to_json(self.spans)) + 3 * (len(http.body) if http is not None else 0)

    def caller_location(self) -> Location | None:
        """The innermost line of the project's own code on the stack of this task or thread."""
        if not self.recording:
            return None
        return self._own_line(sys._getframe(1)) or self._own_line(asking_frame.get())

    def _own_line(self, frame: FrameType | None) -> Location | None:
        prefix = self.project_prefix
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(prefix):
                return Location(code.co_filename[len(prefix) :], frame.f_lineno, code.co_name)
            frame = frame.f_back
        return None


def _path_without_secrets(invocation: Invocation, redactor: Redactor) -> str | None:
    if invocation.http is None:
        return None
    given = invocation.path_parameters.items()
    secrets = {value for name, value in given if redactor.is_secret(name)}
    path = invocation.http.path
    if not secrets:
        return path
    return "/".join(
        quote(redactor.mark(unquote(part)), safe=":") if unquote(part) in secrets else part
        for part in path.split("/")
    )
