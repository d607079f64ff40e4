"""The steps before a function runs: route, authenticate, read the body, validate. Each is a span.

Any step may refuse the request; the refusal names its rule and keeps what was known by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from flux_pg.gateway import identity
from flux_pg.gateway.bodies import NO_BODY, Body, BodyError, read_body
from flux_pg.gateway.limits import Limits
from flux_pg.gateway.origin import Origin
from flux_pg.gateway.protocol import Parsed
from flux_pg.gateway.routing import Match, Route, Router
from flux_pg.gateway.target import TargetError, parse_pairs
from flux_pg.records import ErrorRecord, HttpRequest, Identity, Invocation, Refusal, SpanRecord

if TYPE_CHECKING:
    from flux_pg.gateway.authentication import Authenticator

log = logging.getLogger("flux_pg.gateway")
_Result = TypeVar("_Result")


class Refused(Exception):
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


class Preparation:
    """One request on its way to a function.

    Args:
        router: The deployment's routes.
        limits: Bounds for bodies and forms.
        parsed: The whole request.
        origin: Its ids and its zero of time.
        authenticator: Finds out who asks; None where nobody is asked.
    """

    def __init__(
        self,
        router: Router,
        limits: Limits,
        parsed: Parsed,
        origin: Origin,
        authenticator: Authenticator | None = None,
    ) -> None:
        request = parsed.request
        self._router = router
        self._limits = limits
        self._authenticator = authenticator
        self._identity: Identity | None = None
        self._request: HttpRequest = request
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
        """Go through the steps; never raises."""
        try:
            route = self._step("gateway.route", self._route)
            if self._authenticator is not None:
                # Before the input is looked at: what it should be is not for everybody.
                self._step("gateway.authenticate", lambda: self._authenticate(route))
            arguments = self._step("gateway.validate", lambda: self._validate(route))
        except Refused as refused:
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
            principal=_subject(self._identity),
            identity=self._identity,
            gateway_spans=self._spans,
            trace_flags=origin.trace_flags,
        )

    def _step(self, name: str, work: Callable[[], _Result]) -> _Result:
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
        except Refused as refused:
            self._mark_failed(span, refused)
            raise
        except Exception as error:  # a type's own __post_init__ may raise anything
            log.exception("request %s: its input could not be checked", self._origin.request_id)
            failure = _uncheckable(error)
            self._mark_failed(span, failure)
            raise failure from error
        finally:
            span.duration_us = (identity.perf_counter_ns() - self._zero) // 1000 - start_us

    def _mark_failed(self, span: SpanRecord, refused: Refused) -> None:
        error = ErrorRecord(type=refused.rule, message=refused.message, hint=refused.hint)
        for failed in (span, self._spans[0]):
            failed.status = "error"
            failed.error = error
        span.output = refused.details

    def _route(self) -> Route:
        request = self._request
        try:
            self._match = match = self._router.match(request.method, request.path)
        except TargetError as error:
            raise Refused(400, "http.malformed", "malformed-request", str(error)) from None
        if match.route is not None:
            self._spans[-1].attributes = {"function": match.route.function.name}
            return match.route
        if match.allowed:
            allow = [("allow", ", ".join(match.allowed))]
            if request.method == "OPTIONS":
                raise Refused(204, "route.options", "options", "", headers=allow)
            raise Refused(
                405,
                "route.method_not_allowed",
                "method-not-allowed",
                f"{request.path[:200]} does not answer {request.method}.",
                f"It answers {', '.join(match.allowed)}.",
                headers=allow,
            )
        near = self._router.suggestion(request.path)
        raise Refused(
            404,
            "route.not_found",
            "not-found",
            f"No function answers {request.path[:200]}.",
            f"Did you mean {near}?" if near else "",
        )

    def _authenticate(self, route: Route) -> None:
        assert self._authenticator is not None
        self._identity = self._authenticator.identify(self._request, route.function)
        # The claims are said once, by the function's span: a called function has no other.
        self._spans[-1].output = {"role": self._identity.role}

    def _validate(self, route: Route) -> dict[str, Any]:
        request = self._request
        assert self._match is not None
        try:
            if request.query_string:
                limit = self._limits.max_form_parts
                self._query = parse_pairs(request.query_string, limit)
        except TargetError as error:
            raise Refused(400, "http.malformed", "malformed-request", str(error)) from None
        if request.body:
            self._body = self._read_body(route)
        parameters = self._match.parameters
        self._input = _recorded_input(parameters, self._body, self._query)
        arguments, faults = route.binder.bind(parameters, self._body, self._query)
        if faults:
            count = len(faults)
            raise Refused(
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
                self._limits,
            )
        except BodyError as error:
            raise Refused(
                error.status_code, error.rule, error.code, error.message, error.hint
            ) from None
        if body.kind == "raw" and not route.binder.takes_raw:
            kind = headers.get("content-type", "a body without a content type")
            raise Refused(
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

    def _refuse(self, refused: Refused) -> Refusal:
        request = self._request
        refusal = make_refusal(self._origin, refused, self._spans, request.method, request.path)
        if self._match is not None and self._match.route is not None:
            refusal.function = self._match.route.function.name
        refusal.input = self._input
        return refusal


def _subject(identity: Identity | None) -> str | None:
    """Who asks, in one word: the `sub` of his token."""
    if identity is None or not isinstance(subject := identity.claims.get("sub"), str):
        return None
    return subject


def _uncheckable(error: Exception) -> Refused:
    """The refusal for an annotation's own code that failed with anything but a ValueError."""
    return Refused(
        500,
        "validate.failed",
        "validation-failed",
        f"The input could not be checked: {type(error).__name__}.",
        "A type in the function's annotations raised it; Flux's log has the traceback.",
    )


def make_refusal(
    origin: Origin,
    refused: Refused,
    spans: list[SpanRecord],
    method: str | None,
    path: str | None,
) -> Refusal:
    """Join who the request is with why it is refused; `spans[0]` is its root."""
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
