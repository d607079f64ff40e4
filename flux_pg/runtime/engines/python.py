"""Python functions, in this process: `async def` in the worker's loop, plain `def` in a thread."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import trio

from ...errors import UsageError
from ..context import Context, Ports
from ..failures import leaf_of
from ..run import Run
from ..tables import Tables
from .base import Handle

_SIGNS_OF_ASYNCIO = (
    "no running event loop",
    "no current event loop",
    "trio got unexpected",
    "Trio got unexpected",
    "trio.run received unrecognized yield message",
)

MAX_THREADS = 64
"""Plain functions that may run at once in one worker; more wait for a place."""


class PythonEngine:
    """See the module.

    Args:
        tables: What structured queries know; by default read from the database at the first need.
    """

    name = "python"

    def __init__(self, tables: Tables | None = None) -> None:
        self._threads = trio.CapacityLimiter(MAX_THREADS)
        self._tables = tables or Tables()

    async def invoke(
        self, run: Run, arguments: dict[str, Any], handle: Handle, ports: Ports
    ) -> Any:
        """Run the function; see `Engine.invoke`."""
        spec = run.invocation.function
        context = Context(run, handle, ports, not spec.is_async, self._tables)
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
        except Exception as error:
            _explain_asyncio(error)
            raise


def _explain_asyncio(error: BaseException) -> None:
    """asyncio-only libraries fail in ways that say little; name the way out."""
    leaf = leaf_of(error)
    text = str(leaf) if isinstance(leaf, (TypeError, RuntimeError)) else ""
    if any(sign in text for sign in _SIGNS_OF_ASYNCIO):
        raise UsageError(
            f"a library that needs asyncio was called: {text}",
            "Flux runs on Trio. Use a library that supports Trio or anyio (httpx does), or write "
            "the function as a plain `def` and use the library's blocking calls.",
            code="asyncio-library",
        ) from leaf
