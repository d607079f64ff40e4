"""POST /hello: greets somebody and remembers it."""

from typing import Any

from flux_pg import Context, define_function


@define_function
async def hello(ctx: Context, name: str = "world") -> dict[str, Any]:
    """Greet `name`. Try: curl -X POST localhost:4000/hello -d '{"name":"world"}'"""
    greeting = await ctx.db.table("greetings").insert({"name": name})
    return {"id": greeting["id"], "message": f"Hello, {name}!"}
