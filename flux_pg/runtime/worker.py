"""A worker process: one Trio loop that runs exactly one deployment.

Its life: read `Start`, open the application, say `Ready`, wait for `Serve`, take requests, and on
`Drain` (or SIGTERM, or the end of the supervisor) stop accepting, finish what runs and end. All
that it owns came with `Start`: the listening sockets, the heartbeat, the journal's path.

A worker never outlives its supervisor by more than the drain time: the loop sees the end of the
control channel; if the loop is blocked, a thread that watches the same channel ends the process.
One that has not served yet ends at once: while it loads it would only keep the port from the next.
PR_SET_PDEATHSIG is not used: it kills at once, and so would cut off requests that can finish.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from flux_pg.config import Settings
from flux_pg.records import Runner
from flux_pg.runtime.control import (
    Channel,
    Closed,
    Drain,
    Failed,
    FromWorker,
    Problem,
    Ready,
    Serve,
    Serving,
    Start,
    decode_settings,
)
from flux_pg.runtime.heartbeat import Heartbeat
from flux_pg.runtime.journal import Journal
from flux_pg.runtime.work import Work, drain_all

STACK_SIGNAL = signal.SIGUSR1
"""Makes a worker write the stacks of its threads, even while its loop is blocked."""

DRAIN_GRACE_S = 1.0
"""What a worker gets beyond the drain time to close its connections."""

_CLOSED_POLL_S = 0.002

_YOUNG_OBJECTS = 10_000
"""More containers than that since the last look, and the collector looks at the new ones. Larger
numbers save no more time, and each look takes longer."""

EXIT_FAILED = 3
"""Exit status of a worker that could not start, and has said why."""


class Application(Runner, Protocol):
    """What a worker needs of the application beyond what the gateway needs."""

    @property
    def deployment(self) -> Any:
        """The deployment's identity; equal for equal code."""
        ...

    @property
    def load_errors(self) -> tuple[BaseException, ...]:
        """What did not load."""
        ...

    @property
    def work(self) -> tuple[Work, ...]:
        """What it does while it serves, beside answering requests."""
        ...


class OpenApplication(Protocol):
    """`flux_pg.runtime.application.open_application`, or a test's own."""

    def __call__(
        self, settings: Settings, *, journal: Journal | None
    ) -> AbstractAsyncContextManager[Application]: ...


class Server(Protocol):
    """`flux_pg.gateway.server.Server`, or a test's own."""

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained or cancelled; `task_status.started()` once it accepts."""
        ...

    async def drain(self, timeout_s: float) -> object:
        """Stop accepting, return when nothing runs any more or `timeout_s` have passed."""
        ...


def make_server(application: Runner, settings: Settings) -> Server:
    """Make the gateway's server with the limits that the settings ask for."""
    from flux_pg.gateway.authentication import make_authenticator
    from flux_pg.gateway.limits import Limits
    from flux_pg.gateway.server import Server as GatewayServer

    limits = Limits(
        max_body_bytes=settings.max_body_bytes, max_header_bytes=settings.max_header_bytes
    )
    authenticator = make_authenticator(settings, {**settings.dotenv, **os.environ})
    server: Server = GatewayServer(application, limits, authenticator)
    return server


class Worker:
    """One worker's state. `run` is its whole life."""

    def __init__(self, start: Start, channel: Channel, serves: threading.Event) -> None:
        self._start = start
        self._serves = serves
        self._channel = channel
        self._settings = decode_settings(start.settings)
        self._serve = trio.Event()
        self._drain = trio.Event()
        self._drain_timeout_s = self._settings.drain_timeout_s

    async def run(self) -> int:
        """Live; returns the exit status."""
        heartbeat = Heartbeat(self._start.heartbeat)
        status = EXIT_FAILED
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat.run)
            nursery.start_soon(self._listen_to_supervisor)
            await nursery.start(self._listen_to_signals)
            try:
                await self._work()
                status = 0
            except Exception as error:
                await self._tell(Failed(_problem(error)))
            nursery.cancel_scope.cancel()
        # From here on the heart does not beat, and that is no reason to worry.
        self._channel.finish()
        return status

    async def _work(self) -> None:
        journal = Journal.create(Path(self._start.journal))
        try:
            # Loading imports user code and blocks the loop; the supervisor watches the heartbeat
            # only once this worker serves.
            open_application: OpenApplication = _imported(self._start.application)
            async with open_application(self._settings, journal=journal) as application:
                _set_aside_what_stays()
                await self._tell(_ready(application))
                await self._asked_to_serve()
                if not self._drain.is_set():
                    await self._take_requests(application)
        finally:
            journal.close()

    async def _asked_to_serve(self) -> None:
        async with trio.open_nursery() as nursery:
            for event in (self._serve, self._drain):
                nursery.start_soon(_cancel_after, event, nursery.cancel_scope)

    async def _take_requests(self, application: Application) -> None:
        server: Server = _imported(self._start.server)(application, self._settings)
        listeners = [
            trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
            for descriptor in self._start.listeners
        ]
        self._serves.set()
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, listeners))
            for work in application.work:
                nursery.start_soon(work.run)
            await self._tell(Serving())
            await self._drain.wait()
            nursery.start_soon(self._tell_when_closed, listeners)
            with trio.move_on_after(self._drain_timeout_s + DRAIN_GRACE_S):
                async with trio.open_nursery() as draining:
                    draining.start_soon(server.drain, self._drain_timeout_s)
                    draining.start_soon(drain_all, application.work, self._drain_timeout_s)
            nursery.cancel_scope.cancel()

    async def _tell_when_closed(self, listeners: list[trio.SocketListener]) -> None:
        # Draining takes long; that it has begun is known by the closed sockets alone.
        while any(listener.socket.fileno() != -1 for listener in listeners):  # noqa: ASYNC110
            await trio.sleep(_CLOSED_POLL_S)
        await self._tell(Closed())

    async def _listen_to_supervisor(self) -> None:
        async for message in self._channel.to_worker():
            match message:
                case Serve():
                    self._serve.set()
                case Drain(timeout_s=timeout_s):
                    self._drain_timeout_s = timeout_s
                    self._drain.set()
        # The supervisor is gone.
        self._drain.set()

    async def _listen_to_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        # systemd sends SIGTERM to every process of a service, not only to the supervisor.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for _ in received:
                self._drain.set()

    async def _tell(self, message: FromWorker) -> None:
        with suppress(trio.BrokenResourceError):
            await self._channel.send(message)


def _set_aside_what_stays() -> None:
    """Keep the cycle collector off what was loaded, and from looking at every few requests.

    What was loaded lives as long as the process: to walk it again and again stopped the loop for
    40 ms at a time, and took a tenth of a job's CPU. A worker makes few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _ready(application: Application) -> Ready:
    return Ready(
        functions=tuple(spec.name for spec in application.functions),
        deployment=str(application.deployment),
        problems=tuple(Problem.of(error) for error in application.load_errors),
    )


def _problem(error: BaseException) -> Problem:
    # Trio wraps what a nursery's task raised; a person wants the error itself.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return Problem.of(error, "".join(traceback.format_exception(error)))


def _read_start(control: socket.socket) -> tuple[Start, bytes] | None:
    """Read the first message and what came with it, before there is a loop.

    Returns None if the supervisor is gone.
    """
    received = b""
    while b"\n" not in received:
        part = control.recv(65536)
        if not part:
            return None
        received += part
    line, _, rest = received.partition(b"\n")
    return msgspec.json.decode(line, type=Start), rest


def _keep_to_ourselves(start: Start, control: socket.socket) -> None:
    """Let no process that a function starts inherit what is ours."""
    for descriptor in (*start.listeners, start.heartbeat, start.stack, control.fileno()):
        os.set_inheritable(descriptor, False)
    # The supervisor set it so that this very package is found; it is not the user's setting.
    if start.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = start.python_path


def _die_with_supervisor(control: socket.socket, serves: threading.Event, after_s: float) -> None:
    """Start the thread that ends this process if its blocked loop cannot.

    At once if it does not serve yet, else `after_s` after the supervisor's end.
    """

    def watch() -> None:
        poll = select.poll()
        # Only the hang-up, which is always reported: reading is the loop's business.
        poll.register(control.fileno(), 0)
        poll.poll()
        if serves.is_set():
            time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="flux-lifeline", daemon=True).start()


def main() -> int:
    """Run a worker; argv names the inherited control socket's descriptor."""
    control = socket.socket(fileno=int(sys.argv[1]))
    first = _read_start(control)
    if first is None:
        return EXIT_FAILED
    start, rest = first
    _keep_to_ourselves(start, control)
    faulthandler.register(STACK_SIGNAL, file=start.stack, all_threads=True)
    watched = control.dup()
    serves = threading.Event()
    drain_timeout_s = decode_settings(start.settings).drain_timeout_s
    _die_with_supervisor(watched, serves, drain_timeout_s + 2 * DRAIN_GRACE_S)

    async def live() -> int:
        return await Worker(start, Channel(control, rest), serves).run()

    return trio.run(live)


if __name__ == "__main__":
    # Under its real name, so that the classes here exist once.
    from flux_pg.runtime.worker import main as run_main

    sys.exit(run_main())
