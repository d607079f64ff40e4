"""No library: a table, SKIP LOCKED, and one connection that takes fifty jobs at a time.

The reference for what the server gives to a loop that promises nothing but that effects and
completion commit together: no record, no retry, one bad job stops its whole batch.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

import driver
import psycopg

BATCH = 50
POLL_S = 5.0

TABLES = """
create table jobs (
    id bigint generated always as identity primary key,
    kind text not null,
    number bigint not null
);
create function wake() returns trigger language plpgsql as
    $$ begin perform pg_notify('jobs', ''); return null; end $$;
create trigger wake after insert on jobs for each statement execute function wake();
"""
CLAIM = """
delete from jobs where id in (
    select id from jobs order by id limit %s for update skip locked
) returning kind, number
"""


def install() -> None:
    """Create the queue and the tables of the work."""
    with psycopg.connect() as conn:
        conn.execute(driver.EFFECTS + TABLES)


def work() -> None:
    """Drain, then wait for a notification."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with psycopg.connect(autocommit=True) as listener, psycopg.connect(autocommit=True) as conn:
        listener.execute("listen jobs")
        while True:
            while _take(conn):
                pass
            for _ in listener.notifies(timeout=POLL_S, stop_after=1):
                pass


def _take(conn: psycopg.Connection) -> bool:
    with conn.transaction():
        jobs = conn.execute(CLAIM, (BATCH,)).fetchall()
        began = time.monotonic_ns()
        effects = [(number, "done") for kind, number in jobs if kind == "insert_effect"]
        pickups = [(number, began) for kind, number in jobs if kind == "pickup"]
        with conn.cursor() as cursor:
            if effects:
                cursor.executemany("insert into effects (job, note) values (%s, %s)", effects)
            if pickups:
                cursor.executemany("insert into pickups values (%s, %s)", pickups)
    return bool(jobs)


class Producer:
    """Inserts rows."""

    def __init__(self) -> None:
        self._conn = psycopg.connect(autocommit=True)

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._conn.execute("insert into jobs (kind, number) values (%s, %s)", (job, number))

    def together(self, job: str, numbers: Sequence[int]) -> int:
        with self._conn.transaction():
            self._conn.execute(
                "insert into jobs (kind, number) select %s, unnest(%s::bigint[])",
                (job, list(numbers)),
            )
            return time.monotonic_ns()

    def single(self, job: str, number: int) -> int:
        with self._conn.transaction():
            self._conn.execute("insert into jobs (kind, number) values (%s, %s)", (job, number))
            return time.monotonic_ns()


if __name__ == "__main__":
    driver.run(install=install, work=work, producer=Producer)
