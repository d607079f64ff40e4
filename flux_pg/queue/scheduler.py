"""The scheduler of one worker process: sleeps until a schedule is due and has it fired.

One runs in every worker of every node, and none knows of another: each works out the same steps
(`schedule_policy`), and flux.tick_schedules lets one of them take each, in one transaction with the
job. So there is no leader to lose, and nothing to settle after a kill.

It costs a statement when something is due, one when NOTIFY says that schedules have changed, and
one a minute in case that nobody said so or that a clock has jumped. The clock is the database's:
how it stood at the last answer, and how long ago that was.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import trio

from flux_pg.database.connection import Error
from flux_pg.database.pipeline import Result, Statement, run_batch
from flux_pg.database.pool import Pool
from flux_pg.errors import FluxError
from flux_pg.queue.declarations import DeclaredSchedule, to_sync
from flux_pg.queue.schedule_policy import ScheduleState, Step, plan_step, seconds_to_next

REREAD_S = 60.0
WAITING_POLL_S = 2.0
"""How often it is asked whether the job that a due time waits for is finished."""

ANSWER_WITHIN_S = 10.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
_LATE_S = 0.005
"""Woken a moment too early, it would only ask twice."""
_SETTLE_S = 0.05
_REPEAT_S = 1.0

_SYNC = "select s.name, s.problem from flux.sync_schedules(%s, %s, %s, %s) as s"
_TICK = (
    "select t.name, t.cron, t.time_zone, t.overlap, t.missed, t.revision, t.anchored_at,"
    " t.last_at, t.next_at, t.waiting_at, t.busy, t.error, t.outcome, t.read_at"
    " from flux.tick_schedules(%s) as t"
)

_chance = random.Random(random.SystemRandom().getrandbits(128)).random


class Scheduler:
    """See the module; a `Work` of the worker process.

    Args:
        pool: Where it asks.
        deployment: The deployment that this worker runs.
        declared: The schedules that it declares.
        project: The project that declares them; "" if it has no name.
        complete: Whether these are all; False if some files did not load, so that none is removed.
        on_fired: Called when jobs were enqueued.
    """

    def __init__(
        self,
        pool: Pool,
        deployment: int,
        declared: Sequence[DeclaredSchedule],
        *,
        project: str = "",
        complete: bool = True,
        on_fired: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._sync = Statement(_SYNC, (str(deployment), to_sync(declared), complete, project))
        self._on_fired = on_fired
        self._woken = trio.Event()
        self._draining = False
        self._answered_at = 0.0
        self._complaint = ""

    def wake(self) -> None:
        """Schedules have changed: look at them."""
        self._woken.set()

    async def drain(self, timeout_s: float) -> None:
        """Fire nothing more; other workers do."""
        self._draining = True
        self._woken.set()

    async def run(self) -> None:
        """Fire schedules until drained or cancelled.

        Cancellation: a statement under way may have taken its steps; nothing has to be undone.
        """
        for name, problem in await self._insist(self._sync):
            os.write(2, f"flux: schedule {name} is not kept: {problem}\n".encode())
        steps: tuple[Step, ...] = ()
        while not self._draining:
            states = await self._tick(steps)
            before, steps = steps, self._plan(states)
            if not steps:
                await self._sleep(states)
                steps = self._plan(states)
            elif steps == before:
                # What did not help is not said again at once.
                await trio.sleep(_REPEAT_S)

    async def _tick(self, steps: tuple[Step, ...]) -> list[ScheduleState]:
        """Have steps taken, and read how things stand."""
        statement = Statement(_TICK, (msgspec.json.encode(steps).decode(),))
        rows = await self._insist(statement)
        self._answered_at = trio.current_time()
        states = [ScheduleState(*row) for row in rows]
        if any(state.outcome == "fired" for state in states):
            self._on_fired()
        return states

    def _plan(self, states: Sequence[ScheduleState]) -> tuple[Step, ...]:
        planned = [plan_step(state, self._now(state)) for state in states]
        return tuple(step for step in planned if step is not None)

    def _now(self, state: ScheduleState) -> datetime:
        """The database's time, as far as it can be known from here."""
        return state.read_at + timedelta(seconds=trio.current_time() - self._answered_at)

    async def _sleep(self, states: Sequence[ScheduleState]) -> None:
        """Until something is due, has changed, or may have been missed."""
        pause_s = REREAD_S * (0.9 + _chance() / 10)
        if states:
            next_s = seconds_to_next(states, self._now(states[0]))
            if next_s is not None:
                pause_s = min(pause_s, next_s + _LATE_S)
        if any(state.waiting_at is not None for state in states):
            pause_s = min(pause_s, WAITING_POLL_S)
        if self._draining:
            return
        with trio.move_on_after(pause_s):
            await self._woken.wait()
            # Several changes are one.
            await trio.sleep(_SETTLE_S)
        self._woken = trio.Event()

    async def _insist(self, statement: Statement) -> Sequence[tuple[Any, ...]]:
        """Ask until there is an answer; nothing is lost meanwhile, only late."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                rows = (await self._ask(statement)).rows
            except (Error, FluxError, OSError, trio.TooSlowError) as error:
                self._complain(error)
            else:
                self._complaint = ""
                return rows
            await trio.sleep(pause_s * (0.5 + _chance() / 2))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _ask(self, statement: Statement) -> Result:
        with trio.fail_after(ANSWER_WITHIN_S):
            async with self._pool.connection() as conn:
                result: Result = (await run_batch(conn, [statement])).check()[0]
                result.rows  # noqa: B018  they are read with the connection's help
                return result

    def _complain(self, error: Exception) -> None:
        """Once per cause: a database that is away for an hour is one line."""
        complaint = " ".join(str(error).split()) or f"no answer within {ANSWER_WITHIN_S:g} s"
        if complaint != self._complaint:
            self._complaint = complaint
            os.write(2, f"flux: schedules cannot be read: {complaint}\n".encode())
