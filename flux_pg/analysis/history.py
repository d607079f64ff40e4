"""A row's past for people: the lines that tell of a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux_pg.analysis.changes import column_changes
from flux_pg.analysis.text import clean, show

Row = Mapping[str, Any]


def change_lines(version: Row, room: int) -> list[str]:
    """Return a version's changed columns, a line each: `plan: "free" → "pro"`."""
    lines = []
    for column, old, new in column_changes(version):
        name = clean(column)
        if version["op"] == "UPDATE":
            half = max((room - len(name) - 5) // 2, 8)
            lines.append(f"{name}: {show(old, half)} → {show(new, half)}")
        elif version["op"] == "INSERT":
            if new is not None:
                lines.append(f"{name}: {show(new, max(room - len(name) - 2, 8))}")
        else:
            lines.append(f"{name}: was {show(old, max(room - len(name) - 6, 8))}")
    return lines
