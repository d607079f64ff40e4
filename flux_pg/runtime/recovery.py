"""Turns what dead workers left in their journals into executions with outcome `crashed`.

Jobs are settled with the record of their attempt, so that nobody waits for the lease: tried again
after a pause, or dead if it was the last attempt (a job that kills its worker ends there). What the
worker had claimed and not begun goes back uncounted; its journal's name is its name there.

A journal is removed only after the database has confirmed its leftovers; while the database cannot
be reached, the journals are kept and tried again. Doing it twice is harmless: the execution's key
decides, also against a COMMIT of the dead worker's session that is still under way.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import trio

from flux_pg.database.connection import Connection
from flux_pg.queue.policy import pause_s
from flux_pg.records import Backoff
from flux_pg.runtime.events import CrashedRequests, OnEvent, RecoveryPostponed
from flux_pg.runtime.journal import (
    DRAFT_SUFFIX,
    SUFFIX,
    Claim,
    JournalError,
    JournalFile,
    claim,
    read_journal,
)

BATCH = 100
RESCAN_S = 5.0
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 30.0
_DRAFT_AGE_S = 60.0

# A dead worker's session may hold the row until Postgres notices; waiting longer than this is for
# the next try.
_LIMITS = (
    "select set_config('lock_timeout', '10s', true), set_config('statement_timeout', '30s', true)"
)
_PLACE = re.compile(r"(?P<file>.+):(?P<line>\d{1,9}) in (?P<function>.+)")
_RECORD = "select flux.record_crashed(%s::jsonb)"
_SETTLE = "select flux.job_crashed(%s, %s, clock_timestamp() + %s * interval '1 second', %s)"
_RELEASE = "select flux.release_jobs(%s, null)"


class Recovery:
    """The supervisor's recovery: at the start, after every worker's end, and again until it works.

    Args:
        directory: Where the journals are; it need not exist.
        conninfo: The runtime's login, None if there is no database.
        on_event: Told of crashed requests that were recorded, and of failures to record them.
    """

    def __init__(self, directory: Path, conninfo: str | None, on_event: OnEvent) -> None:
        self._directory = directory
        self._conninfo = conninfo
        self._on_event = on_event
        self._kicked = trio.Event()
        self._complaint = ""

    def kick(self) -> None:
        """Look now: a worker is gone."""
        self._kicked.set()

    async def run(self) -> None:
        """Recover until cancelled. Also takes what an earlier supervisor's workers leave."""
        delay_s = FIRST_RETRY_S
        while True:
            self._kicked = trio.Event()
            done = await self.recover()
            delay_s = RESCAN_S if done else min(LONGEST_RETRY_S, 2 * delay_s)
            with trio.move_on_after(delay_s):
                await self._kicked.wait()

    async def recover(self) -> bool:
        """Take every journal whose worker is gone; returns whether nothing had to be kept.

        Cancellation: a journal is either still there, or recorded.
        """
        claims: list[Claim] = []
        try:
            for path in _journals(self._directory):
                claimed = claim(path)
                if claimed is not None:
                    claims.append(claimed)
            await self._recover_claimed(claims)
        except (psycopg.Error, OSError) as error:
            self._postpone(len(claims), error)
            return False
        finally:
            for claimed in claims:
                claimed.release()
        self._complaint = ""
        return True

    async def _recover_claimed(self, claims: list[Claim]) -> None:
        connection: Connection[Any] | None = None
        try:
            for claimed in claims:
                try:
                    journal = read_journal(claimed.path)
                except JournalError:
                    claimed.path.rename(claimed.path.with_suffix(".unreadable"))
                    continue
                connection = connection or await self._connect()
                if journal.leftovers:
                    await self._record(connection, claimed, journal)
                await _release(connection, claimed.path)
                claimed.remove()
        finally:
            if connection is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await connection.close()

    async def _connect(self) -> Connection[Any]:
        if self._conninfo is None:
            raise OSError("no database is configured")
        return await Connection.connect(
            self._conninfo, autocommit=True, connect_timeout=5, application_name="flux recovery"
        )

    async def _record(
        self, connection: Connection[Any], claimed: Claim, journal: JournalFile
    ) -> None:
        reason = journal.reason or f"its worker (process {journal.pid}) and its supervisor died"
        more = {"reason": reason, "location": read_place(journal.place)}
        entries = [left.entry | more for left in journal.leftovers if left.entry]
        request_ids: list[str] = []
        rejected: list[dict[str, Any]] = []
        for start in range(0, len(entries), BATCH):
            batch = entries[start : start + BATCH]
            try:
                request_ids += await _record(connection, batch)
            except (psycopg.DataError, psycopg.IntegrityError):
                # One entry of them cannot be stored; the others must not suffer.
                for entry in batch:
                    recorded = await _record_alone(connection, entry)
                    request_ids += recorded or ()
                    rejected += [entry] if recorded is None else []
        if rejected:
            _keep_rejected(claimed.path.with_suffix(".rejected"), rejected)
        unreadable = len(journal.leftovers) - len(entries)
        if request_ids or rejected or unreadable:
            self._on_event(CrashedRequests(tuple(request_ids), reason, unreadable, len(rejected)))

    def _postpone(self, journals: int, error: Exception) -> None:
        complaint = " ".join(str(error).split()) or type(error).__name__
        # Once per cause: a database that is away for an hour is one message.
        if complaint != self._complaint:
            self._complaint = complaint
            self._on_event(RecoveryPostponed(journals, complaint))


async def _record(connection: Connection[Any], entries: list[dict[str, Any]]) -> list[str]:
    async with connection.transaction():
        await connection.execute(_LIMITS)
        # Before the records: a dead worker's session that is still committing takes its locks so.
        for entry in entries:
            if entry.get("job_id"):
                await connection.execute(_SETTLE, _settlement(entry))
        cursor = await connection.execute(_RECORD, (json.dumps(entries),))
        return [str(row[0]) for row in await cursor.fetchall()]


def _settlement(entry: dict[str, Any]) -> tuple[Any, ...]:
    backoff = msgspec.convert(entry.get("backoff") or {}, Backoff)
    attempt = int(entry.get("attempt") or 1)
    error = {"type": "WorkerCrashed", "message": entry.get("reason", "")}
    # Jittered: neighbours of a job that kills its worker must not meet it again.
    wait_s = pause_s(backoff, attempt, random.random())
    return entry["job_id"], entry["request_id"], wait_s, json.dumps(error)


async def _release(connection: Connection[Any], path: Path) -> None:
    """Give back what the worker had claimed and not begun."""
    with suppress(ValueError):
        worker = UUID(path.stem)
        async with connection.transaction():
            await connection.execute(_LIMITS)
            await connection.execute(_RELEASE, (worker,))


async def _record_alone(connection: Connection[Any], entry: dict[str, Any]) -> list[str] | None:
    """Record one entry, without its input if that is what cannot be stored; None if neither."""
    for attempt in (entry, entry | {"input": None, "input_truncated": True}):
        with suppress(psycopg.DataError, psycopg.IntegrityError):
            return await _record(connection, [attempt])
    return None


def read_place(place: str) -> dict[str, Any] | None:
    """`file:line in function` as a location; None if it is not a line of the project's."""
    found = _PLACE.fullmatch(place)
    if found is None or os.path.isabs(found["file"]):
        return None
    return {"file": found["file"], "line": int(found["line"]), "function": found["function"]}


def _keep_rejected(path: Path, entries: list[dict[str, Any]]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def _journals(directory: Path) -> Iterator[Path]:
    """Yield the journals, oldest name first; drops drafts that a dying worker left."""
    for path in sorted(directory.glob(f"*{DRAFT_SUFFIX}")):
        with suppress(FileNotFoundError):
            # A young one may belong to a worker that is just about to lock it.
            if time.time() - path.stat().st_mtime > _DRAFT_AGE_S:
                path.unlink()
    yield from sorted(directory.glob(f"*{SUFFIX}"))
