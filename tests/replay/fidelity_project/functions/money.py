"""Reads and writes of rows that other requests change at the same time."""

from decimal import Decimal

import psycopg
import trio

from flux_pg import Context, HttpError, define_function


@define_function
async def deposit(ctx: Context, account: int, amount: Decimal, note: str = "") -> dict:
    row = await ctx.db.fetch_one(
        "update accounts set balance = balance + %s, version = version + 1 where id = %s"
        " returning id, balance, version",
        [amount, account],
    )
    entry = await ctx.db.table("entries").insert(
        {"account": account, "amount": amount, "note": note}
    )
    return {"account": row, "entry": entry}


@define_function
async def transfer(ctx: Context, source: int, target: int, amount: Decimal) -> dict:
    """Locks in the order of ids, reads, decides, writes."""
    rows = await ctx.db.query(
        "select id, balance from accounts where id = any (%s) order by id for update",
        [sorted({source, target})],
    )
    balances = {row["id"]: row["balance"] for row in rows}
    if balances[source] < amount:
        raise HttpError(409, "not enough", code="poor", details={"balance": str(balances[source])})
    for account, change in ((source, -amount), (target, amount)):
        await ctx.db.execute(
            "update accounts set balance = balance + %(change)s, version = version + 1"
            " where id = %(account)s",
            {"change": change, "account": account},
        )
        await ctx.db.table("entries").insert(
            {"account": account, "amount": change, "note": f"{source} to {target}"}
        )
    return {"was": balances, "now": {source: balances[source] - amount}}


@define_function(isolation="serializable", retries=5)
async def rebalance(ctx: Context, low: int, high: int) -> dict:
    """Conflicts with others of its kind, and is then run again."""
    rows = await ctx.db.query(
        "select id, balance from accounts where id between %s and %s order by id", [low, high]
    )
    mean = sum(row["balance"] for row in rows) // len(rows)
    poorest = min(rows, key=lambda row: (row["balance"], row["id"]))
    await ctx.db.execute("update accounts set version = version + 1 where id = %s", [poorest["id"]])
    return {"mean": mean, "poorest": poorest["id"]}


@define_function(isolation="repeatable read")
async def audit(ctx: Context, account: int) -> dict:
    first = await ctx.db.fetch_one("select version from accounts where id = %s", [account])
    await trio.sleep(0.001)
    again = await ctx.db.fetch_one("select version from accounts where id = %s", [account])
    return {"steady": first == again, "version": first["version"]}


@define_function(method="GET", path="/accounts/{account}")
async def show_account(ctx: Context, account: int, last: int = 3) -> dict:
    found = await ctx.db.fetch_one(
        "select a.id, a.balance, a.version, t.entries, t.amount"
        " from accounts as a join totals as t on t.account = a.id where a.id = %s",
        [account],
    )
    if found is None:
        raise HttpError(404, f"no account {account}")
    entries = await ctx.db.table("entries").find({"account": account}, order="-id", limit=last)
    return {"account": found, "entries": [(one["amount"], one["note"]) for one in entries]}


@define_function
async def overdraw(ctx: Context, account: int) -> dict:
    await ctx.db.table("entries").insert({"account": account, "amount": -1, "note": "vain"})
    await ctx.db.execute("update accounts set balance = -1 where id = %s", [account])
    return {}


@define_function
async def try_overdraw(ctx: Context, account: int) -> dict:
    told = []
    for amount in (Decimal("1000000.00"), Decimal("0.01")):
        try:
            async with ctx.db.transaction():
                await ctx.db.execute(
                    "update accounts set balance = balance - %s where id = %s", [amount, account]
                )
        except psycopg.errors.CheckViolation as error:
            told.append([error.sqlstate, error.diag.constraint_name, error.diag.table_name])
    row = await ctx.db.fetch_one("select balance from accounts where id = %s", [account])
    return {"told": told, "balance": row["balance"]}


@define_function(transaction=False)
async def in_steps(ctx: Context, account: int, name: str, fail: bool = False) -> dict:
    """Commits three times, or twice and fails."""
    await ctx.db.execute("insert into parents values (%s)", [name])
    async with ctx.db.transaction():
        await ctx.db.execute("update accounts set version = version + 1 where id = %s", [account])
        await ctx.db.execute("insert into children values (%s, %s)", [f"{name}/1", name])
    try:
        async with ctx.db.transaction():
            await ctx.db.execute("insert into children values (%s, %s)", [f"{name}/2", "nobody"])
    except psycopg.errors.ForeignKeyViolation as error:
        told = error.diag.constraint_name
    if fail:
        raise RuntimeError(f"{name} stops here")
    rows = await ctx.db.query("select name from children where parent = %s", [name])
    return {"told": told, "children": [row["name"] for row in rows]}
