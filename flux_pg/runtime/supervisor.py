"""The supervisor: keeps N workers serving one port, whatever happens to them.

Laws:

1. There is one operation, `_replace`: start a new worker, wait until it is ready, let it serve, and
   only then retire the one before it. Start, reload, crash and a blocked loop all use it.
2. What does not load replaces nothing that works. Files that do not load are served without only
   where nothing whole serves: at the first start of `flux dev`, or after everything died.
3. Workers that keep dying are started again with growing, random pauses, never in a hot loop.
4. No worker outlives this process for longer than the drain time, and none of its requests is
   forgotten: journals are recovered here, or by the next start.

Trio: the outer nursery owns the worker processes and what must live until the last one is gone;
the inner one owns the policy (keeping, reloading, watching) and is cancelled when the end begins.
"""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from flux_pg.config import Settings
from flux_pg.errors import FluxError
from flux_pg.runtime.control import Problem, summarize
from flux_pg.runtime.events import (
    Draining,
    Listening,
    OnEvent,
    Reloaded,
    ReloadFailed,
    Reloading,
    RestartDelayed,
    WorkerExited,
    WorkerFailed,
    WorkerReady,
    WorkerStarted,
    WorkerStuck,
)
from flux_pg.runtime.listeners import open_listeners
from flux_pg.runtime.places import Place
from flux_pg.runtime.process import Tuning, WorkerProcess
from flux_pg.runtime.recovery import Recovery
from flux_pg.runtime.watch import watch_project

LAST_RECOVERY_S = 5.0

Prepare = Callable[[], Awaitable[Settings]]


async def run_supervisor(
    settings: Settings,
    *,
    on_event: OnEvent,
    listeners: list[socket.socket] | None = None,
    prepare: Prepare | None = None,
    tuning: Tuning | None = None,
    task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
) -> signal.Signals:
    """Serve until a signal ends it; returns that signal.

    SIGTERM and SIGINT drain, a second SIGINT ends at once. SIGHUP reloads, in dev it ends (there
    it means that the terminal was closed). In dev a changed file reloads too.

    Args:
        settings: With `database_url` filled in, also for the embedded server.
        on_event: Called with each event, in this task's thread; must not block or raise.
        listeners: Sockets from `open_listeners`, for a caller that wants to know that the port is
            free before it does something slow; by default they are opened here. They are closed
            in the end.
        prepare: Called before each reload, for instance to read the settings again and to run
            migrations; returns the settings of the new deployment. A FluxError that it raises
            gives the reload up.
        tuning: Times and parts, for tests.
        task_status: Started with the Supervisor once the port is bound.

    Cancellation: workers drain for the drain time; cancel again from outside is not needed.

    Raises:
        UsageError: the port cannot be had, or (not in dev) functions cannot be loaded at first.
        FluxError: the first worker cannot start.
    """
    if listeners is None:
        listeners = await open_listeners(settings.host, settings.port)
    try:
        supervisor = Supervisor(settings, on_event, listeners, prepare, tuning or Tuning())
        host, port = listeners[0].getsockname()[:2]
        on_event(Listening(settings.host or host, port))
        task_status.started(supervisor)
        return await supervisor.run()
    finally:
        for listener in listeners:
            listener.close()


class Supervisor:
    """A running supervisor. Made by `run_supervisor`."""

    def __init__(
        self,
        settings: Settings,
        on_event: OnEvent,
        listeners: list[socket.socket],
        prepare: Prepare | None,
        tuning: Tuning,
    ) -> None:
        self._settings = settings
        self._emit = on_event
        self._listeners = listeners
        self._prepare = prepare
        self._tuning = tuning
        self._places = [Place(tuning) for _ in range(settings.workers)]
        self._workers: set[WorkerProcess] = set()
        self._started = 0
        self._hash_seed = _draw_hash_seed()
        self._deployment = ""
        self._recovery = Recovery(settings.state_dir / "journal", settings.database_url, on_event)
        self._changed: set[str] = set()
        self._reload_wanted = trio.Event()
        self._end_wanted = trio.Event()
        self._hurry = trio.Event()
        self._signal = signal.SIGTERM
        self._fatal: FluxError | None = None

    def reload(self, changed: tuple[str, ...] = ()) -> None:
        """Ask for a new deployment; several requests while one is under way become one."""
        self._changed.update(changed)
        self._reload_wanted.set()

    def end(self, why: signal.Signals = signal.SIGTERM) -> None:
        """Drain and end, as on a signal; SIGINT while it drains ends at once."""
        if not self._end_wanted.is_set():
            self._signal = why
            self._emit(Draining(why.name, self._settings.drain_timeout_s))
            self._end_wanted.set()
        elif why == signal.SIGINT:
            self._hurry.set()

    async def run(self) -> signal.Signals:
        """Keep the workers until the end; returns the signal that asked for it."""
        async with trio.open_nursery() as self._lasting:
            await self._lasting.start(self._listen_to_signals)
            self._lasting.start_soon(self._recovery.run)
            try:
                await self._apply_policy()
            finally:
                with trio.CancelScope(shield=True):
                    await self._end_workers()
            self._lasting.cancel_scope.cancel()
        if self._fatal is not None:
            raise self._fatal
        return self._signal

    async def _apply_policy(self) -> None:
        async with trio.open_nursery() as policy:
            policy.start_soon(self._start_and_keep)
            await self._end_wanted.wait()
            policy.cancel_scope.cancel()

    async def _start_and_keep(self) -> None:
        async with trio.open_nursery() as keeping:
            if self._settings.dev:
                # Before the first worker: a file that changes while it loads must not be missed.
                keeping.start_soon(watch_project, self._settings.project_dir.resolve(), self.reload)
            if not await self._start_first():
                self._end_wanted.set()
                return
            for place in self._places:
                keeping.start_soon(self._keep, place)
            keeping.start_soon(self._reload_on_request)

    async def _start_first(self) -> bool:
        """Start the first worker, then the others; returns whether there is anything to keep."""
        first, *others = self._places
        problems = await self._replace(first, partial=self._settings.dev)
        if problems and not (self._settings.dev and all(one.of_file for one in problems)):
            self._fatal = summarize(problems)
            return False
        for place in others if not problems else ():
            if await self._replace(place, partial=self._settings.dev):
                place.fail("did not start", 0, False)
        return True

    async def _keep(self, place: Place) -> None:
        """Give the place a new worker whenever it needs one."""
        while True:
            await place.broken.wait()
            place.broken = trio.Event()
            if place.pause_s:
                self._emit(RestartDelayed(place.pauses.failures, place.pause_s, place.reason))
                await trio.sleep(place.pause_s)
            async with place.lock:
                if place.worker is not None and place.worker.healthy:
                    # A reload has filled the place meanwhile, or a blocked loop came back.
                    place.worker.given_up = False
                elif await self._replace(place):
                    place.fail("did not start", 0, False)
                elif place.worker and place.worker.ready and self._is_foreign(place.worker):
                    # The code changed since the others were started: one deployment at a time.
                    self.reload()

    def _is_foreign(self, worker: WorkerProcess) -> bool:
        return worker.ready is not None and worker.ready.deployment != self._deployment

    async def _reload_on_request(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted = trio.Event()
            changed, self._changed = tuple(sorted(self._changed)), set()
            await self._reload(changed)

    async def _reload(self, changed: tuple[str, ...]) -> None:
        """Replace every worker; gives up, with the old ones serving, if the first new one fails."""
        self._emit(Reloading(changed))
        begun_at = time.monotonic()
        before = self._settings, self._hash_seed, self._deployment
        try:
            if self._prepare is not None:
                self._settings = await self._prepare()
        except FluxError as error:
            self._emit(ReloadFailed((Problem.of(error),)))
            return
        self._hash_seed = _draw_hash_seed()
        self._deployment = ""
        for number, place in enumerate(self._places):
            async with place.lock:
                problems = await self._replace(place)
            if problems and number == 0:
                self._settings, self._hash_seed, self._deployment = before
                self._emit(ReloadFailed(problems))
                return
            if problems:
                place.fail("did not start", 0, False)
        took_ms = round((time.monotonic() - begun_at) * 1000)
        self._emit(Reloaded(self._deployment, len(self._places), took_ms))

    async def _replace(self, place: Place, partial: bool = True) -> tuple[Problem, ...]:
        """Law 1. Returns why the place still has the worker that it had, nothing if it has not.

        Args:
            place: Where; the caller holds its lock (or nobody else knows of it yet).
            partial: Whether files that do not load may be served without, if law 2 allows it.
        """
        worker = await self._start_worker()
        problems = await worker.answered()
        if worker.ready and worker.ready.problems and not (partial and not self._whole_serves()):
            problems = worker.ready.problems
        if not problems and not await worker.serve():
            problems = (Problem("WorkerDied", "worker-died", f"{worker} {worker.exit_reason}"),)
        if problems:
            self._emit(WorkerFailed(worker.number, worker.pid, problems, self._any_serves()))
            self._lasting.start_soon(worker.retire, 0.0)
            return problems
        before, place.worker = place.worker, worker
        self._announce(worker)
        if before is not None and not before.exited.is_set():
            self._lasting.start_soon(before.retire, self._settings.drain_timeout_s)
            # So that "reloaded" means that the next request runs the new code.
            await before.closed()
        return ()

    def _any_serves(self) -> bool:
        return any(place.worker is not None and place.worker.healthy for place in self._places)

    def _whole_serves(self) -> bool:
        return any(
            place.worker is not None
            and place.worker.healthy
            and place.worker.ready is not None
            and not place.worker.ready.problems
            for place in self._places
        )

    async def _start_worker(self) -> WorkerProcess:
        self._started += 1
        worker = WorkerProcess(
            self._started, self._settings, self._listeners, self._hash_seed, self._tuning
        )
        self._workers.add(worker)
        await self._lasting.start(self._stay_with, worker)
        return worker

    def _announce(self, worker: WorkerProcess) -> None:
        ready = worker.ready
        if ready is None:
            return
        self._deployment = self._deployment or ready.deployment
        took_ms = round(worker.age_s * 1000)
        self._emit(
            WorkerReady(
                worker.number,
                worker.pid,
                ready.functions,
                ready.deployment,
                ready.problems,
                took_ms,
            )
        )

    async def _stay_with(
        self,
        worker: WorkerProcess,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Own one worker process from its start to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run, self._on_stuck)
            self._emit(WorkerStarted(worker.number, worker.pid))
            task_status.started()
        self._workers.discard(worker)
        self._emit(WorkerExited(worker.number, worker.pid, worker.exit_reason, worker.asked_to_end))
        self._recovery.kick()
        for place in self._places:
            # One that was blocked has been given up before its end, and counts once.
            if place.worker is worker and not (worker.given_up or self._end_wanted.is_set()):
                place.fail(f"{worker} {worker.exit_reason}", worker.age_s, worker.served)

    def _on_stuck(self, worker: WorkerProcess) -> None:
        self._lasting.start_soon(self._handle_stuck, worker)

    async def _handle_stuck(self, worker: WorkerProcess) -> None:
        for place in self._places:
            if place.worker is worker and not self._end_wanted.is_set():
                place.fail(f"{worker} has a blocked loop", worker.age_s, worker.served)
        limit_s = worker.limit_s()
        place_in_code = await worker.find_place()
        if not worker.stuck or worker.exited.is_set():
            return
        still_s = self._tuning.stuck_after_s
        self._emit(
            WorkerStuck(
                worker.number,
                worker.pid,
                still_s,
                place_in_code,
                worker.running_requests(),
                limit_s,
            )
        )
        at = f" at {place_in_code}" if place_in_code else ""
        reason = (
            f"its event loop was blocked{at} for more than {still_s:g} s and did not come back "
            f"before the limits of its requests were over"
        )
        await worker.end_if_blocked(limit_s, reason, place_in_code)

    async def _listen_to_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        handled = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        # Under nohup a closed terminal is to change nothing.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            handled.discard(signal.SIGHUP)
        with trio.open_signal_receiver(*handled) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGHUP and not self._settings.dev:
                    self.reload()
                else:
                    self.end(signal.Signals(number))

    async def _end_workers(self) -> None:
        """Drain every worker, kill those that do not end, record what they left."""
        async with trio.open_nursery() as nursery:
            for worker in self._workers.copy():
                nursery.start_soon(self._end_worker, worker)
        limit_s = 1.0 if self._hurry.is_set() else LAST_RECOVERY_S
        with trio.move_on_after(limit_s):
            await self._recovery.recover()

    async def _end_worker(self, worker: WorkerProcess) -> None:
        timeout_s = self._settings.drain_timeout_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.retire, timeout_s)
            with trio.move_on_after(timeout_s + 2):
                nursery.start_soon(self._hurry_or_exit, worker)
                await worker.exited.wait()
            # Also one with a blocked loop: nobody waits longer than the drain time for the end.
            worker.kill(f"the supervisor ended, and it did not finish within {timeout_s:g} s")
            await worker.exited.wait()
            nursery.cancel_scope.cancel()

    async def _hurry_or_exit(self, worker: WorkerProcess) -> None:
        await self._hurry.wait()
        worker.kill("the supervisor was told to end at once")


def _draw_hash_seed() -> int:
    return random.SystemRandom().randrange(1, 1 << 32)
