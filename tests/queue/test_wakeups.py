"""How workers hear of jobs: at once if they can, by polling if they cannot."""

from __future__ import annotations

import math
from pathlib import Path

import psycopg
import pytest
import trio
from trio.testing import MockClock

from flux_pg.queue.polls import NodePolls
from flux_pg.queue.wakeup import Wakeup
from tests.conftest import Database
from tests.database.proxy import Proxy
from tests.queue.jobs import Jobs, run_jobs, until

FUNCTIONS = """
@define_function
async def nothing(ctx: Context) -> dict:
    return {}

@define_function(concurrency=1)
async def alone(ctx: Context) -> dict:
    await ctx.db.execute("insert into notes (text) values ('alone')")
    return {}
"""


class Firewall(Proxy):
    """A proxy whose clients may be gone by the time it lets something through again."""

    async def _forward(self, client: trio.SocketStream) -> None:
        try:
            await super()._forward(client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


_LISTENERS = """
select pid from pg_stat_activity
where datname = current_database() and application_name = 'flux listen' and state = 'idle'
"""


SOON_S = 30.0
"""Much sooner than a worker polls that looks once a minute, however slow the machine is."""


async def taken_after_s(jobs: Jobs, function: str = "nothing") -> float:
    """Enqueue a job from elsewhere; how long it takes to be done."""
    job_id = jobs.enqueue(function)
    await jobs.ended(job_id)
    job = jobs.job(job_id)
    return float((job["finished_at"] - job["enqueued_at"]).total_seconds())


async def listening(jobs: Jobs) -> None:
    """Wait until the worker listens and is idle."""
    await until(lambda: jobs.workers._listener.listens and jobs.rows(_LISTENERS))


async def test_an_idle_worker_hears_of_a_job_at_once(tmp_path: Path, database: Database) -> None:
    async with run_jobs(tmp_path, database, FUNCTIONS, queue_poll_s=60) as jobs:
        await listening(jobs)
        assert await taken_after_s(jobs) < SOON_S


async def test_a_listener_that_was_cut_comes_back_and_looks(
    tmp_path: Path, database18: Database
) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS, queue_poll_s=60) as jobs:
        await listening(jobs)
        jobs.rows(f"select pg_terminate_backend(pid) from ({_LISTENERS}) as listener")
        # While nobody listens: found by the look that follows every LISTEN.
        assert await taken_after_s(jobs) < SOON_S
        await listening(jobs)
        assert await taken_after_s(jobs) < SOON_S


async def test_a_listener_whose_peer_fell_silent_delays_jobs_by_a_poll_and_is_replaced(
    tmp_path: Path, database18: Database
) -> None:
    proxy = Firewall(database18.app)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        through = f"{database18.app} host=127.0.0.1 port={proxy.port}"
        async with run_jobs(
            tmp_path, database18, FUNCTIONS, queue_poll_s=1, listen_url=through
        ) as jobs:
            await listening(jobs)
            proxy.forwarding = trio.Event()  # nothing is closed, nothing comes through
            for _ in range(3):
                assert await taken_after_s(jobs) < SOON_S  # by the poll: TCP takes minutes
            # Jobs that nobody told of made it ask, and nobody answered.
            await until(lambda: not jobs.workers._listener.listens)
            proxy.forwarding.set()
            await listening(jobs)
        nursery.cancel_scope.cancel()


async def test_limited_functions_go_on_without_a_poll(tmp_path: Path, database18: Database) -> None:
    async with run_jobs(tmp_path, database18, FUNCTIONS, queue_poll_s=60) as jobs:
        with psycopg.connect(jobs.database.admin) as conn:
            conn.execute("select flux.enqueue('alone') from generate_series(1, 20)")
        await until(lambda: len(jobs.rows("select * from notes")) == 20)


async def test_a_wake_up_is_kept_and_due_times_do_not_hide_each_other(
    autojump_clock: MockClock,
) -> None:
    wakeup = Wakeup()
    wakeup.wake()
    assert await wakeup.wait(math.inf)
    assert not await wakeup.wait(trio.current_time() + 5)
    wakeup.wake_in(10)
    wakeup.wake_in(3)
    wakeup.wake_in(7)
    began = trio.current_time()
    assert await wakeup.wait(math.inf)
    assert trio.current_time() - began == pytest.approx(3)
    # What is due later is learnt again from the database, which was asked just now.
    assert not await wakeup.wait(began + 4)


def test_the_workers_of_a_node_poll_in_turns(tmp_path: Path) -> None:
    def worker() -> NodePolls:
        return NodePolls(tmp_path, "postgresql://db", 100.0, lambda: 0.5)

    first, second, other = worker(), worker(), NodePolls(tmp_path, "elsewhere", 100.0, lambda: 0.5)
    assert first.take()
    assert not second.take()
    assert not first.take()
    assert 90 <= second.due_in() <= 100
    assert other.take()
