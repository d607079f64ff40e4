"""The places that a supervisor keeps filled, and how long it pauses before it fills one again."""

from __future__ import annotations

import math
import random

import trio

from flux_pg.runtime.process import Tuning, WorkerProcess


class Pauses:
    """How long to wait before the next worker is started. Pure: time and chance are arguments."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self.failures = 0

    def failed(self, lived_s: float, served: bool, chance: float) -> float:
        """Count a worker that ended after `lived_s`; returns the pause in seconds.

        The first one in a row is replaced at once. `chance` is from 0 to 1 and spreads the pause
        over its second half, so that many nodes do not return to a database in step.
        """
        if lived_s >= self._tuning.stable_after_s:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        longest_s = self._tuning.longest_delay_served_s if served else self._tuning.longest_delay_s
        # Doubling for ever would overflow after a thousand failures.
        doubled_s = self._tuning.first_delay_s * math.ldexp(1, min(self.failures - 2, 30))
        return min(longest_s, doubled_s) * (0.5 + chance / 2)


class Place:
    """One of the N places for a worker, and whether it needs a new one."""

    def __init__(self, tuning: Tuning) -> None:
        self.worker: WorkerProcess | None = None
        self.lock = trio.Lock()
        self.broken = trio.Event()
        self.pauses = Pauses(tuning)
        self.reason = ""
        self.pause_s = 0.0

    def fail(self, reason: str, lived_s: float, served: bool) -> None:
        """Ask for a replacement."""
        if self.worker is not None:
            self.worker.given_up = True
        self.reason = reason
        self.pause_s = self.pauses.failed(lived_s, served, random.random())
        self.broken.set()
