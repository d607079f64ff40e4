"""Talk to the queue as its workers do, in plain values."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from tests.conftest import Database

LEASE = "30 seconds"


class Queue:
    """One session of the runtime's login, in autocommit, with the id of a worker."""

    def __init__(self, database: Database, **functions: dict[str, Any]) -> None:
        self.database = database
        self.worker = uuid4()
        self.conn = psycopg.connect(database.app, autocommit=True, row_factory=dict_row)
        self.pid = self.conn.info.backend_pid
        self.functions = list(functions)
        if functions:
            self.declare(**functions)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.conn.close()

    def another(self) -> Queue:
        """Another worker on another connection."""
        made = Queue(self.database)
        made.functions = self.functions
        return made

    def declare(self, **functions: dict[str, Any]) -> None:
        self.functions = sorted({*self.functions, *functions})
        declared = [{"name": name, **settings} for name, settings in functions.items()]
        self.value("select flux.declare_functions(1, %s)", json.dumps(declared))

    def rows(self, query: str, *params: Any) -> list[dict[str, Any]]:
        return self.conn.execute(query.encode(), params or None).fetchall()

    def value(self, query: str, *params: Any) -> Any:
        row = self.conn.execute(query.encode(), params or None).fetchone()
        return None if row is None else next(iter(row.values()))

    def enqueue(self, function: str = "work", payload: Any = None, **options: Any) -> UUID:
        named = "".join(f", p_{name} => %s" for name in options)
        found: UUID = self.value(
            f"select flux.enqueue(%s, %s{named})", function, json.dumps(payload or {}),
            *options.values(),
        )  # fmt: skip
        return found

    def claim(
        self, limit: int = 10, *, lease: str = LEASE, functions: list[str] | None = None
    ) -> list[dict[str, Any]]:
        return self.rows(
            "select * from flux.claim_jobs(%s, %s, %s, %s)",
            self.worker, self.functions if functions is None else functions, limit, lease,
        )  # fmt: skip

    def claim_one(self, **options: Any) -> dict[str, Any]:
        (job,) = self.claim(1, **options)
        return job

    def complete(self, job: dict[str, Any]) -> None:
        self.value("select flux.complete_job(%s, %s)", job["job_id"], job["lease_token"])

    def fail(self, job: dict[str, Any], retry_in: str | None = "0 s", error: Any = None) -> bool:
        told = json.dumps(error or {"type": "Oops", "message": "no"})
        done: bool = self.value(
            "select flux.fail_job(%s, %s, %s, clock_timestamp() + %s::interval)",
            job["job_id"], job["lease_token"], told, retry_in,
        )  # fmt: skip
        return done

    def extend(self, *jobs: dict[str, Any], lease: str = LEASE) -> dict[UUID, tuple[bool, bool]]:
        rows = self.rows(
            "select * from flux.extend_leases(%s, %s, %s)",
            self.worker, [job["lease_token"] for job in jobs], lease,
        )  # fmt: skip
        return {row["token"]: (row["held"], row["cancel_requested"]) for row in rows}

    def release(self, *jobs: dict[str, Any]) -> int:
        tokens = [job["lease_token"] for job in jobs]
        given: int = self.value("select flux.release_jobs(%s, %s)", self.worker, tokens)
        return given

    def job(self, job_id: UUID) -> dict[str, Any]:
        (found,) = self.rows("select * from flux.jobs where job_id = %s", job_id)
        return found

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows("select state from flux.jobs order by job_id")]

    def execution(self, request_id: UUID) -> dict[str, Any]:
        (found,) = self.rows("select * from flux.executions where request_id = %s", request_id)
        return found


def expire_leases(database: Database) -> None:
    """As if all the time of all leases had gone by."""
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        conn.execute(
            "update flux.job_queue set lease_expires_at = 'epoch' where lease_token is not null"
        )
        conn.execute("update flux.job_leases set expires_at = 'epoch'")


def make_due(database: Database) -> None:
    """As if the time that jobs wait for had come."""
    with psycopg.connect(database.superuser, autocommit=True) as conn:
        conn.execute("update flux.job_queue set run_at = now() where lease_token is null")
