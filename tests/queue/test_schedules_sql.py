"""Schedules in SQL: what can be made, and that a firing happens once."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from threading import Barrier

import psycopg
import pytest

from flux_pg.analysis.cron import NICKNAMES, CronError, parse_cron
from tests.conftest import Database
from tests.queue.rules import random_rule
from tests.queue.schedules import Schedules, connect

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SEED = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1 << 32))

EARLIER, DUE, LATER = (datetime(2026, 1, day, 3, tzinfo=UTC) for day in (1, 2, 3))


@pytest.fixture
def schedules(database18: Database) -> Iterator[Schedules]:
    opened = Schedules.open(database18)
    yield opened
    opened.close()


@pytest.fixture
def due(schedules: Schedules) -> Schedules:
    """With a schedule `nightly` that is due since DUE."""
    schedules.make(overlap="allow")
    schedules.set(next_at=DUE)
    return schedules


# Rules


def spoil(rng: random.Random, text: str) -> str:
    """A rule with a mistake or two, or none that matters."""
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(text) + 1)
        piece = rng.choice(
            ["", " ", "\t", ",", "-", "/", "*", "@", "0", "7", "9", "60", "00001", "L", "w", "#",
             "?", "x", "sun", "fri-sun", "Feb", "30 2", "\u0663", ";", "'", "\\", "%"]
        )  # fmt: skip
        text = text[:at] + piece + text[at + rng.choice((0, 1, 1, 2)) :]
    return rng.choice((text, text, text.upper(), f" {text}\n"))


def test_sql_and_python_read_the_same_rules_and_say_the_same_of_the_others(database):
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g}")
    rng = random.Random(f"{SEED} rules")
    refused = 0
    with connect(database.superuser) as conn:
        for _ in range(int(1500 * SCALE)):
            base = rng.choice((*NICKNAMES, "@reboot")) if rng.random() < 0.1 else random_rule(rng)
            text = spoil(rng, base)
            try:
                ours = parse_cron(text).text
            except CronError as error:
                ours = (error.message, error.hint)
                refused += 1
            try:
                theirs = conn.execute("select flux.check_cron(%s) as cron", (text,)).fetchone()
                theirs = theirs["cron"]
            except psycopg.Error as error:
                assert error.sqlstate == "ZF001", (text, error)
                theirs = (error.diag.message_primary, error.diag.message_hint)
            assert theirs == ours, text
    assert refused > 300 * SCALE


# Making and changing


def refusal(schedules: Schedules, call: str, *values: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as failed:
        schedules.conn.execute(f"select flux.{call}", values)
    assert failed.value.diag.message_hint
    return failed.value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'x', '61 * * * *', 'report'", "minute: 61 is not within 0-59 (character 1)"),
        ("'x', '@reboot', 'report'", "@reboot is no time"),
        ("'x', null, 'report'", "five fields, not 0"),
        ("'x', '@daily', 'report', p_time_zone => 'Mars/Olympus'", "no time zone Mars/Olympus"),
        ("'x', '@daily', 'report', p_time_zone => 'CET-1CEST'", "there is no time zone"),
        ("'x', '@daily', 'report', p_time_zone => 'posixrules'", "there is no time zone"),
        ("'x', '@daily', 'report', p_overlap => 'maybe'", "overlap cannot be maybe"),
        ("'x', '@daily', 'report', p_missed => null", "missed cannot be null"),
        ("'x', '@daily', 'report', '[1]'", "the payload must be a JSON object, not array"),
        ("'', '@daily', 'report'", "cannot be named ''"),
        ("'a b', '@daily', 'report'", "cannot be named 'a b'"),
        ("null, '@daily', 'report'", "cannot be named null"),
        ("'x', '@daily', null", "has no function"),
        ("'x', repeat('1,', 600) || '1 * * * *', 'report'", "too long"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(schedules, arguments, says):
    error = refusal(schedules, f"schedule({arguments})")
    assert error.sqlstate == "ZF001"
    assert says in error.diag.message_primary
    assert schedules.names() == []


def test_a_time_zone_is_found_in_any_case_and_kept_as_the_tz_database_writes_it(schedules):
    schedules.make(time_zone="europe/riga")
    assert schedules.row()["time_zone"] == "Europe/Riga"


def test_saying_the_same_again_changes_nothing_and_another_rule_begins_anew(schedules):
    schedules.make()
    schedules.set(next_at=DUE, anchored_at=EARLIER)
    before = schedules.row()
    schedules.make(cron=" 0   3 * * * ")
    assert schedules.row() == before
    schedules.make(payload=json.dumps({"days": 1}))
    changed = schedules.row()
    assert changed["next_at"] == DUE
    assert changed["revision"] == before["revision"] + 1
    schedules.make(cron="0 4 * * *")
    anew = schedules.row()
    assert anew["next_at"] is None
    assert anew["anchored_at"] > EARLIER
    assert anew["payload"] == {}


def test_a_function_that_no_worker_has_told_of_yet_is_a_warning(schedules):
    warnings = []
    schedules.conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    schedules.make(function="not_yet")
    assert warnings == ["there is no function not_yet yet"]
    assert schedules.names() == ["nightly"]


def test_what_is_not_there_cannot_be_changed(schedules):
    for call in ("unschedule", "pause_schedule", "resume_schedule", "run_schedule"):
        for name in ("nothing", None):
            error = refusal(schedules, f"{call}(%s)", name)
            assert error.sqlstate == "ZF002"
            assert error.diag.message_primary == f"there is no schedule {name or 'null'}"


def test_a_removed_schedule_is_gone_and_its_jobs_stay(due):
    due.fire("nightly", DUE, LATER)
    due.conn.execute("select flux.unschedule('nightly')")
    assert due.names() == []
    assert len(due.jobs("nightly")) == 1


def test_one_that_is_held_fires_nothing_and_makes_up_for_nothing(due):
    (held,) = due.conn.execute("select flux.pause_schedule('nightly') as done").fetchall()
    assert held["done"] is True
    assert due.tick() == {}
    assert due.fire("nightly", DUE, LATER) is None
    again = due.conn.execute("select flux.pause_schedule('nightly') as done").fetchone()
    assert again["done"] is False
    resumed_at = datetime.now(UTC) - timedelta(seconds=5)
    due.conn.execute("select flux.resume_schedule('nightly')")
    row = due.row()
    assert row["next_at"] is None
    assert row["anchored_at"] > resumed_at
    assert due.jobs() == []


def test_a_run_by_hand_is_one_more_job_and_leaves_the_times_alone(due):
    due.conn.execute("select flux.pause_schedule('nightly')")
    ids = {
        due.conn.execute("select flux.run_schedule('nightly') as id").fetchone()["id"]
        for _ in range(2)
    }
    jobs = due.jobs("nightly")
    assert {job["job_id"] for job in jobs} == ids
    assert len(ids) == 2
    assert {job["due_at"] for job in jobs} == {None}
    assert due.row()["next_at"] == DUE
    assert due.row()["last_job_id"] in ids


def test_schedulers_hear_of_every_change_unless_notify_is_off(database18, schedules):
    with psycopg.connect(database18.app, autocommit=True) as listener:
        listener.execute("listen flux_schedules")

        def heard() -> int:
            schedules.conn.execute("notify flux_schedules, 'end'")
            payloads = (notification.payload for notification in listener.notifies())
            return len(list(takewhile(lambda payload: payload != "end", payloads)))

        schedules.make()
        assert heard() == 1
        schedules.make()
        assert heard() == 0
        for call in ("pause_schedule", "resume_schedule", "unschedule"):
            schedules.conn.execute(f"select flux.{call}('nightly')")
            assert heard() == 1, call
        schedules.conn.execute("set flux.notify = off")
        schedules.make()
        assert heard() == 0


# Firing


def test_a_firing_enqueues_a_job_with_its_schedule_and_due_time(due):
    due.set(payload=json.dumps({"days": 7}))
    assert due.fire("nightly", DUE, LATER) == "fired"
    (job,) = due.jobs("nightly")
    assert (job["function"], job["due_at"], job["state"]) == ("report", DUE, "ready")
    stored = due.owner.execute("select payload from flux.job_queue").fetchone()
    assert stored["payload"] == {"days": 7}
    row = due.row()
    assert (row["last_at"], row["next_at"], row["last_job_id"]) == (DUE, LATER, job["job_id"])


def test_of_many_schedulers_that_fire_at_once_one_does(database18, due):
    barrier = Barrier(8)
    step = json.dumps(
        [{"name": "nightly", "revision": 1, "expected": DUE, "due": DUE, "next": LATER}],
        default=str,
    )

    def fire(_: int) -> str:
        with connect(database18.app) as conn:
            barrier.wait()
            row = conn.execute("select outcome from flux.tick_schedules(%s)", (step,)).fetchone()
            return row["outcome"]

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(pool.map(fire, range(8)))
    assert outcomes == ["fired"] + ["stale"] * 7
    assert len(due.jobs()) == 1


def test_what_is_worked_out_from_an_old_rule_does_nothing(due):
    assert due.fire("nightly", DUE, LATER, revision=0) == "stale"
    assert due.fire("nightly", DUE, LATER, expected=EARLIER) == "stale"
    assert due.jobs() == []


def test_a_scheduler_ahead_of_the_databases_clock_fires_nothing(due):
    soon = datetime.now(UTC) + timedelta(minutes=5)
    due.set(next_at=soon)
    assert due.fire("nightly", soon, soon + timedelta(days=1)) == "early"
    assert due.jobs() == []


def test_no_due_time_is_fired_twice_whatever_becomes_of_the_schedule(due):
    assert due.fire("nightly", DUE, LATER) == "fired"
    due.set(next_at=DUE, last_at=None)
    assert due.fire("nightly", DUE, LATER) == "fired"
    due.conn.execute("select flux.unschedule('nightly')")
    due.make(overlap="allow")
    due.set(next_at=DUE)
    assert due.fire("nightly", DUE, LATER) == "fired"
    assert len(due.jobs()) == 1


def test_a_firing_that_is_rolled_back_leaves_nothing(due):
    with due.conn.transaction(force_rollback=True):
        assert due.fire("nightly", DUE, LATER) == "fired"
    assert due.jobs() == []
    assert due.row()["next_at"] == DUE
    assert due.fire("nightly", DUE, LATER) == "fired"


def test_overlap_skip_leaves_out_a_time_while_the_last_job_is_unfinished(due):
    due.make(overlap="skip")
    assert due.fire("nightly", DUE, LATER) == "fired"
    assert due.fire("nightly", LATER, LATER + timedelta(days=1)) == "skipped"
    row = due.row()
    assert (row["skipped_at"], row["skipped_because"]) == (LATER, "overlap")
    due.finish(row["last_job_id"])
    due.set(next_at=LATER)
    assert due.fire("nightly", LATER, LATER + timedelta(days=1)) == "fired"


def test_overlap_allow_does_not_care(due):
    assert due.fire("nightly", DUE, LATER) == "fired"
    assert due.fire("nightly", LATER, LATER + timedelta(days=1)) == "fired"
    assert len(due.jobs()) == 2


def test_overlap_queue_has_one_time_wait_and_leaves_out_further_ones(due):
    due.make(overlap="queue")
    days = [DUE + timedelta(days=day) for day in range(5)]
    assert due.fire("nightly", days[0], days[1]) == "fired"
    assert due.fire("nightly", days[1], days[2]) == "waiting"
    assert due.fire("nightly", days[2], days[3]) == "skipped"
    row = due.row()
    assert (row["waiting_at"], row["next_at"], row["skipped_at"]) == (days[1], days[3], days[2])
    assert due.tick()["nightly"].busy is True
    # A scheduler that is too fast changes nothing.
    assert due.fire("nightly", days[1], days[3]) == "waiting"
    due.finish(row["last_job_id"])
    assert due.tick()["nightly"].busy is False
    assert due.fire("nightly", days[1], days[3]) == "fired"
    row = due.row()
    assert (row["waiting_at"], row["last_at"], row["next_at"]) == (None, days[1], days[3])


def test_times_that_are_left_out_as_missed_are_told(due):
    assert due.fire("nightly", None, LATER) == "moved"
    row = due.row()
    assert (row["skipped_at"], row["skipped_because"], row["next_at"]) == (DUE, "missed", LATER)
    assert due.jobs() == []


def test_a_function_that_is_gone_is_told_and_keeps_no_other_schedule_from_firing(due):
    due.make("broken", function="gone", overlap="allow")
    due.set("broken", next_at=DUE)
    steps = [
        {"name": name, "revision": due.row(name)["revision"], "expected": DUE, "due": DUE,
         "next": LATER}
        for name in ("broken", "nightly")
    ]  # fmt: skip
    states = due.tick(*steps)
    assert {name: state.outcome for name, state in states.items()} == {
        "broken": "failed",
        "nightly": "fired",
    }
    assert due.row("broken")["error"] == "there is no function gone"
    assert due.row("broken")["next_at"] == LATER
    due.declare("gone")
    due.set("broken", next_at=DUE)
    assert due.fire("broken", DUE, LATER) == "fired"
    assert due.row("broken")["error"] is None


# Declarations


def declared(name: str, **changes: object) -> dict[str, object]:
    given = {"name": name, "cron": "@daily", "time_zone": "UTC", "function": "report",
             "payload": {}, "overlap": "skip", "missed": "once", "origin": "function"}  # fmt: skip
    return {**given, **changes}


def sync(
    schedules: Schedules,
    deployment: int,
    *given: dict[str, object],
    complete: bool = True,
    project: str = "shop",
) -> dict[str, str]:
    rows = schedules.conn.execute(
        "select * from flux.sync_schedules(%s, %s, %s, %s)",
        (deployment, json.dumps(given), complete, project),
    ).fetchall()
    return {row["name"]: row["problem"] for row in rows}


def test_a_deployment_brings_its_schedules_and_takes_away_those_it_no_longer_has(schedules):
    schedules.make("mine")
    assert sync(schedules, 1, declared("a"), declared("b", origin="config")) == {}
    assert schedules.names() == ["a", "b", "mine"]
    sync(schedules, 2, declared("b", cron="@hourly", origin="config"))
    assert schedules.names() == ["b", "mine"]
    assert schedules.row("b")["cron"] == "@hourly"
    assert schedules.row("b")["origin"] == "config"


def test_projects_on_one_database_leave_each_others_schedules_alone(schedules):
    sync(schedules, 1, declared("a"), declared("b"))
    assert sync(schedules, 2, declared("c"), project="blog") == {}
    assert schedules.names() == ["a", "b", "c"]
    assert [schedules.row(name)["project"] for name in "abc"] == ["shop", "shop", "blog"]
    sync(schedules, 3, project="blog")
    assert schedules.names() == ["a", "b"]
    # A worker of the other project that starts late is no older deployment of this one.
    sync(schedules, 1, declared("a"))
    assert schedules.names() == ["a"]
    assert sync(schedules, 4, declared("a", cron="@hourly"), project="blog") == {
        "a": "project shop has declared a schedule of this name"
    }
    assert schedules.row("a")["cron"] == "@daily"


def test_what_no_named_project_declared_is_taken_over_by_one_that_is_named(schedules):
    sync(schedules, 1, declared("a"), project="")
    assert sync(schedules, 2, declared("a", cron="@hourly")) == {}
    assert (schedules.row("a")["project"], schedules.row("a")["cron"]) == ("shop", "@hourly")
    assert sync(schedules, 3, declared("a"), project="") == {
        "a": "project shop has declared a schedule of this name"
    }


def test_what_a_project_left_behind_can_be_removed(schedules):
    sync(schedules, 1, declared("a"))
    assert refusal(schedules, "unschedule('a')").sqlstate == "ZF004"
    schedules.conn.execute("select flux.unschedule('a', p_declared => true)")
    assert sync(schedules, 2, declared("a"), project="blog") == {}
    assert schedules.row("a")["project"] == "blog"


def test_an_older_deployment_that_starts_a_worker_late_changes_nothing(schedules):
    sync(schedules, 7, declared("new"))
    sync(schedules, 6, declared("old"))
    assert schedules.names() == ["new"]
    sync(schedules, 7, declared("new"))
    assert schedules.names() == ["new"]


def test_every_worker_of_a_deployment_may_say_it_again(schedules):
    sync(schedules, 1, declared("a"))
    schedules.set("a", next_at=DUE)
    before = schedules.row("a")
    sync(schedules, 1, declared("a"))
    sync(schedules, 2, declared("a"))
    assert schedules.row("a") == before


def test_a_deployment_of_which_files_did_not_load_takes_nothing_away(schedules):
    sync(schedules, 1, declared("a"), declared("b"))
    sync(schedules, 2, declared("a"), complete=False)
    assert schedules.names() == ["a", "b"]


def test_one_that_was_held_stays_held_over_deployments(schedules):
    sync(schedules, 1, declared("a"))
    schedules.conn.execute("select flux.pause_schedule('a')")
    sync(schedules, 2, declared("a", cron="@hourly"))
    assert schedules.row("a")["paused"] is True


def test_the_source_and_sql_do_not_take_each_others_schedules(schedules):
    schedules.make("mine")
    sync(schedules, 1, declared("a"))
    assert sync(schedules, 2, declared("a"), declared("mine")) == {
        "mine": "a schedule of this name was made in SQL"
    }
    assert schedules.row("mine")["origin"] == "sql"
    for call in ("schedule('a', '@daily', 'report')", "unschedule('a')"):
        error = refusal(schedules, call)
        assert error.sqlstate == "ZF004"
        assert error.diag.message_primary == "schedule a is declared in the source of its function"


def test_one_bad_declaration_does_not_stop_the_others(schedules):
    problems = sync(schedules, 1, declared("a", cron="99 * * * *"), declared("b"))
    assert problems == {"a": "minute: 99 is not within 0-59 (character 1)"}
    assert schedules.names() == ["b"]
