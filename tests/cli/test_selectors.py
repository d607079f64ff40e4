"""Times, windows and statuses as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flux_pg.cli.selectors import read_duration, read_time, read_window, show_ago
from flux_pg.cli.tail import read_status
from flux_pg.errors import UsageError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("5ms", 0.005)],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 parsecs", "9" * 400 + "w"])
def test_what_is_no_duration(text: str) -> None:
    assert read_duration(text) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("30m", datetime(2026, 5, 1, 11, 30, tzinfo=UTC)),
        ("30m ago", datetime(2026, 5, 1, 11, 30, tzinfo=UTC)),
        ("11:05", datetime(2026, 5, 1, 11, 5, tzinfo=UTC)),
        ("9:05", datetime(2026, 5, 1, 9, 5, tzinfo=UTC)),
        ("14:05", datetime(2026, 4, 30, 14, 5, tzinfo=UTC)),
        ("2026-04-01", datetime(2026, 4, 1, tzinfo=UTC)),
        ("2026-04-01 10:00", datetime(2026, 4, 1, 10, tzinfo=UTC)),
        ("2026-04-01T10:00:00+02:00", datetime(2026, 4, 1, 8, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    assert read_time(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterdayish", "25:00", "2026-13-01", "99999999999w"])
def test_a_bad_time_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_time(text, NOW)
    assert "30m" in caught.value.hint


def test_windows() -> None:
    hour = timedelta(hours=1)
    assert read_window("2h..1h", None, NOW) == (NOW - 2 * hour, NOW - hour)
    assert read_window("2h", "1h", NOW) == (NOW - 2 * hour, NOW - hour)
    assert read_window("2h..", None, NOW) == (NOW - 2 * hour, None)
    assert read_window("..1h", None, NOW) == (None, NOW - hour)
    assert read_window(None, None, NOW) == (None, None)
    with pytest.raises(UsageError, match="ends before it begins"):
        read_window("1h..2h", None, NOW)
    with pytest.raises(UsageError, match="two ends"):
        read_window("2h..1h", "30m", NOW)


def test_statuses() -> None:
    assert read_status("404") == (404, 404)
    assert read_status("5xx") == (500, 599)
    assert read_status("400-422") == (400, 422)
    assert read_status(None) is None
    for bad in ("abc", "99", "6xx", "500-400"):
        with pytest.raises(UsageError):
            read_status(bad)


def test_how_long_ago() -> None:
    assert show_ago(NOW - timedelta(seconds=5), NOW) == "5 s ago"
    assert show_ago(NOW - timedelta(minutes=5), NOW) == "5 min ago"
    assert show_ago(NOW - timedelta(hours=5), NOW) == "5 h ago"
    assert show_ago(NOW - timedelta(days=5), NOW) == "5 days ago"
    assert show_ago(NOW + timedelta(days=5), NOW) == "just now"
