"""The jobs of one worker process: one fetcher, and as many tasks as may run at once.

The fetcher claims in batches and hands to the tasks, so that a task never waits for a claim and a
claim is shared by many jobs. It holds no more in advance than will have begun within PREFETCH_S, by
how long jobs took lately: what waits here could run elsewhere.

Laws: what was claimed is begun, or given back uncounted; nobody asks the database in vain more
often than a reason to ask comes along (`Wakeup`, `NodePolls`); at the end of `drain` nothing runs.
"""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable
from time import perf_counter
from typing import Protocol
from uuid import UUID

import trio

from flux_pg.queue.attempts import make_invocation
from flux_pg.queue.control import QueueControl, Unanswered
from flux_pg.queue.held import Claimed, Held
from flux_pg.queue.listener import Listener
from flux_pg.queue.polls import NodePolls
from flux_pg.queue.wakeup import Notifier, Wakeup
from flux_pg.records import Invocation, Reply

PREFETCH_S = 0.1
MAX_PREFETCH = 64
_RETRY_S = 0.5
_END_S = 2.0
_LULL_S = 0.005
_UNHEARD_S = 0.3
"""A job that was due for longer than this when a poll found it should have been heard of."""

_chance = random.Random(random.SystemRandom().getrandbits(128)).random


class JobRunner(Protocol):
    """What is needed of the application."""

    @property
    def ready(self) -> bool:
        """Whether the database answered last time."""
        ...

    async def run(self, invocation: Invocation) -> Reply:
        """Run one request to its end."""
        ...


class JobWorkers:
    """See the module; a `Work` of the worker process.

    Args:
        runner: Runs the attempts.
        control: The line to the queue.
        wakeup: When to look.
        notifier: Tells other workers.
        polls: This node's polls.
        listen_url: Where to LISTEN.
        on_schedules: Called when schedules have changed.
        concurrency: How many jobs run at once.
        lease_s: How long a lease is.
    """

    def __init__(
        self,
        runner: JobRunner,
        control: QueueControl,
        wakeup: Wakeup,
        notifier: Notifier,
        polls: NodePolls,
        *,
        listen_url: str,
        on_schedules: Callable[[], None],
        concurrency: int,
        lease_s: float,
    ) -> None:
        self._runner = runner
        self._control = control
        self._wakeup = wakeup
        self._notifier = notifier
        self._polls = polls
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._held = Held()
        self._idle = trio.lowlevel.ParkingLot()
        self._room_made = trio.Event()
        self._run_s = 0.0  # of one job, lately; 0: not known
        self._draining = False
        self._polling = False  # what is asked now was told by nobody
        self._fetching_ended = trio.Event()
        self._all_ended = trio.Event()
        self._beat = trio.Event()
        self._everything = trio.CancelScope()
        self._cancelled: set[UUID] = set()  # heard of, but not (yet) among what is held
        self._listener = Listener(
            listen_url, wakeup.heard, self._cancel_asked, on_schedules, _chance
        )

    async def run(self) -> None:
        """Run jobs until cancelled or drained."""
        try:
            with self._everything:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listener.run)
                    nursery.start_soon(self._keep_leases)
                    nursery.start_soon(self._fetch)
                    for _ in range(self._concurrency):
                        nursery.start_soon(self._work)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_S):
                await self._control.aclose()

    async def drain(self, timeout_s: float) -> None:
        """Claim nothing more, give back what was not begun, let the rest end."""
        self._draining = True
        self._wakeup.wake()
        self._room_made.set()
        with trio.move_on_after(timeout_s):
            await self._fetching_ended.wait()
            await self._give_back()
            await self._wait_for_running()
        for claimed in self._held:
            claimed.withdraw("drain")
        await self._wait_for_running()
        # Also what a claim took whose answer was lost.
        with trio.move_on_after(_END_S):
            await self._release(None)
        self._everything.cancel()

    async def _give_back(self) -> None:
        given = self._held.give_back()
        if given:
            await self._release([claimed.token for claimed in given])
            self._notifier.pushed()

    async def _release(self, tokens: list[UUID] | None) -> None:
        try:
            await self._control.release(tokens)
        except Unanswered:
            return  # the leases end by themselves

    async def _wait_for_running(self) -> None:
        while self._held.running:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    # Fetching

    async def _fetch(self) -> None:
        try:
            while not self._draining:
                room = self._room()
                if room <= 0:
                    self._room_made = trio.Event()
                    await self._room_made.wait()
                    continue
                try:
                    await self._fetch_once(room)
                except Unanswered:
                    await trio.sleep(_RETRY_S * (1 + _chance()))
        finally:
            self._fetching_ended.set()

    async def _fetch_once(self, room: int) -> None:
        claimed = await self._control.claim(room)
        self._hand_out(claimed)
        if any(one.job.job_id in self._cancelled for one in claimed):
            self._beat.set()  # the word came before the answer to the claim
        self._cancelled.clear()
        if len(claimed) >= room:
            return
        if self._polling and any(map(_was_missed, claimed)):
            self._listener.doubt()
        # What was claimed begins first: to ask what comes next would be in its way.
        if claimed and await self._wakeup.wait(trio.current_time() + _LULL_S):
            return
        if not self._draining:
            next_s = await self._control.seconds_to_next()
            if next_s is not None:
                self._wakeup.wake_in(next_s)
            self._polls.note()
            await self._wait_for_reason()

    def _room(self) -> int:
        """How many to claim now; 0 while enough wait."""
        prefetch = 0
        if self._run_s:
            prefetch = min(MAX_PREFETCH, int(self._concurrency * PREFETCH_S / self._run_s))
        if self._held.waiting > prefetch // 2:
            return 0
        return self._concurrency + prefetch - len(self._held)

    def _hand_out(self, claimed: list[Claimed]) -> None:
        for one in claimed:
            self._held.add(one)
        self._idle.unpark(count=len(claimed))

    async def _wait_for_reason(self) -> None:
        """Until there may be something to claim."""
        self._polling = False
        while not (self._draining or self._polling):
            until = trio.current_time() + self._polls.due_in()
            if await self._wakeup.wait(until):
                return
            self._polling = self._polls.take()

    # Running

    async def _work(self) -> None:
        """One of the tasks that run jobs."""
        while True:
            if not self._runner.ready:
                await trio.sleep(_RETRY_S)  # or it would fail at its first statement, and count
                continue
            claimed = self._held.take()
            if claimed is None:
                await self._idle.park()
                continue
            if self._room() > 0:
                self._room_made.set()
            await self._run_one(claimed)

    async def _run_one(self, claimed: Claimed) -> None:
        if trio.current_time() >= claimed.expires_at:
            self._held.drop(claimed)  # the database was away for so long: it is somebody else's
            return
        began = perf_counter()
        try:
            with trio.CancelScope() as claimed.scope:
                await self._runner.run(make_invocation(claimed))
        except Exception:
            # Not the function's (those are recorded): the lease ends by itself, and counts.
            os.write(2, f"flux: job {claimed.job.job_id}:\n{traceback.format_exc()}".encode())
        finally:
            self._ended(claimed, perf_counter() - began)

    def _ended(self, claimed: Claimed, took_s: float) -> None:
        self._held.drop(claimed)
        self._run_s = took_s if not self._run_s else 0.9 * self._run_s + 0.1 * took_s
        retry_in_s = claimed.job.retry_in_s
        if retry_in_s is not None:
            self._wakeup.wake_in(retry_in_s)
        if claimed.function.concurrency is not None:
            # Others of its kind were left lying because it ran.
            self._notifier.pushed()
        if self._room() > 0:
            self._room_made.set()
        if not self._held.running:
            self._all_ended.set()

    # Leases

    async def _keep_leases(self) -> None:
        """The heartbeat: says nothing while every lease is young."""
        while True:
            self._beat = trio.Event()
            with trio.move_on_after(self._lease_s / 3):
                await self._beat.wait()
            forced = self._beat.is_set()
            ends_soon = trio.current_time() + self._lease_s * 2 / 3
            old = [one for one in self._held if forced or one.expires_at <= ends_soon]
            if old:
                await self._extend(old)

    async def _extend(self, old: list[Claimed]) -> None:
        asked_at = trio.current_time()
        try:
            answers = await self._control.extend([claimed.token for claimed in old])
        except Unanswered:
            return  # again with the next beat; the fence holds if that is too late
        for claimed in old:
            held, cancelled = answers.get(claimed.token, (False, False))
            if held:
                claimed.expires_at = asked_at + self._lease_s
            else:
                self._held.forget_waiting(claimed)
                claimed.withdraw("lost")
            if cancelled:
                claimed.withdraw("cancel")

    def _cancel_asked(self, job_id: str) -> None:
        try:
            job = UUID(job_id)
        except ValueError:
            return
        if self._held.by_job(job) is not None:
            self._beat.set()
        else:
            self._cancelled.add(job)


def _was_missed(claimed: Claimed) -> bool:
    """Whether somebody should have told of it before it was found."""
    if claimed.job.attempt > 1:
        return False  # a retry is due without being told
    waited = claimed.claimed_at - max(claimed.enqueued_at, claimed.run_at)
    return claimed.enqueued_at == claimed.run_at and waited.total_seconds() > _UNHEARD_S
