"""Scratch databases against pg_dump, over random workloads whose writers never stop.

A moment is taken while the transactions of several sessions are open; later they commit or roll
back, go on, and go on while the scratch database is made. The seed is printed; FLUX_TEST_SEED
repeats a run, FLUX_TEST_SCALE multiplies its rounds.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trio

from tests.conftest import Database, Server
from tests.oracle.workload import SCHEMA, Session, Workload
from tests.replay.scratch import dump, rows, run, scratch_of

SCALE = float(os.environ.get("FLUX_TEST_SCALE", "1"))
pytestmark = pytest.mark.timeout(300 * max(1.0, SCALE))

# Inserted into and updated only: what their sequences gave out can be read back from them.
DRAWN = ("drawn", "drawn_too")
DRAWN_SCHEMA = (
    "create table drawn (id bigint generated always as identity (start with 5), a int, primary key"
    " (id))",
    "create table drawn_too (id serial primary key, a int unique)",
)


class DrawingWorkload(Workload):
    """The oracle's sessions, which also draw from sequences, in vain at times."""

    def _act(self, session: Session) -> None:
        if self.dice.random() < 0.75:
            super()._act(session)
            return
        many, few = self.dice.randrange(10**9), self.dice.randrange(40)
        session.conn.execute(
            self.dice.choice(
                [
                    f"insert into drawn (a) select {many} from generate_series(1, {few % 3 + 1})",
                    f"insert into drawn_too (a) values ({few}) on conflict do nothing",
                    f"insert into drawn_too (a) values ({many})",
                    f"update drawn set a = {many} where id % 7 = {few % 7}",
                ]
            ).encode()
        )


@dataclass(frozen=True)
class Moment:
    """What a snapshot saw, and what pg_dump says of it."""

    snapshot: str
    told: dict[str, list[str]]
    ids: dict[str, set[int]]


def ids_of(conninfo: str) -> dict[str, set[int]]:
    return {table: {row[0] for row in rows(conninfo, f"select id from {table}")} for table in DRAWN}


def take_moment(database: Database, workload: Workload) -> Moment:
    """Dump the database while the sessions' transactions stay open.

    Where one of them has truncated a table and keeps everybody out, they first go on.
    """
    while True:
        with psycopg.connect(database.superuser, autocommit=True) as conn:
            conn.execute("begin isolation level repeatable read")
            row = conn.execute(
                "select pg_current_snapshot()::text, pg_export_snapshot()"
            ).fetchone()
            assert row is not None
            try:
                conn.execute("set local lock_timeout = '100ms'")
                conn.execute("lock table plain in access share mode")
                ids = {
                    table: {i for (i,) in conn.execute(f"select id from {table}".encode())}
                    for table in DRAWN
                }
            except psycopg.errors.LockNotAvailable:
                workload.step()
                continue
            return Moment(row[0], dump(database.superuser, row[1]), ids)


def expected(moment: Moment, ever: dict[str, set[int]]) -> dict[str, list[str]]:
    """The dump, with each sequence at the first value it gave since to a row that is there now."""
    told = dict(moment.told)
    gave = {}
    for table in DRAWN:
        before = moment.ids[table]
        since = {i for i in ever[table] - before if i > max(before, default=0)}
        gave[f"public.{table}_id_seq"] = min(since)
    told["sequences"] = [f"{name} {value}" for name, value in sorted(gave.items())]
    return told


@asynccontextmanager
async def writing(workload: Workload) -> AsyncIterator[None]:
    """The sessions go on in a thread for the time of the block."""
    enough = threading.Event()

    def go_on() -> None:
        while not enough.is_set():
            workload.step()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, go_on)
        try:
            yield
        finally:
            enough.set()


async def check_round(
    database: Database, workload: DrawingWorkload, holder: Server, tmp_path: Path
) -> None:
    """A scratch database at a moment, rolled forward to a later one; since then columns differ."""
    steps = workload.dice.randrange(20, 60)
    for _ in range(steps):
        workload.step()
    first = take_moment(database, workload)
    for _ in range(steps):
        workload.step()
    second = take_moment(database, workload)
    for _ in range(steps):
        workload.step()
    workload.change_shape()
    run(database.admin, *(f"insert into {table} (a) values (-{steps})" for table in DRAWN))
    ever = ids_of(database.superuser)
    async with writing(workload), scratch_of(database, first.snapshot, holder, tmp_path) as made:
        assert (made.refused, made.partial) == ((), False)
        assert dump(made.admin_url) == expected(first, ever)
        run(made.admin_url, "delete from plain", "delete from child", "delete from busy")
        await made.roll_forward(second.snapshot)
        assert dump(made.admin_url) == expected(second, ever)


async def test_the_state_at_random_moments_is_what_pg_dump_said(
    database: Database, pg18: Server, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FLUX_TEST_SEED", random.SystemRandom().randrange(10**6)))
    rounds = max(1, round(SCALE))
    print(f"FLUX_TEST_SEED={seed} rounds={rounds}")
    run(database.admin, SCHEMA, *DRAWN_SCHEMA)
    workload = DrawingWorkload(database.admin, seed)
    workload.connect(5)
    try:
        for _ in range(rounds):
            await check_round(database, workload, pg18, tmp_path)
    finally:
        workload.close()
    assert workload.committed > 10 * rounds
