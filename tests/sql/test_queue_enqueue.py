"""What a job is enqueued with, in whose transaction, and who is woken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.conftest import Database
from tests.sql.queue import Queue


@pytest.fixture
def queue(database: Database) -> Iterator[Queue]:
    with Queue(database, work={}, few={"concurrency": 2, "max_attempts": 3}) as made:
        yield made


def test_a_job_is_enqueued_with_what_its_function_declares(queue):
    job = queue.job(queue.enqueue("few", {"n": 1}))
    assert (job["state"], job["attempt"], job["max_attempts"], job["priority"]) == (
        "ready", 0, 3, 0,
    )  # fmt: skip
    assert job["enqueued_by_request"] is None
    assert queue.job(queue.enqueue("few", max_attempts=7))["max_attempts"] == 7


def test_the_id_of_a_job_is_a_uuid_of_version_7_with_its_time(queue):
    before = datetime.now(UTC)
    found = queue.enqueue()
    assert (found.version, found.variant) == (7, uuid4().variant)
    made = datetime.fromtimestamp((found.int >> 80) / 1000, UTC)
    assert abs(made - before) < timedelta(seconds=5)


def test_a_job_exists_if_and_only_if_its_transaction_commits(queue):
    with pytest.raises(ZeroDivisionError), queue.conn.transaction():
        queue.enqueue()
        raise ZeroDivisionError
    assert queue.claim() == []
    with queue.another() as other, queue.conn.transaction():
        queue.enqueue()
        assert other.claim() == []
    assert len(queue.claim()) == 1


def test_the_request_and_span_of_the_transaction_enqueued_it(queue):
    request_id = uuid4()
    with queue.conn.transaction():
        queue.value("select flux.begin_request(%s, -2)", request_id)
        job_id = queue.enqueue()
    job = queue.job(job_id)
    assert job["enqueued_by_request"] == request_id
    assert job["enqueued_by_span"] == "fffffffffffffffe"


def test_a_function_that_nobody_declared_is_refused(queue):
    with pytest.raises(psycopg.Error, match="there is no function nobody") as caught:
        queue.enqueue("nobody")
    assert caught.value.sqlstate == "ZF002"


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 1001},
        {"priority": None},
        {"max_attempts": 0},
        {"run_at": "infinity"},
        {"delay": "1 s", "run_at": "2030-01-01T00:00:00Z"},
    ],
)
def test_what_cannot_be_meant_is_refused(queue, options):
    with pytest.raises(psycopg.Error) as caught:
        queue.enqueue(**options)
    assert caught.value.sqlstate == "ZF001"


def test_the_same_key_is_the_same_job_however_it_ended(queue):
    first = queue.enqueue(idempotency_key="k")
    assert queue.enqueue(idempotency_key="k") == first
    queue.complete(queue.claim_one())
    assert queue.enqueue(idempotency_key="k") == first
    assert queue.states() == ["succeeded"]
    assert queue.enqueue("few", idempotency_key="k") != first
    assert queue.enqueue(idempotency_key="other") != first


def test_of_two_transactions_with_one_key_one_enqueues(queue):
    """The second waits for the first; what the first says decides."""
    for ending, expected in ((psycopg.Rollback, "own"), (None, "theirs")):
        key = str(ending)
        with queue.another() as other:
            got: list[UUID] = []
            waiting = threading.Thread(
                target=lambda o=other, k=key, g=got: g.append(o.enqueue(idempotency_key=k))
            )
            with queue.conn.transaction():
                mine = queue.enqueue(idempotency_key=key)
                waiting.start()
                _until_blocked(queue, other)
                if ending:
                    raise ending
            waiting.join(60)
        assert (got[0] == mine) == (expected == "theirs")
        assert len(queue.rows("select from flux.jobs where idempotency_key = %s", key)) == 1


def _until_blocked(queue: Queue, other: Queue) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while not queue.value("select pg_blocking_pids(%s) <> '{}'", other.pid):
        assert datetime.now(UTC) < deadline, "nobody waits"


def test_many_are_enqueued_in_their_order(queue):
    payloads = [json.dumps({"n": n}) for n in range(1000)]
    ids = [
        row["id"]
        for row in queue.rows(
            "select * from flux.enqueue_many('work', %s::jsonb[]) as id", payloads
        )
    ]
    assert ids == sorted(ids)
    claimed = queue.claim(1000)
    assert [job["job_id"] for job in claimed] == ids
    assert [json.loads(job["payload"])["n"] for job in claimed] == list(range(1000))


def test_many_different_ones_are_enqueued_in_one_call(queue):
    jobs = [
        {"function": "work", "payload": {"n": 1}, "priority": 5},
        {"function": "few", "delay": "1 hour", "max_attempts": 9},
        {"function": "work", "idempotency_key": "k"},
        {"function": "work", "idempotency_key": "k"},
    ]
    ids = [
        row["id"]
        for row in queue.rows("select * from flux.enqueue_many(%s) as id", json.dumps(jobs))
    ]
    assert len(set(ids)) == 3 and ids[2] == ids[3]
    assert queue.job(ids[0])["priority"] == 5
    assert queue.job(ids[1])["state"] == "delayed"
    assert queue.job(ids[1])["max_attempts"] == 9
    for bad in ("{}", "null", '[{"function": "nobody"}]', "[{}]"):
        with pytest.raises(psycopg.Error) as caught:
            queue.rows("select * from flux.enqueue_many(%s) as id", bad)
        assert caught.value.sqlstate in ("ZF001", "ZF002")


def test_nobody_but_the_runtime_may_enqueue_and_nobody_reads_a_payload(queue):
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        conn.execute("set role flux_reader")
        for statement in (
            "select flux.enqueue('work')",
            "select * from flux.claim_jobs(gen_random_uuid(), '{work}', 1)",
            "select payload from flux.job_queue",
            "select payload from flux.job_archive",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
        assert conn.execute("select * from flux.jobs").description is not None
        assert "payload" not in [
            column.name for column in conn.execute("select * from flux.jobs").description or ()
        ]


def notified(queue: Queue, listener: psycopg.Connection) -> int:
    """How many notifications came since the last call: all that come before one of our own."""
    with psycopg.connect(queue.database.app, autocommit=True) as conn:
        conn.execute("notify flux_jobs, 'ours'")
    for count, note in enumerate(listener.notifies(timeout=60)):
        if note.payload == "ours":
            return count
    raise AssertionError("our own notification did not come")


@pytest.fixture
def listener(queue: Queue) -> Iterator[psycopg.Connection]:
    with psycopg.connect(queue.database.app, autocommit=True) as conn:
        conn.execute("listen flux_jobs")
        yield conn


def forget_notification(queue: Queue) -> None:
    """As if the last one had been long ago."""
    with psycopg.connect(queue.database.superuser, autocommit=True) as conn:
        conn.execute("select setval('flux.jobs_notified_at', 1)")


def test_workers_are_woken_once_for_a_transaction(queue, listener):
    with queue.conn.transaction():
        queue.enqueue()
        forget_notification(queue)
        queue.enqueue()
        assert notified(queue, listener) == 0
    assert notified(queue, listener) == 1


def test_workers_are_woken_at_most_ten_times_a_second(queue, listener):
    queue.enqueue()
    begun = datetime.now(UTC)
    for _ in range(50):
        queue.enqueue()
    lasted = datetime.now(UTC) - begun
    assert 1 <= notified(queue, listener) <= 2 + lasted / timedelta(seconds=0.1)
    forget_notification(queue)
    queue.enqueue()
    assert notified(queue, listener) == 1


def test_nobody_is_woken_for_a_job_that_is_not_due_or_if_told_not_to(queue, listener):
    queue.enqueue(delay="1 hour")
    queue.enqueue(notify=False)
    with queue.conn.transaction():
        queue.conn.execute("set local flux.notify = off")
        queue.enqueue()
    assert notified(queue, listener) == 0


def test_a_prepared_transaction_enqueues_without_notification(queue):
    with psycopg.connect(queue.database.app) as conn:
        conn.execute("set local flux.notify = off")
        conn.execute("select flux.enqueue('work')")
        conn.execute("prepare transaction 'queue'")
    assert queue.claim() == []
    with psycopg.connect(queue.database.app, autocommit=True) as conn:
        conn.execute("commit prepared 'queue'")
    assert len(queue.claim()) == 1
