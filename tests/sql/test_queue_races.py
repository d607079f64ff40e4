"""Workers that are killed at any moment while they run jobs: the effects are there exactly once.

Threads with sessions of their own, whose backends are terminated at random, while leases expire at
random too. The seed only chooses; the interleaving is the machine's.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from uuid import UUID

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.queue import Queue, expire_leases

JOBS = 150
WORKERS = 5
DEADLINE_S = 120.0
LEASE_LOST = "ZF007"
KILLED = "57P01"


class Crew:
    """Workers in threads; each makes a new session when its own was killed."""

    def __init__(self, database: Database, functions: list[str], seed: int) -> None:
        self.database = database
        self.functions = functions
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.pids: dict[int, int] = {}
        self.faults: list[BaseException] = []

    def work(self, number: int) -> None:
        while not self.stop.is_set():
            # A session that was killed is replaced.
            with suppress(psycopg.OperationalError), Queue(self.database) as queue:
                queue.functions = self.functions
                self.pids[number] = queue.pid
                try:
                    self.run_jobs(queue)
                except psycopg.OperationalError:
                    raise
                except BaseException as error:
                    self.faults.append(error)
                    return

    def run_jobs(self, queue: Queue) -> None:
        while not self.stop.is_set():
            for job in queue.claim(4, lease="20 seconds"):
                try:
                    with queue.conn.transaction():
                        queue.conn.execute(
                            "insert into public.effects (job_id) values (%s)", [job["job_id"]]
                        )
                        queue.complete(job)
                except psycopg.Error as error:
                    if error.sqlstate not in (LEASE_LOST, KILLED, None):
                        raise
                if queue.conn.closed:
                    raise psycopg.OperationalError("killed")
            self.stop.wait(0.005)

    def disturb(self, superuser: psycopg.Connection) -> None:
        if self.random.random() < 0.5:
            pid = self.random.choice(list(self.pids.values()))
            superuser.execute("select pg_terminate_backend(%s)", [pid])
        else:
            expire_leases(self.database)


@pytest.mark.parametrize("limit", [None, 2], ids=["unlimited", "limited"])
def test_every_job_has_its_effect_once_whoever_is_killed(database, limit):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    with psycopg.connect(database.admin, autocommit=True) as conn:
        conn.execute("create table public.effects (job_id uuid not null)")
    with Queue(database, work={"concurrency": limit, "max_attempts": 1000}) as queue:
        queue.rows(
            "select flux.enqueue_many('work', array_fill('{}'::jsonb, array[%s]))", JOBS
        )  # fmt: skip
        crew = Crew(database, queue.functions, seed)
        threads = [threading.Thread(target=crew.work, args=(n,)) for n in range(WORKERS)]
        for thread in threads:
            thread.start()
        try:
            with psycopg.connect(database.superuser, autocommit=True) as superuser:
                deadline = time.monotonic() + DEADLINE_S
                rounds = 0
                while set(queue.states()) != {"succeeded"} and not crew.faults:
                    assert time.monotonic() < deadline, queue.rows(
                        "select state, count(*) from flux.jobs group by 1"
                    )
                    if crew.pids:
                        crew.disturb(superuser)
                    # Ever more rarely: so it ends on a machine on which a new session takes long.
                    rounds += 1
                    crew.stop.wait(rounds * 0.0002)
        finally:
            crew.stop.set()
            for thread in threads:
                thread.join(60)
        assert crew.faults == []
        effects = queue.rows("select job_id, count(*) from public.effects group by 1")
        assert len(effects) == JOBS and {row["count"] for row in effects} == {1}
        attempts: dict[UUID, int] = {
            row["job_id"]: row["attempt"] for row in queue.rows("select * from flux.jobs")
        }
        crashed = {
            row["job_id"]: row["count"]
            for row in queue.rows("select job_id, count(*) from flux.executions group by 1")
        }
        # Every attempt is either the one that succeeded or has its record of a crash.
        assert {i: n - 1 for i, n in attempts.items() if n > 1} == crashed
