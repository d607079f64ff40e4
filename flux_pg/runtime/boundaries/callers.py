"""Whether a call counts as the user's, told by the frame it comes from.

A decision is made once per module name and kept, so that a call in a run pays one dictionary
look-up. Walking outward only happens through the few modules that are layers over a boundary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

RUNTIME_PACKAGES = frozenset(
    {
        "flux_pg", "trio", "outcome", "sniffio", "anyio", "psycopg", "psycopg_binary",
        "psycopg_c", "psycopg_pool", "httpcore", "h11", "h2", "hpack", "httptools", "urllib3",
        "msgspec", "wasmtime", "click", "logging", "threading", "_threading_local", "queue",
        "concurrent", "selectors", "socket", "ssl", "asyncio", "subprocess", "multiprocessing",
        "importlib", "_frozen_importlib", "_frozen_importlib_external", "zipimport", "traceback",
        "linecache", "warnings", "gc", "weakref", "pdb", "cProfile", "profile", "faulthandler",
        "tracemalloc", "_pytest", "pluggy",
    }
)  # fmt: skip
"""Packages that work for the runtime: what they read of the outside decides no result."""

HTTP_CLIENTS = frozenset({"httpx", "requests", "urllib", "certifi"})
"""They look for proxies and certificates in the environment; their clock reads can be seen by
user code (`response.elapsed`, the expiry of cookies) and so count."""

# `datetime` and `uuid` have shims of their own one layer up: what they read below is theirs.
COVERED_MODULES = frozenset({"uuid", "datetime", "_pydatetime", "_strptime"})

TRANSPARENT_MODULES = frozenset(
    {
        "random", "secrets", "os", "collections.abc", "_collections_abc", "functools",
        "contextlib", "contextvars", "threading", "concurrent.futures.thread", "trio._threads",
        "trio._core._thread_cache", "outcome._impl", "flux_pg.runtime.boundaries.tasks",
    }
)  # fmt: skip
"""Layers over a boundary that have no shim of their own, and what calls a function that user code
handed it (`to_thread.run_sync(uuid.uuid4)`): their caller decides, user code at the bottom."""

_COUNTS, _RUNTIME, _TRANSPARENT = 1, 0, 2
_MAX_DECISIONS = 10_000


def _decide(module: str | None, runtime: frozenset[str], transparent: frozenset[str]) -> int:
    if module is None:
        return _COUNTS
    if module in transparent:
        return _TRANSPARENT
    if module in COVERED_MODULES or module.partition(".")[0] in runtime:
        return _RUNTIME
    return _COUNTS


def make_rule(
    runtime: frozenset[str], transparent: frozenset[str] = TRANSPARENT_MODULES
) -> Callable[..., bool]:
    """The rule that calls from these packages do not count.

    It takes how many frames above the asking function the caller to judge is: 1, the default,
    is the code that called the function that asks.
    """
    decisions: dict[str | None, int] = {}
    get_frame = sys._getframe

    def call_counts(depth: int = 1) -> bool:
        frame: FrameType | None = get_frame(depth + 1)
        while frame is not None:
            module = frame.f_globals.get("__name__")
            decision = decisions.get(module)
            if decision is None:
                decision = _decide(module, runtime, transparent)
                if len(decisions) < _MAX_DECISIONS:
                    decisions[module] = decision
            if decision != _TRANSPARENT:
                return decision == _COUNTS
            frame = frame.f_back
        return True

    return call_counts


call_counts = make_rule(RUNTIME_PACKAGES)
"""`call_counts()` in a shim: whether the code that called the shim counts."""

environment_call_counts = make_rule(RUNTIME_PACKAGES | HTTP_CLIENTS)
"""The same for reads of the environment."""

starts_count = make_rule(RUNTIME_PACKAGES, frozenset({"concurrent.futures._base"}))
"""The same for starting threads and handing work to pools (`map` does it for its caller). The
threads of a pool are the pool's, whoever made it need one."""
