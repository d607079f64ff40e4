"""The worker's own line to the queue: claims, leases, what is given back. One statement each.

A pool of its own: if every connection of the other one is in use by jobs, their leases must be
prolonged all the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import trio

from flux_pg.database.connection import Connection, Error
from flux_pg.database.pipeline import Result, Statement, run_batch
from flux_pg.database.pool import Pool
from flux_pg.errors import FluxError
from flux_pg.queue import statements
from flux_pg.queue.held import Claimed
from flux_pg.records import FunctionSpec, JobAttempt

ANSWER_WITHIN_S = 5.0
"""A database that does not answer for so long has a connection that leads nowhere."""

_GRACE_S = 1.0
_REMEMBERED = 4096
"""Leases that are known: many times more than a worker can hold."""


class Unanswered(Exception):
    """The database could not be asked; the text says why."""


class QueueControl:
    """See the module.

    Args:
        conninfo: The runtime's login.
        worker: This worker's id: the name of its journal, by which recovery finds its leases.
        functions: What it can run, by name.
        lease_s: How long a lease is.
    """

    def __init__(
        self, conninfo: str, worker: UUID, functions: Mapping[str, FunctionSpec], lease_s: float
    ) -> None:
        # One for claims, one for leases: neither waits for the other.
        self._pool = Pool(conninfo, max_size=2, configure=_configure, client_encoding="utf8")
        self._worker = worker
        self._functions = functions
        self._names = sorted(functions)
        self._lease_s = lease_s
        self._mark = "{}"
        self._complaint = ""
        self._claimed_at = 0.0
        self._known: deque[UUID] = deque(maxlen=_REMEMBERED)
        self._in_doubt = False

    async def claim(self, limit: int) -> list[Claimed]:
        """Take up to `limit` jobs that are due.

        What a claim took whose answer was lost is given back before the next one: nobody else
        could run it until the lease ends, and that would count as an attempt.

        Cancellation: either nothing was taken, or the leases are found by `release(None)`.

        Raises:
            Unanswered: The database could not be asked.
        """
        if self._in_doubt:
            await self._ask(statements.release_unknown(self._worker, self._known))
            self._in_doubt = False
        # The lease begins before the server can have granted it: our clock for it ends first.
        asked_at = self._claimed_at = trio.current_time()
        try:
            result = await self._ask(
                statements.claim(self._worker, self._names, limit, self._lease_s, self._mark)
            )
        except BaseException:
            self._in_doubt = True
            raise
        rows = result.rows
        if rows and rows[-1][0] is None:
            self._mark = rows.pop()[-1]
        received_at = trio.current_time()
        expires_at = asked_at + self._lease_s
        self._known.extend(row[5] for row in rows)
        return [self._claimed(row, received_at, expires_at) for row in rows]

    def _claimed(self, row: tuple[Any, ...], received_at: float, expires_at: float) -> Claimed:
        function = self._functions[row[1]]
        return Claimed(
            job=JobAttempt(
                job_id=row[0],
                attempt=row[3],
                max_attempts=row[4],
                lease_token=row[5],
                worker=self._worker,
                backoff=function.backoff,
            ),
            function=function,
            payload=row[2],
            trace_id=row[6],
            parent_request_id=row[7],
            parent_span_id=row[8],
            enqueued_at=row[9],
            run_at=row[10],
            claimed_at=row[11],
            schedule=row[12],
            due_at=row[13],
            received_at=received_at,
            expires_at=expires_at,
        )

    async def seconds_to_next(self) -> float | None:
        """In how many seconds the next job is due that the last claim did not take.

        None if none waits for its time.

        Raises:
            Unanswered: The database could not be asked.
        """
        ago_s = trio.current_time() - self._claimed_at
        result = await self._ask(statements.seconds_to_next(self._names, ago_s, self._mark))
        seconds: float | None = result.rows[0][0]
        return seconds

    async def extend(self, tokens: Collection[UUID]) -> dict[UUID, tuple[bool, bool]]:
        """Prolong leases; of each whether it is held, and whether its job is to be cancelled.

        Raises:
            Unanswered: The database could not be asked.
        """
        result = await self._ask(statements.extend(self._worker, tokens, self._lease_s))
        return {token: (held, cancelled) for token, held, cancelled in result.rows}

    async def release(self, tokens: Collection[UUID] | None) -> None:
        """Give back what was not begun; of None all leases without a record.

        Raises:
            Unanswered: The database could not be asked; the leases end by themselves.
        """
        await self._ask(statements.release(self._worker, tokens))

    async def _ask(self, statement: Statement) -> Result:
        try:
            with trio.fail_after(ANSWER_WITHIN_S):
                async with self._pool.connection(ANSWER_WITHIN_S) as conn:
                    result: Result = (await run_batch(conn, [statement])).check()[0]
                    result.rows  # noqa: B018  they are read with the connection's help
        except (Error, FluxError, OSError, trio.TooSlowError) as error:
            self._complain(statement, error)
            raise Unanswered(str(error)) from error
        self._complaint = ""
        return result

    def _complain(self, statement: Statement, error: Exception) -> None:
        """Once per cause: a database that is away for an hour is one line."""
        complaint = " ".join(str(error).split()) or f"no answer within {ANSWER_WITHIN_S:g} s"
        if complaint != self._complaint:
            self._complaint = complaint
            os.write(2, f"flux: the queue cannot be asked: {complaint}\n".encode())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose(drain_timeout_s=_GRACE_S)


async def _configure(conn: Connection[Any]) -> None:
    conn.cancel_grace_s = _GRACE_S
