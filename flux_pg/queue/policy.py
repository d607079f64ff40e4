"""When a failed job is tried again. Pure: the attempt and a random number decide.

The pause grows exponentially and is drawn from its upper half ("equal jitter"): jobs that failed
together (a service was away, their worker was killed) come back apart from each other, and no
sooner than half of what was asked for.
Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from flux_pg.records import Backoff


def pause_s(backoff: Backoff, attempt: int, chance: float) -> float:
    """Seconds between a failed attempt and the next one.

    Args:
        backoff: The function's policy.
        attempt: The attempt that failed, counted from 1.
        chance: A random number from 0 to 1.
    """
    try:
        longest = backoff.base_s * backoff.factor ** (max(1, attempt) - 1)
    except OverflowError:
        longest = backoff.limit_s
    return min(longest, backoff.limit_s) * (0.5 + chance / 2)


def retry_in_s(backoff: Backoff, attempt: int, max_attempts: int, chance: float) -> float | None:
    """Like `pause_s`; None if that was the last attempt: the job is dead then."""
    return pause_s(backoff, attempt, chance) if attempt < max_attempts else None
