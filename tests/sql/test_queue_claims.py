"""Who gets which job, under which lease, and what becomes of it when the attempt has ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.queue import Queue, expire_leases, make_due


@pytest.fixture
def queue(database: Database) -> Iterator[Queue]:
    with Queue(database, work={}, few={"concurrency": 2, "max_attempts": 3}) as made:
        yield made


def ids(jobs: list[dict[str, object]]) -> list[object]:
    return [job["job_id"] for job in jobs]


def test_the_highest_priority_goes_first_then_the_oldest(queue):
    low = queue.enqueue(priority=-5)
    first, second = queue.enqueue(), queue.enqueue()
    high = queue.enqueue(priority=9)
    due_long_ago = queue.enqueue(run_at="2020-01-01T00:00:00Z")
    assert ids(queue.claim()) == [high, due_long_ago, first, second, low]


def test_what_is_not_due_is_passed_by_on_every_level(queue):
    for priority in (5, 0):
        queue.enqueue(priority=priority, delay="1 hour")
    ready = queue.enqueue(priority=-1)
    assert ids(queue.claim()) == [ready]
    next_at = queue.value("select flux.next_job_at(%s)", queue.functions)
    delayed = queue.rows("select run_at from flux.jobs where state = 'delayed'")
    assert next_at == min(row["run_at"] for row in delayed)
    make_due(queue.database)
    assert len(queue.claim()) == 2
    assert queue.value("select flux.next_job_at(%s)", queue.functions) is None


def test_a_claimed_job_says_all_that_its_attempt_needs(queue):
    request_id, trace_id = uuid4(), uuid4()
    with queue.conn.transaction():
        queue.value("select flux.begin_request(%s, 255)", request_id)
        job_id = queue.enqueue(payload={"a": "ö"}, priority=2, trace_id=trace_id)
    job = queue.claim_one()
    assert job["job_id"] == job_id
    assert (job["function"], job["payload"], job["priority"]) == ("work", '{"a": "ö"}', 2)
    assert (job["attempt"], job["max_attempts"], job["gated"]) == (1, 5, False)
    assert (job["trace_id"], job["parent_request_id"], job["parent_span_id"]) == (
        trace_id, request_id, 255,
    )  # fmt: skip
    assert job["enqueued_at"] <= job["claimed_at"]
    assert job["lease_token"].version == 7
    running = queue.job(job_id)
    assert running["state"] == "running"
    assert running["running_request_id"] == job["lease_token"]


def test_a_job_without_trace_keeps_the_one_it_is_given(queue):
    queue.enqueue()
    first = queue.claim_one()
    queue.fail(first)
    assert queue.claim_one()["trace_id"] == first["trace_id"]


def test_a_worker_is_given_only_functions_that_it_knows(queue):
    queue.enqueue("few")
    mine = queue.enqueue("work")
    assert ids(queue.claim(functions=["work"])) == [mine]
    assert queue.claim(functions=["nobody"]) == []
    assert queue.claim(functions=[]) == []


def test_claimers_at_the_same_time_share_the_jobs(queue):
    wanted = {queue.enqueue() for _ in range(200)}
    workers = [queue.another() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        batches = list(
            pool.map(lambda w: [j["job_id"] for _ in range(20) for j in w.claim(3)], workers)
        )
    claimed = [job_id for batch in batches for job_id in batch]
    assert len(claimed) == len(set(claimed))
    assert {*claimed, *ids(queue.claim(200))} == wanted
    for worker in workers:
        worker.conn.close()


def test_a_claimer_that_is_killed_leaves_its_jobs_to_others(queue):
    job_id = queue.enqueue()
    with queue.another() as other:
        other.conn.execute("begin")
        assert ids(other.claim()) == [job_id]
        assert queue.claim() == []
        with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
            conn.execute("select pg_terminate_backend(%s, 10000)", [other.pid])
    assert ids(queue.claim()) == [job_id]


def test_a_limit_holds_over_all_nodes(queue):
    for _ in range(20):
        queue.enqueue("few")
    workers = [queue.another() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(4):
            running = [job for batch in pool.map(Queue.claim, workers) for job in batch]
            assert 1 <= len(running) <= 2
            running += queue.claim()  # whoever was second at the gate left a slot
            assert len(running) == 2
            assert queue.claim() == []
            for job in running:
                assert job["gated"]
                queue.complete(job)
    for worker in workers:
        worker.conn.close()


def test_a_slot_is_free_again_however_the_attempt_ends(queue):
    for _ in range(4):
        queue.enqueue("few")
    endings = [queue.complete, queue.fail, queue.release, lambda job: queue.fail(job, None)]
    for end in endings:
        jobs = queue.claim()
        assert len(jobs) == 2
        for job in jobs:
            queue.release(job) if job is not jobs[0] else end(job)


def test_a_limited_function_lets_others_pass(queue):
    limited = [queue.enqueue("few", priority=5) for _ in range(10)]
    others = [queue.enqueue() for _ in range(3)]
    assert ids(queue.claim()) == limited[:2] + others
    assert queue.claim() == []


def test_a_limit_that_comes_later_holds_for_jobs_that_wait_already(queue):
    for _ in range(5):
        queue.enqueue("work")
    queue.declare(work={"concurrency": 1})
    claimed = queue.claim() + queue.claim()
    assert len(claimed) == 1
    queue.declare(work={"concurrency": None})
    assert len(queue.claim()) == 4


def test_a_success_is_settled_once(queue):
    job_id = queue.enqueue(payload={"secret": 1}, idempotency_key="k")
    job = queue.claim_one()
    queue.complete(job)
    done = queue.job(job_id)
    assert (done["state"], done["attempt"]) == ("succeeded", 1)
    assert done["last_request_id"] == job["lease_token"]
    assert done["finished_at"] is not None
    with pytest.raises(psycopg.Error, match="lease lost") as caught:
        queue.complete(job)
    assert caught.value.sqlstate == "ZF007"
    assert not queue.fail(job)
    assert queue.extend(job) == {job["lease_token"]: (False, False)}
    with psycopg.connect(queue.database.superuser) as conn:
        assert conn.execute("select payload from flux.job_archive").fetchall() == [(None,)]


def test_a_success_that_is_rolled_back_is_none(queue):
    queue.enqueue()
    job = queue.claim_one()
    with queue.conn.transaction():
        queue.complete(job)
        raise psycopg.Rollback
    assert queue.states() == ["running"]
    queue.complete(job)


def test_a_failed_attempt_waits_for_its_next_one_until_none_is_left(queue):
    job_id = queue.enqueue("few")
    for attempt in (1, 2):
        job = queue.claim_one()
        assert job["attempt"] == attempt
        assert queue.fail(job, "1 hour", {"type": "Oops", "message": str(attempt)})
        waiting = queue.job(job_id)
        assert waiting["state"] == "retrying"
        assert waiting["last_error"]["message"] == str(attempt)
        assert waiting["last_request_id"] == job["lease_token"]
        assert queue.claim() == []
        make_due(queue.database)
    assert queue.fail(queue.claim_one())
    assert queue.job(job_id)["state"] == "dead"


def test_a_hopeless_failure_is_dead_at_once_and_can_be_retried(queue):
    job_id = queue.enqueue(payload={"n": 1}, max_attempts=2)
    assert queue.fail(queue.claim_one(), None)
    assert queue.job(job_id)["state"] == "dead"
    queue.value("select flux.retry_job(%s)", job_id)
    assert (queue.job(job_id)["state"], queue.job(job_id)["attempt"]) == ("ready", 0)
    job = queue.claim_one()
    assert (job["job_id"], job["payload"], job["max_attempts"]) == (job_id, '{"n": 1}', 2)
    queue.complete(job)
    for verb in ("retry", "cancel"):
        with pytest.raises(psycopg.Error, match="is succeeded") as caught:
            queue.value(f"select flux.{verb}_job(%s)", job_id)
        assert caught.value.sqlstate == "ZF004"
        with pytest.raises(psycopg.Error) as caught:
            queue.value(f"select flux.{verb}_job(%s)", uuid4())
        assert caught.value.sqlstate == "ZF002"


def test_a_released_job_does_not_count_the_attempt(queue):
    job_id = queue.enqueue(max_attempts=1)
    job = queue.claim_one()
    assert queue.release(job) == 1
    assert queue.release(job) == 0
    assert queue.job(job_id)["state"] == "ready"
    again = queue.claim_one()
    assert again["attempt"] == 1
    assert again["lease_token"] != job["lease_token"]
    with queue.another() as other:
        assert other.release(again) == 0


def test_a_dead_workers_jobs_are_given_back_unless_they_were_begun(queue):
    begun, unbegun = queue.enqueue(), queue.enqueue()
    first, _ = queue.claim()
    entry = {"request_id": str(first["lease_token"]), "trace_id": str(first["trace_id"]),
             "started_at_us": 1, "kind": "job", "job_id": str(begun), "attempt": 1}  # fmt: skip
    queue.value("select flux.record_crashed(%s)", json.dumps([entry]))
    assert queue.value("select flux.release_jobs(%s, null)", queue.worker) == 1
    assert queue.job(unbegun)["state"] == "ready"
    assert queue.job(begun)["state"] == "running"
    assert queue.value("select flux.job_crashed(%s, %s)", first["job_id"], first["lease_token"])
    after = queue.job(begun)
    assert (after["state"], after["last_error"]["type"]) == ("retrying", "WorkerCrashed")
    assert after["run_at"] > first["claimed_at"]
    execution = queue.execution(first["lease_token"])
    assert (execution["job_id"], execution["outcome"]) == (begun, "crashed")


def test_an_expired_lease_is_taken_over_and_the_lost_attempt_recorded(queue):
    request_id = uuid4()
    with queue.conn.transaction():
        queue.value("select flux.begin_request(%s, 255)", request_id)
        job_id = queue.enqueue()
    lost = queue.claim_one()
    expire_leases(queue.database)
    with queue.another() as other:
        job = other.claim_one()
        assert (job["job_id"], job["attempt"]) == (job_id, 2)
        execution = queue.execution(lost["lease_token"])
        assert (execution["outcome"], execution["kind"], execution["attempt"]) == (
            "crashed", "job", 1,
        )  # fmt: skip
        assert execution["job_id"] == job_id
        assert execution["trace_id"] == job["trace_id"]
        assert execution["parent_request_id"] == request_id
        assert execution["parent_span_id"] == "00000000000000ff"
        assert not execution["complete"]
        with pytest.raises(psycopg.Error) as caught:
            queue.complete(lost)
        assert caught.value.sqlstate == "ZF007"
        assert not queue.fail(lost)
        other.complete(job)
    assert queue.states() == ["succeeded"]


def test_a_job_that_always_loses_its_worker_ends_among_the_dead(queue):
    job_id = queue.enqueue(max_attempts=3)
    for _ in range(3):
        assert len(queue.claim()) == 1
        expire_leases(queue.database)
    assert queue.claim() == []
    dead = queue.job(job_id)
    assert (dead["state"], dead["attempt"]) == ("dead", 3)
    assert queue.value("select count(*) from flux.executions where job_id = %s", job_id) == 3


def test_an_extended_lease_is_not_taken_over(queue):
    queue.enqueue()
    job = queue.claim_one(lease="1 second")
    assert queue.extend(job) == {job["lease_token"]: (True, False)}
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        conn.execute("update flux.job_queue set lease_expires_at = 'epoch'")
    assert queue.claim() == []
    queue.complete(job)


def test_somebody_elses_lease_cannot_be_extended(queue):
    queue.enqueue()
    job = queue.claim_one()
    with queue.another() as other:
        assert other.extend(job) == {job["lease_token"]: (False, False)}


def test_who_is_about_to_commit_is_not_taken_over(queue):
    queue.enqueue()
    job = queue.claim_one()
    expire_leases(queue.database)
    with queue.another() as other:
        with queue.conn.transaction():
            queue.complete(job)
            assert other.claim() == []
        assert queue.states() == ["succeeded"]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_heartbeat_or_cancellation_does_not_fail_the_end_of_a_strict_transaction(
    queue, isolation
):
    queue.enqueue()
    job = queue.claim_one(lease="1 second")
    with queue.another() as other:
        other.worker = queue.worker
        queue.conn.execute(f"begin isolation level {isolation}".encode())
        queue.value("select count(*) from flux.jobs")
        assert other.extend(job) == {job["lease_token"]: (True, False)}
        assert other.value("select flux.cancel_job(%s)", job["job_id"]) == "requested"
        queue.complete(job)
        queue.conn.execute("commit")
    assert queue.states() == ["succeeded"]


def test_a_waiting_job_is_cancelled_at_once(queue):
    job_id = queue.enqueue()
    assert queue.value("select flux.cancel_job(%s)", job_id) == "cancelled"
    assert queue.claim() == []
    assert queue.job(job_id)["state"] == "cancelled"
    queue.value("select flux.retry_job(%s)", job_id)
    assert ids(queue.claim()) == [job_id]


def test_a_running_job_is_asked_to_stop_and_not_tried_again(queue):
    cancelled, failed, lost = (queue.enqueue() for _ in range(3))
    jobs = queue.claim()
    with psycopg.connect(queue.database.app, autocommit=True) as listener:
        listener.execute("listen flux_cancel")
        for job_id in (cancelled, failed, lost):
            assert queue.value("select flux.cancel_job(%s)", job_id) == "requested"
        told = [note.payload for note in listener.notifies(timeout=60, stop_after=3)]
        assert told == [str(cancelled), str(failed), str(lost)]
    assert set(queue.extend(*jobs).values()) == {(True, True)}
    assert queue.job(cancelled)["cancel_requested"]
    assert queue.value(
        "select flux.cancel_attempt(%s, %s)", jobs[0]["job_id"], jobs[0]["lease_token"]
    )
    assert queue.fail(jobs[1])
    expire_leases(queue.database)
    assert queue.claim() == []
    assert queue.states() == ["cancelled"] * 3


def test_jobs_cannot_be_claimed_on_an_old_snapshot(queue):
    queue.conn.execute("begin isolation level repeatable read")
    with pytest.raises(psycopg.Error) as caught:
        queue.claim()
    assert caught.value.sqlstate == "ZF001"
