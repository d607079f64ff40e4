"""Whether a call counts as the user's, told by the frame it comes from.

A decision is made once per module name and kept, so that a call in a run pays one dictionary
look-up. Walking outward only happens through the few modules that are layers over a boundary.
"""

from __future__ import annotations

import sys
from types import FrameType

RUNTIME_PACKAGES = frozenset(
    {
        "flux_pg", "trio", "outcome", "sniffio", "anyio", "psycopg", "psycopg_binary",
        "psycopg_c", "psycopg_pool", "httpcore", "h11", "h2", "hpack", "httptools", "msgspec",
        "wasmtime", "click", "logging", "threading", "_threading_local", "queue", "concurrent",
        "selectors", "socket", "ssl", "asyncio", "subprocess", "multiprocessing", "importlib",
        "_frozen_importlib", "_frozen_importlib_external", "zipimport", "traceback", "linecache",
        "warnings", "gc", "weakref", "pdb", "cProfile", "profile", "faulthandler", "tracemalloc",
        "_pytest", "pluggy",
    }
)  # fmt: skip
"""Packages that work for the runtime: what they read of the outside decides no result."""

# `datetime` and `uuid` have shims of their own one layer up: what they read below is theirs.
COVERED_MODULES = frozenset({"uuid", "datetime", "_pydatetime", "_strptime"})

# Layers over a boundary that have no shim of their own: their caller decides.
TRANSPARENT_MODULES = frozenset(
    {"random", "secrets", "os", "collections.abc", "_collections_abc", "functools", "contextlib"}
)

_COUNTS, _RUNTIME, _TRANSPARENT = 1, 0, 2
_decisions: dict[str | None, int] = {}


def _decide(module: str | None) -> int:
    if module is None:
        decision = _COUNTS
    elif module in TRANSPARENT_MODULES:
        decision = _TRANSPARENT
    elif module in COVERED_MODULES or module.partition(".")[0] in RUNTIME_PACKAGES:
        decision = _RUNTIME
    else:
        decision = _COUNTS
    if len(_decisions) < 10_000:
        _decisions[module] = decision
    return decision


def call_counts(depth: int = 2) -> bool:
    """Whether the call being made counts as the user's.

    Args:
        depth: How many frames up the caller to judge is; 2 is the caller of the function that
            asks (the code that called a shim).
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        module = frame.f_globals.get("__name__")
        decision = _decisions.get(module)
        if decision is None:
            decision = _decide(module)
        if decision != _TRANSPARENT:
            return decision == _COUNTS
        frame = frame.f_back
    return True
