"""POST /greetings/{id}/name: renames a greeting, and fails in two ways worth looking at.

    curl -X POST localhost:4000/greetings/1/name -d '{"name":"   "}'   # raises, after the update
    curl -X POST localhost:4000/greetings/1/name -d '{"name":""}'      # breaks a check constraint

Each answers 500 with its request id; `flux why @last-error` says why, on which line, and that
nothing was changed.
"""

from typing import Any

from flux_pg import Context, HttpError, define_function


@define_function(path="/greetings/{id}/name")
async def rename(ctx: Context, id: int, name: str) -> dict[str, Any]:
    """Give greeting `id` another name."""
    renamed = await ctx.db.table("greetings").update({"id": id}, {"name": name})
    if not renamed:
        raise HttpError(404, f"there is no greeting {id}")
    if not name.strip():
        raise ValueError(f"a greeting needs a name, not {name!r}")
    return {"id": id, "name": name}
