"""Random operations of several workers against a model in plain Python.

Laws that are checked after every step and at the end: a job succeeds at most once, and only by who
holds its lease; none is lost (each is known, in the state the model says); none is stranded (when
workers go on, every job ends); limits hold; each attempt that was taken over has a record.

The seed is printed; FLUX_QUEUE_SEED runs one again.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.queue import Queue, expire_leases, make_due

STEPS = 250
LIMITS = {"plain": None, "one": 1, "three": 3}


@dataclass
class Job:
    """What the model knows of a job."""

    function: str
    max_attempts: int
    state: str = "ready"
    attempt: int = 0
    token: UUID | None = None
    worker: int = -1
    cancel: bool = False
    successes: int = 0
    lost: list[UUID] = field(default_factory=list)


class World:
    """Three workers, the model, and what may happen."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.workers = [Queue(database) for _ in range(3)]
        self.workers[0].declare(**{name: {"concurrency": n} for name, n in LIMITS.items()})
        self.marks: list[Any] = ["{}", None, "{}"]
        self.jobs: dict[UUID, Job] = {}
        self.keys: dict[tuple[str, str], UUID] = {}
        self.stale: list[tuple[int, dict[str, Any]]] = []
        self.log: list[str] = []

    def close(self) -> None:
        for worker in self.workers:
            worker.conn.close()

    def step(self) -> None:
        operations = [
            (self.enqueue, 10), (self.claim, 10), (self.complete, 8), (self.fail, 5),
            (self.release, 2), (self.cancel, 2), (self.retry, 2), (self.expire, 1),
            (self.extend, 2), (self.use_lost_lease, 4), (self.come_due, 2), (self.roll_back, 2),
            (self.crash, 2),
        ]  # fmt: skip
        operation = self.random.choices(*zip(*operations, strict=True))[0]
        self.log.append(operation.__name__)
        operation()

    def _pick(self, *states: str) -> tuple[UUID, Job] | None:
        chosen = [(i, job) for i, job in self.jobs.items() if job.state in states]
        return self.random.choice(chosen) if chosen else None

    def _held(self) -> tuple[UUID, Job, Queue, dict[str, Any]] | None:
        picked = self._pick("running")
        if picked is None:
            return None
        job_id, job = picked
        lease = {"job_id": job_id, "lease_token": job.token}
        return job_id, job, self.workers[job.worker], lease

    def enqueue(self) -> None:
        function = self.random.choice(list(LIMITS))
        attempts = self.random.randint(1, 4)
        options: dict[str, Any] = {
            "max_attempts": attempts, "priority": self.random.choice([0, 0, 0, 5, -5]),
        }  # fmt: skip
        if self.random.random() < 0.2:
            options["delay"] = "1 hour"
        key = f"k{self.random.randint(1, 8)}" if self.random.random() < 0.2 else None
        if key:
            options["idempotency_key"] = key
        job_id = self.random.choice(self.workers).enqueue(function, **options)
        if key and (function, key) in self.keys:
            assert job_id == self.keys[function, key]
            return
        if key:
            self.keys[function, key] = job_id
        assert job_id not in self.jobs
        self.jobs[job_id] = Job(function, attempts, "delayed" if "delay" in options else "ready")

    def claim(self) -> None:
        self._claim(self.random.randrange(3), self.random.randint(1, 8))

    def _claim(self, number: int, limit: int) -> int:
        worker = self.workers[number]
        rows = worker.rows(
            "select c.*, c.mark::text as next_mark"
            " from flux.claim_jobs(%s, %s, %s, '1 hour', %s) as c",
            worker.worker, worker.functions or list(LIMITS), limit, self.marks[number],
        )  # fmt: skip
        if rows and rows[-1]["job_id"] is None:
            self.marks[number] = rows.pop()["next_mark"]
        for row in rows:
            job = self.jobs[row["job_id"]]
            assert job.state in ("ready", "retrying"), (row, job)
            job.state, job.token, job.worker = "running", row["lease_token"], number
            job.attempt += 1
            assert (row["attempt"], row["max_attempts"]) == (job.attempt, job.max_attempts)
        if not rows:
            for name, most in LIMITS.items():
                left = [job for job in self.jobs.values() if job.function == name]
                waiting = [job for job in left if job.state in ("ready", "retrying")]
                assert not waiting or self._running(name) == most, (name, waiting)
        return len(rows)

    def _running(self, name: str) -> int:
        return sum(j.function == name and j.state == "running" for j in self.jobs.values())

    def _end(self, job: Job, state: str) -> None:
        assert job.token is not None
        self.stale.append((job.worker, {"job_id": self._id(job), "lease_token": job.token}))
        job.state, job.token, job.cancel = state, None, False

    def _id(self, job: Job) -> UUID:
        return next(i for i, other in self.jobs.items() if other is job)

    def complete(self) -> None:
        if held := self._held():
            _, job, worker, lease = held
            worker.complete(lease)
            job.successes += 1
            self._end(job, "succeeded")

    def roll_back(self) -> None:
        if held := self._held():
            _, _, worker, lease = held
            with worker.conn.transaction():
                worker.complete(lease)
                raise psycopg.Rollback

    def fail(self) -> None:
        if held := self._held():
            _, job, worker, lease = held
            hopeless = self.random.random() < 0.2
            assert worker.fail(lease, None if hopeless else "0 s")
            self._end(job, self._after_failure(job, hopeless))

    def _after_failure(self, job: Job, hopeless: bool = False) -> str:
        if job.cancel:
            return "cancelled"
        return "dead" if hopeless or job.attempt >= job.max_attempts else "retrying"

    def crash(self) -> None:
        if held := self._held():
            job_id, job, worker, _ = held
            assert worker.value(
                "select flux.job_crashed(%s, %s, clock_timestamp())", job_id, job.token
            )
            self._end(job, self._after_failure(job))

    def release(self) -> None:
        if held := self._held():
            _, job, worker, lease = held
            assert worker.release(lease) == 1
            cancelled = job.cancel
            self._end(job, "retrying" if job.attempt > 1 else "ready")
            job.attempt -= 1
            if cancelled:
                job.state = "cancelled"

    def cancel(self) -> None:
        if picked := self._pick("ready", "delayed", "retrying", "running"):
            job_id, job = picked
            said = self.workers[0].value("select flux.cancel_job(%s)", job_id)
            if job.state == "running":
                assert said == "requested"
                job.cancel = True
            else:
                assert said == "cancelled"
                job.state = "cancelled"

    def retry(self) -> None:
        if picked := self._pick("dead", "cancelled"):
            job_id, job = picked
            self.workers[0].value("select flux.retry_job(%s)", job_id)
            job.state, job.attempt = "ready", 0

    def expire(self) -> None:
        expire_leases(self.database)
        self.workers[1].rows(
            "select * from flux.claim_jobs(%s, '{nobody}', 1)", self.workers[1].worker
        )
        for job in self.jobs.values():
            if job.state == "running":
                assert job.token is not None
                job.lost.append(job.token)
                self._end(job, self._after_failure(job))

    def extend(self) -> None:
        if held := self._held():
            _, job, worker, lease = held
            assert worker.extend(lease) == {job.token: (True, job.cancel)}

    def use_lost_lease(self) -> None:
        if not self.stale:
            return
        number, lease = self.random.choice(self.stale)
        worker = self.workers[number]
        assert worker.extend(lease)[lease["lease_token"]][0] is False
        assert not worker.fail(lease)
        assert worker.release(lease) == 0
        with pytest.raises(psycopg.Error) as caught:
            worker.complete(lease)
        assert caught.value.sqlstate == "ZF007"

    def come_due(self) -> None:
        make_due(self.database)
        for job in self.jobs.values():
            if job.state == "delayed":
                job.state = "ready"

    def check(self) -> None:
        """The database says what the model says, of every job."""
        rows = self.workers[0].rows("select job_id, state, attempt from flux.jobs")
        assert len(rows) == len(self.jobs)
        told = {row["job_id"]: (row["state"], row["attempt"]) for row in rows}
        assert told == {i: (job.state, job.attempt) for i, job in self.jobs.items()}
        for name, limit in LIMITS.items():
            assert limit is None or self._running(name) <= limit

    def finish(self) -> None:
        """Workers go on until there is nothing to do: no job may be left."""
        self.come_due()
        for _ in range(10 * len(self.jobs) + 100):
            claimed = sum(self._claim(number, 10) for number in range(3))
            while self._pick("running"):
                self.complete()
            if not claimed and not self._pick("ready", "retrying"):
                break
        assert {job.state for job in self.jobs.values()} <= {"succeeded", "dead", "cancelled"}
        assert all(job.successes <= 1 for job in self.jobs.values())
        lost = {token for job in self.jobs.values() for token in job.lost}
        recorded = self.workers[0].rows("select request_id, outcome from flux.executions")
        assert {row["request_id"] for row in recorded} == lost
        assert {row["outcome"] for row in recorded} <= {"crashed"}


@pytest.mark.parametrize("drawn", [False, True], ids=["known", "drawn"])
def test_no_job_is_lost_or_stranded_or_succeeds_twice(database, drawn):
    chosen = os.environ.get("FLUX_QUEUE_SEED")
    seed = int(chosen) if chosen else random.SystemRandom().randrange(10**6) if drawn else 1
    print(f"FLUX_QUEUE_SEED={seed}")
    world = World(database, seed)
    try:
        for _ in range(STEPS):
            world.step()
            world.check()
        world.finish()
        world.check()
    except BaseException:
        print("last steps:", *world.log[-20:])
        raise
    finally:
        world.close()
