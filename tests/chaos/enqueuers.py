"""Everybody who enqueues, and what they know: which jobs were promised to them.

SQL sessions and HTTP clients keep a backlog filled while they may. Some of their
transactions roll back, some meet with a death; what they were told went well must be there.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import psycopg
import trio
from psycopg.types.json import Jsonb

from .clients import Lost, receive
from .queue_project import Mix

BACKLOG = 200
CLIENTS = 3
KEYS = 12
PATIENCE_S = 90.0

_ENQUEUE = """
with job as (
    select flux.enqueue(
        p_function => %(function)s, p_payload => %(payload)s, p_priority => %(priority)s,
        p_delay => %(delay)s * interval '1 second', p_idempotency_key => %(key)s
    ) as id
)
insert into pushed select job.id, %(function)s, %(key)s from job
on conflict (job_id) do update set key = excluded.key
returning job_id
"""
_ENQUEUE_MANY = """
insert into pushed
select job_id, %(function)s, null
from flux.enqueue_many(%(function)s, %(payloads)s, p_priority => %(priority)s) as job_id
returning job_id
"""


@dataclass
class Promised:
    """What those who enqueued were told.

    Attributes:
        jobs: Ids of jobs whose transaction committed.
        keys: Ids that were returned for an idempotency key.
        cancelled: Jobs of which it was said that they are cancelled.
        asked: Jobs that somebody tried to cancel.
    """

    jobs: set[str] = field(default_factory=set)
    keys: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    cancelled: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)


class Enqueuers:
    """See the module.

    Args:
        conninfo: Where to enqueue by SQL.
        ports: Where to enqueue by HTTP.
        rng: Decides everything.
    """

    def __init__(self, conninfo: str, ports: list[int], rng: random.Random) -> None:
        self.promised = Promised()
        self.finished = 0
        self.waiting = 0
        self._conninfo = conninfo
        self._ports = ports
        self._left = 0
        self._ending = False
        self._rng = rng
        self._mix = Mix(rng)
        self._poison = 0

    async def run(self) -> None:
        """Enqueue what is allowed; returns once there is to be no more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._by_sql)
            for _ in range(CLIENTS):
                nursery.start_soon(self._by_http)

    async def watch(self) -> None:
        """Keep `finished` and `waiting` up to date until cancelled."""
        while True:
            await self._ask(self._count)
            await trio.sleep(0.05)

    def allow(self, count: int) -> None:
        """Enqueue so many more; follow-ups and what is in doubt come on top."""
        self._left += count

    def end(self) -> None:
        """Allow no more."""
        self._ending = True

    def serve_poison(self) -> None:
        """Let one of the next jobs kill its workers."""
        self._poison += 1

    async def cancel_some(self, count: int) -> None:
        """Cancel some random jobs that are not finished."""
        await self._ask(lambda conn: self._cancel(conn, count))

    async def recount(self) -> None:
        """Wait for a count that began now."""
        while not await self._ask(self._count):
            pass

    @property
    def exhausted(self) -> bool:
        """Whether all that is allowed was enqueued and is finished."""
        return self._left <= 0 and not self.waiting

    async def _ask(self, what: Any) -> bool:
        """One visit of the database; False if it is away or went away."""

        def visit() -> None:
            with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=5) as conn:
                what(conn)

        try:
            await trio.to_thread.run_sync(visit)
        except psycopg.OperationalError:
            await trio.sleep(0.05)
            return False
        return True

    def _count(self, conn: psycopg.Connection[Any]) -> None:
        row = conn.execute(
            "select (select count(*) from flux.jobs where finished_at is not null),"
            " (select count(*) from flux.jobs where finished_at is null)"
        ).fetchone()
        assert row is not None
        self.finished, self.waiting = row

    def _cancel(self, conn: psycopg.Connection[Any], count: int) -> None:
        # The function is looked at: a poison that is cancelled has not been survived.
        found = conn.execute(
            "select job_id::text from flux.jobs where finished_at is null and function <> 'poison'"
            " order by md5(job_id::text || %s) limit %s",
            (str(self._rng.random()), count),
        ).fetchall()
        for (job_id,) in found:
            self.promised.asked.add(job_id)
            try:
                row = conn.execute("select flux.cancel_job(%s)", (job_id,)).fetchone()
            except psycopg.DatabaseError as error:
                if error.sqlstate != "ZF004":  # finished meanwhile
                    raise
                continue
            if row == ("cancelled",):
                self.promised.cancelled.add(job_id)

    def _draw(self, most: int, in_vain: bool) -> list[dict[str, Any]]:
        """Some jobs, or as many ghosts."""
        count = self._rng.randint(1, most)
        if in_vain:
            return [self._mix.ghost() for _ in range(count)]
        jobs = [self._mix.job() for _ in range(count)]
        if self._poison:
            self._poison -= 1
            jobs[0] = self._mix.job("poison")
        if self._rng.random() < 0.1:
            jobs[-1] = self._mix.job("move")
            jobs[-1]["options"]["idempotency_key"] = f"k{self._rng.randrange(KEYS)}"
        return jobs

    async def _room(self) -> bool:
        """Wait until more may be enqueued; False if that will never be."""
        while self._left <= 0 or self.waiting > BACKLOG:
            if self._left <= 0 and self._ending:
                return False
            await trio.sleep(0.02)
        return True

    # SQL

    async def _by_sql(self) -> None:
        while await self._room():
            in_vain = self._rng.random() < 0.15
            jobs = self._draw(20, in_vain)
            moves = [self._mix.job("move")["payload"] for _ in range(self._rng.randint(0, 20))]
            await self._ask(lambda conn: self._enqueue(conn, jobs, moves, in_vain))  # noqa: B023

    def _enqueue(
        self,
        conn: psycopg.Connection[Any],
        jobs: list[dict[str, Any]],
        moves: list[Any],
        in_vain: bool,
    ) -> None:
        ids: list[str] = []
        keys: list[tuple[tuple[str, str], str]] = []
        with conn.transaction(force_rollback=in_vain):
            for job in jobs:
                options = job.get("options", {})
                key = options.get("idempotency_key")
                row = conn.execute(_ENQUEUE, {
                    "function": job["function"], "payload": Jsonb(job["payload"]),
                    "priority": options.get("priority", 0), "delay": options.get("delay"),
                    "key": key,
                }).fetchone()  # fmt: skip
                assert row is not None
                ids.append(str(row[0]))
                if key:
                    keys.append(((job["function"], key), ids[-1]))
            if moves and not in_vain:
                ids += [str(row[0]) for row in conn.execute(_ENQUEUE_MANY, {
                    "function": "move", "payloads": [Jsonb(one) for one in moves], "priority": -1,
                })]  # fmt: skip
        if not in_vain:
            self._note(ids, keys)

    def _note(self, ids: list[str], keys: list[tuple[tuple[str, str], str]]) -> None:
        self._left -= len(ids)
        self.promised.jobs.update(ids)
        for key, job_id in keys:
            self.promised.keys[key].add(job_id)

    # HTTP

    async def _by_http(self) -> None:
        while await self._room():
            fails = self._rng.choice(["python", "sql"]) if self._rng.random() < 0.2 else ""
            jobs = self._draw(4, bool(fails))
            body = {"jobs": jobs, "fails": fails}
            pushed = await self._post(self._rng.choice(self._ports), body)
            if pushed is not None:
                self._note(pushed, [
                    ((job["function"], job["options"]["idempotency_key"]), job_id)
                    for job, job_id in zip(jobs, pushed, strict=True)
                    if "idempotency_key" in job.get("options", ())
                ])  # fmt: skip

    async def _post(self, port: int, body: dict[str, Any]) -> list[str] | None:
        """The ids that an order answered with; None if it did not go well."""
        content = json.dumps(body).encode()
        head = (
            "POST /order HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        try:
            with trio.fail_after(PATIENCE_S):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(head.encode() + content)
                    status, _, answer = await receive(stream)
        except (Lost, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep(0.02)  # nobody listens there at present
            return None
        assert status == 200 or body["fails"] or status >= 500, (status, answer)
        return list(json.loads(answer)) if status == 200 else None
