"""`flux serve` as a process that can be killed, and seen from outside by the events it prints."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from flux_pg.runtime.journal import SUFFIX, read_leftovers

PATIENCE_S = 90.0
DRAIN_S = 4.0
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on.

    Below the ephemeral ports: a client that tries again and again while nobody listens could be
    given the very port, and connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Served:
    """A project that is served, killed and served again.

    Args:
        project: Its folder.
        database_url: The runtime's login.
        admin_url: The owner's login.
        workers: How many.
        settings: Further variables of its environment.
    """

    def __init__(
        self,
        project: Path,
        database_url: str,
        admin_url: str,
        workers: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.project = project
        self.port = free_port()
        self.events: list[dict[str, Any]] = []
        self.pids: set[int] = set()
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FLUX_", "PG"))},
            "DATABASE_URL": database_url,
            "FLUX_ADMIN_URL": admin_url,
            "FLUX_DRAIN_TIMEOUT": f"{DRAIN_S}s",
            "FLUX_REQUEST_TIMEOUT": "8s",
            "PYTHONPATH": str(ROOT),
            **(settings or {}),
        }

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    @property
    def journals(self) -> Path:
        return self.project / ".flux" / "journal"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Served]:
        """Serve; in the end everything that was ever started is gone."""
        async with self.watched():
            await self.start()
            yield self
            await self.stop()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Served]:
        """`start` and `stop` may be called; whatever happens, nothing stays behind."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield self
            finally:
                for pid in {*self.pids, *([self._process.pid] if self._process else [])}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                nursery.cancel_scope.cancel()

    async def start(self) -> None:
        """Start the supervisor; returns once a worker serves."""
        errors = (self.project / "stderr").open("ab")
        seen = len(self.events)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flux_pg", "serve", "--port", str(self.port),
             "--workers", str(self._workers)],
            cwd=self.project, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        errors.close()
        assert self._process.stdout is not None
        self._nursery.start_soon(self._read, self._process.stdout.detach())  # type: ignore[attr-defined]
        try:
            await until(
                lambda: (
                    any(e["event"] == "worker_ready" for e in self.events[seen:])
                    or not alive(self.pid)
                )
            )
        finally:
            print(*self.events[seen:], sep="\n")
        assert alive(self.pid), (self.project / "stderr").read_text()[-2000:]

    async def _read(self, raw: Any) -> None:
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(raw.fileno())) as stream:
            raw.close()
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    self.events.append(event)
                    if event["event"] == "worker_started":
                        self.pids.add(event["pid"])

    def workers(self) -> list[int]:
        """The processes that serve now."""
        ready = [e["pid"] for e in self.events if e["event"] == "worker_ready"]
        return [pid for pid in ready if alive(pid)]

    def kill_supervisor(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def reload(self) -> None:
        """SIGHUP: new workers, then the old ones drain."""
        os.kill(self.pid, signal.SIGHUP)

    async def restart(self) -> None:
        """SIGTERM, and start again at once."""
        await self._end()
        await self.start()

    async def stop(self) -> None:
        """SIGTERM; returns once every process is gone and no request is left in a journal.

        What a kill left behind is recorded by the next start, so there is one if it is needed.
        """
        await self._end()
        await until(lambda: not any(alive(pid) for pid in self.pids))
        if self.leftovers():
            await self.start()
            await until(lambda: not self.leftovers())
            await self._end()

    async def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        await until(lambda: self._process is not None and self._process.poll() is not None)
        assert self._process.returncode in (0, 143), self._process.returncode

    def leftovers(self) -> list[Any]:
        """Requests in journals; of living workers, those that run."""
        found = []
        for path in self.journals.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                found += read_leftovers(path)
        return found


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that no event announces."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.02)
