"""The project whose jobs are run while everything around them dies.

Jobs move money between accounts and write into a ledger that would take a second run of a job
without complaint. Each notes in a file that it has begun: what is written there survives every
kill, and says which attempts there must be a record of. Every enqueuing transaction lists its jobs
in `pushed`, so that the queue can be compared with what was committed. Whatever is enqueued by a
transaction that rolls back is a job of `ghost`, so that nobody may ever see one.
"""

from __future__ import annotations

import random
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ACCOUNTS = 60
BALANCE = 1000
LIMIT = 3
PLENTY = 1000
"""Attempts of jobs that must not die of what is done to their workers."""

SCHEMA = f"""
create table accounts (id int primary key, balance bigint not null);
create table ledger (
    id bigint primary key generated always as identity,
    job_id uuid not null,
    request_id uuid not null,
    step int not null,
    source int not null,
    target int not null,
    amount bigint not null
);
create table pushed (job_id uuid primary key, function text not null, key text);
insert into accounts select g, {BALANCE} from generate_series(1, {ACCOUNTS}) as g;
"""

Fate = Literal["succeeds", "dies", "either"]


@dataclass(frozen=True)
class Kind:
    """What is true of the jobs of one function.

    Attributes:
        weight: How often it comes among the others.
        fate: What becomes of it unless somebody cancels it.
        steps: Entries in the ledger of an attempt that succeeded.
        single: Whether an attempt is one transaction: then all others leave nothing.
        attempts: How many it has if it dies; 0 if it dies before they are used up.
    """

    weight: int
    fate: Fate = "succeeds"
    steps: int = 1
    single: bool = True
    attempts: int = 0


KINDS = {
    "move": Kind(460),
    "move_plain": Kind(100),
    "move_serial": Kind(30),
    "move_crossed": Kind(60),
    "move_slowly": Kind(50),
    "outlasts_drain": Kind(4),
    "shaky": Kind(90),
    "hopeless": Kind(40, "dies", attempts=3),
    "too_late": Kind(4, "dies", attempts=2),
    "misfit": Kind(10, "dies"),
    "several": Kind(60, steps=3, single=False),
    "parent": Kind(60),
    "limited": Kind(60),
    "poison": Kind(0, "dies", attempts=2),  # each costs two workers: the test counts them out
}

FUNCTIONS = """
import os
import time

import trio

from flux_pg import Backoff, Context, define_function

_BEGAN = os.open({began!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
SOON = Backoff(base_s=0.05, factor=1.5, limit_s=1)

LEDGER = (
    "insert into ledger (job_id, request_id, step, source, target, amount)"
    " values (%s, %s, %s, %s, %s, %s)"
)
CHANGE = "update accounts set balance = balance + %s where id = %s"
PUSHED = "insert into pushed values (%s, %s, %s) on conflict do nothing"


def job(**options):
    return define_function(**{{"backoff": SOON, "max_attempts": {plenty}, **options}})


def begin(ctx):
    os.write(_BEGAN, f"{{ctx.request_id}} {{ctx.job.id}} {{ctx.job.attempt}}\\n".encode())


def changes(source, target, amount):
    return sorted([(-amount, source), (amount, target)], key=lambda change: change[1])


def entry(ctx, source, target, amount, step=1):
    return [ctx.job.id, ctx.request_id, step, source, target, amount]


async def transfer(ctx, source, target, amount, step=1):
    await ctx.db.execute(LEDGER, entry(ctx, source, target, amount, step))
    for change in changes(source, target, amount):
        await ctx.db.execute(CHANGE, change)


async def push_all(ctx, jobs):
    pushed = []
    for one in jobs:
        options = one.get("options", {{}})
        job_id = await ctx.queue.push(one["function"], one["payload"], **options)
        await ctx.db.execute(PUSHED, [job_id, one["function"], options.get("idempotency_key")])
        pushed.append(job_id)
    return pushed


@job()
async def move(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)


@job()
def move_plain(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    ctx.db.execute(LEDGER, entry(ctx, source, target, amount))
    for change in changes(source, target, amount):
        ctx.db.execute(CHANGE, change)


@job(isolation="serializable", retries=5)
async def move_serial(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)


@job()
async def move_crossed(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await ctx.db.execute(LEDGER, entry(ctx, source, target, amount))
    await ctx.db.execute(CHANGE, [-amount, source])
    await ctx.db.execute(CHANGE, [amount, target])


@job()
async def move_slowly(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await ctx.db.execute("select pg_sleep(%s)", [amount / 500])
    await transfer(ctx, source, target, amount)
    await trio.sleep(amount / 500)


@job()
async def outlasts_drain(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await ctx.db.execute(LEDGER, entry(ctx, source, target, amount))
    await trio.sleep({drain_s} + 0.5)
    for change in changes(source, target, amount):
        await ctx.db.execute(CHANGE, change)


@job()
async def shaky(ctx: Context, source: int, target: int, amount: int, fails: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)
    if ctx.job.attempt <= fails:
        if amount % 2:
            await ctx.db.execute("select 1 / 0")
        raise RuntimeError("as it was meant to be")


@job(max_attempts=3)
async def hopeless(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)
    await push_all(ctx, [{{"function": "ghost", "payload": {{}}}}])
    raise RuntimeError("as it was meant to be")


@job(max_attempts=2, timeout=0.3)
async def too_late(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await ctx.db.execute(LEDGER, entry(ctx, source, target, amount))
    await ctx.db.execute("select pg_sleep(60)")


@job()
async def misfit(ctx: Context, source: int, target: int, amount: int, missing: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)


@job(transaction=False)
async def several(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    for step in (1, 2, 3):
        async with ctx.db.transaction():
            await transfer(ctx, source, target, amount, step)
        await trio.sleep(0.005)


@job()
async def parent(ctx: Context, source: int, target: int, amount: int, jobs: list):
    begin(ctx)
    await transfer(ctx, source, target, amount)
    await push_all(ctx, jobs)
    try:
        async with ctx.db.transaction():
            await push_all(ctx, [{{"function": "ghost", "payload": {{}}}}])
            raise KeyError("as it was meant to be")
    except KeyError:
        pass


@job(concurrency={limit})
async def limited(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await trio.sleep(amount / 1000)
    await transfer(ctx, source, target, amount)


@job(max_attempts=2)
async def poison(ctx: Context, source: int, target: int, amount: int):
    begin(ctx)
    await transfer(ctx, source, target, amount)
    os._exit(7)


@job()
async def ghost(ctx: Context):
    begin(ctx)


@define_function
async def order(ctx: Context, jobs: list, fails: str = ""):
    pushed = await push_all(ctx, jobs)
    if fails == "python":
        raise RuntimeError("as it was meant to be")
    if fails == "sql":
        await ctx.db.execute("select 1 / 0")
    return pushed
"""


class Mix:
    """Draws jobs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def job(self, kind: str = "", depth: int = 0) -> dict[str, Any]:
        """One job: function, payload, options of the push."""
        rng = self._rng
        kind = kind or rng.choices(list(KINDS), [one.weight for one in KINDS.values()])[0]
        source, target = rng.sample(range(1, ACCOUNTS + 1), 2)
        payload: dict[str, Any] = {"source": source, "target": target, "amount": rng.randint(1, 40)}
        if kind == "shaky":
            payload["fails"] = rng.randint(1, 3)
        if kind == "parent":
            # Grandchildren, but not for ever.
            kinds = ["move", "shaky", "limited", "parent"][: 4 if depth < 2 else 3]
            payload["jobs"] = [
                self.job(rng.choice(kinds), depth + 1) for _ in range(rng.randint(1, 3))
            ]
        options: dict[str, Any] = {}
        if rng.random() < 0.3:
            options["priority"] = rng.choice([-10, 5, 5, 100])
        if rng.random() < 0.1:
            options["delay"] = round(rng.uniform(0.05, 1.5), 3)
        return {"function": kind, "payload": payload, "options": options}

    def ghost(self) -> dict[str, Any]:
        """A job that nobody may ever see."""
        return {"function": "ghost", "payload": {}}


def write_queue_project(folder: Path, began: Path, drain_s: float) -> None:
    """Write the project of one node."""
    (folder / "functions").mkdir(parents=True)
    (folder / "migrations").mkdir()
    (folder / "flux.toml").write_text('[project]\nname = "chaos"\n')
    (folder / "migrations" / "0001_tables.sql").write_text(SCHEMA)
    source = textwrap.dedent(FUNCTIONS).format(
        began=str(began), plenty=PLENTY, limit=LIMIT, drain_s=drain_s
    )
    (folder / "functions" / "jobs.py").write_text(source)
    began.touch()
