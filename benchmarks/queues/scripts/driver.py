"""What the scripts of all contenders share: three commands, and how a producer is driven.

Runs in the contenders' own environment: only the standard library here. The database is named by
the environment (PGHOST, PGPORT, PGUSER, PGDATABASE), which every driver reads by itself.

    python use_X.py install       tables of the queue and of the work
    python use_X.py work          one worker process, until SIGTERM
    python use_X.py produce       enqueues what it is told on stdin, one JSON document a line

A producer has three methods. `one_by_one(job, numbers)`: each in a transaction of its own.
`together(job, numbers)`: all in one transaction. `single(job, number)`: one, in a transaction that
is committed explicitly. The latter two return the monotonic clock in nanoseconds, read just before
COMMIT (on Linux it is the same clock in every process).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "16"))

EFFECTS = """
create table if not exists effects (
    id bigint generated always as identity primary key,
    job bigint not null,
    note text not null,
    at timestamptz not null default now()
);
create table if not exists pickups (job bigint primary key, began_ns bigint not null);
"""


class Producer(Protocol):
    """Enqueues jobs the way the contender's documentation says."""

    def one_by_one(self, job: str, numbers: Sequence[int]) -> None: ...

    def together(self, job: str, numbers: Sequence[int]) -> int: ...

    def single(self, job: str, number: int) -> int: ...


def run(
    *, install: Callable[[], None], work: Callable[[], None], producer: Callable[[], Any]
) -> None:
    """Run the command named on the command line."""
    match sys.argv[1]:
        case "install":
            install()
        case "work":
            work()
        case "produce":
            _serve(producer())
        case other:
            raise SystemExit(f"unknown command {other}")


def _serve(producer: Producer) -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        numbers = range(order["first"], order["first"] + order["count"])
        print(json.dumps(_obey(producer, order["do"], order["job"], numbers, order)), flush=True)


def _obey(
    producer: Producer, do: str, job: str, numbers: range, order: dict[str, Any]
) -> dict[str, Any]:
    started = time.monotonic_ns()
    committing = started
    if do == "one_by_one":
        producer.one_by_one(job, numbers)
    elif do == "batches":
        for start in range(0, len(numbers), order["size"]):
            producer.together(job, numbers[start : start + order["size"]])
    elif do == "together":
        committing = producer.together(job, numbers)
    elif do == "single":
        committing = producer.single(job, numbers[0])
    else:
        raise SystemExit(f"unknown order {do}")
    return {"seconds": (time.monotonic_ns() - started) / 1e9, "committing_ns": committing}
