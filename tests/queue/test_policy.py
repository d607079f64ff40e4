"""How long a failed job waits, and lengths of time as people write them."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest

from flux_pg.errors import UsageError
from flux_pg.queue.durations import read_duration
from flux_pg.queue.policy import pause_s, retry_in_s
from flux_pg.records import Backoff


def test_pauses_grow_by_the_factor_up_to_the_limit() -> None:
    backoff = Backoff(base_s=2, factor=4, limit_s=100)
    assert [pause_s(backoff, attempt, 1.0) for attempt in (1, 2, 3, 4, 5000)] == [
        2, 8, 32, 100, 100
    ]  # fmt: skip


def test_jitter_takes_off_up_to_one_half() -> None:
    backoff, draw = Backoff(base_s=8, factor=1), random.Random(1)
    drawn = [pause_s(backoff, 1, draw.random()) for _ in range(1000)]
    assert 4 <= min(drawn) < 4.1 and 7.9 < max(drawn) <= 8


def test_the_last_attempt_has_no_next() -> None:
    assert retry_in_s(Backoff(base_s=1), 2, 3, 1.0) == 4
    assert retry_in_s(Backoff(base_s=1), 3, 3, 1.0) is None
    assert retry_in_s(Backoff(base_s=1), 7, 3, 1.0) is None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0), (1.5, 1.5), ("250ms", 0.25), ("7", 7), ("5m", 300), ("1h 30m", 5400),
        ("2D", 172800),
        (datetime.timedelta(minutes=2), 120),
    ],
)  # fmt: skip
def test_durations_are_read(written: Any, seconds: float) -> None:
    assert read_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [-1, "", " ", "5 fortnights", "-5m", True, None, float("nan"), float("inf"), "99999w"],
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(UsageError, match="delay"):
        read_duration(written)
