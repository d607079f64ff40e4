"""Recording refusals (404, 422, ...): in batches, and above a rate only counted, so that nobody
can flood the log."""

from __future__ import annotations

from collections import Counter
from time import perf_counter_ns
from typing import Any

import trio

from ..database.pipeline import Statement, run_batch
from ..database.pool import Pool
from ..gateway.refusals import refusal_reply
from ..records import ErrorRecord, Invocation, Refusal, Reply
from .journal import JournalError
from .redaction import Redactor
from .run import signed
from .values import plain, to_json

MAX_PER_SECOND = 200
"""Refusals that get a record of their own each second in one worker; the rest are counted."""

_BATCH = 100
_DEADLINE_S = 5.0


class RefusalRecorder:
    """Collects refusals while a batch is on its way, so that a flood costs few transactions."""

    def __init__(self, pool: Pool, redactor: Redactor, deployment: int) -> None:
        self._pool = pool
        self._redactor = redactor
        self._deployment = deployment
        self._waiting: list[tuple[dict[str, Any], trio.Event, list[bool]]] = []
        self._wake = trio.Event()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._second = 0
        self._in_second = 0

    async def refuse(self, refusal: Refusal) -> Reply:
        """Record a refusal and make its reply; above the rate it is only counted."""
        if not self._has_room():
            self._count(refusal)
            return refusal_reply(refusal)
        done, written = trio.Event(), [False]
        self._waiting.append((self._document(refusal), done, written))
        self._wake.set()
        await done.wait()
        if not written[0]:
            self._count(refusal)
        return refusal_reply(refusal, recorded=written[0])

    def refuse_unrecorded(self, refusal: Refusal) -> Reply:
        """Make the reply of a refusal that is only counted, once the database takes it."""
        self._count(refusal)
        return refusal_reply(refusal, recorded=False)

    def _count(self, refusal: Refusal) -> None:
        self._counted[(refusal.rule, refusal.function or "")] += 1

    def _has_room(self) -> bool:
        second = int(trio.current_time())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= MAX_PER_SECOND

    def _document(self, refusal: Refusal) -> dict[str, Any]:
        duration_us = (perf_counter_ns() - refusal.started_perf_ns) // 1000
        spans = refusal.gateway_spans
        self._redactor.spans(spans)
        if spans:
            spans[0].duration_us = duration_us
            spans[0].output = {"status": refusal.status_code}
        error = ErrorRecord(
            type="Refused", message=refusal.message, hint=refusal.hint, fingerprint=refusal.rule
        )
        return {
            "request_id": str(refusal.request_id),
            "trace_id": refusal.trace_id,
            "root_span_id": int(signed(refusal.root_span_id)),
            "parent_span_id": int(signed(refusal.parent_span_id))
            if refusal.parent_span_id
            else None,
            "kind": "http",
            "function": refusal.function,
            "method": refusal.method,
            "path": refusal.path,
            "input": self._redactor.value(plain(refusal.input)),
            "client_request_id": refusal.client_request_id,
            "started_at_us": refusal.started_at_ns // 1000,
            "duration_us": duration_us,
            "status_code": refusal.status_code,
            "error": error,
            "refused_by": refusal.rule,
            "deployment_id": self._deployment,
            "spans": spans or None,
        }

    async def run(self) -> None:
        """Write what was collected, for ever."""
        while True:
            with trio.move_on_after(1.0):
                await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                written = await self._write([document for document, _, _ in batch])
                for _, done, result in batch:
                    result[0] = written
                    done.set()
            await self._write_counts()

    async def _write(self, documents: list[dict[str, Any]]) -> bool:
        return await self._send(
            [Statement("select flux.record_refusals(%s)", (to_json(documents),))]
        )

    async def _write_counts(self) -> None:
        if not self._counted:
            return
        counted, self._counted = self._counted, Counter()
        query = "select flux.count_refusals(%s, %s, %s)"
        statements = [
            Statement(query, (rule, function, str(count)))
            for (rule, function), count in counted.items()
        ]
        if not await self._send(statements):
            self._counted += counted

    async def _send(self, statements: list[Statement]) -> bool:
        try:
            async with self._pool.connection(_DEADLINE_S) as conn:
                return (await run_batch(conn, statements)).error is None
        except Exception:
            # The reply says that it was not recorded; /readyz and the log say why.
            return False


def turned_away(invocation: Invocation) -> Refusal:
    """Of a request that may not run because too many records wait for the database already."""
    return _before_running(
        invocation,
        "record.outage",
        "not-recorded",
        "the database has been away for so long that no more requests can be kept for it; this "
        "one was not run",
        "Try again when the database can be reached; `flux doctor` says what it sees.",
    )


def unjournaled(invocation: Invocation, error: JournalError) -> Refusal:
    """Of a request that may not run because the journal cannot take it."""
    return _before_running(
        invocation, "record.journal", error.code, f"{error.message}; it was not run", error.hint
    )


def _before_running(
    invocation: Invocation, rule: str, code: str, message: str, hint: str
) -> Refusal:
    http = invocation.http
    return Refusal(
        request_id=invocation.request_id,
        trace_id=invocation.trace_id,
        root_span_id=invocation.root_span_id,
        parent_span_id=invocation.parent_span_id,
        rule=rule,
        status_code=503,
        code=code,
        message=message,
        hint=hint,
        function=invocation.function.name,
        method=http.method if http else None,
        path=http.path if http else None,
        input=invocation.input,
        client_request_id=invocation.client_request_id,
        headers=[("retry-after", "1")],
        started_perf_ns=invocation.started_perf_ns,
        started_at_ns=invocation.started_at_ns,
        gateway_spans=invocation.gateway_spans,
    )
