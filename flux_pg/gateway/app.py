"""From a parsed request to what has to be done about it, and to its reply.

`prepare` is synchronous and decides everything: which function, with which arguments, or which
rule refuses the request. `answer` then runs or refuses it. Law 1 (no acknowledged request lacks a
record) holds because every reply but a health check comes from the runner.
"""

from __future__ import annotations

import logging

import msgspec

from flux_pg.gateway.authentication import Authenticator
from flux_pg.gateway.framing import Fault
from flux_pg.gateway.health import PATHS as HEALTH_PATHS
from flux_pg.gateway.health import health_reply
from flux_pg.gateway.limits import Limits
from flux_pg.gateway.origin import Origin, new_origin
from flux_pg.gateway.preparation import Preparation, Refused, make_refusal
from flux_pg.gateway.protocol import Parsed
from flux_pg.gateway.refusals import JSON, error_body, refusal_reply
from flux_pg.gateway.routing import Router
from flux_pg.records import ErrorRecord, Invocation, Refusal, Reply, Runner, SpanRecord

log = logging.getLogger("flux_pg.gateway")


class Prepared(msgspec.Struct):
    """A request with the decision about it: run, refuse, or (health checks) reply at once."""

    origin: Origin
    action: Invocation | Refusal | Reply


class App:
    """The gateway of one deployment, without its sockets.

    Args:
        runner: The runtime. Its functions are read once: a worker runs exactly one deployment.
        limits: Bounds for bodies and forms.
        authenticator: Finds out who asks; None where nobody is asked.
    """

    def __init__(
        self, runner: Runner, limits: Limits, authenticator: Authenticator | None = None
    ) -> None:
        self.authenticator = authenticator
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
        preparation = Preparation(self.router, self._limits, parsed, origin, self.authenticator)
        return Prepared(origin, preparation.decide())

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
        refused = Refused(fault.status_code, fault.rule, fault.code, fault.message, fault.hint)
        return Prepared(origin, make_refusal(origin, refused, [root], method, path))

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
