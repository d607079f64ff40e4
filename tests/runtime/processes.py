"""What tests of the process model share: events that can be waited for, and a client."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from flux_pg.config import Settings, load_settings
from flux_pg.runtime.events import Event, Listening, WorkerReady, WorkerStarted
from flux_pg.runtime.process import Tuning
from flux_pg.runtime.supervisor import Supervisor, run_supervisor

E = TypeVar("E")
PATIENCE_S = 60.0

# A machine that is busy with other tests is no blocked loop.
QUICK = Tuning(
    stuck_after_s=30,
    first_delay_s=0.02,
    application="tests.runtime.stub_app:open_application",
    server="tests.runtime.stub_app:StubServer",
)
IMPATIENT = replace(QUICK, stuck_after_s=0.6)
"""For tests of blocked loops."""


def make_project(directory: Path, **overrides: Any) -> Settings:
    """Make a project whose deployment is `one`, and its settings on any free port."""
    (directory / "functions").mkdir()
    (directory / "functions" / "version").write_text("one")
    settings = load_settings(directory, {"port": 0, **overrides}, environ={})
    return replace(settings, drain_timeout_s=overrides.get("drain_timeout_s", 10.0))


class Events:
    """Every event so far; `wait` waits for one that is, or that comes."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._more = trio.Event()

    def __call__(self, event: Event) -> None:
        print(event)  # pytest shows it if the test fails
        self.seen.append(event)
        self._more.set()

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, oldest first."""
        return [event for event in self.seen if isinstance(event, kind)]

    async def wait(
        self, kind: type[E], where: Callable[[E], bool] = lambda _: True, count: int = 1
    ) -> E:
        """Return the `count`-th event of the kind that satisfies `where`."""
        with trio.fail_after(PATIENCE_S):
            while True:
                found = [event for event in self.of(kind) if where(event)]
                if len(found) >= count:
                    return found[count - 1]
                self._more = trio.Event()
                await self._more.wait()


class Running:
    """A supervisor that runs in this process, on a port of its own."""

    def __init__(self, events: Events, supervisor: Supervisor, port: int) -> None:
        self.events = events
        self.supervisor = supervisor
        self.port = port

    async def get(self, path: str) -> dict[str, Any]:
        """Ask and return the answer."""
        return await get(self.port, path)


@asynccontextmanager
async def supervised(
    settings: Settings, tuning: Tuning = QUICK, **options: Any
) -> AsyncIterator[Running]:
    """Run a supervisor; in the end it drains. Yields once every worker serves."""
    events = Events()
    async with trio.open_nursery() as nursery:
        supervisor: Supervisor = await nursery.start(
            partial(run_supervisor, settings, on_event=events, tuning=tuning, **options)
        )
        port = events.of(Listening)[0].port
        try:
            await events.wait(WorkerReady, count=settings.workers)
            yield Running(events, supervisor, port)
        finally:
            supervisor.end()
            with trio.CancelScope(shield=True), trio.fail_after(PATIENCE_S):
                await all_gone(events)


async def all_gone(events: Events) -> None:
    """Wait until no worker that was ever started exists."""
    for started in events.of(WorkerStarted):
        await gone(started.pid)


async def gone(pid: int) -> None:
    """Wait until a process does not exist, or only as a zombie of someone else."""
    await until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that no event announces."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.01)


async def get(port: int, path: str) -> dict[str, Any]:
    """Ask a stub and return its answer."""
    with trio.fail_after(PATIENCE_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            return await read_answer(stream)


async def read_answer(stream: trio.SocketStream) -> dict[str, Any]:
    """Read to the end of the answer; raises BrokenResourceError if there is none."""
    received = b""
    async for part in stream:
        received += part
    if b"200 OK" not in received:
        raise trio.BrokenResourceError("no answer")
    document: dict[str, Any] = json.loads(received.rpartition(b"\r\n\r\n")[2])
    return document


class Request:
    """A request that is running; `answer` waits for its end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def answer(self) -> dict[str, Any]:
        """Return the answer; raises BrokenResourceError if there is none."""
        with trio.fail_after(PATIENCE_S):
            return await read_answer(self._stream)


@asynccontextmanager
async def requested(port: int, *paths: str) -> AsyncIterator[list[Request]]:
    """Send requests, one after the other, and yield once the function of each says that it runs."""
    async with AsyncExitStack() as stack:
        requests = []
        for path in paths:
            with trio.fail_after(PATIENCE_S):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stack.enter_async_context(stream)
                await stream.send_all(f"GET {path} HTTP/1.1\r\n\r\n".encode())
                assert b"102" in await stream.receive_some()
            requests.append(Request(stream))
        yield requests


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal."""
    os.kill(pid, number)
