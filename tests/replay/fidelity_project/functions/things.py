"""Values of all types, there and back, and rows with defaults and deferred laws."""

import datetime
import uuid
from contextlib import suppress
from decimal import Decimal

import psycopg

from flux_pg import Context, HttpError, define_function


@define_function
async def put_thing(ctx: Context, name: str, seed: int, tags: list[str]) -> dict:
    """Every type, from values that the seed decides."""
    day = datetime.date(2000, 1, 1) + datetime.timedelta(days=seed % 9999)
    thing = await ctx.db.table("things").insert(
        {
            "name": name,
            "kind": "large" if seed % 2 else "small",
            "tags": tags,
            "data": {"seed": seed, "nested": [None, True, {"k": seed / 7}], "text": "ü\t'\"\\"},
            "price": Decimal(seed).scaleb(-3),
            "weight": seed / 3,
            "ratio": seed / 11,
            "raw": seed.to_bytes(8, "big"),
            "day": day,
            "at": datetime.datetime(2001, 2, 3, 4, 5, 6, seed % 1000000, tzinfo=datetime.UTC),
            "span": datetime.timedelta(days=seed % 400, seconds=seed % 86400),
            "numbers": [seed % 7, None, -seed],
            "flag": None if seed % 3 else True,
        }
    )
    return {key: str(value) for key, value in thing.items()}


@define_function(method="GET", path="/things/{name}")
async def show_thing(ctx: Context, name: str) -> dict:
    thing = await ctx.db.table("things").find_one({"name": name})
    if thing is None:
        raise HttpError(404, f"no thing {name}", details={"name": name})
    kinds = {key: type(value).__name__ for key, value in thing.items()}
    raw = thing.pop("raw")
    return {"thing": thing, "kinds": kinds, "raw": bytes(raw).hex()}


@define_function
async def touch_thing(ctx: Context, name: str, amount: int) -> dict:
    """What the database makes of a row: defaults, casts, arithmetic."""
    row = await ctx.db.fetch_one(
        "update things set data = data || jsonb_build_object('touched', %s::int),"
        " numbers = numbers || %s::int, document = to_json(tags), bounds = int4range(0, %s),"
        " price = price * 1.1 where name = %s"
        " returning name, data, numbers, document, bounds, price",
        [amount, amount, abs(amount), name],
    )
    if row is None:
        return {"touched": None}
    return {**row, "bounds": str(row["bounds"])}


@define_function(method="DELETE", path="/things/{name}")
def drop_thing(ctx: Context, name: str) -> dict:
    return {"dropped": ctx.db.execute("delete from things where name = %s", [name])}


@define_function(method="GET", path="/things")
async def list_things(
    ctx: Context, prefix: str = "", limit: int = 5, kinds: tuple[str, ...] = ()
) -> list:
    rows = await ctx.db.query(
        "select name, kind, price, weight from things where name like %s || '%%'"
        " and (%s::text[] = '{}' or kind::text = any (%s)) order by name limit %s",
        [prefix, list(kinds), list(kinds), limit],
    )
    return rows


@define_function
async def twice(ctx: Context, name: str) -> dict:
    """The second insert fails, and is caught."""
    await ctx.db.table("parents").insert({"name": name})
    try:
        async with ctx.db.transaction():
            await ctx.db.table("parents").insert({"name": name})
    except psycopg.errors.UniqueViolation as error:
        told = str(error)
    await ctx.db.table("parents").update({"name": name}, {"name": f"{name}!"})
    return {"told": told, "left": await ctx.db.table("parents").find_one({"name": f"{name}!"})}


@define_function
async def orphan(ctx: Context, name: str, save: bool = False) -> dict:
    """Breaks a deferred law; without `save` it is COMMIT that fails."""
    await ctx.db.table("children").insert({"name": name, "parent": name})
    if save:
        await ctx.db.table("parents").insert({"name": name})
    return {"name": name, "saved": save}


@define_function
async def take_slot(ctx: Context, hour: int, by: str) -> dict:
    """Who comes last has it; many ask for the same."""
    before = await ctx.db.fetch_one(
        "select taken_by from slots where room = 'attic' and hour = %s for update", [hour]
    )
    await ctx.db.execute(
        "insert into slots values ('attic', %s, %s)"
        " on conflict (room, hour) do update set taken_by = excluded.taken_by",
        [hour, by],
    )
    return {"before": before["taken_by"], "id": uuid.uuid5(uuid.NAMESPACE_URL, by)}


@define_function
async def broken_sql(ctx: Context, name: str, how: str) -> dict:
    await ctx.db.table("parents").insert({"name": name})
    if how == "syntax":
        await ctx.db.query("selec 1")
    if how == "zero":
        await ctx.db.query("select 1 / (%s - 1)", [1])
    if how == "table":
        await ctx.db.query("select * from no_such_table")
    if how == "commit":
        await ctx.db.execute("commit")
    if how == "swallowed":
        with suppress(psycopg.errors.DivisionByZero):
            await ctx.db.query("select 1 / 0")
        try:
            await ctx.db.query("select 1")
        except psycopg.Error as error:
            return {"sqlstate": error.sqlstate}
    raise ValueError(how)
