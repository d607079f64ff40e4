"""What happens when the supervisor itself is killed: nothing is lost, nothing lives on for ever."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from flux_pg.runtime.journal import claim, read_journal
from flux_pg.runtime.listeners import open_listeners
from tests.runtime.processes import (
    PATIENCE_S,
    gone,
    kill,
    make_project,
    requested,
    supervised,
    until,
)

ROOT = Path(__file__).parents[2]


class Child:
    """A supervisor process and what it says."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._received = b""

    async def wait(self, name: str) -> dict[str, Any]:
        """Return the next event of that name."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            while True:
                line, found, self._received = self._received.partition(b"\n")
                if not found:
                    part = await self.process.stdout.receive_some()
                    assert part, f"the supervisor ended before {name}"
                    self._received = line + part
                    continue
                document: dict[str, Any] = json.loads(line)
                if document["event"] == name:
                    return document


@asynccontextmanager
async def supervisor(project: Path, drain_timeout_s: float) -> AsyncIterator[Child]:
    """Start one; it is killed in the end if it still runs."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            lambda task_status: trio.run_process(
                [
                    *(sys.executable, "-m", "tests.runtime.supervisor_child"),
                    *(str(project), "0", str(drain_timeout_s)),
                ],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                check=False,
                task_status=task_status,
            )
        )
        yield Child(process)
        if process.returncode is None:
            process.kill()


async def test_workers_finish_and_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    make_project(tmp_path)
    async with supervisor(tmp_path, 20) as child:
        port = (await child.wait("Listening"))["port"]
        pid = (await child.wait("WorkerReady"))["pid"]
        async with requested(port, "/sleep/1") as (request,):
            kill(child.process.pid)
            await gone(child.process.pid)
            # Another can have the port although the request still runs.
            for listener in await open_listeners("127.0.0.1", port):
                listener.close()
            assert (await request.answer())["pid"] == pid
        await gone(pid)
    assert not list((tmp_path / ".flux" / "journal").iterdir())


async def test_a_blocked_worker_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    make_project(tmp_path)
    async with supervisor(tmp_path, 0.2) as child:
        port = (await child.wait("Listening"))["port"]
        pid = (await child.wait("WorkerReady"))["pid"]
        async with requested(port, "/block/600"):
            kill(child.process.pid)
            await gone(pid)
    (path,) = (tmp_path / ".flux" / "journal").iterdir()
    left = read_journal(path)
    assert [one.entry["function"] for one in left.leftovers if one.entry] == ["block"]
    assert left.pid == pid


async def test_a_worker_that_still_loads_ends_at_once_when_its_supervisor_is_killed(
    tmp_path: Path,
) -> None:
    make_project(tmp_path)
    (tmp_path / "functions" / "slow.py").write_text("HANG")
    async with supervisor(tmp_path, 600) as child:
        port = (await child.wait("Listening"))["port"]
        pid = (await child.wait("WorkerStarted"))["pid"]
        await until(lambda: list((tmp_path / ".flux" / "journal").glob("*.journal")) != [])
        kill(child.process.pid)
        await gone(pid)
    for listener in await open_listeners("127.0.0.1", port):
        listener.close()


async def test_the_next_start_takes_what_was_left(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    async with supervisor(tmp_path, 20) as child:
        port = (await child.wait("Listening"))["port"]
        pid = (await child.wait("WorkerReady"))["pid"]
        async with requested(port, "/sleep/600"):
            kill(child.process.pid)
            kill(pid)
        await gone(pid)
    (path,) = (tmp_path / ".flux" / "journal").iterdir()
    async with supervised(settings) as running:
        # There is no database here: it is seen, and kept.
        await until(lambda: "RecoveryPostponed" in str(running.events.seen))
    taken = claim(path)
    assert taken is not None
    taken.release()


async def test_sigterm_to_every_process_of_the_service_drains(tmp_path: Path) -> None:
    # What systemd does when it stops a service.
    make_project(tmp_path)
    async with supervisor(tmp_path, 20) as child:
        port = (await child.wait("Listening"))["port"]
        pid = (await child.wait("WorkerReady"))["pid"]
        async with requested(port, "/sleep/0.5") as (request,):
            kill(child.process.pid, signal.SIGTERM)
            kill(pid, signal.SIGTERM)
            assert (await request.answer())["value"] == "sleep"
        with trio.fail_after(PATIENCE_S):
            assert await child.process.wait() == 0
