"""Clock, chance, ids and environment."""

import datetime
import os
import random
import secrets
import time
import uuid
from random import choice, shuffle
from time import time as now_s

from flux_pg import Context, define_function


@define_function
async def clocks(ctx: Context, zone: int = 2) -> dict:
    tz = datetime.timezone(datetime.timedelta(hours=zone))
    return {
        "time": time.time(),
        "bound": now_s(),
        "ns": time.time_ns(),
        "monotonic": time.monotonic(),
        "perf": time.perf_counter_ns(),
        "now": datetime.datetime.now(tz),
        "naive": datetime.datetime.now(),
        "utc": datetime.datetime.now(datetime.UTC).isoformat(),
        "today": datetime.date.today(),
        "local": time.strftime("%Y-%m-%d %H:%M:%S"),
        "parts": list(time.gmtime())[:6],
        "ctx": ctx.now(),
    }


@define_function
async def chance(ctx: Context, sides: int = 6) -> dict:
    cards = list(range(10))
    shuffle(cards)
    own = random.Random()
    return {
        "dice": [random.randint(1, sides) for _ in range(5)],
        "float": random.random(),
        "gauss": random.gauss(0, 1),
        "choice": choice(["a", "b", "c"]),
        "sample": random.sample(range(100), 3),
        "cards": cards,
        "own": own.random(),
        "hex": secrets.token_hex(4),
        "below": secrets.randbelow(1000),
        "bytes": os.urandom(4).hex(),
        "ids": [uuid.uuid4(), uuid.uuid1(), ctx.uuid()],
        "ctx": ctx.random(),
    }


@define_function
def plain_values(ctx: Context, n: int) -> dict:
    """In a thread; writes what it drew."""
    drawn = [random.randint(1, 100) for _ in range(n)]
    name = str(uuid.uuid4())
    ctx.db.table("parents").insert({"name": name})
    return {"drawn": drawn, "name": name, "at": time.time(), "env": os.environ.get("FIDELITY_ENV")}


@define_function
async def environment(ctx: Context) -> dict:
    return {
        "direct": os.environ.get("FIDELITY_ENV", "none"),
        "getenv": os.getenv("FIDELITY_MISSING", "none"),
        "ctx": ctx.env.get("FIDELITY_ENV"),
        "there": "FIDELITY_ENV" in os.environ,
        "secret": os.environ.get("FIDELITY_API_KEY") == "sesame",
    }


@define_function
async def late(ctx: Context, name: str) -> dict:
    """A decision made by the clock, written to a row."""
    even = time.time_ns() % 2 == 0
    await ctx.db.table("parents").insert({"name": f"{name} {'even' if even else 'odd'}"})
    row = await ctx.db.fetch_one("select now() as now, gen_random_uuid() as id")
    return {"even": even, **row}


@define_function(timeout=0.5)
async def too_slow(ctx: Context, name: str, where: str) -> dict:
    import trio

    await ctx.db.table("parents").insert({"name": name})
    if where == "sleep":
        await trio.sleep(60)
    await ctx.db.query("select pg_sleep(60)")
    return {}


@define_function
async def raises(ctx: Context, name: str, how: str) -> dict:
    await ctx.db.table("parents").insert({"name": name})
    if how == "key":
        return {}["nothing"]
    if how == "chained":
        try:
            int(name)
        except ValueError as error:
            raise RuntimeError(f"at {time.time()}") from error
    if how == "group":
        raise ExceptionGroup("several", [ValueError(name), KeyError(name)])
    if how == "unjson":
        return {"value": object()}
    raise LookupError(name)
