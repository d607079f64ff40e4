"""What counts as done to the letter, without a comparison step by step."""

from __future__ import annotations

from typing import Any

import pytest

from flux_pg.replay.compare import is_repeated
from flux_pg.replay.live_record import ReplayResult
from flux_pg.replay.source import RecordedRun

THEN_US = 1_772_000_000_000_000  # 2026-02-25T06:13:20Z
REPLAY_ID = f"{(THEN_US + 3_600_000_000) // 1000:012x}"  # an hour later
REPLAY_ID = f"{REPLAY_ID[:8]}-{REPLAY_ID[8:]}-7000-8000-000000000000"


def rows(at: str) -> list[dict[str, Any]]:
    row = {"id": 1, "at": at}
    return [{"schema": "public", "table": "t", "op": "INSERT", "pk": {"id": 1}, "new": row}]


def repeated(then: str, now: str, **input: str) -> bool:
    ends: dict[str, Any] = {"outcome": "ok", "status_code": 200}
    recorded = RecordedRun(
        request_id="r", trace_id="t", kind="http", function="f", input=input,
        started_at_us=THEN_US, **ends,
    )  # fmt: skip
    result = ReplayResult(request_id="r", replay_id=REPLAY_ID, mutations=rows(now), **ends)
    return is_repeated(recorded, result, rows(then))


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ("2026-02-25T06:13:20Z", "2026-02-25T06:13:20Z", True),
        ("2026-02-25T06:13:20.001Z", "2026-02-25T07:13:20.002Z", True),
        ("2026-02-25T06:13:20Z", "2026-02-25T09:13:20Z", False),
        ("paid", "open", False),
    ],
)
def test_a_row_may_hold_the_time_of_its_run(then: str, now: str, expected: bool) -> None:
    assert repeated(then, now) is expected


def test_a_time_that_was_given_must_come_again() -> None:
    given = "2026-02-25T06:13:20.001Z"
    assert not repeated(given, "2026-02-25T07:13:20.002Z", at=given)
