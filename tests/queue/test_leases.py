"""The fence: whoever has lost the lease keeps nothing, and whoever has it is not disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio

from flux_pg.runtime import session
from tests.conftest import Database
from tests.queue.jobs import Jobs, run_jobs, until
from tests.runtime.proxy import Proxy

FUNCTIONS = """
from flux_pg import Backoff

QUICK = Backoff(base_s=0.05, factor=1)
go_on = trio.Event()

@define_function(backoff=QUICK)
async def waits(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('waits')")
    await wait()
    return {}

@define_function(backoff=QUICK)
async def waits_idly(ctx: Context) -> dict:
    await wait()
    return {}

@define_function(transaction=False, backoff=QUICK)
async def waits_in_parts(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('part')")
    await wait()
    return {}

@define_function(backoff=QUICK)
async def lasts(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('lasts')")
    await trio.sleep(2)
    return {}

async def wait():
    while True:
        try:
            with open("{flag}"):
                return
        except OSError:
            await trio.sleep(0.01)
"""


@dataclass(frozen=True)
class Far(Database):
    """A database that the application reaches by another way than the test."""

    through: str

    @property
    def app(self) -> str:
        return self.through


def functions(folder: Path) -> str:
    return FUNCTIONS.replace("{flag}", str(folder / "go_on"))


def take_away(jobs: Jobs, job_id: str) -> None:
    """Give the job's lease to somebody else."""
    with psycopg.connect(jobs.database.superuser) as conn:
        conn.execute(
            "update flux.job_queue set lease_token = %s, worker = %s where job_id = %s",
            [uuid4(), uuid4(), job_id],
        )


async def running(jobs: Jobs, function: str) -> str:
    """A job of the function that runs."""
    job_id = jobs.enqueue(function)
    await until(lambda: jobs.workers._held.running and not jobs.workers._held.waiting)
    if function != "waits_idly":
        backends = "select 1 from pg_stat_activity where state like 'idle in transaction%%'"
        await until(lambda: jobs.rows(backends) or jobs.rows("select 1 from notes"))
    return job_id


@pytest.mark.parametrize("recording", ["on", "off"])
@pytest.mark.parametrize("function", ["waits", "waits_idly"])
async def test_an_attempt_without_its_lease_commits_nothing(
    tmp_path: Path, database18: Database, function: str, recording: str
) -> None:
    async with run_jobs(
        tmp_path, database18, functions(tmp_path), recording=recording, lease_s=600
    ) as jobs:
        job_id = await running(jobs, function)
        take_away(jobs, job_id)
        (tmp_path / "go_on").touch()
        await until(lambda: not len(jobs.workers._held))
        assert jobs.rows("select text from notes") == []
        assert jobs.job(job_id)["state"] == "running"  # somebody else's
        if recording == "on":
            (attempt,) = jobs.attempts(job_id)
            assert (attempt["outcome"], attempt["error"]["type"]) == ("error", "LeaseLost")


async def test_parts_that_were_committed_stay_but_the_job_is_not_completed(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, functions(tmp_path), lease_s=600) as jobs:
        job_id = await running(jobs, "waits_in_parts")
        take_away(jobs, job_id)
        (tmp_path / "go_on").touch()
        await until(lambda: not len(jobs.workers._held))
        (attempt,) = jobs.attempts(job_id)
        assert (attempt["state"], attempt["outcome"]) == ("completed", "error")
        assert jobs.job(job_id)["state"] == "running"


async def test_an_attempt_whose_lease_was_taken_stops_at_the_next_beat(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, functions(tmp_path), lease_s=0.9) as jobs:
        job_id = await running(jobs, "waits")
        take_away(jobs, job_id)
        await until(lambda: not len(jobs.workers._held))
        assert jobs.attempts(job_id)[0]["outcome"] == "cancelled"
        assert jobs.rows("select text from notes") == []


async def test_a_job_that_outlasts_its_lease_keeps_it(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, functions(tmp_path), lease_s=1.5) as jobs:
        job_id = jobs.enqueue("lasts")
        assert (await jobs.ended(job_id))["attempt"] == 1
        assert [one["outcome"] for one in jobs.attempts(job_id)] == ["ok"]


async def test_what_a_claim_took_whose_answer_was_lost_is_given_back_uncounted(
    tmp_path: Path, database18: Database
) -> None:
    info = psycopg.conninfo.conninfo_to_dict(database18.app)
    proxy = Proxy(f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}")
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        here = Far(
            database18.server, database18.name,
            f"{database18.app} host=127.0.0.1 port={proxy.port}",
        )  # fmt: skip
        async with run_jobs(tmp_path, here, functions(tmp_path), lease_s=600) as jobs:
            running_id = await running(jobs, "waits")
            # Nothing else that is said names the worker while its leases are young.
            proxy.lose(str(jobs.workers._control._worker).encode(), "after")
            made = [jobs.enqueue("lasts") for _ in range(3)]
            await proxy.lost.wait()
            for job_id in made:
                assert (await jobs.ended(job_id))["attempt"] == 1
                assert [one["outcome"] for one in jobs.attempts(job_id)] == ["ok"]
            # What had arrived here was left alone.
            (tmp_path / "go_on").touch()
            assert (await jobs.ended(running_id))["state"] == "succeeded"
            assert [one["outcome"] for one in jobs.attempts(running_id)] == ["ok"]
        nursery.cancel_scope.cancel()


async def test_jobs_go_on_after_the_database_was_away(
    tmp_path: Path, database18: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RECORD_DEADLINE_S", 1.0)
    info = psycopg.conninfo.conninfo_to_dict(database18.app)
    proxy = Proxy(f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}")
    (tmp_path / "go_on").touch()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        through = f"{database18.app} host=127.0.0.1 port={proxy.port}"
        here = Far(database18.server, database18.name, through)
        async with run_jobs(
            tmp_path, here, functions(tmp_path), lease_s=2.0, queue_poll_s=0.5
        ) as jobs:
            made = [jobs.enqueue("waits") for _ in range(40)]
            await until(lambda: jobs.rows("select 1 from notes"))
            await proxy.refuse()
            made += [jobs.enqueue("waits") for _ in range(10)]
            await until(lambda: not jobs.application.ready)
            proxy.refusing = False
            for job_id in made:
                assert (await jobs.ended(job_id))["state"] == "succeeded"
            assert len(jobs.rows("select * from notes")) == 50
            for job_id in made:
                outcomes = [one["outcome"] for one in jobs.attempts(job_id)]
                assert outcomes.count("ok") == 1
                assert jobs.job(job_id)["attempt"] == len(outcomes)
        nursery.cancel_scope.cancel()
