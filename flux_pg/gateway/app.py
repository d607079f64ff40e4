"""From a parsed request to what has to be done about it, and to its reply.

`prepare` is synchronous and decides everything: which function, with which arguments, or which
rule refuses the request. `answer` then runs or refuses it. Law 1 (no acknowledged request lacks a
record) holds because every reply but a health check comes from the runner.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from flux_pg.gateway import identity
from flux_pg.gateway.bodies import NO_BODY, Body, BodyError, read_body
from flux_pg.gateway.health import PATHS as HEALTH_PATHS
from flux_pg.gateway.health import health_reply
from flux_pg.gateway.limits import Limits
from flux_pg.gateway.protocol import Fault, Parsed
from flux_pg.gateway.refusals import JSON, error_body, refusal_reply
from flux_pg.gateway.routing import Match, Route, Router
from flux_pg.gateway.target import TargetError, parse_pairs
from flux_pg.gateway.tracing import SAMPLED, format_traceparent, parse_traceparent
from flux_pg.records import ErrorRecord, HttpRequest, Invocation, Refusal, Reply, Runner, SpanRecord

log = logging.getLogger("flux_pg.gateway")


class _Refused(Exception):
    """A step of the gateway says no."""

    def __init__(
        self,
        status_code: int,
        rule: str,
        code: str,
        message: str,
        hint: str = "",
        *,
        details: Any = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.rule = rule
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details
        self.headers = headers or []


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
    spans = identity.new_span_ids(5)
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


class Prepared(msgspec.Struct):
    """A request with the decision about it: run, refuse, or (health checks) reply at once."""

    origin: Origin
    action: Invocation | Refusal | Reply


class App:
    """The gateway of one deployment, without its sockets.

    Args:
        runner: The runtime. Its functions are read once: a worker runs exactly one deployment.
        limits: Bounds for bodies and forms.
    """

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self.router = Router(runner.functions)
        self.draining = False

    def prepare(self, parsed: Parsed) -> Prepared:
        """Decide what is to be done about a whole request."""
        request = parsed.request
        origin = new_origin(request.headers, request.header_list, request.received_ns)
        if request.path in HEALTH_PATHS:
            ready = self._runner.ready
            return Prepared(
                origin,
                health_reply(request.method, request.path, ready=ready, draining=self.draining),
            )
        return Prepared(origin, _Preparation(self, request, parsed, origin).decide())

    def prepare_fault(
        self,
        fault: Fault,
        *,
        method: str | None,
        path: str | None,
        header_list: list[tuple[str, str]],
        client: str,
        received_ns: int,
    ) -> Prepared:
        """Make the refusal of bytes that did not become a request."""
        origin = new_origin(dict(header_list), tuple(header_list), received_ns)
        seen = {"method": method, "path": path, "headers": dict(header_list), "client": client}
        root = SpanRecord(
            span_id=origin.root_span_id,
            parent_span_id=origin.parent_span_id,
            kind="gateway",
            name="gateway.request",
            start_us=0,
            status="error",
            input={name: value for name, value in seen.items() if value},
            error=ErrorRecord(type=fault.rule, message=fault.message, hint=fault.hint),
        )
        refused = _Refused(fault.status_code, fault.rule, fault.code, fault.message, fault.hint)
        return Prepared(origin, _refusal(origin, refused, [root], method, path))

    async def answer(self, prepared: Prepared) -> Reply:
        """Run or refuse, and return the reply.

        A cancellation is the runner's to record; it passes through.
        """
        action = prepared.action
        try:
            if isinstance(action, Invocation):
                return await self._runner.run(action)
            if isinstance(action, Refusal):
                return await self._refuse(action)
            return action
        except Exception:  # a fault of the runtime itself: the caller still gets its id
            request_id = str(prepared.origin.request_id)
            log.exception("request %s: the runtime failed", request_id)
            return _failure(
                request_id,
                "internal",
                f"Flux failed while it ran request {request_id}.",
                "This is a fault of Flux, not of the request; its log has the traceback.",
                [("x-flux-recorded", "no")],
            )

    def unsendable(self, prepared: Prepared, reason: str) -> Reply:
        """Stand in for a reply that HTTP cannot carry; the record keeps what was meant."""
        request_id = str(prepared.origin.request_id)
        log.error("request %s: its response cannot be sent: %s", request_id, reason)
        return _failure(
            request_id,
            "bad-response",
            f"The response of request {request_id} cannot be sent: {reason}",
            "Look at the status and headers that the function returns.",
            [],
        )

    async def _refuse(self, refusal: Refusal) -> Reply:
        try:
            return await self._runner.refuse(refusal)
        except Exception:
            log.exception("request %s: the refusal could not be recorded", refusal.request_id)
            return refusal_reply(refusal, recorded=False)


def _failure(
    request_id: str, code: str, message: str, hint: str, headers: list[tuple[str, str]]
) -> Reply:
    return Reply(
        status_code=500,
        headers=[("content-type", JSON), ("x-request-id", request_id), *headers],
        body=error_body(code, message, hint, request_id),
        outcome="error",
    )


class _Preparation:
    """The steps for one request, each a span: route, body, validate."""

    def __init__(self, app: App, request: HttpRequest, parsed: Parsed, origin: Origin) -> None:
        self._app = app
        self._request = request
        self._origin = origin
        self._zero = origin.started_perf_ns
        self._query: dict[str, list[str]] = {}
        self._body = NO_BODY
        self._match: Match | None = None
        self._input: Any = None
        received_us = (parsed.body_complete_ns - self._zero) // 1000
        self._spans = [
            SpanRecord(
                span_id=origin.root_span_id,
                parent_span_id=origin.parent_span_id,
                kind="gateway",
                name="gateway.request",
                start_us=0,
                attributes={"received_us": received_us, "body_bytes": len(request.body)},
            )
        ]

    def decide(self) -> Invocation | Refusal:
        try:
            route = self._step("gateway.route", self._route)
            arguments = self._step("gateway.validate", lambda: self._validate(route))
        except _Refused as refused:
            self._describe_request()
            return self._refuse(refused)
        self._describe_request()
        request, origin = self._request, self._origin
        return Invocation(
            request_id=origin.request_id,
            trace_id=origin.trace_id,
            root_span_id=origin.root_span_id,
            parent_span_id=origin.parent_span_id,
            function=route.function,
            arguments=arguments,
            input=self._input,
            started_perf_ns=origin.started_perf_ns,
            started_at_ns=origin.started_at_ns,
            http=request,
            path_parameters=self._match.parameters if self._match else {},
            client_request_id=origin.client_request_id,
            gateway_spans=self._spans,
            trace_flags=origin.trace_flags,
        )

    def _step(self, name: str, work: Any) -> Any:
        """Do one step inside a span of its own; a refusal marks it and the root as failed."""
        start_us = (identity.perf_counter_ns() - self._zero) // 1000
        span = SpanRecord(
            span_id=self._origin.spare_span_ids.pop(),
            parent_span_id=self._origin.root_span_id,
            kind="gateway",
            name=name,
            start_us=start_us,
        )
        self._spans.append(span)
        try:
            return work()
        except _Refused as refused:
            error = ErrorRecord(type=refused.rule, message=refused.message, hint=refused.hint)
            span.status = self._spans[0].status = "error"
            span.error = self._spans[0].error = error
            span.output = refused.details
            raise
        finally:
            span.duration_us = (identity.perf_counter_ns() - self._zero) // 1000 - start_us

    def _route(self) -> Route:
        request = self._request
        router = self._app.router
        try:
            self._match = match = router.match(request.method, request.path)
        except TargetError as error:
            raise _Refused(400, "http.malformed", "malformed-request", str(error)) from None
        if match.route is not None:
            self._spans[-1].attributes = {"function": match.route.function.name}
            return match.route
        if match.allowed:
            allow = [("allow", ", ".join(match.allowed))]
            if request.method == "OPTIONS":
                raise _Refused(204, "route.options", "options", "", headers=allow)
            raise _Refused(
                405,
                "route.method_not_allowed",
                "method-not-allowed",
                f"{request.path[:200]} does not answer {request.method}.",
                f"It answers {', '.join(match.allowed)}.",
                headers=allow,
            )
        near = router.suggestion(request.path)
        raise _Refused(
            404,
            "route.not_found",
            "not-found",
            f"No function answers {request.path[:200]}.",
            f"Did you mean {near}?" if near else "",
        )

    def _validate(self, route: Route) -> dict[str, Any]:
        request, app = self._request, self._app
        assert self._match is not None
        try:
            if request.query_string:
                limit = app._limits.max_form_parts
                self._query = parse_pairs(request.query_string, limit)
        except TargetError as error:
            raise _Refused(400, "http.malformed", "malformed-request", str(error)) from None
        if request.body:
            self._body = self._read_body(route)
        parameters = self._match.parameters
        self._input = _recorded_input(parameters, self._body, self._query)
        arguments, faults = route.binder.bind(parameters, self._body, self._query)
        if faults:
            count = len(faults)
            raise _Refused(
                422,
                "validate.input",
                "invalid-input",
                f"The input of {route.function.name} has {count} fault{'s' if count > 1 else ''}: "
                + "; ".join(f"{f.path or 'body'}: {f.message}" for f in faults[:3])
                + ("; ..." if count > 3 else "."),
                "details names every fault.",
                details=msgspec.to_builtins(faults),
            )
        return arguments

    def _read_body(self, route: Route) -> Body:
        request = self._request
        headers = request.headers
        if route.binder.wants_bytes:
            return Body("raw", request.body)
        try:
            body = read_body(
                request.body,
                headers.get("content-type"),
                headers.get("content-encoding"),
                self._app._limits,
            )
        except BodyError as error:
            raise _Refused(
                error.status_code, error.rule, error.code, error.message, error.hint
            ) from None
        if body.kind == "raw" and not route.binder.takes_raw:
            kind = headers.get("content-type", "a body without a content type")
            raise _Refused(
                415,
                "body.media_type",
                "unsupported-media-type",
                f"{route.function.name} cannot read {kind[:100]}.",
                "Send application/json, application/x-www-form-urlencoded or multipart/form-data.",
            )
        return body

    def _describe_request(self) -> None:
        """Put on the root span what the gateway received; redaction is the recorder's."""
        request = self._request
        seen: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "client": request.client,
        }
        if self._query:
            seen["query"] = _flat(self._query)
        self._spans[0].input = seen

    def _refuse(self, refused: _Refused) -> Refusal:
        request = self._request
        refusal = _refusal(self._origin, refused, self._spans, request.method, request.path)
        if self._match is not None and self._match.route is not None:
            refusal.function = self._match.route.function.name
        refusal.input = self._input
        return refusal


def _refusal(
    origin: Origin,
    refused: _Refused,
    spans: list[SpanRecord],
    method: str | None,
    path: str | None,
) -> Refusal:
    return Refusal(
        request_id=origin.request_id,
        trace_id=origin.trace_id,
        root_span_id=origin.root_span_id,
        parent_span_id=origin.parent_span_id,
        rule=refused.rule,
        status_code=refused.status_code,
        code=refused.code,
        message=refused.message,
        hint=refused.hint,
        details=refused.details,
        method=method,
        path=path,
        client_request_id=origin.client_request_id,
        headers=refused.headers,
        started_perf_ns=origin.started_perf_ns,
        started_at_ns=origin.started_at_ns,
        gateway_spans=spans,
    )


def _flat(values: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: v[0] if len(v) == 1 else v for name, v in values.items()}


def _recorded_input(path: Mapping[str, str], body: Body, query: Mapping[str, list[str]]) -> Any:
    """What the record keeps as the input: one object of everything that was sent.

    A body that is no object stands under `body`.
    """
    recorded = body.recorded()
    if not path and not query:
        return recorded if isinstance(recorded, dict) or recorded is None else {"body": recorded}
    if body.kind == "none":
        return {**_flat(query), **path}
    if isinstance(recorded, dict):
        return {**_flat(query), **recorded, **path}
    return {**_flat(query), "body": recorded, **path}
