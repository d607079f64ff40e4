"""Which values of the lineage in a `flux.why/1` document are worth a line, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flux_pg.analysis.text import show

Row = Mapping[str, Any]

_MANY = 8
_MANY_NEAR = 3

# As weighed by analysis.lineage, which is not imported: it brings a parser of SQL with it.
_WEAK = frozenset({"read where it failed"})
CHANGED = "different at the last success"
_NEVER_SO = "unlike all values at the last success"


def telling_values(document: Row) -> list[Row]:
    """Return the values that may explain the failure, most telling first.

    Without any that does, those read by the function that failed and written by a request. What
    the last writer of the row, told anyway, wrote is left out unless there is more to say of it.
    """
    values = (document.get("lineage") or {}).get("values") or []
    strong = [value for value in values if has_strong_reason(value)]
    if strong:
        return strong[:_MANY]
    told = {row.get("seq") for row in document.get("previous") or []}
    near = [
        value
        for value in values
        if value["reasons"]
        and value["written_by"]["request_id"]
        and value["written_by"]["seq"] not in told
    ]
    return near[:_MANY_NEAR]


def has_strong_reason(value: Row) -> bool:
    """Whether more is known of a value than that it was read."""
    return not _WEAK.issuperset(value["reasons"])


def reasons_of(value: Row) -> str:
    """Return the reasons in words, with what was there at the last success."""
    reasons = [reason for reason in value["reasons"] if reason not in _WEAK]
    parts = []
    for reason in reasons:
        if reason == CHANGED:
            parts.append(f"was {before_text(value)} at the last success")
        elif reason == _NEVER_SO:
            had = f", which read {before_text(value)}" if value.get("before") is not None else ""
            parts.append(f"unlike at the last success{had}")
        else:
            parts.append(reason)
    return "; ".join(parts)


def changed_values(document: Row) -> list[Row]:
    """Return the values that were others at the last success, of the same row."""
    values = (document.get("lineage") or {}).get("values") or []
    return [value for value in values if CHANGED in value["reasons"]][:_MANY]


def before_text(value: Row) -> str:
    """Return what a value was at the last success, as people read it."""
    before = value.get("before")
    return "NULL" if before is None else show(before, 30) if not _number(before) else str(before)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
