"""What comes in and goes out over HTTP."""

import hashlib

from flux_pg import Context, HttpError, Response, define_function
from flux_pg.gateway import UploadedFile


@define_function(method="PUT", path="/rooms/{room}/hours/{hour}")
async def put_hour(
    ctx: Context, room: str, hour: int, by: str, note: str = "", x: tuple[str, ...] = ()
):
    request = ctx.request
    await ctx.db.execute(
        "insert into slots values (%s, %s, %s) on conflict (room, hour)"
        " do update set taken_by = excluded.taken_by",
        [room, hour, by],
    )
    return Response(
        201,
        {"x-room": room.encode("ascii", "replace").decode(), "set-cookie": f"room={hour}; Path=/"},
        {
            "path": request.path,
            "query": request.query_string,
            "agent": request.headers["user-agent"],
            "note": note,
            "x": x,
            "json": request.json(),
        },
    )


@define_function
async def form(ctx: Context, name: str, age: int, tags: tuple[str, ...] = ()) -> dict:
    return {"name": name, "age": age, "tags": tags}


@define_function
async def upload(ctx: Context, name: str, file: UploadedFile | None = None) -> dict:
    return {
        "name": name,
        "file": getattr(file, "filename", None),
        "type": getattr(file, "content_type", None),
        "sha": hashlib.sha256(file.content).hexdigest() if file is not None else None,
    }


@define_function
async def raw(ctx: Context, body: bytes) -> Response:
    return Response(200, {"content-type": "application/octet-stream"}, body[::-1])


@define_function
async def large(ctx: Context, size: int, kind: str) -> object:
    if kind == "text":
        return Response(200, {}, "ä" * size)
    if kind == "rows":
        return await ctx.db.query(
            "select g as n, repeat('x', 100) as text from generate_series(1, %s) as g", [size]
        )
    return {"text": "y" * size}


@define_function
async def log_in(ctx: Context, name: str, password: str) -> dict:
    """A secret is compared and passed on, never read."""
    row = await ctx.db.fetch_one(
        "update sessions set seen = seen + 1 where name = %s returning access_token", [name]
    )
    if row["access_token"] != password:
        raise HttpError(403, "not yours")
    return {"name": name, "password": password}


@define_function
async def measure(ctx: Context, name: str, password: str) -> dict:
    """Needs the secret itself."""
    await ctx.db.table("parents").insert({"name": name})
    return {"length": len(password)}


@define_function
async def keep_secret(ctx: Context, name: str, password: str) -> dict:
    """Needs it where there is a database to write it to."""
    row = await ctx.db.table("sessions").insert({"name": name, "access_token": password})
    return {"seen": row["seen"]}


@define_function(method="GET", path="/headers")
async def headers(ctx: Context) -> dict:
    sent = ctx.request.headers
    ctx.log.info("headers", count=len(sent))
    return {
        "color": sent.get("x-color"),
        "auth": sent.get("authorization") == "Bearer sesame",
        "cookie": sent.get("cookie") == "a=1",
        "method": ctx.request.method,
        "job": ctx.job is None,
    }


@define_function(method="GET", path="/empty")
async def empty(ctx: Context) -> Response:
    return Response(204, {}, b"")
