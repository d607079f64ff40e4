"""DBOS Transact's queue: one workflow a job, its INSERT in a transaction of a datasource.

The queue polls; its interval is set to 10 ms here (the default, one second, would mean half a
second until a job is picked up). The queue's own limits are left out: a `worker_concurrency` of 16
would let it take at most 16 jobs with each poll. 16 executor threads are the concurrency; the
datasource has a pool of 16, DBOS's own database keeps its default pool of 20. READ COMMITTED, which
the documentation offers, instead of its default SERIALIZABLE.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import driver
import psycopg
import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, SQLAlchemyDatasource

QUEUE = "jobs"
POLL_S = 0.01
NAME = "bench"
URL = (
    f"postgresql+psycopg://{os.environ['PGUSER']}@/{os.environ['PGDATABASE']}"
    f"?host={os.environ['PGHOST']}&port={os.environ['PGPORT']}"
)


def _config() -> DBOSConfig:
    return {
        "name": NAME,
        "system_database_url": URL,
        "max_executor_threads": driver.CONCURRENCY,
        "log_level": "WARNING",
        "application_version": "1",
    }


def install() -> None:
    """DBOS migrates its own database at the first launch."""
    DBOS(config=_config())
    SQLAlchemyDatasource.create(URL)
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=POLL_S)
    DBOS.destroy()
    with psycopg.connect() as conn:
        conn.execute(driver.EFFECTS)


def work() -> None:
    """One process: the workflows, and the thread that polls the queue."""
    DBOS(config=_config())
    database = SQLAlchemyDatasource.create(URL, engine_kwargs={"pool_size": driver.CONCURRENCY})

    @database.transaction(isolation_level="READ COMMITTED")
    def write(statement: str, values: dict[str, object]) -> None:
        database.sql_session().execute(sqlalchemy.text(statement), values)

    @DBOS.workflow(name="noop")
    def noop(number: int) -> None:
        pass

    @DBOS.workflow(name="insert_effect")
    def insert_effect(number: int) -> None:
        write("insert into effects (job, note) values (:job, 'done')", {"job": number})

    @DBOS.workflow(name="pickup")
    def pickup(number: int) -> None:
        began = time.monotonic_ns()
        write("insert into pickups values (:job, :began)", {"job": number, "began": began})

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    DBOS.launch()
    stopped.wait()
    DBOS.destroy()


class Producer:
    """`DBOSClient`: how another application enqueues."""

    def __init__(self) -> None:
        self._client = DBOSClient(system_database_url=URL, application_name=NAME)
        self._engine = sqlalchemy.create_engine(URL)

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        options: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": job}
        for number in numbers:
            self._client.enqueue(options, number)

    def together(self, job: str, numbers: Sequence[int]) -> int:
        options: EnqueueOptions = {"queue_name": QUEUE, "workflow_name": job}
        with self._engine.begin() as conn:
            for number in numbers:
                self._client.enqueue_in_transaction(conn, options, number)
            return time.monotonic_ns()

    def single(self, job: str, number: int) -> int:
        return self.together(job, [number])


if __name__ == "__main__":
    driver.run(install=install, work=work, producer=Producer)
