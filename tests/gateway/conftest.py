"""A virtual clock that gives the kernel a moment."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def autojump_clock() -> MockClock:
    """Jumps when nothing has happened for some milliseconds.

    What is sent over the loopback is usually there at once, but not if the kernel is busy: a clock
    that jumps as soon as every task waits would let a deadline pass before bytes that came in time.
    """
    return MockClock(autojump_threshold=0.005)
