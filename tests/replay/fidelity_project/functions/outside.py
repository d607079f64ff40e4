"""The outside: services that answer, refuse, hang up, take too long."""

import json
import os
import urllib.request

import httpx

from flux_pg import Context, HttpError, define_function

SERVICE = os.environ["FIDELITY_SERVICE"]


@define_function
async def ask(ctx: Context, text: str, times: int = 1) -> dict:
    """The service counts: no two answers are alike."""
    answers = []
    for number in range(times):
        answer = await ctx.http.post(
            f"{SERVICE}/count?n={number}", json={"text": text}, headers={"x-trace": ctx.request_id}
        )
        answers.append([answer.status_code, answer.json(), answer.headers["x-number"]])
    return {"answers": answers}


@define_function
async def ask_plainly(ctx: Context, text: str, status: int = 200) -> dict:
    """httpx as it is."""
    async with httpx.AsyncClient(base_url=SERVICE) as client:
        answer = await client.get(f"/status/{status}", params={"text": text})
        try:
            answer.raise_for_status()
            told = "fine"
        except httpx.HTTPStatusError as error:
            told = str(error)
    return {"told": told, "body": answer.text, "took": answer.elapsed.total_seconds()}


@define_function(timeout=20)
def ask_in_thread(ctx: Context, text: str) -> dict:
    """Blocking clients in a plain function."""
    first = httpx.post(f"{SERVICE}/count", content=text.encode()).json()
    with urllib.request.urlopen(f"{SERVICE}/status/200?text=x") as answer:
        second = json.loads(answer.read())
    third = ctx.http.get(f"{SERVICE}/status/200", params={"text": text}).json()
    return {"answers": [first, second, third]}


@define_function(transaction=False)
async def ask_too_long(ctx: Context, name: str) -> dict:
    """The service takes too long; so it is written down."""
    try:
        await ctx.http.get(f"{SERVICE}/silence", timeout=0.05)
        told = "answered"
    except httpx.ReadTimeout:
        told = "timeout"
    await ctx.db.table("parents").insert({"name": f"{name} {told}"})
    return {"told": told}


@define_function
async def ask_nobody(ctx: Context, how: str) -> dict:
    """A connection that is cut, or never made."""
    url = f"{SERVICE}/hangup" if how == "hangup" else "http://127.0.0.1:9/"
    try:
        await ctx.http.get(url)
    except httpx.HTTPError as error:
        return {"error": type(error).__name__}
    return {}


@define_function
async def fetch(ctx: Context, size: int) -> dict:
    """Binary, compressed and streamed bodies."""
    plain = await ctx.http.get(f"{SERVICE}/bytes/{size}")
    packed = await ctx.http.get(f"{SERVICE}/gzip/{size}")
    pieces = []
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", f"{SERVICE}/chunks/{size}") as answer,
    ):
        async for piece in answer.aiter_bytes():
            pieces.append(piece)
    return {
        "equal": plain.content == packed.content == b"".join(pieces),
        "size": len(plain.content),
        "head": plain.content[:8].hex(),
        "type": plain.headers["content-type"],
    }


@define_function
async def follow(ctx: Context) -> dict:
    """Redirects and the cookies of a client."""
    async with httpx.AsyncClient(follow_redirects=True) as client:
        answer = await client.get(f"{SERVICE}/redirect")
        return {
            "history": [one.status_code for one in answer.history],
            "url": str(answer.url).removeprefix(SERVICE),
            "seen": answer.json(),
        }


@define_function
async def buy(ctx: Context, account: int, item: str) -> dict:
    """Rows and the outside together, with a failure that depends on the answer."""
    row = await ctx.db.fetch_one("select balance from accounts where id = %s", [account])
    answer = await ctx.http.post(f"{SERVICE}/price", json={"item": item})
    if answer.status_code == 503:
        raise HttpError(503, "no price today", details=answer.json())
    price = answer.json()["price"]
    if price > row["balance"]:
        raise ValueError(f"{item} costs {price}")
    entry = await ctx.db.table("entries").insert(
        {"account": account, "amount": -price, "note": item}
    )
    return {"price": price, "entry": entry["note"]}
