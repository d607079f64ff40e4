"""Row changes in a line each: what happened to which row, old → new per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flux_pg.analysis.text import clean, fit, show

Row = Mapping[str, Any]

SIGNS = {"INSERT": "+", "UPDATE": "~", "DELETE": "-", "TRUNCATE": "0"}


def table_name(row: Row) -> str:
    """Return the table as people type it: without the schema if that is public."""
    schema, table = row.get("schema"), clean(str(row.get("table")))
    return table if schema in ("public", None) else f"{clean(str(schema))}.{table}"


def key_text(pk: Any) -> str:
    """Return a key as the command line takes it: plain for one column, else JSON."""
    if isinstance(pk, Mapping) and len(pk) == 1:
        value = next(iter(pk.values()))
        return clean(value) if isinstance(value, str) else show(value)
    return "" if pk in (None, {}) else show(pk)


def column_changes(row: Row) -> list[tuple[str, Any, Any]]:
    """Return (column, old, new) of every column a mutation touched, in the row's own order."""
    old, new = row.get("old") or {}, row.get("new") or {}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    named: Sequence[str] = row.get("changed") or []
    if row.get("op") == "UPDATE":
        names = list(named) or [n for n in new if old.get(n) != new.get(n)]
    else:
        # jsonb sorts its keys; `changed` has them in the table's order.
        image = new or old
        names = [n for n in named if n in image]
        names += [n for n in image if n not in names]
    return [(name, old.get(name), new.get(name)) for name in names]


def describe(row: Row, width: int = 100) -> str:
    """Return one mutation as a line: `~ UPDATE users 42  plan "free" → "pro"`."""
    op = str(row.get("op"))
    subject = f"{SIGNS.get(op, '?')} {op} {table_name(row)} {key_text(row.get('pk'))}".rstrip()
    if op == "UPDATE":
        parts = [f"{clean(c)} {show(o, 24)} → {show(n, 24)}" for c, o, n in column_changes(row)]
    elif op == "INSERT":
        key = row.get("pk") if isinstance(row.get("pk"), Mapping) else {}
        parts = [
            f"{clean(column)} {show(new, 24)}"
            for column, _, new in column_changes(row)
            if column not in (key or {}) and new is not None
        ]
    else:
        parts = []
    return fit(f"{subject}  {', '.join(parts)}".rstrip(), width)
