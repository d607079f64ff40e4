"""Schedulers against a real database: several at once, killed, cut off, and told of changes.

Rules fire by the minute at best. So a yearly one is made due by hand: its next time is set.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from flux_pg.database.pool import Pool
from flux_pg.queue import scheduler as scheduler_module
from flux_pg.queue.declarations import DeclaredSchedule
from flux_pg.queue.scheduler import Scheduler
from tests.conftest import Database
from tests.queue.jobs import run_jobs, until
from tests.queue.schedules import Schedules, connect

YEARLY = "0 0 1 1 *"


@pytest.fixture
def schedules(database18: Database) -> Iterator[Schedules]:
    opened = Schedules.open(database18)
    yield opened
    opened.close()


@asynccontextmanager
async def running(
    database: Database, count: int = 1, *declared: DeclaredSchedule, deployment: int = 1
) -> AsyncIterator[list[Scheduler]]:
    """Schedulers with a pool each, as if in as many processes."""
    pools = [Pool(database.app, max_size=2) for _ in range(count)]
    made = [Scheduler(pool, deployment, declared) for pool in pools]
    async with trio.open_nursery() as nursery:
        for scheduler in made:
            nursery.start_soon(scheduler.run)
        yield made
        nursery.cancel_scope.cancel()
    for pool in pools:
        await pool.aclose()


def make_due(schedules: Schedules, name: str, in_s: float = 0.0) -> datetime:
    due = datetime.now(UTC) + timedelta(seconds=in_s)
    schedules.set(name, next_at=due)
    return due


def next_of(schedules: Schedules, name: str) -> datetime | None:
    found: datetime | None = schedules.row(name)["next_at"]
    return found


async def test_a_new_schedule_gets_its_next_time_and_fires_when_that_comes(database18, schedules):
    schedules.make("yearly", YEARLY)
    async with running(database18) as (scheduler,):
        await until(lambda: next_of(schedules, "yearly") is not None)
        assert next_of(schedules, "yearly").month == 1
        due = make_due(schedules, "yearly", in_s=0.5)
        scheduler.wake()
        await until(lambda: schedules.jobs("yearly"))
    (job,) = schedules.jobs("yearly")
    assert job["due_at"] == due
    late_s = (job["enqueued_at"] - due).total_seconds()
    assert 0 <= late_s < 30  # sooner than schedules are read again
    assert next_of(schedules, "yearly").month == 1


async def test_many_schedulers_fire_every_time_once(database18, schedules):
    names = [schedules.make(f"yearly-{n}", YEARLY, overlap="allow") for n in range(10)]
    expected = Counter()
    async with running(database18, 8) as schedulers:
        await until(lambda: all(next_of(schedules, name) for name in names))
        for _ in range(10):
            for name in names:
                expected[name, make_due(schedules, name)] += 1
            for scheduler in schedulers:
                scheduler.wake()
            await until(lambda: len(schedules.jobs()) == expected.total())
    fired = Counter((job["schedule"], job["due_at"]) for job in schedules.jobs())
    assert fired == expected


async def test_schedulers_that_are_killed_at_any_moment_fire_every_time_once(
    database18, schedules
):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = [schedules.make(f"yearly-{n}", YEARLY, overlap="allow") for n in range(5)]
    children = [start_child(database18) for _ in range(3)]
    expected = Counter()
    try:
        await until(lambda: all(next_of(schedules, name) for name in names))
        for _ in range(12):
            for name in names:
                expected[name, make_due(schedules, name)] += 1
            for child in children:
                wake_child(child)
            # Anywhere between not yet awake and done: chance is what is tested.
            await trio.sleep(rng.random() * 0.03)
            number = rng.randrange(len(children))
            end_child(children[number])
            children[number] = start_child(database18)
            await until(lambda: len(schedules.jobs()) >= expected.total())
    finally:
        for child in children:
            end_child(child)
    fired = Counter((job["schedule"], job["due_at"]) for job in schedules.jobs())
    assert fired == expected


def start_child(database: Database) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.queue.scheduler_child", database.app, "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def end_child(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def wake_child(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


async def test_a_time_that_waits_is_fired_soon_after_the_last_job_is_finished(
    database18, schedules, monkeypatch
):
    monkeypatch.setattr(scheduler_module, "WAITING_POLL_S", 0.1)
    schedules.make("yearly", YEARLY, overlap="queue")
    async with running(database18) as (scheduler,):
        await until(lambda: next_of(schedules, "yearly"))
        make_due(schedules, "yearly")
        scheduler.wake()
        await until(lambda: schedules.jobs("yearly"))
        waits = make_due(schedules, "yearly")
        scheduler.wake()
        await until(lambda: schedules.row("yearly")["waiting_at"] == waits)
        schedules.finish(schedules.row("yearly")["last_job_id"])
        await until(lambda: schedules.row("yearly")["last_at"] == waits)
    (job,) = schedules.jobs("yearly")
    assert job["due_at"] == waits


async def test_what_nobody_told_of_is_found_in_a_while(database18, schedules, monkeypatch):
    monkeypatch.setattr(scheduler_module, "REREAD_S", 0.2)
    schedules.conn.execute("set flux.notify = off")
    async with running(database18):
        schedules.make("yearly", YEARLY)
        await until(lambda: next_of(schedules, "yearly"))


async def test_a_database_that_went_away_is_asked_again(database18, schedules, capfd):
    schedules.make("yearly", YEARLY)
    async with running(database18) as (scheduler,):
        await until(lambda: next_of(schedules, "yearly"))
        for _ in range(3):
            schedules.owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and usename = 'flux_app'"
            )
            due = make_due(schedules, "yearly")
            scheduler.wake()
            await until(lambda due=due: schedules.row("yearly")["last_at"] == due)
            for job in schedules.jobs():
                schedules.finish(job["job_id"])


async def test_a_drained_scheduler_fires_nothing_more(database18, schedules):
    schedules.make("yearly", YEARLY)
    pool = Pool(database18.app, max_size=1)
    scheduler = Scheduler(pool, 1, [])
    ended = trio.Event()

    async def run() -> None:
        await scheduler.run()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: next_of(schedules, "yearly"))
        await scheduler.drain(1)
        with trio.fail_after(60):
            await ended.wait()
    await pool.aclose()
    make_due(schedules, "yearly")
    assert schedules.jobs() == []


async def test_a_declaration_that_cannot_be_kept_is_said(database18, schedules, capfd):
    schedules.make("taken")
    declared = DeclaredSchedule(
        name="taken", cron=YEARLY, time_zone="UTC", function="report", payload={},
        overlap="skip", missed="once", origin="function",
    )  # fmt: skip
    async with running(database18, 1, declared):
        await until(lambda: next_of(schedules, "taken"))
    said = capfd.readouterr().err
    assert "schedule taken is not kept: a schedule of this name was made in SQL" in said


# A whole worker

FUNCTIONS = """
from flux_pg import Schedule

@define_function(schedule=Schedule("0 0 1 1 *", time_zone="Europe/Riga", payload={"days": 7}))
async def report(ctx: Context, days: int) -> dict:
    await ctx.db.execute("insert into notes (text) values (%s)", [f"{days} days"])
    return {"days": days}

@define_function
async def other(ctx: Context) -> dict:
    return {}
"""
CONFIG = """
[schedules.from-config]
function = "other"
cron = "@yearly"
"""


@asynccontextmanager
async def worker(folder: Path, database: Database, functions: str) -> AsyncIterator[object]:
    """An application whose jobs and schedules run."""
    async with (
        run_jobs(folder, database, functions, schema="select 1") as jobs,
        trio.open_nursery() as nursery,
    ):
        (scheduler,) = (one for one in jobs.application.work if isinstance(one, Scheduler))
        nursery.start_soon(scheduler.run)
        await until(lambda: jobs.workers._listener.listens)
        yield jobs
        nursery.cancel_scope.cancel()


async def test_a_declared_schedule_runs_its_function_as_a_request_of_its_own(
    tmp_path, database18
):
    with connect(database18.admin) as conn:
        conn.execute("create table notes (id bigint generated always as identity, text text)")
    (tmp_path / "flux.toml").write_text(CONFIG)
    schedules = Schedules.open(database18, "unrelated")
    async with worker(tmp_path, database18, FUNCTIONS) as jobs:
        await until(lambda: schedules.names() == ["from-config", "report"])
        assert schedules.row("report")["origin"] == "function"
        assert schedules.row("from-config")["origin"] == "config"
        await until(lambda: next_of(schedules, "report"))
        assert next_of(schedules, "report").hour == 22  # midnight in Riga
        due = make_due(schedules, "report", in_s=0.3)
        # Nothing was said of that: have it read again.
        schedules.conn.execute("notify flux_schedules")
        await until(lambda: schedules.jobs("report"))
        (job,) = schedules.jobs("report")
        ended = await jobs.ended(str(job["job_id"]))
        assert (ended["state"], ended["due_at"]) == ("succeeded", due)
        (execution,) = jobs.attempts(str(job["job_id"]))
        assert (execution["kind"], execution["outcome"]) == ("schedule", "ok")
        assert execution["input"] == {"days": 7}
        assert jobs.rows("select text from notes") == [{"text": "7 days"}]
    # A deployment without them takes them away, and leaves what was made in SQL.
    schedules.make("mine", YEARLY, function="other")
    (tmp_path / "flux.toml").unlink()
    async with worker(tmp_path, database18, "@define_function\nasync def other(ctx): ..."):
        await until(lambda: schedules.names() == ["mine"])
    schedules.close()


async def test_a_worker_hears_of_a_schedule_at_once(tmp_path, database18):
    schedules = Schedules.open(database18, "other")
    functions = "@define_function\nasync def other(ctx): return {}"
    async with worker(tmp_path, database18, functions):
        schedules.make("mine", YEARLY, function="other")
        begun = trio.current_time()
        await until(lambda: next_of(schedules, "mine"))
        assert trio.current_time() - begun < 30  # sooner than schedules are read again
    schedules.close()
