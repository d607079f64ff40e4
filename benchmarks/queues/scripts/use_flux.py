"""The producer of Flux's jobs: any SQL client. Its worker is `flux serve`, see flux_worker.py."""

from __future__ import annotations

import time
from collections.abc import Sequence

import driver
import psycopg

ONE = "select flux.enqueue(%s, jsonb_build_object('number', %s::bigint))"
MANY = """
select count(*) from flux.enqueue_many(
    %s, array(select jsonb_build_object('number', n) from unnest(%s::bigint[]) n))
"""


class Producer:
    """`flux.enqueue` and `flux.enqueue_many`, from psycopg."""

    def __init__(self) -> None:
        self._conn = psycopg.connect(autocommit=True)

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._conn.execute(ONE, (job, number))

    def together(self, job: str, numbers: Sequence[int]) -> int:
        with self._conn.transaction():
            self._conn.execute(MANY, (job, list(numbers)))
            return time.monotonic_ns()

    def single(self, job: str, number: int) -> int:
        with self._conn.transaction():
            self._conn.execute(ONE, (job, number))
            return time.monotonic_ns()


def _not_here() -> None:
    raise SystemExit("Flux installs itself, and its worker is `flux serve`")


if __name__ == "__main__":
    driver.run(install=_not_here, work=_not_here, producer=Producer)
