"""The recording laws under load, with processes that are killed at random moments.

The seed is printed and can be given as FLUX_TEST_SEED; FLUX_TEST_SCALE makes the runs longer.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import trio

from flux_pg.database import embedded, roles
from flux_pg.database.embedded import SUPERUSER, EmbeddedServer

from .checks import Evidence
from .clients import Load
from .project import write_project
from .served import Served, until

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SEED = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1 << 32))

pytestmark = pytest.mark.timeout(300 + 120 * SCALE)


@dataclass
class Battle:
    """One run: what is served, by what, for whom."""

    postgres: EmbeddedServer
    served: Served
    load: Load
    rng: random.Random
    crashes: list[float] = field(default_factory=list)

    def superuser(self, dbname: str = "flux") -> str:
        return self.postgres.dsn(SUPERUSER, dbname)

    async def next_moment(self, low: int, high: int) -> None:
        """Some random number of acknowledged responses from now."""
        await self.load.reached(self.load.acknowledged + self.rng.randint(low, high))

    def terminate_backends(self, count: int) -> None:
        """End the sessions of some random requests."""
        with psycopg.connect(self.superuser(), autocommit=True) as conn:
            pids = [row[0] for row in conn.execute(
                "select pid from pg_stat_activity where usename = %s and state <> 'idle'",
                (roles.APP,))]  # fmt: skip
            for pid in self.rng.sample(pids, min(count, len(pids))):
                conn.execute("select pg_terminate_backend(%s)", (pid,))


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A cluster of its own, fsync on: what was promised must survive the server."""
    with EmbeddedServer(tmp_path / "cluster") as server:
        embedded.prepare(server)
        yield server


@asynccontextmanager
async def battle(
    tmp_path: Path, postgres: EmbeddedServer, name: str, workers: int = 2
) -> AsyncIterator[Battle]:
    """Serve the project under load; in the end everything is checked."""
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g} {name}")
    began = write_project(tmp_path / "project")
    served = Served(
        tmp_path / "project", postgres.dsn(roles.APP), postgres.dsn(roles.ADMIN), workers
    )
    load = Load(served.port, SEED)
    state = Battle(postgres, served, load, random.Random(f"{SEED} {name}"))
    began_at = time.monotonic()
    async with served.running(), trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        yield state
        load.stop()
    took_s = time.monotonic() - began_at
    evidence = Evidence(state.superuser(), load.log, began, state.crashes)
    print(f"{name}: {took_s:.1f} s, {evidence.summary()}")
    violations = evidence.violations()
    assert not violations, f"{len(violations)} violations:\n" + "\n".join(violations[:20])


def _rounds(count: int) -> range:
    return range(max(1, round(count * SCALE)))


async def test_laws_hold_when_workers_and_sessions_are_killed(
    tmp_path: Path, postgres: EmbeddedServer
) -> None:
    async with battle(tmp_path, postgres, "workers") as state:
        async with trio.open_nursery() as blocking:
            for number in _rounds(5):
                await state.next_moment(30, 200)
                if number % 5 == 2:
                    blocking.start_soon(state.load.send_once, "blocked", state.rng)
                if number % 5 == 3:
                    blocking.start_soon(state.load.send_once, "blocked_awhile", state.rng)
                state.terminate_backends(3)
                await state.next_moment(10, 100)
                os.kill(state.rng.choice(state.served.workers()), signal.SIGKILL)
        await state.next_moment(50, 51)


async def test_laws_hold_when_the_supervisor_is_killed(
    tmp_path: Path, postgres: EmbeddedServer
) -> None:
    async with battle(tmp_path, postgres, "supervisor") as state:
        for number in _rounds(3):
            await state.next_moment(30, 250)
            if number % 3 == 1:  # and everything it started
                for pid in state.served.workers():
                    os.kill(pid, signal.SIGKILL)
            state.served.kill_supervisor()
            await state.served.start()
        await state.next_moment(50, 51)


async def test_laws_hold_when_postgres_is_killed(tmp_path: Path, postgres: EmbeddedServer) -> None:
    async with battle(tmp_path, postgres, "postgres") as state:
        for number in _rounds(4):
            await state.next_moment(30, 250)
            state.terminate_backends(2)
            await state.next_moment(30, 100)
            how = signal.SIGKILL if number % 2 else signal.SIGQUIT  # QUIT: stop -m immediate
            pid = int((postgres.data_dir / "postmaster.pid").read_text().split()[0])
            state.crashes.append(time.time())
            os.kill(pid, how)
            await until(lambda: _gone(pid))  # noqa: B023
            state.crashes.append(time.time())
            await postgres.start()
        await state.next_moment(50, 51)


def _gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True
