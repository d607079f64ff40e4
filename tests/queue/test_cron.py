"""Reading cron rules."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from flux_pg.analysis.cron import CronError, parse_cron
from flux_pg.analysis.cron_times import find_zone, next_firing, previous_firing
from flux_pg.errors import UsageError

EVERY_DAY = frozenset(range(1, 32))
UTC_ZONE = find_zone("UTC")


def after(text: str, *, zone: str = "UTC", at: str = "2026-01-01T00:00:00") -> str:
    moment = datetime.fromisoformat(at).replace(tzinfo=find_zone(zone))
    found = next_firing(parse_cron(text), find_zone(zone), moment)
    return found.astimezone(find_zone(zone)).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("text", "minutes", "hours"),
    [
        ("5 4 * * *", (5,), (4,)),
        ("*/15 * * * *", (0, 15, 30, 45), tuple(range(24))),
        ("5/20 3 * * *", (5, 25, 45), (3,)),
        ("10-20/5,50 0,12 * * *", (10, 15, 20, 50), (0, 12)),
        ("7-7/3 1-3 * * *", (7,), (1, 2, 3)),
        ("00 007 * * *", (0,), (7,)),
        ("*/100 * * * *", (0,), tuple(range(24))),
        ("@hourly", (0,), tuple(range(24))),
        ("@MIDNIGHT", (0,), (0,)),
        ("  30\t2  * *\n* ", (30,), (2,)),
    ],
)
def test_minutes_and_hours(text, minutes, hours):
    cron = parse_cron(text)
    assert (cron.minutes, cron.hours) == (minutes, hours)


def test_names_of_months_and_days_are_read_in_any_case_and_in_ranges():
    cron = parse_cron("0 0 * JAN-mar,Dec mon-FRI")
    assert cron.months == {1, 2, 3, 12}
    assert cron.weekdays == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN", "0,7", "7/2", "*/7"])
def test_sunday_has_three_names(sunday):
    assert parse_cron(f"0 0 * * {sunday}").weekdays == {0}


def test_a_range_of_days_may_end_with_sunday():
    assert parse_cron("0 0 * * fri-sun").weekdays == {5, 6, 0}
    assert parse_cron("0 0 * * 5-7").weekdays == {5, 6, 0}


@pytest.mark.parametrize(
    ("nickname", "fires"),
    [
        ("@yearly", "2027-01-01 00:00"),
        ("@annually", "2027-01-01 00:00"),
        ("@monthly", "2026-02-01 00:00"),
        ("@weekly", "2026-01-04 00:00"),
        ("@daily", "2026-01-02 00:00"),
        ("@midnight", "2026-01-02 00:00"),
        ("@hourly", "2026-01-01 01:00"),
    ],
)
def test_nicknames(nickname, fires):
    assert after(nickname) == fires


def test_one_restricted_day_field_is_enough_but_a_star_with_a_step_restricts_none():
    either, both = parse_cron("0 0 13 * 5"), parse_cron("0 0 13 * */5")
    friday, the_13th, sunday_13th = date(2026, 1, 16), date(2026, 1, 13), date(2026, 9, 13)
    assert either.matches_day(friday)
    assert either.matches_day(the_13th)
    assert not both.matches_day(friday)
    assert not both.matches_day(the_13th)
    assert both.matches_day(sunday_13th)
    # The known way to say "the first Monday of a month".
    assert after("0 9 */100,1-7 * mon") == "2026-01-05 09:00"
    assert after("0 9 */100,1-7 * mon", at="2026-01-05T09:00") == "2026-02-02 09:00"


@pytest.mark.parametrize(
    ("text", "field", "position", "says"),
    [
        ("61 * * * *", "minute", 1, "61 is not within 0-59"),
        ("0 24 * * *", "hour", 3, "24 is not within 0-23"),
        ("0 0 0 * *", "day of month", 5, "0 is not within 1-31"),
        ("0 0 * 13 *", "month", 7, "13 is not within 1-12"),
        ("0 0 * * 8", "day of week", 9, "8 is not within 0-7"),
        ("0 0 * foo *", "month", 7, 'there is no "foo"'),
        ("0 0 * * mon-xyz", "day of week", 13, 'there is no "xyz"'),
        ("abc 0 * * *", "minute", 1, 'there is no "abc"'),
        ("1,2,77 * * * *", "minute", 5, "77 is not within"),
        ("0 22-2 * * *", "hour", 3, "22-2 goes backwards"),
        ("*/0 * * * *", "minute", 3, "a step must be at least 1"),
        ("1,,2 * * * *", "minute", 3, "nothing between the commas"),
        ("0 0 L * *", "day of month", 5, '"l" is not understood'),
        ("0 0 * * 5#3", "day of week", 9, '"5#3" is not understood'),
        ("0 0 15W * *", "day of month", 5, "is not understood"),
        ("-1 * * * *", "minute", 1, "is not understood"),
        ("1-2-3 * * * *", "minute", 1, "is not understood"),
        ("1//2 * * * *", "minute", 1, "is not understood"),
        ("/2 * * * *", "minute", 1, "is not understood"),
        ("*-5 * * * *", "minute", 1, "is not understood"),
        ("1_0 * * * *", "minute", 1, "is not understood"),
        ("\u0663 * * * *", "minute", 1, "is not understood"),
        ("\u00b9 * * * *", "minute", 1, "is not understood"),
        ("0 0 30 2 *", "day of month", 5, "none of these months has a 30th day"),
        ("0 0 31 4,6,9,11 */2", "day of month", 5, "none of these months has a 31st day"),
        ("* * * *", "", 0, "five fields, not 4"),
        ("0 * * * * *", "", 0, "five fields, not 6"),
        ("", "", 0, "five fields, not 0"),
        ("@reboot", "", 1, "Flux has no reboot"),
        ("@every 5m", "", 1, "there is no @every 5m"),
    ],
)
def test_what_is_wrong_is_said_with_the_field_and_the_character(text, field, position, says):
    with pytest.raises(CronError) as failed:
        parse_cron(text)
    assert says in failed.value.message
    assert (failed.value.field, failed.value.position) == (field, position)
    assert failed.value.hint
    if position and field:
        assert failed.value.message.startswith(f"{field}: ")
        assert failed.value.message.endswith(f"(character {position})")


def test_the_last_of_february_with_days_of_the_week_is_allowed_since_either_is_enough():
    assert after("0 0 30 2 mon") == "2026-02-02 00:00"


def test_a_leap_day_that_is_a_monday_is_found_far_away():
    assert after("0 0 */29,29 2 mon", at="2026-02-01T00:00") == "2027-02-01 00:00"
    cron = parse_cron("0 12 29 2 */100")  # both: the 29th of February, a Sunday
    found = next_firing(cron, find_zone("Europe/Riga"), datetime(2026, 1, 1, tzinfo=UTC))
    assert found.isoformat() == "2032-02-29T10:00:00+00:00"
    before = previous_firing(cron, find_zone("Europe/Riga"), datetime(2026, 1, 1, tzinfo=UTC))
    assert before.isoformat() == "2004-02-29T10:00:00+00:00"


def test_the_next_firing_is_later_than_the_moment_and_the_previous_one_earlier():
    cron = parse_cron("*/10 * * * *")
    on_time = datetime(2026, 3, 1, 10, 20, tzinfo=UTC)
    just_before = datetime(2026, 3, 1, 10, 19, 59, 999999, tzinfo=UTC)
    just_after = datetime(2026, 3, 1, 10, 20, 0, 1, tzinfo=UTC)
    assert next_firing(cron, UTC_ZONE, just_before) == on_time
    assert next_firing(cron, UTC_ZONE, on_time) == datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
    assert previous_firing(cron, UTC_ZONE, just_after) == on_time
    assert previous_firing(cron, UTC_ZONE, on_time) == datetime(2026, 3, 1, 10, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "name", ["Europe/Atlantis", "", "../etc/passwd", "/etc/localtime", "x" * 300]
)
def test_an_unknown_time_zone_is_refused(name):
    with pytest.raises(UsageError, match="there is no time zone"):
        find_zone(name)


def test_time_zones_do_not_depend_on_the_system(monkeypatch):
    """A minimal Debian has no tzdata."""
    import zoneinfo

    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    zoneinfo.reset_tzpath(to=())
    try:
        zoneinfo.ZoneInfo.clear_cache()
        assert find_zone("America/Argentina/Ushuaia").key == "America/Argentina/Ushuaia"
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()
