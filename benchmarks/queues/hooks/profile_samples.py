"""Copied among the functions of the measured project: samples where the worker's CPU time goes.

The timer counts the CPU time of the process, so waiting is never sampled. What is running in C is
counted with the Python function that called it.
"""

import atexit
import json
import os
import signal
from collections import Counter
from types import FrameType

INTERVAL_S = 0.001

_stacks: Counter[tuple[str, ...]] = Counter()


def _sample(number: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append(f"{code.co_filename}:{frame.f_lineno}:{code.co_qualname}")
        frame = frame.f_back
    _stacks[tuple(stack)] += 1


def _save() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    with open(f"samples-{os.getpid()}.json", "w") as file:
        json.dump([[count, stack] for stack, count in _stacks.items()], file)


atexit.register(_save)
signal.signal(signal.SIGPROF, _sample)
signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
