"""Orders: placing one takes the stock, writes the lines and the total in one transaction."""

from typing import Any

import msgspec

from flux_pg import Context, HttpError, define_function


class Line(msgspec.Struct):
    """One position of an order."""

    sku: str
    quantity: int


@define_function(path="/orders")
async def place_order(ctx: Context, customer_id: int, lines: list[Line]) -> dict[str, Any]:
    """Place an order."""
    customer = await ctx.db.table("customers").find_one({"id": customer_id})
    if customer is None:
        raise HttpError(404, f"there is no customer {customer_id}")
    order = await ctx.db.table("orders").insert({"customer_id": customer_id, "total_cents": 0})
    total_cents = 0
    for line in lines:
        total_cents += await _add_line(ctx, order["id"], line)
    total_cents = total_cents * (100 - customer["discount_percent"]) // 100
    if total_cents < 0:
        raise ValueError(f"order {order['id']} would cost {total_cents} cents")
    (placed,) = await ctx.db.table("orders").update(
        {"id": order["id"]}, {"total_cents": total_cents, "status": "placed"}
    )
    # In this transaction: no order without its confirmation, and none without an order.
    await ctx.queue.push("send_confirmation", {"order_id": placed["id"]})
    ctx.log.info("order placed", order=placed["id"], total_cents=total_cents)
    return placed


async def _add_line(ctx: Context, order_id: int, line: Line) -> int:
    """Take the stock and write the line; the price it comes to, in cents."""
    product = await ctx.db.fetch_one(
        "update products set stock = stock - %s where sku = %s returning price_cents",
        [line.quantity, line.sku],
    )
    if product is None:
        raise HttpError(404, f"there is no product {line.sku}")
    price_cents: int = product["price_cents"]
    await ctx.db.table("order_lines").insert(
        {
            "order_id": order_id,
            "sku": line.sku,
            "quantity": line.quantity,
            "price_cents": price_cents,
        }
    )
    return price_cents * line.quantity


@define_function(path="/orders/{order_id}", method="GET")
async def show_order(ctx: Context, order_id: int) -> dict[str, Any]:
    """An order with its lines."""
    order = await ctx.db.table("orders").find_one({"id": order_id})
    if order is None:
        raise HttpError(404, f"there is no order {order_id}")
    lines = await ctx.db.table("order_lines").find({"order_id": order_id}, order="sku")
    return {**order, "lines": lines}
