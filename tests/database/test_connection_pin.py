"""psycopg's private names that Flux relies on are those of the pinned versions."""

from __future__ import annotations

import re

import psycopg
from psycopg import pq


def test_psycopg_is_a_version_that_was_read() -> None:
    version = tuple(int(n) for n in re.findall(r"\d+", psycopg.__version__)[:3])
    assert (3, 3, 9) <= version < (3, 4), (
        f"psycopg {psycopg.__version__} is outside >=3.3.9,<3.4: read its connection_async.py, "
        "waiting.py, generators.py, _pipeline_async.py, transaction.py, copy and cursor files "
        "against flux_pg/database/connection.py, prepared.py and pipeline.py before moving the pin"
    )


def test_the_c_speedups_are_in_use() -> None:
    assert pq.__impl__ in ("c", "binary"), "psycopg runs on its slow Python implementation"


def test_libpq_can_cancel_without_blocking() -> None:
    assert pq.version() >= 170000, (
        f"libpq {pq.version()} cancels by blocking; 17 or newer is needed"
    )
