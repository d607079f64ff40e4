"""Several things at once, functions that call functions, and jobs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import trio

from flux_pg import Context, define_function


@define_function
async def gather(ctx: Context, accounts: list[int]) -> dict:
    """Each task reads and draws."""
    found: dict = {}

    async def look(account: int) -> None:
        async with ctx.span("look"):
            row = await ctx.db.fetch_one("select id from accounts where id = %s", [account])
            found[account] = [row["id"], ctx.random(), time.time()]

    async with trio.open_nursery() as nursery:
        for account in accounts:
            nursery.start_soon(look, account)
    return {str(account): found[account] for account in accounts}


@define_function
async def first_come(ctx: Context, n: int) -> dict:
    """The order in which tasks end is part of the answer."""
    order: list = []

    async def run(number: int) -> None:
        await trio.sleep(ctx.random() / 500)
        await ctx.db.query("select %s::int as n", [number])
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(n):
            nursery.start_soon(run, number)
    return {"order": order}


@define_function
async def write_at_once(ctx: Context, account: int, n: int) -> dict:
    """Tasks that write rows with keys from a sequence."""
    ids: list = []

    async def write(number: int) -> None:
        row = await ctx.db.table("entries").insert(
            {"account": account, "amount": number, "note": f"task {number}"}
        )
        ids.append([number, row["amount"]])

    async with trio.open_nursery() as nursery:
        for number in range(n):
            nursery.start_soon(write, number)
    return {"ids": sorted(ids)}


@define_function
def threads(ctx: Context, n: int) -> dict:
    """Threads of the function's own."""
    drawn: dict = {}

    def work(number: int) -> None:
        drawn[number] = time.time_ns()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(n)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with ThreadPoolExecutor(2) as pool:
        pooled = list(pool.map(lambda _: time.perf_counter_ns(), range(n)))
    row = ctx.db.fetch_one("select %s::int as n", [n])
    return {"drawn": drawn, "pooled": pooled, "n": row["n"]}


@define_function
async def in_thread(ctx: Context) -> dict:
    """A blocking part of an async function."""
    return {"ns": await trio.to_thread.run_sync(time.time_ns), "ctx": ctx.now()}


@define_function
async def nested(ctx: Context, account: int, depth: int) -> dict:
    """Calls itself, and another that fails."""
    if depth == 0:
        return await ctx.call("deposit", {"account": account, "amount": "1.00", "note": "nested"})
    try:
        await ctx.call("overdraw", {"account": account})
    except Exception as error:
        told = type(error).__name__
    below = await ctx.call("nested", {"account": account, "depth": depth - 1})
    return {"told": told, "below": below, "r": ctx.random()}


@define_function
async def enqueue(ctx: Context, name: str, fail: int = 0) -> dict:
    """A job in the transaction of its row."""
    await ctx.db.table("parents").insert({"name": name})
    await ctx.queue.push("work", {"name": name, "fail": fail})
    if fail == 9:
        raise RuntimeError("no job after all")
    return {"name": name}


@define_function(max_attempts=3, backoff="10ms")
async def work(ctx: Context, name: str, fail: int = 0) -> dict:
    """Fails as often as it is told, then succeeds."""
    attempt = ctx.job.attempt if ctx.job else 0
    await ctx.db.execute(
        "insert into results values (%s, 'begun', %s) on conflict (name)"
        " do update set attempt = excluded.attempt",
        [name, attempt],
    )
    if attempt <= fail:
        raise RuntimeError(f"{name} fails the {attempt}. time")
    await ctx.db.table("results").update({"name": name}, {"outcome": "done"})
    await ctx.http.post(f"{ctx.env['FIDELITY_SERVICE']}/count", json={"attempt": attempt})
    return {"attempt": attempt, "at": time.time()}
