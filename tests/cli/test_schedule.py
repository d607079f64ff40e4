"""`flux schedule …`: what runs by the clock, as people ask for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flux_pg.analysis import schedules
from flux_pg.analysis.cron import parse_cron
from tests.cli.conftest import Flux
from tests.cli.jobs import declare, run

CONTRACT = {
    "name", "cron", "time_zone", "function", "paused", "last", "next", "origin", "overlap",
    "missed", "error",
}  # fmt: skip


@pytest.fixture
def made(conn: Any) -> Any:
    """Two schedules: one of SQL in Riga, one that is declared and paused."""
    declare(conn, "report", "sweep")
    conn.execute(
        "select flux.schedule('nightly', '30 3 * * 1-5', 'report', '{\"days\": 7}', 'Europe/Riga')"
    )
    document = [{"name": "sweep", "cron": "@hourly", "function": "sweep", "origin": "function"}]
    conn.execute("select flux.sync_schedules(1, %s)", (json.dumps(document),))
    conn.execute("select flux.pause_schedule('sweep')")
    return conn


def listed(flux: Flux, *arguments: str) -> list[dict[str, Any]]:
    result = flux("schedule", "list", "--json", *arguments)
    assert result.code == 0, result.out + result.err
    document = json.loads(result.out)
    assert document["schema"] == "flux.schedules/1"
    found: list[dict[str, Any]] = document["schedules"]
    return found


def fire(conn: Any, name: str, due: datetime) -> None:
    """Fire a schedule as a scheduler would."""
    conn.execute("update flux.schedules set next_at = %s where name = %s", (due, name))
    steps = conn.execute(
        "select json_build_array(json_build_object('name', name, 'revision', revision,"
        " 'expected', next_at, 'due', next_at, 'next', next_at + interval '1 day'))"
        " from flux.schedules where name = %s",
        (name,),
    ).fetchone()[0]
    conn.execute("select from flux.tick_schedules(%s)", (json.dumps(steps),))


def test_no_schedules_are_told_so_with_how_to_declare_one(flux: Flux) -> None:
    assert listed(flux) == []
    result = flux("schedule", "list")
    assert (result.code, result.out) == (0, "")
    assert "no schedules" in result.err
    assert "define_function(schedule=" in result.err


def test_the_list_has_the_contract_s_keys_and_five_times(flux: Flux, made: Any) -> None:
    nightly, sweep = listed(flux)
    assert nightly.keys() >= CONTRACT
    assert (nightly["name"], nightly["cron"]) == ("nightly", "30 3 * * 1-5")
    assert (nightly["time_zone"], nightly["function"]) == ("Europe/Riga", "report")
    assert (nightly["origin"], nightly["overlap"], nightly["missed"]) == ("sql", "skip", "once")
    assert (nightly["paused"], nightly["last"], nightly["error"]) == (False, None, None)
    assert nightly["last_job"] is None
    times = [datetime.fromisoformat(one) for one in nightly["next"]]
    assert len(times) == 5
    assert times == sorted(times)
    assert datetime.now(UTC) < times[0]
    riga = [one.astimezone(ZoneInfo("Europe/Riga")) for one in times]
    assert {(one.hour, one.minute) for one in riga} == {(3, 30)}
    assert all(one.weekday() < 5 for one in riga)
    assert (sweep["paused"], sweep["next"], sweep["origin"]) == (True, [], "function")


def test_the_list_shows_times_on_the_schedule_s_own_clock(flux: Flux, made: Any) -> None:
    out = flux("schedule", "list").out
    lines = out.splitlines()
    assert lines[0] == "nightly  30 3 * * 1-5  Europe/Riga  → report"
    assert lines[1].startswith("  next  20")
    assert lines[1].count(" 03:30") == 5
    assert lines[2] == "  last  never"
    assert "  next  paused" in out
    assert max(map(len, lines)) <= 100


def test_only_schedules_of_a_function(flux: Flux, made: Any) -> None:
    assert [one["name"] for one in listed(flux, "--function", "sweep")] == ["sweep"]
    declare(made, "report", "sweep", "idle")
    assert listed(flux, "--function", "idle") == []
    assert flux("schedule", "list", "--function", "nobody").code == 3


def test_the_last_firing_is_shown_with_its_job(flux: Flux, made: Any) -> None:
    due = datetime(2026, 5, 4, 0, 30, tzinfo=UTC)
    fire(made, "nightly", due)
    (nightly, _) = listed(flux)
    job = nightly["last_job"]
    assert nightly["last"] == job["due_at"] == "2026-05-04T00:30:00.000000Z"
    assert job["state"] == "ready"
    last = f"2026-05-04 03:30  job {job['job_id'][-8:]} ready"
    assert f"  last  {last}" in flux("schedule", "list").out
    run(made, "report")
    (nightly, _) = listed(flux)
    assert nightly["last_job"]["state"] == "succeeded"
    assert nightly["last_job"]["last_request_id"]


def test_show_tells_everything_about_one(flux: Flux, made: Any) -> None:
    result = flux("schedule", "show", "nightly")
    assert result.code == 0
    for told in (
        "schedule nightly",
        "declared in  SQL",
        "overlap      skip: nothing while the last job is unfinished",
        "missed       once: the newest time",
        "last         never",
        "NEXT",
        "days  7",
    ):
        assert told in result.out
    assert sum(" 03:30 +0" in line and "  in " in line for line in result.out.splitlines()) == 5
    document = json.loads(flux("schedule", "show", "nightly", "--json").out)
    assert document["schema"] == "flux.schedule/1"
    assert document["payload"] == {"days": 7}


def test_run_enqueues_a_job_now_also_of_a_paused_one(flux: Flux, made: Any) -> None:
    result = flux("schedule", "run", "sweep")
    assert result.code == 0
    assert result.out.startswith("sweep queued as job ")
    document = json.loads(flux("schedule", "run", "sweep", "--json").out)
    assert (document["schema"], document["name"]) == ("flux.schedule_run/1", "sweep")
    count = made.execute("select count(*) from flux.jobs where schedule = 'sweep'").fetchone()[0]
    assert count == 2
    assert document["job_id"] == listed(flux)[1]["last_job"]["job_id"]
    assert "by hand" in flux("schedule", "list").out


def test_pause_and_resume(flux: Flux, made: Any) -> None:
    assert flux("schedule", "pause", "nightly").out == "nightly paused\n"
    assert flux("schedule", "pause", "nightly").out == "nightly was paused already\n"
    assert listed(flux)[0]["next"] == []
    resumed = flux("schedule", "resume", "nightly").out
    assert resumed.startswith("nightly resumed, next ")
    assert resumed.endswith(" 03:30 Europe/Riga\n")
    document = json.loads(flux("schedule", "resume", "nightly", "--json").out)
    assert document["schema"] == "flux.schedule/1"
    assert (document["changed"], document["paused"]) == (False, False)
    assert len(document["next"]) == 5


@pytest.mark.parametrize("verb", ["show", "run", "pause", "resume"])
def test_a_schedule_that_is_not_there(flux: Flux, made: Any, verb: str) -> None:
    result = flux("schedule", verb, "nighty")
    assert result.code == 3
    assert "there is no schedule nighty" in result.err
    assert "nightly, sweep" in result.err
    document = json.loads(flux("schedule", verb, "nighty", "--json").out)
    assert document["error"]["code"] == "no-schedule"


def test_a_zone_that_this_machine_does_not_know_is_told(flux: Flux, made: Any) -> None:
    made.execute("update flux.schedules set time_zone = 'Mars/Olympus' where name = 'nightly'")
    (nightly, _) = listed(flux)
    assert (nightly["next"], nightly["error"]) == ([], "there is no time zone Mars/Olympus")
    out = flux("schedule", "list").out
    assert "  next  unknown" in out
    assert "  error there is no time zone Mars/Olympus" in out


def test_a_database_that_cannot_be_reached(bare: Flux) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    assert bare("schedule", "list", "--database-url", url).code == 4


# `flux schedule next` needs no database


def test_next_says_when_a_rule_fires(bare: Flux) -> None:
    result = bare("schedule", "next", "30 2 * * *", "--tz", "Europe/Berlin", "--from",
                  "2027-03-27T00:00", "-n", "3")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "Sat 2027-03-27 02:30 +01:00",
        "Sun 2027-03-28 03:00 +02:00",
        "Mon 2027-03-29 02:30 +02:00",
    ]
    document = json.loads(bare("schedule", "next", "@daily", "--json").out)
    assert document["schema"] == "flux.cron/1"
    assert (document["cron"], document["time_zone"]) == ("@daily", "UTC")
    assert len(document["next"]) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("61 * * * *",), "minute: 61 is not within 0-59 (character 1)"),
        (("@reboot",), "@reboot is no time"),
        (("@daily", "--tz", "Mars/Olympus"), "there is no time zone Mars/Olympus"),
        (("0 0 30 2 *",), "day of month: none of these months has a 30th day (character 5)"),
    ],
)
def test_next_refuses_what_cannot_fire(bare: Flux, arguments: tuple[str, ...], says: str) -> None:
    result = bare("schedule", "next", *arguments)
    assert result.code == 2
    assert says in result.err
    assert "hint:" in result.err


def test_at_the_end_of_the_calendar_there_are_fewer_times() -> None:
    found = schedules.upcoming(
        parse_cron("@monthly"), ZoneInfo("UTC"), datetime(9996, 1, 1, tzinfo=UTC), 1000
    )
    assert 0 < len(found) < 60


def findings(flux: Flux) -> list[dict[str, str]]:
    document = json.loads(flux("doctor", "--json").out)
    return [finding for finding in document["findings"] if finding["check"] == "schedules"]


def test_doctor_finds_nothing_wrong_with_schedules_that_wait_or_are_paused(
    flux: Flux, made: Any
) -> None:
    made.execute("update flux.schedules set next_at = now() - interval '30 seconds'")
    made.execute("update flux.schedules set next_at = now() - interval '1 day' where paused")
    (found,) = findings(flux)
    assert found["status"] == "ok"
    assert found["message"] == "2 schedules, 1 of them paused; none is overdue or broken"


def test_doctor_finds_schedules_that_failed_or_that_nobody_fires(flux: Flux, made: Any) -> None:
    made.execute("update flux.schedules set paused = false, next_at = now() - interval '2 hours'")
    made.execute("select flux.schedule('broken', '@daily', 'report')")
    made.execute("update flux.schedules set error = 'no\nsuch function' where name = 'broken'")
    failed, late = findings(flux)
    assert (failed["status"], late["status"]) == ("failure", "warning")
    assert failed["message"].startswith("broken was not fired when it was due: no")
    assert "flux schedule show broken" in failed["fix"]
    assert "is due for 2 h" in late["message"] and "1 other" in late["message"]
    assert "flux serve" in late["fix"]
    assert flux("doctor").code == 1
