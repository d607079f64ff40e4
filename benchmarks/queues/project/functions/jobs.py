"""The jobs that every contender runs."""

import time

from flux_pg import Context, define_function


@define_function
async def noop(ctx: Context, number: int) -> None:
    """Do nothing."""


@define_function
async def insert_effect(ctx: Context, number: int) -> None:
    """Make one durable INSERT."""
    await ctx.db.execute("insert into effects (job, note) values (%s, %s)", [number, "done"])


@define_function
async def pickup(ctx: Context, number: int) -> None:
    """Write down when the job began."""
    began = time.monotonic_ns()
    await ctx.db.execute("insert into pickups values (%s, %s)", [number, began])
