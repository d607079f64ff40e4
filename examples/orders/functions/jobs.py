"""What happens behind the shop's counter: a job for each order, and one every evening."""

from typing import Any

from flux_pg import Context, define_function


@define_function(max_attempts=5, backoff="2s")
async def send_confirmation(ctx: Context, order_id: int) -> dict[str, Any]:
    """Tell the customer of an order. `place_order` enqueues it in its own transaction.

    Its row, its record and its end as a job commit together: however often it is tried, the order
    is confirmed once.
    """
    order = await ctx.db.fetch_one(
        "select o.id, o.total_cents, c.email from orders as o"
        " join customers as c on c.id = o.customer_id where o.id = %s",
        [order_id],
    )
    if order is None:
        raise LookupError(f"there is no order {order_id}")
    confirmation = {"order_id": order["id"], "email": order["email"]}
    return await ctx.db.table("confirmations").insert(confirmation)


@define_function(schedule="0 18 * * mon-sat")
async def close_day(ctx: Context) -> dict[str, Any]:
    """Write down what was sold today: every evening when the shop closes."""
    sold = await ctx.db.fetch_one(
        "insert into sales (day, orders, total_cents)"
        " select current_date, count(*), coalesce(sum(total_cents), 0) from orders"
        " where placed_at >= current_date and status = 'placed'"
        " on conflict (day) do update"
        " set orders = excluded.orders, total_cents = excluded.total_cents"
        " returning day, orders, total_cents"
    )
    assert sold is not None
    return sold
