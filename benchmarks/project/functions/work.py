"""The measured work: one INSERT, one UPDATE, one SELECT in one transaction."""

from typing import Any

from flux_pg import Context, define_function


@define_function(path="/work")
async def work(ctx: Context, counter: int, note: str) -> dict[str, Any]:
    """Write an entry, count it, read the count."""
    entry = await ctx.db.fetch_one(
        "insert into entries (counter_id, note) values (%s, %s) returning id", [counter, note]
    )
    await ctx.db.execute("update counters set n = n + 1 where id = %s", [counter])
    count = await ctx.db.fetch_one("select n from counters where id = %s", [counter])
    return {"id": entry["id"], "n": count["n"]}
