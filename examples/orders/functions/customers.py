"""Customers: signing up, and the discount that support may give them."""

from typing import Any

from flux_pg import Context, HttpError, define_function


@define_function(path="/customers")
async def create_customer(ctx: Context, email: str) -> dict[str, Any]:
    """Sign a customer up."""
    return await ctx.db.table("customers").insert({"email": email})


@define_function(path="/customers/{customer_id}/discount", method="PUT")
async def set_discount(ctx: Context, customer_id: int, percent: int) -> dict[str, Any]:
    """Give a customer a discount. Nobody checks that it is at most 100: that is the bug."""
    rows = await ctx.db.table("customers").update(
        {"id": customer_id}, {"discount_percent": percent}
    )
    if not rows:
        raise HttpError(404, f"there is no customer {customer_id}")
    return rows[0]
