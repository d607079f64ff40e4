"""What becomes of a job when an attempt at it has ended.

Laws: the statements made here are part of the message that carries the attempt's record and its
COMMIT; a success is fenced by the lease (it raises and takes the transaction along), a failure only
says so, as it must be recorded whoever has the job by then.
"""

from __future__ import annotations

import random

import msgspec

from flux_pg.database.pipeline import Sendable
from flux_pg.errors import FluxError
from flux_pg.queue import statements
from flux_pg.queue.policy import retry_in_s
from flux_pg.records import ErrorRecord, ExecutionOutcome, JobAttempt

# An input that does not fit the function will not fit it next time either.
_HOPELESS = frozenset({"InputRefused"})

_chance = random.Random(random.SystemRandom().getrandbits(128)).random


class LeaseLost(FluxError):
    """Another worker has the job: nothing of this attempt was committed."""

    code = "lease-lost"

    def __init__(self, job: JobAttempt) -> None:
        super().__init__(
            f"attempt {job.attempt} of job {job.job_id} lost its lease: nothing of it was kept",
            "It ran longer than its lease without a sign of life, or its job was taken from it.",
        )


def settle(
    job: JobAttempt, outcome: ExecutionOutcome, error: ErrorRecord | None
) -> list[Sendable]:
    """The statements that settle a job; they come before the record's own.

    A failed attempt's `retry_in_s` says afterwards when the job is tried again.
    """
    if outcome == "ok":
        return [statements.complete(job.job_id, job.lease_token)]
    if job.withdrawn == "lost":
        return []
    if job.withdrawn == "cancel":
        return [statements.cancel(job.job_id, job.lease_token)]
    if outcome == "cancelled":
        # Its worker ended: no fault of the job's, so the attempt does not count.
        job.retry_in_s = 0.0
        return [statements.cut_short(job.worker, job.lease_token)]
    if error is None or error.type not in _HOPELESS:
        job.retry_in_s = retry_in_s(job.backoff, job.attempt, job.max_attempts, _chance())
    told = None if error is None else msgspec.json.encode(error).decode()
    return [statements.fail(job.job_id, job.lease_token, told, job.retry_in_s)]
