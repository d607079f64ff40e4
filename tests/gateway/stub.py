"""A runtime that keeps what it is given, for tests of the gateway alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from flux_pg.gateway.refusals import JSON, refusal_reply
from flux_pg.records import FunctionSpec, Invocation, Parameter, Refusal, Reply


def function(
    handler: Callable[..., Any], *, path: str | None = None, method: str = "POST", **more: Any
) -> FunctionSpec:
    """A function as `define_function` would declare it; its first parameter is the context."""
    name = handler.__name__
    parameters = tuple(
        Parameter(
            name=p.name,
            annotation=Any if p.annotation is inspect.Parameter.empty else p.annotation,
            required=p.default is inspect.Parameter.empty,
            default=None if p.default is inspect.Parameter.empty else p.default,
        )
        for p in list(inspect.signature(handler, eval_str=True).parameters.values())[1:]
    )
    return FunctionSpec(
        name=name,
        handler=handler,
        method=method,
        path=path or f"/{name}",
        parameters=parameters,
        file=f"functions/{name}.py",
        line=1,
        **more,
    )


class StubRunner:
    """Runs handlers with None as their context; every call is kept."""

    def __init__(self, *functions: FunctionSpec) -> None:
        self.functions = functions
        self.ready = True
        self.invocations: list[Invocation] = []
        self.refusals: list[Refusal] = []
        self.cancelled: list[Invocation] = []
        self.started = trio.Event()
        self.release = trio.Event()

    async def run(self, invocation: Invocation) -> Reply:
        self.invocations.append(invocation)
        self.started.set()
        try:
            value = invocation.function.handler(None, **invocation.arguments)
            if inspect.isawaitable(value):
                value = await value
        except trio.Cancelled:
            self.cancelled.append(invocation)
            raise
        if isinstance(value, Reply):
            return value
        return Reply(
            status_code=200,
            headers=[("content-type", JSON), ("x-request-id", str(invocation.request_id))],
            body=msgspec.json.encode(value),
            value=value,
        )

    async def refuse(self, refusal: Refusal) -> Reply:
        self.refusals.append(refusal)
        return refusal_reply(refusal)
