"""The project that is put under load: its tables, its functions, and what each function promises.

Every row that a function writes names its request and the client's tag, so that the tables can be
compared with the log row by row. Each function notes in a file that it has begun: what is written
there survives every kill, and says which requests there must be a record of.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

COUNTERS = 6

SCHEMA = f"""
create table entries (
    id bigint primary key generated always as identity,
    request_id uuid not null,
    tag uuid not null,
    step int not null,
    state text not null default 'new' check (state <> 'forbidden')
);
create table counters (id int primary key, n bigint not null, request_id uuid, tag uuid);
create table children (
    id bigint primary key generated always as identity,
    request_id uuid not null,
    tag uuid not null,
    step int not null,
    parent bigint references entries deferrable initially deferred
);
insert into counters select g, 0 from generate_series(1, {COUNTERS}) as g;
"""


@dataclass(frozen=True)
class Promise:
    """What is true of a function's committed rows.

    Attributes:
        steps: The steps of `entries` and `children` that exist after outcome `ok`.
        counted: How often it counts.
        status: The answer if nothing happens to it; None where there is never one.
        single: Whether it is one transaction: then there is nothing unless it is `ok`.
        effects: Whether it commits anything when it is `ok`.
        within: Steps that may exist whatever the outcome (functions that commit several times).
    """

    steps: tuple[int, ...] = ()
    counted: int = 0
    status: int | None = 200
    single: bool = True
    within: tuple[int, ...] = field(default=())

    @property
    def effects(self) -> bool:
        return bool(self.steps or self.counted)


PROMISES = {
    "create": Promise((1,), 1),
    "lingering": Promise((1,), 1),
    "raised": Promise(status=500),
    "sql_error": Promise(status=500),
    "refused": Promise(status=409),
    "deferred": Promise(status=500),
    "part": Promise((1, 3), 1),
    "called": Promise((1, 4), 1),
    "called_in_vain": Promise(status=500),
    "answers": Promise((10,), 1),
    "fails": Promise(status=500),
    "plain": Promise((1,), 1),
    "plain_part": Promise((1, 3)),
    "plain_slow": Promise(status=504),
    "many": Promise(tuple(range(1, 71))),
    "many_in_vain": Promise(status=500),
    "slow_statement": Promise(status=504),
    "slow_function": Promise(status=504),
    "watched": Promise((1,), 0),
    "several": Promise((1, 2, 4), 1, single=False, within=(1, 2, 4)),
    "several_in_vain": Promise(status=500, single=False, within=(1, 2)),
    "several_slow": Promise(status=504, single=False, within=(1,)),
    "several_calling": Promise((1, 2, 4), single=False, within=(1, 2, 4)),
    "several_called": Promise((1, 2), single=False, within=(1, 2)),
    "serial": Promise((1,), 1),
    "crossed": Promise((1,), 2),
    "nothing": Promise(),
    "nothing_strict": Promise(),
    "reads": Promise(),
    "blocked": Promise(status=None),
    "blocked_awhile": Promise((1,), 0),
}

FUNCTIONS = """
import os
import time

import trio

from flux_pg import Context, HttpError, define_function

_BEGAN = os.open({began!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def begin(ctx, tag, function):
    os.write(_BEGAN, f"{{tag}} {{ctx.request_id}} {{function}}\\n".encode())


INSERT = "insert into entries (request_id, tag, step) values (%s, %s, %s) returning id"
CHILD = "insert into children (request_id, tag, step, parent) values (%s, %s, %s, %s)"
COUNT = "update counters set n = n + 1, request_id = %s, tag = %s where id = %s"
DONE = "update entries set state = 'done' where request_id = %s and step = %s"


async def insert(ctx, tag, step):
    return (await ctx.db.fetch_one(INSERT, [ctx.request_id, tag, step]))["id"]


async def count(ctx, tag, counter):
    await ctx.db.execute(COUNT, [ctx.request_id, tag, counter])


@define_function
async def create(ctx: Context, tag: str, counter: int = 1, extra: str = ""):
    begin(ctx, tag, "create")
    await insert(ctx, tag, 1)
    await count(ctx, tag, counter)
    await ctx.db.execute(DONE, [ctx.request_id, 1])
    return await ctx.db.fetch_one("select n from counters where id = %s", [counter])


@define_function
async def lingering(ctx: Context, tag: str, counter: int = 1, pause: float = 0.2):
    begin(ctx, tag, "lingering")
    parent = await insert(ctx, tag, 1)
    await ctx.db.execute("select pg_sleep(%s)", [pause / 2])
    await trio.sleep(pause / 2)
    await ctx.db.execute(CHILD, [ctx.request_id, tag, 1, parent])
    await count(ctx, tag, counter)
    return "done"


@define_function
async def raised(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "raised")
    await insert(ctx, tag, 1)
    await count(ctx, tag, counter)
    raise ValueError("as it was meant to be")


@define_function
async def sql_error(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "sql_error")
    await insert(ctx, tag, 1)
    await insert(ctx, tag, 2)
    await ctx.db.execute(
        "update entries set state = 'forbidden' where request_id = %s", [ctx.request_id]
    )


@define_function
async def refused(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "refused")
    await insert(ctx, tag, 1)
    raise HttpError(409, "already there")


@define_function
async def deferred(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "deferred")
    await insert(ctx, tag, 1)
    await count(ctx, tag, counter)
    await ctx.db.execute(CHILD, [ctx.request_id, tag, 2, -1])
    return "never"


@define_function
async def part(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "part")
    await insert(ctx, tag, 1)
    try:
        async with ctx.db.transaction():
            await insert(ctx, tag, 2)
            await count(ctx, tag, counter)
            await ctx.db.execute("select 1 / 0")
    except Exception as error:
        if type(error).__name__ != "DivisionByZero":
            raise
    async with ctx.db.transaction():
        await count(ctx, tag, counter)
    await insert(ctx, tag, 3)
    return "done"


@define_function
async def answers(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "answers")
    await insert(ctx, tag, 10)
    await count(ctx, tag, counter)
    return "done"


@define_function
async def fails(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "fails")
    await insert(ctx, tag, 11)
    raise KeyError("as it was meant to be")


@define_function
async def called(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "called")
    await insert(ctx, tag, 1)
    try:
        await ctx.call("fails", {{"tag": tag, "counter": counter}})
    except KeyError:
        pass
    await ctx.call("answers", {{"tag": tag, "counter": counter}})
    await count(ctx, tag, counter)
    await insert(ctx, tag, 4)
    return "done"


@define_function
async def called_in_vain(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "called_in_vain")
    await insert(ctx, tag, 1)
    await ctx.call("answers", {{"tag": tag, "counter": counter}})
    raise ValueError("as it was meant to be")


@define_function
def plain(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "plain")
    ctx.db.execute(INSERT, [ctx.request_id, tag, 1])
    ctx.db.execute(COUNT, [ctx.request_id, tag, counter])
    return "done"


@define_function
def plain_part(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "plain_part")
    ctx.db.execute(INSERT, [ctx.request_id, tag, 1])
    try:
        with ctx.db.transaction():
            ctx.db.execute(INSERT, [ctx.request_id, tag, 2])
            raise KeyError("as it was meant to be")
    except KeyError:
        pass
    ctx.db.execute(INSERT, [ctx.request_id, tag, 3])
    return "done"


@define_function(timeout=0.4)
def plain_slow(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "plain_slow")
    ctx.db.execute(INSERT, [ctx.request_id, tag, 1])
    if counter % 2:
        ctx.db.execute("select pg_sleep(60)")
    time.sleep(0.6)
    ctx.db.execute(INSERT, [ctx.request_id, tag, 2])


@define_function
async def many(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "many")
    for step in range(1, 71):
        await insert(ctx, tag, step)
    return "done"


@define_function
async def many_in_vain(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "many_in_vain")
    for step in range(1, 71):
        await insert(ctx, tag, step)
    await ctx.db.execute("select 1 / 0")


@define_function(timeout=0.4)
async def slow_statement(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "slow_statement")
    await insert(ctx, tag, 1)
    await ctx.db.execute("select pg_sleep(60)")


@define_function(timeout=0.4)
async def slow_function(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "slow_function")
    await insert(ctx, tag, 1)
    await trio.sleep(60)


@define_function(cancel_on_disconnect=True)
async def watched(ctx: Context, tag: str, counter: int = 1, pause: float = 0.2):
    begin(ctx, tag, "watched")
    await insert(ctx, tag, 1)
    await ctx.db.execute("select pg_sleep(%s)", [pause])
    return "done"


@define_function(transaction=False)
async def several(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "several")
    await insert(ctx, tag, 1)
    async with ctx.db.transaction():
        await insert(ctx, tag, 2)
        await count(ctx, tag, counter)
    try:
        async with ctx.db.transaction():
            await insert(ctx, tag, 3)
            raise KeyError("as it was meant to be")
    except KeyError:
        pass
    await trio.sleep(0.02)
    await insert(ctx, tag, 4)
    return "done"


@define_function(transaction=False)
async def several_in_vain(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "several_in_vain")
    await insert(ctx, tag, 1)
    async with ctx.db.transaction():
        await insert(ctx, tag, 2)
    async with ctx.db.transaction():
        await insert(ctx, tag, 3)
        await ctx.db.execute("select 1 / 0")


@define_function(transaction=False, timeout=0.4)
async def several_slow(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "several_slow")
    await insert(ctx, tag, 1)
    async with ctx.db.transaction():
        await insert(ctx, tag, 2)
        await trio.sleep(60)


@define_function(transaction=False)
async def several_calling(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "several_calling")
    await insert(ctx, tag, 1)
    async with ctx.db.transaction():
        await insert(ctx, tag, 2)
        await ctx.call("answers", {{"tag": tag, "counter": counter}})
    try:
        async with ctx.db.transaction():
            await ctx.call("answers", {{"tag": tag, "counter": counter}})
            raise KeyError("as it was meant to be")
    except KeyError:
        pass
    await ctx.call("several_called", {{"tag": tag, "counter": counter}})
    await ctx.call("answers", {{"tag": tag, "counter": counter}})
    await insert(ctx, tag, 4)
    return "done"


@define_function(transaction=False)
async def several_called(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "several_called")
    await insert(ctx, tag, 1)
    await trio.sleep(0.02)
    await insert(ctx, tag, 2)
    return "done"


@define_function(isolation="serializable", retries=5)
async def serial(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "serial")
    await ctx.db.query("select sum(n) from counters")
    await insert(ctx, tag, 1)
    await count(ctx, tag, counter)
    return "done"


@define_function(retries=3)
async def crossed(ctx: Context, tag: str, counter: int = 1, other: int = 2):
    begin(ctx, tag, "crossed")
    await insert(ctx, tag, 1)
    await count(ctx, tag, counter)
    await trio.sleep(0)
    await count(ctx, tag, other)
    return "done"


@define_function
async def nothing(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "nothing")
    return "nothing"


@define_function(durability="strict")
async def nothing_strict(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "nothing_strict")
    return "nothing"


@define_function
async def reads(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "reads")
    return await ctx.db.query("select id, n from counters order by id")


@define_function(timeout=1)
async def blocked(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "blocked")
    await insert(ctx, tag, 1)
    while True:
        pass


@define_function
async def blocked_awhile(ctx: Context, tag: str, counter: int = 1):
    begin(ctx, tag, "blocked_awhile")
    await insert(ctx, tag, 1)
    time.sleep(0.7)
    return "done"
"""

# How often each comes among a thousand. Blocked loops are sent by the test itself: each costs the
# requests beside it seconds.
WEIGHTS = {
    "create": 220,
    "lingering": 120,
    "raised": 60,
    "sql_error": 60,
    "refused": 40,
    "deferred": 50,
    "part": 60,
    "called": 40,
    "called_in_vain": 25,
    "plain": 60,
    "plain_part": 30,
    "plain_slow": 8,
    "many": 8,
    "many_in_vain": 8,
    "slow_statement": 10,
    "slow_function": 10,
    "watched": 30,
    "several": 80,
    "several_in_vain": 30,
    "several_slow": 8,
    "several_calling": 25,
    "serial": 30,
    "crossed": 40,
    "nothing": 60,
    "nothing_strict": 20,
    "reads": 40,
}


def write_project(folder: Path) -> Path:
    """Write the project; returns the file in which functions note that they have begun."""
    began = folder / "began"
    (folder / "functions").mkdir(parents=True)
    (folder / "migrations").mkdir()
    (folder / "flux.toml").write_text('[project]\nname = "chaos"\n')
    (folder / "migrations" / "0001_tables.sql").write_text(SCHEMA)
    source = textwrap.dedent(FUNCTIONS).format(began=str(began))
    (folder / "functions" / "main.py").write_text(source)
    began.touch()
    return began
