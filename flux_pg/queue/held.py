"""The jobs that a worker has on lease: those that wait for a free task, and those that run.

Laws: a job is begun only while its lease is known to hold; what the database says is not ours any
more is not begun, and stopped if it runs; a worker with nothing on lease says nothing.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterator
from uuid import UUID

import msgspec
import trio

from flux_pg.records import FunctionSpec, JobAttempt


class Claimed(msgspec.Struct, kw_only=True):
    """A job that was claimed, as `flux.claim_jobs` gives it. `expires_at` is Trio's time."""

    job: JobAttempt
    function: FunctionSpec
    payload: str
    trace_id: UUID
    parent_request_id: UUID | None
    parent_span_id: int | None
    enqueued_at: datetime.datetime
    run_at: datetime.datetime
    claimed_at: datetime.datetime
    schedule: str | None
    due_at: datetime.datetime | None
    received_at: float
    expires_at: float
    scope: trio.CancelScope | None = None
    """What it runs in; None while it waits."""

    @property
    def token(self) -> UUID:
        """The lease."""
        return self.job.lease_token

    def withdraw(self, why: str) -> None:
        """Stop it if it runs; the first reason counts."""
        if self.scope is not None and not self.job.withdrawn:
            self.job.withdrawn = why  # type: ignore[assignment]
            self.scope.cancel()


class Held:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: deque[Claimed] = deque()
        self._all: dict[UUID, Claimed] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Claimed]:
        return iter(list(self._all.values()))

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._all) - len(self._waiting)

    def add(self, claimed: Claimed) -> None:
        """Take in a job; it waits."""
        self._all[claimed.token] = claimed
        self._waiting.append(claimed)

    def take(self) -> Claimed | None:
        """The next job to begin, or None; it counts as running until `drop`."""
        return self._waiting.popleft() if self._waiting else None

    def drop(self, claimed: Claimed) -> None:
        """It has ended, or is not ours any more."""
        self._all.pop(claimed.token, None)

    def give_back(self) -> list[Claimed]:
        """Take out everything that waits."""
        given = list(self._waiting)
        self._waiting.clear()
        for claimed in given:
            self.drop(claimed)
        return given

    def forget_waiting(self, claimed: Claimed) -> None:
        """Take out one that waits, if it still does."""
        if claimed.scope is None and claimed in self._waiting:
            self._waiting.remove(claimed)
            self.drop(claimed)

    def by_job(self, job_id: UUID) -> Claimed | None:
        """The attempt at a job, if we have it."""
        return next((one for one in self._all.values() if one.job.job_id == job_id), None)
