"""One worker process as its supervisor sees it: started, ready, serving, retired, gone.

A worker that is asked to end drains. One whose loop is blocked cannot: it is killed when the last
limit of the requests that run in it is over, unless its loop comes back before. Whatever killed a
worker is noted in its journal first, so that its requests can be told why they crashed, even if
the supervisor itself is gone by then.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import trio

import flux_pg
from flux_pg.config import Settings
from flux_pg.errors import FluxError
from flux_pg.runtime import blocked
from flux_pg.runtime.control import (
    APPLICATION,
    SERVER,
    Channel,
    Closed,
    Drain,
    Failed,
    Problem,
    Ready,
    Serve,
    Serving,
    Start,
    ToWorker,
    encode_settings,
)
from flux_pg.runtime.events import RunningRequest
from flux_pg.runtime.heartbeat import INTERVAL_S, Pulse, shared_page
from flux_pg.runtime.journal import SUFFIX, JournalError, Leftover, read_leftovers, write_reason
from flux_pg.runtime.listeners import WORKER_MODULE
from flux_pg.runtime.worker import DRAIN_GRACE_S

EXIT_TIMEOUT_S = 5.0

_PACKAGE_ROOT = str(Path(flux_pg.__file__).resolve().parents[1])


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Times and parts of a supervisor that no setting shows; tests shorten or replace them."""

    stuck_after_s: float = 2.0
    """How long a loop may stand still. A function that computes for this long is at fault too."""
    start_timeout_s: float = 60.0
    stable_after_s: float = 10.0
    """A worker that lived this long was no part of a crash loop."""
    first_delay_s: float = 0.1
    longest_delay_s: float = 30.0
    longest_delay_served_s: float = 3.0
    """The longest wait for a replacement if the worker before did serve: one deadly request must
    not stop all others for long."""
    application: str = APPLICATION
    server: str = SERVER


class WorkerProcess:
    """A worker of this supervisor. `run` is its task; everything else is called from others.

    Args:
        number: Its number, never used twice.
        settings: What it runs with.
        listeners: The sockets it shares with the other workers.
        hash_seed: PYTHONHASHSEED, one for all workers of a deployment.
        tuning: Times and parts.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        listeners: list[socket.socket],
        hash_seed: int,
        tuning: Tuning,
    ) -> None:
        self.number = number
        self.settings = settings
        self.journal_path = settings.state_dir / "journal" / f"{uuid4().hex}{SUFFIX}"
        self.pid = 0
        self.ready: Ready | None = None
        self.problem: Problem | None = None
        self.exited = trio.Event()
        self.exit_reason = ""
        self.asked_to_end = False
        self.served = False
        self.stuck = False
        self.given_up = False
        self._listeners = listeners
        self._hash_seed = hash_seed
        self._tuning = tuning
        self._answered = trio.Event()
        self._serving = trio.Event()
        self._closed = trio.Event()
        self._heard_all = trio.Event()
        self._watching = trio.CancelScope()
        self._process: trio.Process | None = None
        self._started_at = time.monotonic()
        self._killed_for = ""
        self._retiring = False

    @property
    def healthy(self) -> bool:
        """Whether it serves and its loop moves."""
        return self.served and not (self.stuck or self.asked_to_end or self.exited.is_set())

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    async def run(
        self,
        on_stuck: Callable[[WorkerProcess], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start the process and stay with it until it is gone.

        `task_status.started()` is called once the process exists. Cancellation kills it.
        """
        ours, theirs = socket.socketpair()
        page, self._stack = shared_page(), shared_page()
        self._channel, self._pulse = Channel(ours), Pulse(page)
        inherited = (theirs.fileno(), page, self._stack, *(one.fileno() for one in self._listeners))
        try:
            self._process = await self._spawn(theirs.fileno(), inherited)
        except OSError as error:
            self.problem = Problem.of(FluxError(f"cannot start a process: {error}"))
            task_status.started()
        else:
            # Or our own copy would keep the channel from ending with the worker.
            theirs.close()
            await self._stay(self._start_message(page), on_stuck, task_status)
        finally:
            # Whoever waits for it must learn of its end, also if it never began.
            self._note_exit()
            self._channel.close()
            self._pulse.close()
            theirs.close()
            os.close(page)
            os.close(self._stack)

    async def answered(self) -> tuple[Problem, ...]:
        """Wait until it has loaded; returns what is wrong with it, nothing if it is ready.

        A ready worker's own `ready.problems` (files that did not load) are not among them.
        """
        with trio.move_on_after(self._tuning.start_timeout_s) as patience:
            await self._answered.wait()
        if self.ready is not None and not self.exited.is_set():
            return ()
        if patience.cancelled_caught:
            place = await self.find_place()
            self.kill(f"it was not ready within {self._tuning.start_timeout_s:g} s")
            return (_not_ready(self._tuning.start_timeout_s, place),)
        if self.problem is not None:
            return (self.problem,)
        return (Problem("WorkerDied", "worker-died", f"{self} {self.exit_reason} while starting"),)

    async def serve(self) -> bool:
        """Let it take requests; returns whether it does."""
        await self._send(Serve())
        await self._serving.wait()
        self.served = not self.exited.is_set()
        return self.served

    async def retire(self, timeout_s: float) -> None:
        """Let it finish what it has begun, for `timeout_s`, then kill it. Returns once it is gone.

        While its loop is blocked the limits of its requests count instead (`end_if_blocked`). Of
        several calls the first one counts.
        """
        if self._retiring:
            await self.exited.wait()
            return
        self._retiring = self.asked_to_end = True
        await self._send(Drain(timeout_s))
        patience_s = timeout_s + 2 * DRAIN_GRACE_S
        end_at = time.monotonic() + patience_s
        while not await self._gone_within(INTERVAL_S):
            if self.stuck:
                end_at = max(end_at, time.monotonic() + patience_s)
            elif time.monotonic() >= end_at:
                self.kill(f"it did not finish within the drain time of {timeout_s:g} s")

    async def closed(self) -> None:
        """Wait until it accepts no more connections, after `retire` was called.

        One whose loop is blocked accepts none, so nobody waits for it.
        """
        while not (self.stuck or self._closed.is_set()):
            with trio.move_on_after(INTERVAL_S):
                await self._closed.wait()

    async def end_if_blocked(self, limit_s: float, reason: str, place: str = "") -> None:
        """Kill it in `limit_s` seconds unless its loop comes back. Returns in either case."""
        kill_at = time.monotonic() + limit_s
        while self.stuck and not await self._gone_within(INTERVAL_S):
            if time.monotonic() >= kill_at:
                self.kill(reason, place)

    def kill(self, reason: str, place: str = "") -> None:
        """End it at once, and what it started. Reason and place go to its requests."""
        if self.exited.is_set() or self._killed_for:
            return
        self._killed_for = reason
        self.asked_to_end = True
        write_reason(self.journal_path, f"{self} was killed: {reason}", place)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def running(self) -> list[Leftover]:
        """Return the requests that are running in it at this moment."""
        with suppress(FileNotFoundError, JournalError):
            return [one for one in read_leftovers(self.journal_path) if not one.torn]
        return []

    def running_requests(self) -> tuple[RunningRequest, ...]:
        """Return ids and functions of what is running in it."""
        entries = (one.entry or {} for one in self.running())
        return tuple(
            RunningRequest(str(entry.get("request_id")), str(entry.get("function")))
            for entry in entries
        )

    def limit_s(self) -> float:
        """Return in how many seconds the last limit of its running requests is over."""
        now_ns = time.monotonic_ns()
        unknown_ns = now_ns + int(self.settings.request_timeout_s * 1e9)
        limits_ns = (one.deadline_ns or unknown_ns for one in self.running())
        return max(DRAIN_GRACE_S, (max(limits_ns, default=0) - now_ns) / 1e9 + DRAIN_GRACE_S)

    async def find_place(self) -> str:
        """Ask the process where its loop is, although the loop cannot answer; empty if unknown."""
        if self.exited.is_set() or self._process is None:
            return ""
        # It may end meanwhile, and its descriptor's number be another file's.
        stack = os.dup(self._stack)
        try:
            return await blocked.find_place(self.pid, stack, self.settings.project_dir)
        finally:
            os.close(stack)

    async def _spawn(self, control: int, inherited: tuple[int, ...]) -> trio.Process:
        # -P and the restored PYTHONPATH: a project's own json.py must not shadow the library's.
        paths = [_PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONHASHSEED": str(self._hash_seed),
        }
        # A group of its own: Ctrl-C at the terminal is the supervisor's to handle.
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", WORKER_MODULE, str(control)],
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            env=environment,
            cwd=self.settings.project_dir,
            process_group=0,
        )

    def _start_message(self, page: int) -> Start:
        return Start(
            worker=self.number,
            settings=encode_settings(self.settings),
            journal=str(self.journal_path),
            listeners=tuple(listener.fileno() for listener in self._listeners),
            heartbeat=page,
            stack=self._stack,
            python_path=os.environ.get("PYTHONPATH"),
            application=self._tuning.application,
            server=self._tuning.server,
        )

    async def _stay(
        self,
        start: Start,
        on_stuck: Callable[[WorkerProcess], None],
        task_status: trio.TaskStatus[None],
    ) -> None:
        assert self._process is not None
        self.pid = self._process.pid
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear)
                nursery.start_soon(self._watch_pulse, on_stuck)
                await self._send(start)
                task_status.started()
                await self._process.wait()
                self._watching.cancel()
                # What it said last is still in the channel.
                with trio.move_on_after(1):
                    await self._heard_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            if self._process.returncode is None:
                self.kill("its supervisor ended")
                with trio.CancelScope(shield=True):
                    await self._process.wait()

    async def _hear(self) -> None:
        async for message in self._channel.from_worker():
            match message:
                case Ready():
                    self.ready = message
                    self._answered.set()
                case Serving():
                    self._serving.set()
                case Closed():
                    self._closed.set()
                case Failed(problem=problem):
                    # It ends by itself; `answered` waits for that, so that it is counted once.
                    self.problem = problem
        self._heard_all.set()
        # Its loop has ended. What is left is the interpreter's own end, which user code may block.
        self._watching.cancel()
        self.stuck = False
        if not await self._gone_within(EXIT_TIMEOUT_S):
            self.kill(f"its process did not exit within {EXIT_TIMEOUT_S:g} s of its end")

    async def _watch_pulse(self, on_stuck: Callable[[WorkerProcess], None]) -> None:
        # Loading a project's imports may block the loop for long, and is limited otherwise.
        with self._watching:
            await self._serving.wait()
            while True:
                still_s = self._pulse.still_s(time.monotonic())
                if still_s >= self._tuning.stuck_after_s and not self.stuck:
                    self.stuck = True
                    on_stuck(self)
                elif still_s == 0:
                    self.stuck = False
                await trio.sleep(INTERVAL_S)

    def _note_exit(self) -> None:
        if self._killed_for:
            self.exit_reason = f"was killed: {self._killed_for}"
        else:
            status = self._process.returncode if self._process else None
            self.exit_reason = _exit_reason(status, self.problem)
            # A worker that drained leaves a request only if the database took no record of it.
            why = "ended before a record was written" if status == 0 else self.exit_reason
            write_reason(self.journal_path, f"{self} {why}")
        self.exited.set()
        self._answered.set()
        self._serving.set()
        self._closed.set()

    async def _send(self, message: ToWorker) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._channel.send(message)

    async def _gone_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.exited.wait()
        return self.exited.is_set()


def _not_ready(timeout_s: float, place: str) -> Problem:
    return Problem(
        "StartTimeout",
        "start-timeout",
        f"the worker was not ready within {timeout_s:g} s"
        + (f": it is at {place}" if place else ""),
        "Loading functions/ must not wait for anything: move such code into the functions.",
    )


def _exit_reason(status: int | None, problem: Problem | None) -> str:
    if problem is not None:
        return f"failed: {problem.message}"
    if status is None:
        return "was not started"
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL (from outside, or for lack of memory)"
    if status < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
