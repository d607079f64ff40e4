"""Other code for some functions of the fidelity project: what a replay must not call the same."""

from __future__ import annotations

import re
from pathlib import Path

MUTANTS = {
    "deposit": ("version = version + 1", "version = version + 2"),
    "transfer": ("((source, -amount), (target, amount))", "((target, amount), (source, -amount))"),
    "show_account": ('one["amount"], one["note"]', 'one["note"], one["amount"]'),
    "try_overdraw": ('Decimal("0.01")', 'Decimal("0.02")'),
    "in_steps": ('f"{name}/1"', 'f"{name}/one"'),
    "put_thing": ('"large" if seed % 2', '"large" if seed % 3'),
    "show_thing": ("bytes(raw).hex()", 'bytes(raw).hex().upper() + "."'),
    "twice": ('{"name": f"{name}!"})', '{"name": f"{name}?"})'),
    "orphan": ('return {"name": name,', 'return {"name": name, "more": None,'),
    "broken_sql": ('insert({"name": name})', 'insert([{"name": name}, {"name": name * 2}])'),
    "ask": ('"text": text}', '"text": text + "!"}'),
    "ask_plainly": ("told = str(error)", "told = (await client.get('/status/200')).text"),
    "fetch": ("/gzip/{size}", "/bytes/{size}"),
    "chance": ("random.randint(1, sides)", "random.randint(1, sides + 100)"),
    "plain_values": ('ctx.db.table("parents").insert({"name": name})', "pass"),
    "late": ("% 2 == 0", "% 2 == 1"),
    "too_slow": ("insert(", "find("),
    "raises": ("raise LookupError(name)", "raise IndexError(name)"),
    "gather": ("ctx.random()", 'len(await ctx.db.query("select 1 as n"))'),
    "nested": ('{"account": account, "amount": "1.00"', '{"account": account, "amount": "1.01"'),
    "enqueue": ('{"name": name, "fail": fail}', '{"name": name, "fail": fail + 1}'),
    "work": ('"done"', '"ended"'),
    "put_hour": ("x-room", "x-rooms"),
    "log_in": ('"password": password}', '"password": "none"}'),
}
"""For each function what is replaced by what in its source."""

HARMLESS = {
    "audit": ("first == again", "again == first"),
    "form": ('"age": age', '"age": int(age)'),
    "environment": ('"getenv": os.getenv', '"getenv": os.environ.get'),
    "headers": ('"method": ctx.request.method', '"method": str(ctx.request.method)'),
}
"""Other code that does the same."""


def mutate(project: Path) -> None:
    """Write the other code into the files of a copy of the project."""
    left = {**MUTANTS, **HARMLESS}
    for path in sorted((project / "functions").glob("*.py")):
        parts = re.split(r"(?=^@define_function)", path.read_text(), flags=re.M)
        for number, part in enumerate(parts):
            name = re.search(r"^(?:async )?def (\w+)", part, re.M)
            if name is not None and name[1] in left:
                old, new = left.pop(name[1])
                assert old in part, (name[1], old)
                parts[number] = part.replace(old, new)
        path.write_text("".join(parts))
    assert not left, left
