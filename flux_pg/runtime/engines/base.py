"""What every engine (Python in process, Deno, Wasmtime) is to the rest of the runtime.

The recorder sits behind this interface, in the dispatcher, so that no runtime can be recorded
differently.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..context import Ports
from ..run import Run

Handle = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Engine(Protocol):
    """Runs functions of one kind."""

    name: str

    async def invoke(
        self, run: Run, arguments: dict[str, Any], handle: Handle, ports: Ports
    ) -> Any:
        """Run the function of `run.invocation` and return what it returned.

        Args:
            run: The execution, for spans.
            arguments: Validated, by name.
            handle: The dispatcher: every operation the function asks for.
            ports: The operations that need no waiting.

        Cancellation: stops the function at its next await; a thread is abandoned.

        Raises:
            Whatever the function raised.
        """
        ...
