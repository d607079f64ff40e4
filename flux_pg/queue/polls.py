"""How often a node asks for jobs that nobody told it of: once in a while, not once per worker.

The workers of a node share a file; its time of change says when the last of them asked in vain.
There is nothing to lock: two that ask at the same moment cost one statement.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class NodePolls:
    """One worker's view of its node's polls.

    Args:
        state_dir: The project's state directory, which the workers of a node share.
        database: What is polled: nodes of several databases may share the directory.
        every_s: How often the node is to poll.
        chance: A random number from 0 to 1 each call, which keeps the workers apart.
    """

    def __init__(
        self, state_dir: Path, database: str, every_s: float, chance: Callable[[], float]
    ) -> None:
        name = hashlib.sha256(database.encode()).hexdigest()[:16]
        self._path = state_dir / "queue" / name
        self._every_s = every_s
        self._chance = chance
        self._asked_at = 0.0

    def due_in(self) -> float:
        """In how many seconds it is this worker's turn, unless another has asked by then."""
        age_s = self._age_s()
        return max(0.0, self._every_s * (0.9 + self._chance() / 10) - age_s)

    def take(self) -> bool:
        """Whether the node is to ask now; the caller does it then."""
        if self._age_s() < self._every_s * 0.9:
            return False
        self.note()
        return True

    def note(self) -> None:
        """This worker asks now."""
        self._asked_at = time.monotonic()
        # Without the file every worker asks for itself.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)

    def _age_s(self) -> float:
        own_s = time.monotonic() - self._asked_at
        try:
            changed = os.stat(self._path).st_mtime
        except OSError:
            return own_s
        age_s = time.time() - changed
        # A clock that was put back must not keep the node from polling.
        return min(own_s, age_s) if age_s >= 0 else own_s
