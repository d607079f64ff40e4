"""One round of one contender.

The worker is stopped while enqueueing is measured; what was enqueued warms it up when it starts.
Then all jobs of a drain become visible at once, in one transaction, to a worker that is warm and
idle: the clock runs from that COMMIT until the contender's own tables say that nothing is left.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg

from benchmarks.queues import processes
from benchmarks.queues.contenders import Contender
from benchmarks.queues.cpu import parent_of, tree_cpu_s
from benchmarks.queues.processes import Bench, Producer

LIMIT_S = 300.0
BATCH = 100
# Looking too often would cost the server what is to be measured; the end of a drain is seen late
# by at most this share of it.
LOOK_SHARE = 0.02
LOOK_AT_LEAST_S = 0.004


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is done in one round; `gap_s` is the least and the most between two pick-ups."""

    jobs: int
    singles: int
    pickups: int
    gap_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drain:
    """Jobs a second, and CPU milliseconds a job of worker and server."""

    rate: float
    worker_ms: float
    server_ms: float


@dataclass(slots=True)
class Round:
    """What one round of one contender gave."""

    one_rate: float = 0.0
    batch_rate: float = 0.0
    inserts: Drain = field(default_factory=lambda: Drain(0, 0, 0))
    noops: Drain = field(default_factory=lambda: Drain(0, 0, 0))
    pickups_ms: list[float] = field(default_factory=list)


class Subject:
    """A contender with its database, its producer and the numbers of its jobs."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self.contender = contender
        self._bench = bench
        self._next = 0
        processes.install(bench, contender)
        if contender.key == "flux":
            self._start_once()
        self._conn = processes.open_database(bench, contender)
        row = self._conn.execute("select pg_backend_pid()").fetchone()
        assert row is not None
        self._postmaster = parent_of(row[0])
        self._producer = Producer(bench, contender)

    def close(self) -> None:
        """End the producer and the connection."""
        self._producer.close()
        self._conn.close()

    def round(self, amounts: Amounts) -> Round:
        """Measure everything once."""
        result = Round()
        self._conn.execute("checkpoint")
        answer = self._order("one_by_one", "noop", amounts.singles)
        result.one_rate = amounts.singles / answer["seconds"]
        answer = self._order("batches", "noop", amounts.jobs, size=BATCH)
        result.batch_rate = amounts.jobs / answer["seconds"]
        with processes.working(self._bench, self.contender) as worker:
            self._wait_until_finished(worker, time.monotonic())
            result.inserts = self._drain(worker, "insert_effect", amounts.jobs)
            result.noops = self._drain(worker, "noop", amounts.jobs)
            result.pickups_ms = self._pick_up(worker, amounts)
        return result

    def check_record(self) -> None:
        """Fail unless Flux has the record of every job, and of every row that one wrote."""
        if self.contender.key != "flux":
            return
        row = self._conn.execute(
            "select (select count(*) from flux.executions where kind = 'job' and outcome = 'ok'),"
            " (select count(*) from flux.mutations where op = 'INSERT'),"
            " (select count(*) from effects) + (select count(*) from pickups)"
        ).fetchone()
        assert row is not None
        executions, mutations, effects = row
        if executions != self._next or mutations != effects:
            raise SystemExit(
                f"{executions} records of {self._next} jobs, {mutations} of {effects} rows"
            )

    def drain_only(self, job: str, jobs: int) -> Drain:
        """Start a worker, warm it up with a tenth of the jobs, drain."""
        with processes.working(self._bench, self.contender) as worker:
            self._order("together", job, max(jobs // 10, 1))
            self._wait_until_finished(worker, time.monotonic())
            return self._drain(worker, job, jobs)

    def _start_once(self) -> None:
        """Flux's functions are known to the database once a worker has started."""
        with (
            processes.working(self._bench, self.contender) as worker,
            processes.open_database(self._bench, self.contender) as conn,
        ):
            deadline = time.monotonic() + LIMIT_S
            query = "select count(*) from flux.functions where name = any(%s)"
            names = ["noop", "insert_effect", "pickup"]
            while conn.execute(query, (names,)).fetchone() != (len(names),):
                self._check(worker, deadline)
                time.sleep(0.1)

    def _order(self, do: str, job: str, count: int, size: int = 0) -> dict[str, Any]:
        first, self._next = self._next, self._next + count
        return self._producer.order(do, job, first, count, size)

    def _drain(self, worker: subprocess.Popen[bytes], job: str, jobs: int) -> Drain:
        before = processes.count(self._conn, "effects")
        time.sleep(0.3)
        started_ns = self._order("together", job, jobs)["committing_ns"]
        worker_s, server_s = tree_cpu_s(worker.pid), tree_cpu_s(self._postmaster)
        seconds = self._wait_until_finished(worker, started_ns / 1e9)
        worker_s = tree_cpu_s(worker.pid) - worker_s
        server_s = tree_cpu_s(self._postmaster) - server_s
        done = processes.count(self._conn, "effects") - before
        if done != (jobs if job == "insert_effect" else 0):
            raise SystemExit(f"{self.contender.name}: {jobs} jobs of {job} had {done} effects")
        return Drain(jobs / seconds, worker_s / jobs * 1000, server_s / jobs * 1000)

    def _pick_up(self, worker: subprocess.Popen[bytes], amounts: Amounts) -> list[float]:
        committing: dict[int, int] = {}
        for _ in range(amounts.pickups):
            time.sleep(random.uniform(*amounts.gap_s))
            number = self._next
            committing[number] = self._order("single", "pickup", 1)["committing_ns"]
        self._wait_until_finished(worker, time.monotonic())
        rows = self._conn.execute(
            "select job, began_ns from pickups where job = any(%s)", (list(committing),)
        ).fetchall()
        if len(rows) != amounts.pickups:
            raise SystemExit(
                f"{self.contender.name}: {len(rows)} of {len(committing)} jobs were picked up"
            )
        return [(began_ns - committing[job]) / 1e6 for job, began_ns in rows]

    def _wait_until_finished(self, worker: subprocess.Popen[bytes], since: float) -> float:
        """Seconds from `since` (monotonic) until no job waits or runs."""
        deadline = time.monotonic() + LIMIT_S
        query = self.contender.unfinished.encode()
        while True:
            row = self._conn.execute(query).fetchone()
            seconds = time.monotonic() - since
            if row == (False,):
                return seconds
            self._check(worker, deadline)
            time.sleep(max(LOOK_AT_LEAST_S, seconds * LOOK_SHARE))

    def _check(self, worker: subprocess.Popen[bytes], deadline: float) -> None:
        if worker.poll() is not None or time.monotonic() > deadline:
            state = "ended" if worker.poll() is not None else "was too slow"
            log = processes.worker_log(self._bench, self.contender)
            raise SystemExit(f"the worker of {self.contender.name} {state}:\n{log}")


def measure(subjects: list[Subject], rounds: int, amounts: Amounts) -> dict[str, list[Round]]:
    """Every contender in every round, another one first each time."""
    results: dict[str, list[Round]] = {subject.contender.key: [] for subject in subjects}
    for number in range(rounds):
        turn = number % len(subjects)
        for subject in subjects[turn:] + subjects[:turn]:
            print(f"round {number + 1}: {subject.contender.name}", file=sys.stderr, flush=True)
            results[subject.contender.key].append(subject.round(amounts))
    for subject in subjects:
        subject.check_record()
    return results


def psycopg_version() -> str:
    """Version of the driver that Flux and the watcher use."""
    return psycopg.__version__
