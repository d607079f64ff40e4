"""The genuine clock, random and identifier functions, for the runtime's own use.

Code of the runtime that reads a clock or draws randomness for itself imports from here: it then
pays nothing for the shims and appears in no record, whatever was installed before.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

SHIM_MARK = "__flux_original__"
"""Attribute of a shim's function that holds what it replaced."""


def genuine(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `function` was before the shims, itself if it is no shim."""
    original: Callable[..., Any] = getattr(function, SHIM_MARK, function)
    return original


time_s: Callable[[], float] = genuine(time.time)
time_ns: Callable[[], int] = genuine(time.time_ns)
monotonic: Callable[[], float] = genuine(time.monotonic)
monotonic_ns: Callable[[], int] = genuine(time.monotonic_ns)
perf_counter: Callable[[], float] = genuine(time.perf_counter)
perf_counter_ns: Callable[[], int] = genuine(time.perf_counter_ns)
urandom: Callable[[int], bytes] = genuine(os.urandom)
uuid4: Callable[[], uuid.UUID] = genuine(uuid.uuid4)
system_random = random.SystemRandom()
