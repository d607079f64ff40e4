"""What a schedule does next, as its row and the time say. No database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flux_pg.queue.schedule_policy import MAX_MISSED, ScheduleState, Step, plan_step

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
EVERY_TEN = "*/10 * * * *"


def at(text: str) -> datetime:
    """A time of that day, or a full one."""
    full = text if "-" in text else f"2026-05-04T{text}"
    return datetime.fromisoformat(full).replace(tzinfo=UTC)


def state(**changes) -> ScheduleState:
    given = {
        "name": "s",
        "cron": EVERY_TEN,
        "time_zone": "UTC",
        "overlap": "allow",
        "missed": "once",
        "revision": 3,
        "anchored_at": at("11:03"),
        "last_at": None,
        "next_at": None,
        "waiting_at": None,
        "busy": False,
        "error": None,
        "outcome": None,
        "read_at": NOON,
    }
    return ScheduleState(**{**given, **changes})


def step(one: ScheduleState, due: str | None, following: str | None) -> Step:
    return Step("s", 3, one.next_at, due and at(due), following and at(following))


def test_a_new_schedule_counts_from_when_it_was_made():
    one = state(anchored_at=at("11:58"))
    assert plan_step(one, NOON - timedelta(seconds=1)) == step(one, None, "12:00")


def test_nothing_happens_before_it_is_due():
    assert plan_step(state(next_at=at("12:10")), at("12:09:59.999999")) is None


@pytest.mark.parametrize("missed", ["skip", "once", "all"])
def test_what_is_due_or_a_little_late_is_fired_whatever_the_policy(missed):
    one = state(next_at=at("12:00"), missed=missed)
    assert plan_step(one, NOON) == step(one, "12:00", "12:10")
    assert plan_step(one, at("12:01")) == step(one, "12:00", "12:10")


def test_after_a_downtime_skip_leaves_out_what_was_missed():
    one = state(next_at=at("09:00"), missed="skip")
    assert plan_step(one, at("12:05")) == step(one, None, "12:10")
    # But not what has only just come due.
    assert plan_step(one, at("12:00:20")) == step(one, "12:00", "12:10")


def test_after_a_downtime_once_fires_the_newest_that_was_missed():
    one = state(next_at=at("09:00"), missed="once")
    assert plan_step(one, at("12:05")) == step(one, "12:00", "12:10")


def test_after_a_downtime_all_fires_one_after_the_other():
    one = state(next_at=at("11:40"), missed="all")
    assert plan_step(one, at("12:05")) == step(one, "11:40", "11:50")


def test_all_fires_the_newest_hundred_at_most():
    one = state(next_at=at("2025-05-04T12:00"), missed="all")
    oldest = NOON - timedelta(minutes=10 * (MAX_MISSED - 1))
    planned = plan_step(one, at("12:05"))
    assert planned.due == oldest
    assert planned.next == oldest + timedelta(minutes=10)


def test_a_year_of_downtime_is_not_walked_through():
    one = state(cron="* * * * *", next_at=at("2016-05-04T12:00"))
    assert plan_step(one, at("12:00:30")) == step(one, "12:00", "12:01")


def test_a_clock_put_back_does_not_fire_again_what_was_fired():
    fired = state(last_at=at("12:00"), next_at=at("12:10"))
    for now in ("11:59", "11:45", "10:00", "09:00:01"):
        assert plan_step(fired, at(now)) is None


def test_a_clock_put_back_before_anything_was_fired_is_followed():
    one = state(last_at=at("10:40"), next_at=at("12:10"))
    assert plan_step(one, at("10:45")) == step(one, None, "10:50")


def test_a_clock_that_was_ahead_by_a_year_does_not_stop_the_schedule_for_a_year():
    one = state(last_at=at("2027-05-04T12:00"), next_at=at("2027-05-04T12:10"))
    assert plan_step(one, NOON) == step(one, None, "12:10")
    made = state(anchored_at=at("2027-05-04T12:00"))
    assert plan_step(made, NOON) == step(made, None, "12:10")


def test_a_clock_that_jumps_ahead_is_like_a_downtime():
    one = state(cron="0 3 * * *", last_at=at("03:00"), next_at=at("2026-05-05T03:00"))
    ahead = at("2027-05-04T12:00")
    assert plan_step(one, ahead).due == at("2027-05-04T03:00")


def test_a_time_that_waits_is_fired_when_the_last_job_is_finished():
    waiting = {"overlap": "queue", "next_at": at("12:10"), "waiting_at": at("11:50")}
    assert plan_step(state(**waiting, busy=True), at("12:05")) is None
    one = state(**waiting)
    assert plan_step(one, at("12:05")) == step(one, "11:50", "12:10")


def test_a_further_time_comes_due_while_one_waits():
    one = state(overlap="queue", next_at=at("12:00"), waiting_at=at("11:50"), busy=True)
    assert plan_step(one, NOON) == step(one, "12:00", "12:10")


def test_rules_of_a_zone_that_changed_bring_the_time_nearer():
    one = state(cron="0 3 * * *", time_zone="Europe/Riga", next_at=at("2026-05-05T01:00"))
    assert plan_step(one, NOON) == step(one, None, "2026-05-05T00:00")


def test_a_zone_that_this_machine_does_not_know_is_said_once():
    one = state(time_zone="Mars/Olympus", next_at=NOON)
    planned = plan_step(one, NOON)
    assert planned.error == "there is no time zone Mars/Olympus"
    assert planned.due is None
    assert plan_step(state(time_zone="Mars/Olympus", error=planned.error), NOON) is None
