"""When cron rules fire: against a daemon that wakes every minute, against an independent
implementation of Debian's rules, and known days.

The seed is printed; FLUX_TEST_SEED repeats a run, FLUX_TEST_SCALE makes it longer.
"""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from flux_pg.analysis.cron import CronError, parse_cron
from flux_pg.analysis.cron_times import _changes, find_zone, firings, next_firing, previous_firing
from tests.queue.daemon import daemon_firings
from tests.queue.rules import random_rule

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SEED = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1 << 32))

# Clocks of every kind: whole hours, half an hour, two hours, three, a day; many, few and no jumps.
ZONES = """
    UTC Europe/Riga Europe/London Europe/Dublin America/New_York America/St_Johns America/Sao_Paulo
    America/Havana America/Asuncion Africa/Casablanca Africa/Cairo Asia/Gaza Asia/Kolkata
    Asia/Tehran Asia/Kathmandu Asia/Pyongyang Australia/Lord_Howe Australia/Adelaide
    Antarctica/Troll Antarctica/Casey Pacific/Apia Pacific/Chatham Pacific/Kiritimati
    America/Caracas
""".split()


def times(text: str, zone: str, at: str, count: int) -> list[str]:
    """The next `count` firings after the local time `at`, as local times with their offsets."""
    found = find_zone(zone)
    moment = datetime.fromisoformat(at).replace(tzinfo=found)
    return [
        one.astimezone(found).isoformat(timespec="minutes")
        for one in islice(firings(parse_cron(text), found, moment), count)
    ]


# Riga 2026: 29 March 03:00 -> 04:00, 25 October 04:00 -> 03:00.
SPRING, AUTUMN = "2026-03-29T01:30", "2026-10-25T01:30"


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        # Clock followers: what the clock shows.
        ("0 * * * *", SPRING, ["29T02:00+02:00", "29T04:00+03:00", "29T05:00+03:00"]),
        ("0 * * * *", AUTUMN, ["25T02:00+03:00", "25T03:00+03:00", "25T03:00+02:00"]),
        ("@hourly", AUTUMN, ["25T02:00+03:00", "25T03:00+03:00", "25T03:00+02:00"]),
        ("*/30 3 * * *", SPRING, ["30T03:00+03:00", "30T03:30+03:00"]),
        ("*/30 3 * * *", AUTUMN, ["25T03:00+03:00", "25T03:30+03:00", "25T03:00+02:00",
                                  "25T03:30+02:00", "26T03:00+02:00"]),
        # Fixed times: left out ones right after the jump, as one; repeated ones the first time.
        ("30 3 * * *", SPRING, ["29T04:00+03:00", "30T03:30+03:00"]),
        ("15,45 3 * * *", SPRING, ["29T04:00+03:00", "30T03:15+03:00"]),
        ("0 3,4 * * *", SPRING, ["29T04:00+03:00", "30T03:00+03:00"]),
        ("30 1-5 * * *", SPRING, ["29T02:30+02:00", "29T04:00+03:00", "29T04:30+03:00"]),
        ("30 3 * * *", AUTUMN, ["25T03:30+03:00", "26T03:30+02:00"]),
        ("0 3,4 * * *", AUTUMN, ["25T03:00+03:00", "25T04:00+02:00", "26T03:00+02:00"]),
        # Only the day that has the jump counts.
        ("30 3 * * 1", SPRING, ["30T03:30+03:00"]),
    ],
)  # fmt: skip
def test_clock_changes_in_riga(text, at, expected):
    month = at[:8]
    assert times(text, "Europe/Riga", at, len(expected)) == [month + one for one in expected]


def test_a_skipped_midnight_runs_when_the_day_begins():
    # Havana 2026: 8 March 00:00 -> 01:00.
    assert times("0 0 * * *", "America/Havana", "2026-03-07T12:00", 2) == [
        "2026-03-08T01:00-04:00",
        "2026-03-09T00:00-04:00",
    ]


def test_half_an_hour_in_lord_howe():
    # 2026: 4 October 02:00 -> 02:30, 5 April 02:00 -> 01:30.
    zone = "Australia/Lord_Howe"
    assert times("15 2 * * *", zone, "2026-10-04T00:00", 1) == ["2026-10-04T02:30+11:00"]
    assert times("45 1 * * *", zone, "2026-04-05T00:00", 2) == [
        "2026-04-05T01:45+11:00",
        "2026-04-06T01:45+10:30",
    ]
    assert times("*/20 3 * * *", zone, "2026-10-04T00:00", 1) == ["2026-10-04T03:00+11:00"]


def test_a_day_that_a_zone_left_out_is_a_correction_and_is_not_made_up_for():
    # Samoa had no 30 December 2011.
    assert times("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", 1) == ["2011-12-31T12:00+14:00"]


def test_the_next_times_count_from_any_moment_in_a_repeated_hour():
    riga = find_zone("Europe/Riga")
    first, second = (datetime(2026, 10, 25, hour, 10, tzinfo=UTC) for hour in (0, 1))
    fixed, follower = parse_cron("30 3 * * *"), parse_cron("30 * * * *")
    assert next_firing(fixed, riga, first) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert next_firing(fixed, riga, second) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert next_firing(follower, riga, second) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert previous_firing(fixed, riga, second) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def random_case(rng: random.Random):
    while True:
        text = random_rule(rng)
        try:
            return text, parse_cron(text)
        except CronError as error:
            assert "none of these months" in error.message, text


def test_the_same_times_as_a_daemon_that_wakes_every_minute():
    """Two days around each clock change, and around any day: forwards and backwards."""
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g}")
    rng = random.Random(f"{SEED} daemon")
    compared = 0
    for _ in range(int(150 * SCALE)):
        zone = find_zone(rng.choice(ZONES))
        year = rng.randint(2005, 2037)
        changes = _changes(zone, year)
        around = rng.choice(changes).at if changes else datetime(year, rng.randint(1, 12), 28)
        begin = (around - timedelta(minutes=rng.randint(10, 2400))).replace(second=0, tzinfo=UTC)
        end = begin + timedelta(hours=48)
        text = f"{random_rule(rng).split()[0]} {rng.choice(('*', '1', '2', '0-3', '2,3', '*/2'))}"
        text += f" * * {rng.choice(('*', '*', '0', '0-5'))}"
        cron = parse_cron(text)
        expected = daemon_firings(cron, zone, begin, end)
        forwards, backwards = [], []
        for one in firings(cron, zone, begin - timedelta(seconds=1)):
            if one >= end:
                break
            forwards.append(one)
        before = previous_firing(cron, zone, end)
        while before >= begin:
            backwards.append(before)
            before = previous_firing(cron, zone, before)
        where = f"{text!r} in {zone.key} from {begin}"
        assert forwards == expected, where
        assert backwards[::-1] == expected, where
        compared += len(expected)
    assert compared > 150


def test_the_same_times_as_cronsim():
    """Ten firings from any moment in many years and zones."""
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g}")
    rng = random.Random(f"{SEED} cronsim")
    compared = 0
    for _ in range(int(3000 * SCALE)):
        zone = find_zone(rng.choice(ZONES))
        text, cron = random_case(rng)
        start = datetime(rng.randint(2012, 2037), 1, 1, tzinfo=UTC)
        start += timedelta(minutes=rng.randrange(525_600))
        if (changes := _changes(zone, start.year)) and rng.random() < 0.5:
            start = rng.choice(changes).at.replace(tzinfo=UTC)
            start -= timedelta(minutes=rng.randrange(1500))
        ours = list(islice(firings(cron, zone, start), 10))
        if not changes_on_the_hour(zone, start, ours[-1]):
            continue
        theirs = cronsim_firings(text, zone, start, 10)
        assert ours == theirs, f"{text!r} in {zone.key} after {start}"
        compared += 1
    assert compared > 2000 * SCALE


def changes_on_the_hour(zone: ZoneInfo, begin: datetime, end: datetime) -> bool:
    """Whether the clock only jumps on the hour, by one or two of them, and not over midnight.

    Elsewhere CronSim goes wrong: it steps from hour to hour of UTC and so misses minutes, it fires
    in a midnight that the clock left out, and it knows no corrections (law 3).
    """
    return all(
        abs(change.after - change.before) in (timedelta(hours=1), timedelta(hours=2))
        and (change.at + change.before).minute == 0
        and ((change.at + change.before).hour != 0 or change.after < change.before)
        for year in range(begin.year, end.year + 1)
        for change in _changes(zone, year)
        if begin - timedelta(days=1) < change.at.replace(tzinfo=UTC) < end + timedelta(days=1)
    )


def cronsim_firings(text: str, zone: ZoneInfo, start: datetime, count: int) -> list[datetime]:
    return [one.astimezone(UTC) for one in islice(CronSim(text, start.astimezone(zone)), count)]


def test_rules_far_apart_are_found_without_walking_there():
    rare = parse_cron("0 0 29 2 */100")
    riga = find_zone("Europe/Riga")
    begun = time.perf_counter()
    found = list(islice(firings(rare, riga, datetime(2026, 1, 1, tzinfo=UTC)), 5))
    took_s = time.perf_counter() - begun
    assert [one.astimezone(riga).year for one in found] == [2032, 2060, 2088, 2128, 2156]
    assert took_s < 5
