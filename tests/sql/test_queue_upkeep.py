"""The queue over a long time: snapshots that stay open, retention, checks, dumps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.queue import Queue


@pytest.fixture
def queue(database: Database) -> Iterator[Queue]:
    with Queue(database, work={}, few={"concurrency": 2, "max_attempts": 3}) as made:
        yield made


NEVER_S = 99999999999.0


class Marked:
    """A worker that passes marks, and counts the index pages and entries that its claims read."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.mark: Any = "{}"

    def look_at_everything_from(self, moment_s: float) -> None:
        """When that is due depends on how fast the machine is; here it is chosen."""
        if '"levels"' in self.mark:
            self.mark = json.dumps({**json.loads(self.mark), "look_at": moment_s})

    def claim(self, limit: int) -> list[dict[str, Any]]:
        rows = self.queue.rows(
            "select c.*, c.mark::text as next_mark"
            " from flux.claim_jobs(%s, %s, %s, '30 s', %s) as c",
            self.queue.worker, self.queue.functions, limit, self.mark,
        )  # fmt: skip
        if rows and rows[-1]["job_id"] is None:
            self.mark = rows.pop()["next_mark"]
        assert all(row["mark"] is None for row in rows)
        return rows

    def run(self, jobs: int, limit: int = 50) -> float:
        """Claim and complete so many; returns what half of the claims read at most.

        What a look at everything reads, now and then, is not counted: there is none.
        """
        left, reads = jobs, []
        while left:
            self.look_at_everything_from(NEVER_S)
            before = self._buffers()
            claimed = self.claim(min(limit, left))
            reads.append(self._buffers() - before)
            assert claimed, f"{left} jobs were not found"
            left -= len(claimed)
            self.queue.rows(
                "select flux.complete_job(j, t) from unnest(%s::uuid[], %s::uuid[]) as x (j, t)",
                [job["job_id"] for job in claimed],
                [job["lease_token"] for job in claimed],
            )
        self.look_at_everything_from(0)
        return median(reads)

    def _buffers(self) -> int:
        self.queue.value("select pg_stat_force_next_flush()")
        found: int = self.queue.value(
            "select idx_tup_read + (select idx_blks_hit + idx_blks_read from pg_statio_all_indexes"
            " as i where i.indexrelname = 'job_queue_waiting_idx')"
            " from pg_stat_all_indexes as s where s.indexrelname = 'job_queue_waiting_idx'"
        )
        return found


def enqueue_many(queue: Queue, count: int, **options: Any) -> list[UUID]:
    named = "".join(f", p_{name} => %s" for name in options)
    rows = queue.rows(
        "select * from flux.enqueue_many('work', array_fill('{}'::jsonb, array[%s])"
        f"{named}) as id",
        count, *options.values(),
    )  # fmt: skip
    return [row["id"] for row in rows]


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
def test_a_transaction_that_stays_open_does_not_slow_claims(queue, writes):
    """Counted in index entries and pages walked, as times say little on a busy machine."""
    worker = Marked(queue)
    with psycopg.connect(queue.database.app) as idle:
        idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        if writes:
            idle.execute("select pg_current_xact_id()")
        idle.execute("select count(*) from flux.jobs")
        enqueue_many(queue, 20_000)
        first = min(worker.run(500) for _ in range(4))
        worker.run(15_000)
        last = min(worker.run(500) for _ in range(4))
        assert '"levels"' in worker.mark
        assert last < 2 * first + 100
        enqueue_many(queue, 1, delay="1 hour")
        before = worker._buffers()
        next_at = queue.value(
            "select flux.next_job_at(%s, null, %s::jsonb || '{\"look_at\": 99999999999}')",
            queue.functions,
            worker.mark,
        )
        assert next_at is not None
        assert worker._buffers() - before < 2 * first + 100
        late = queue.enqueue(priority=7)
        found: list[UUID] = []
        while late not in found:
            jobs = worker.claim(1)
            assert jobs, "a job of a higher priority was never found"
            found += [job["job_id"] for job in jobs]


def test_nothing_is_overlooked_for_good_behind_a_mark(queue):
    """What commits late, or comes with another priority, is found by the next look."""
    worker = Marked(queue)
    with psycopg.connect(queue.database.app) as idle, queue.another() as slow:
        idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        idle.execute("select count(*) from flux.jobs")
        slow.conn.execute("begin")
        late = slow.enqueue()
        enqueue_many(queue, 3_000)
        worker.run(3_000)
        slow.conn.execute("commit")
        higher = queue.enqueue(priority=3)
        lower = queue.enqueue(priority=-3)
        wanted, tries = {late, higher, lower}, 0
        while wanted and tries < 100_000:
            wanted -= {job["job_id"] for job in worker.claim(10)}
            tries += 1
        assert not wanted


def test_an_idle_worker_reads_little(queue):
    enqueue_many(queue, 5_000, delay="1 hour")
    worker = Marked(queue)
    worker.claim(10)
    before = worker._buffers()
    for _ in range(10):
        assert worker.claim(10) == []
    assert worker._buffers() - before < 10 * 20


def test_prune_forgets_finished_jobs_and_their_keys_but_none_that_waits(queue):
    done = queue.enqueue(idempotency_key="done")
    queue.complete(queue.claim_one())
    waiting = queue.enqueue(idempotency_key="waiting")
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        conn.execute("update flux.job_archive set finished_at = now() - interval '40 days'")
        # As if both had been enqueued long ago.
        for table in ("job_archive", "job_queue", "job_keys"):
            conn.execute(
                f"update flux.{table} set job_id ="
                " ('0180' || substr(job_id::text, 5))::uuid".encode()
            )
        rows = conn.execute("select part, rows, action from flux.prune('30 days')").fetchall()
    assert ("job_archive_default", 1, "deleted") in rows
    assert ("job_keys", 1, "deleted") in rows
    assert queue.states() == ["ready"]
    assert queue.enqueue(idempotency_key="waiting") == UUID("0180" + str(waiting)[4:])
    assert queue.enqueue(idempotency_key="done") != done


def test_finished_jobs_are_kept_by_week_and_dropped_by_week(queue):
    while queue.value("select flux.ensure_partitions(1)"):
        pass
    queue.enqueue()
    queue.complete(queue.claim_one())
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        parts = conn.execute("select tableoid::regclass::text from flux.job_archive").fetchall()
        assert len(parts) == 1 and parts[0][0] != "flux.job_archive_default"
        conn.execute("set role flux_owner")
        conn.execute("create table flux.job_archive_2001w01 (like flux.job_archive including all)")
        conn.execute(
            "alter table flux.job_archive attach partition flux.job_archive_2001w01"
            " for values from ('2001-01-01') to ('2001-01-08')"
        )
        conn.execute("reset role")
        rows = conn.execute("select part, action from flux.prune('30 days')").fetchall()
    assert ("job_archive_2001w01", "dropped") in rows
    assert queue.states() == ["succeeded"]


def test_verify_finds_a_success_without_its_record(queue):
    """The runtime writes both in one transaction; who writes one only is found."""
    for recorded in (True, False):
        queue.enqueue()
        job = queue.claim_one()
        with queue.conn.transaction():
            queue.complete(job)
            if recorded:
                _record(queue, job)
    found = queue.rows("select * from flux.verify() where finding like 'job%'")
    assert [(row["finding"], row["request_id"]) for row in found] == [
        ("job succeeded without record", job["lease_token"])
    ]


def _record(queue: Queue, job: dict[str, Any]) -> None:
    queue.value(
        "select flux.record_request(%s, %s, 1, null, null, %s, 'job', %s, null, null, null, null,"
        " null, now(), 1, 'completed', 'ok', null, null, null, 'python', 1, 1, null, null, null,"
        " null, null, false)",
        job["lease_token"], job["trace_id"], job["job_id"], job["function"],
    )  # fmt: skip


def test_an_attempt_that_was_taken_over_cannot_write_its_record(queue):
    queue.enqueue()
    job = queue.claim_one(lease="1 microsecond")
    assert len(queue.claim()) == 1
    with pytest.raises(psycopg.errors.UniqueViolation), queue.conn.transaction():
        _record(queue, job)


def test_stats_count_by_function_and_stop_counting_somewhere(queue):
    enqueue_many(queue, 3)
    queue.enqueue(delay="1 hour")
    queue.enqueue("few")
    queue.fail(queue.claim_one(functions=["few"]), None)
    queue.fail(queue.claim_one(functions=["work"]), "1 hour")
    queue.claim_one(functions=["work"])
    few, work = queue.rows("select * from flux.queue_stats()")
    assert (few["function"], few["dead"], few["concurrency"]) == ("few", 1, 2)
    counted = {name: work[name] for name in ("ready", "delayed", "retrying", "running", "dead")}
    assert counted == {"ready": 1, "delayed": 1, "retrying": 1, "running": 1, "dead": 0}
    assert work["oldest_ready_at"] is not None and not work["capped"]
    assert all(row["capped"] for row in queue.rows("select * from flux.queue_stats(2)"))


def test_listing_and_finding_jobs_does_not_read_the_archive(queue):
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        conn.execute("""
            insert into flux.job_archive (finished_at, run_at, enqueued_at, job_id, priority,
                attempt, max_attempts, state, function)
            select now(), now(), now(), gen_random_uuid(), 0, 1, 1, 'succeeded', 'work'
            from generate_series(1, 20000)
        """)
        enqueue_many(queue, 5_000)
        conn.execute("analyze flux.job_archive")
        conn.execute("analyze flux.job_queue")
        for query in (
            "select * from flux.jobs order by job_id desc limit 20",
            f"select * from flux.jobs where job_id = '{uuid4()}'",
            "select * from flux.jobs where state = 'dead' order by finished_at desc limit 20",
        ):
            lines = conn.execute(
                f"explain (analyze, buffers, timing off, format json) {query}".encode()
            ).fetchone()
            assert lines is not None
            plan = lines[0][0]["Plan"]
            if "state" not in query:
                assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 400, query


def test_a_dump_carries_jobs_that_wait_and_that_are_finished(queue, server):
    queue.enqueue(payload={"n": 1}, idempotency_key="k")
    queue.complete(queue.claim_one())
    queue.enqueue("few", {"n": 2}, delay="1 hour")
    other = server.create_database(flux=False)
    try:
        dump = subprocess.run(
            [server.binaries.tool("pg_dump"), "--dbname", queue.database.admin],
            check=True, capture_output=True,
        )  # fmt: skip
        subprocess.run(
            ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", other.superuser],
            input=dump.stdout.replace(b"SET transaction_timeout = 0;", b""), check=True,
            capture_output=True,
        )  # fmt: skip
        with psycopg.connect(other.superuser) as conn:
            restored = conn.execute(
                "select function, state, idempotency_key from flux.jobs order by job_id"
            ).fetchall()
    finally:
        server.drop_database(other.name)
    assert restored == [("work", "succeeded", "k"), ("few", "delayed", None)]
