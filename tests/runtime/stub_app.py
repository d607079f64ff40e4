"""A small application and server for tests of the process model, without a database.

What the functions folder holds decides what happens: the file `version` names the deployment, a
Python file that contains BROKEN does not load, one with REFUSE keeps the application from opening.
The server speaks just enough HTTP; each path is one way for a request to behave.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import trio

from flux_pg.config import Settings
from flux_pg.errors import DatabaseUnreachable, LoadError
from flux_pg.records import FunctionSpec, Invocation, Refusal, Reply
from flux_pg.runtime.journal import Journal


class StubApplication:
    """What `flux_pg.runtime.application.Application` is to a worker."""

    ready = True
    work = ()

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self.journal = journal
        self.functions: tuple[FunctionSpec, ...] = ()
        folder = settings.project_dir / "functions"
        self.deployment = (folder / "version").read_text().strip()
        sources = {path: path.read_text() for path in sorted(folder.glob("*.py"))}
        if any("REFUSE" in source for source in sources.values()):
            raise DatabaseUnreachable("the database does not answer", "Start it.")
        if any("DIE" in source for source in sources.values()):
            os._exit(9)
        if any("HANG" in source for source in sources.values()):
            time.sleep(600)
        self.load_errors = tuple(
            LoadError("this file is broken", path=f"functions/{path.name}", line=1)
            for path, source in sources.items()
            if "BROKEN" in source
        )

    async def run(self, invocation: Invocation) -> Reply:
        raise NotImplementedError

    async def refuse(self, refusal: Refusal) -> Reply:
        raise NotImplementedError


@asynccontextmanager
async def open_application(
    settings: Settings, *, journal: Journal | None
) -> AsyncIterator[StubApplication]:
    """The stub's `open_application`."""
    assert journal is not None
    yield StubApplication(settings, journal)


class StubServer:
    """What `flux_pg.gateway.server.Server` is to a worker."""

    def __init__(self, application: StubApplication, settings: Settings) -> None:
        self.application = application
        self.accepting = trio.CancelScope()
        self.done = trio.Event()

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as nursery:
            with self.accepting:
                await trio.serve_listeners(
                    self.answer, listeners, handler_nursery=nursery, task_status=task_status
                )
            for listener in listeners:
                await listener.aclose()
        self.done.set()

    async def drain(self, timeout_s: float) -> None:
        self.accepting.cancel()
        with trio.move_on_after(timeout_s):
            await self.done.wait()

    async def answer(self, stream: trio.SocketStream) -> None:
        head = await read_head(stream)
        if head:
            name, _, argument = head.split()[1].decode().strip("/").partition("/")
            await self.journaled(stream, name, argument)

    async def journaled(self, stream: trio.SocketStream, name: str, argument: str) -> None:
        entry = {
            "request_id": str(uuid4()),
            "trace_id": uuid4().hex,
            "root_span_id": "00f067aa0ba902b7",
            "kind": "http",
            "function": name,
            "method": "POST",
            "path": f"/{name}",
            "input": {"argument": argument},
            "started_at_us": time.time_ns() // 1000,
        }
        # A limit may follow the argument, as in /sleep/60/0.5.
        limit_s = float(argument.partition("/")[2] or 30)
        deadline_ns = time.monotonic_ns() + int(limit_s * 1e9)
        slot = self.application.journal.begin(json.dumps(entry).encode(), deadline_ns)
        body = json.dumps(
            {
                "id": entry["request_id"],
                "pid": os.getpid(),
                "deployment": self.application.deployment,
                "hash_seed": os.environ.get("PYTHONHASHSEED"),
                "python_path": os.environ.get("PYTHONPATH"),
                "value": await behave(name, argument.partition("/")[0], stream),
            }
        ).encode()
        self.application.journal.end(slot)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body
        )
        await stream.aclose()


async def read_head(stream: trio.SocketStream) -> bytes:
    """Read a request's head; empty if the client went away."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = await stream.receive_some()
        if not part:
            return b""
        head += part
    return head


async def behave(name: str, argument: str, stream: trio.SocketStream) -> str:
    """Be one kind of function."""
    match name:
        case "sleep":
            # The client learns that it runs: only then is it worth killing.
            await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            await trio.sleep(float(argument))
        case "block":
            await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            block_the_loop(float(argument))
        case "block_until_told":
            await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            while not os.path.exists("go_on"):  # in the project's folder
                pass
        case "exit":
            os._exit(int(argument))
        case "signal":
            os.kill(os.getpid(), getattr(signal, argument))
    return name


def block_the_loop(seconds: float) -> None:
    """Not give way."""
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        pass
