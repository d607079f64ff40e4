"""The queue's promises while workers, nodes, sessions and Postgres itself are killed: the money is
all there, every job has succeeded once or is visibly dead, every attempt has its record.

The seed is printed and can be given as FLUX_TEST_SEED; FLUX_TEST_SCALE makes the runs longer.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import trio

from flux_pg.database import embedded, roles
from flux_pg.database.cluster import SUPERUSER
from flux_pg.database.embedded import EmbeddedServer
from flux_pg.runtime.journal import SUFFIX

from .enqueuers import Enqueuers
from .queue_checks import QueueEvidence
from .queue_project import write_queue_project
from .served import Served, alive, until

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
SEED = int(os.environ.get("FLUX_TEST_SEED") or random.SystemRandom().randrange(1 << 32))

JOBS = int(1000 * SCALE) if SCALE > 1 else 500
NODES = 2
WORKERS = 2
LEASE_S = 2
DRAIN_S = 1
SETTINGS = {
    "FLUX_LEASE": f"{LEASE_S}s",
    "FLUX_DRAIN_TIMEOUT": f"{DRAIN_S}s",
    "FLUX_QUEUE_POLL": "1s",
    "FLUX_REQUEST_TIMEOUT": "5s",
}
STILL_S = 120.0
"""Something must have finished within so long, whatever was killed."""

pytestmark = pytest.mark.timeout(300 + 120 * SCALE)


@dataclass
class Battle:
    """One run: the nodes, who enqueues, what is to be killed."""

    postgres: EmbeddedServer
    nodes: list[Served]
    enqueuers: Enqueuers
    rng: random.Random
    crashes: list[tuple[float, float]] = field(default_factory=list)
    away: list[Served] = field(default_factory=list)

    def superuser(self) -> str:
        return self.postgres.dsn(SUPERUSER, "flux")

    def node(self) -> Served | None:
        """One of the nodes that nothing is done to at present."""
        there = [node for node in self.nodes if node not in self.away]
        return self.rng.choice(there) if there else None

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[list[Served]]:
        """A node that nothing else is done to meanwhile; or none."""
        node = self.node()
        taken = [] if node is None else [node]
        self.away += taken
        try:
            yield taken
        finally:
            self.away = [one for one in self.away if one is not node]

    async def next_moment(self, jobs: int) -> None:
        """Let more jobs in; some random number of finished ones from now."""
        self.enqueuers.allow(jobs)
        goal = self.enqueuers.finished + self.rng.randint(1, jobs)
        await self._until(lambda: self.enqueuers.finished >= goal or self.enqueuers.exhausted)

    async def all_finished(self) -> None:
        await self._until(lambda: self.enqueuers.exhausted)

    async def _until(self, condition: Callable[[], bool]) -> None:
        finished, at = self.enqueuers.finished, trio.current_time()
        while not condition():
            await trio.sleep(0.02)
            if self.enqueuers.finished > finished:
                finished, at = self.enqueuers.finished, trio.current_time()
            assert trio.current_time() - at < STILL_S, f"nothing ends; {self._state()}"

    def _state(self) -> str:
        with psycopg.connect(self.superuser()) as conn:
            return str(conn.execute(
                "select function, state, count(*), min(run_at), max(attempt), max(lease_expires_at)"
                " from flux.jobs where finished_at is null group by 1, 2").fetchall())  # fmt: skip

    # What is done to them

    async def kill_worker(self) -> None:
        node = self.node()
        workers = node.workers() if node else []
        if workers:
            os.kill(self.rng.choice(workers), signal.SIGKILL)

    async def kill_supervisor(self) -> None:
        """The workers it leaves behind end by themselves, or die with it."""
        async with self.taken() as taken:
            for node in taken:
                workers = node.workers() if self.rng.random() < 0.5 else []
                node.kill_supervisor()
                for pid in workers:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await node.start()

    async def drain(self) -> None:
        async with self.taken() as taken:
            for node in taken:
                await node.restart()

    async def reload(self) -> None:
        node = self.node()
        if node:
            node.reload()

    async def freeze(self) -> None:
        """Stop a node as a hypervisor does; it goes on when others have all that it held."""
        async with self.taken() as taken:
            for node in taken:
                held = f"worker::text = any ('{{{','.join(_worker_ids(node))}}}')"
                pids = [node.pid, *node.workers()]
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    await until(lambda: not self._ask(f"select from flux.job_queue where {held}"))  # noqa: B023
                finally:
                    for pid in pids:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)

    async def terminate_backends(self) -> None:
        self._ask(
            "select pg_terminate_backend(pid) from (select pid from pg_stat_activity"
            f" where usename = '{roles.APP}' order by random() limit 4) as unlucky"
        )

    async def cancel(self) -> None:
        await self.enqueuers.cancel_some(3)

    async def poison(self) -> None:
        self.enqueuers.serve_poison()

    async def crash_postgres(self) -> None:
        # QUIT: stop -m immediate; INT: stop -m fast.
        how = self.rng.choice([signal.SIGKILL, signal.SIGQUIT, signal.SIGINT])
        pid = int((self.postgres.data_dir / "postmaster.pid").read_text().split()[0])
        began_at = time.time()
        os.kill(pid, how)
        await until(lambda: not alive(pid))
        await self.postgres.start()
        # Until now: sessions outlive a killed postmaster by a moment.
        self.crashes.append((began_at, time.time()))

    def _ask(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.superuser(), autocommit=True) as conn:
            return conn.execute(sql).fetchall()


def _worker_ids(node: Served) -> list[str]:
    """A worker's name in the queue is that of its journal."""
    return [path.stem for path in node.journals.glob(f"*{SUFFIX}")]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A cluster of its own, fsync on: what was promised must survive the server."""
    with EmbeddedServer(tmp_path / "cluster") as server:
        embedded.prepare(server)
        yield server


@asynccontextmanager
async def battle(tmp_path: Path, postgres: EmbeddedServer, name: str) -> AsyncIterator[Battle]:
    """Serve the project on several nodes while jobs come in; in the end everything is checked."""
    print(f"FLUX_TEST_SEED={SEED} FLUX_TEST_SCALE={SCALE:g} {name}")
    began = tmp_path / "began"
    nodes = []
    for number in range(NODES):
        write_queue_project(tmp_path / f"node{number}", began, DRAIN_S)
        nodes.append(Served(
            tmp_path / f"node{number}", postgres.dsn(roles.APP), postgres.dsn(roles.ADMIN),
            WORKERS, SETTINGS,
        ))  # fmt: skip
    rng = random.Random(f"{SEED} {name}")
    enqueuers = Enqueuers(
        postgres.dsn(roles.ADMIN), [node.port for node in nodes],
        random.Random(f"{SEED} {name} jobs"),
    )  # fmt: skip
    state = Battle(postgres, nodes, enqueuers, rng)
    async with nodes[0].watched(), nodes[1].watched():
        await _at_once([node.start for node in nodes])  # they find the same migrations to do
        began_at = time.monotonic()
        async with trio.open_nursery() as watching:
            watching.start_soon(enqueuers.watch)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enqueuers.run)
                yield state
                enqueuers.end()
            await enqueuers.recount()
            await state.all_finished()
            watching.cancel_scope.cancel()
        took_s = time.monotonic() - began_at
        await _at_once([node.stop for node in nodes])
    evidence = QueueEvidence(state.superuser(), enqueuers.promised, began, state.crashes)
    print(f"{name}: {took_s:.1f} s, {evidence.summary()}")
    violations = evidence.violations()
    assert not violations, f"{len(violations)} violations:\n" + "\n".join(violations[:20])


async def _at_once(doings: list[Callable[[], Awaitable[object]]]) -> None:
    async with trio.open_nursery() as nursery:
        for doing in doings:
            nursery.start_soon(doing)


LASTING = ("kill_supervisor", "drain", "freeze")
ALONE = ("crash_postgres", "terminate_backends")
"""A node whose very start fails does not try again: whoever started it hears of it."""


async def _fight(state: Battle, moves: list[str]) -> None:
    """Do all of it in random order; what lasts goes on beside the rest."""
    jobs = JOBS // (len(moves) + 1)
    async with trio.open_nursery() as nursery:
        for move in moves:
            await state.next_moment(jobs)
            if move in ALONE:
                await until(lambda: not state.away)
            print(f"{state.enqueuers.finished} finished: {move}")
            if move in LASTING:
                nursery.start_soon(getattr(state, move))
            else:
                await getattr(state, move)()
        await state.next_moment(jobs)


async def test_jobs_succeed_once_or_are_dead_whatever_is_killed(
    tmp_path: Path, postgres: EmbeddedServer
) -> None:
    every_round = ["poison", "cancel", "kill_worker", "terminate_backends"]
    by_turns = [["crash_postgres", "freeze"], ["crash_postgres", "kill_supervisor"],
                ["kill_worker", "drain"], ["crash_postgres", "reload"]]  # fmt: skip
    async with battle(tmp_path, postgres, "queue") as state:
        state.rng.shuffle(by_turns)
        moves = []
        for number in range(max(2, round(2 * SCALE))):
            turn = every_round + by_turns[number % len(by_turns)]
            moves += state.rng.sample(turn, len(turn))
        await _fight(state, moves)
