"""Python functions, in this process: `async def` in the worker's loop, plain `def` in a thread."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import trio

from ...errors import UsageError
from ..context import Context, Ports
from ..run import Run
from .base import Handle

MAX_THREADS = 64
"""Plain functions that may run at once in one worker; more wait for a place."""


class PythonEngine:
    """See the module."""

    name = "python"

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(MAX_THREADS)

    async def invoke(
        self, run: Run, arguments: dict[str, Any], handle: Handle, ports: Ports
    ) -> Any:
        """Run the function; see `Engine.invoke`."""
        spec = run.invocation.function
        context = Context(run, handle, ports, blocking=not spec.is_async)
        given = (context,) if spec.takes_context else ()
        if not spec.is_async:
            return await trio.to_thread.run_sync(
                partial(spec.handler, *given, **arguments),
                abandon_on_cancel=True,
                limiter=self._threads,
            )
        result = spec.handler(*given, **arguments)
        if not inspect.isawaitable(result):
            return result
        try:
            return await result
        except (TypeError, RuntimeError) as error:
            _explain_asyncio(error)
            raise


def _explain_asyncio(error: BaseException) -> None:
    """asyncio-only libraries fail in ways that say little; name the way out."""
    text = str(error)
    if "no running event loop" in text or "trio got unexpected" in text.lower():
        raise UsageError(
            f"a library that needs asyncio was called: {text}",
            "Flux runs on Trio. Use a library that supports Trio or anyio (httpx does), or write "
            "the function as a plain `def` and use the library's blocking calls.",
            code="asyncio-library",
        ) from error
