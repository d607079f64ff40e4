"""A row's past from its versions: what it was at a moment, and tables of it for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flux_pg.analysis.changes import column_changes
from flux_pg.analysis.text import clean, show

Row = Mapping[str, Any]


class UnknownState(Exception):
    """The versions do not say what the row was then."""


def row_at(versions: Sequence[Row], moment: datetime) -> dict[str, Any] | None:
    """Return the row as committed versions up to `moment` left it, or None if it was not there.

    Args:
        versions: Rows of `flux.history`, oldest first, with datetimes in `at`.
        moment: The moment.

    Raises:
        UnknownState: the row is older than its first version, or its table was not tracked since
            (op `GAP`), so some columns are not known.
    """
    committed = [v for v in versions if v["outcome"] == "committed" or v["op"] == "GAP"]
    if not committed:
        raise UnknownState("no committed change of the row is recorded")
    row: dict[str, Any] | None = None
    whole = committed[0]["op"] == "INSERT"
    why = "the row is older than its first recorded change"
    for version in committed:
        if version["at"] > moment:
            break
        op = version["op"]
        if op == "GAP":
            row, whole, why = None, False, str(version["actor"])
        elif op == "INSERT":
            row, whole = dict(version["new"] or {}), True
        elif op == "UPDATE":
            row = {**(row or {}), **(version["new"] or {})}
        else:
            row, whole = None, True
    if not whole:
        raise UnknownState(why)
    return row


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
