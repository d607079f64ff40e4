"""What a step was given, in a few lines: the input of a request, the statement of a span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flux_pg.analysis.text import cells, clean, fit, pad, show

Row = Mapping[str, Any]

_MANY_FIELDS = 10
_MANY_PARAMETERS = 20


def field_lines(value: Any, width: int) -> list[str]:
    """Return an input as one line for each of its fields, each cut to `width` columns."""
    if value is None or value == {}:
        return []
    if not isinstance(value, Mapping):
        return [show(value, width)]
    names = [clean(str(name)) for name in value]
    room = min(max(map(cells, names)), max(width // 3, 8))
    lines = [
        f"{pad(name, room)}  {show(inner, width - room - 2)}"
        for name, inner in zip(names, value.values(), strict=True)
    ][:_MANY_FIELDS]
    if len(names) > _MANY_FIELDS:
        lines.append(fit(f"… {len(names) - _MANY_FIELDS} more", width))
    return lines


def statement_lines(span: Row, width: int) -> list[str]:
    """Return the SQL and the parameters of a db span in two lines; nothing for other spans."""
    given = span.get("input")
    if span.get("kind") != "db" or not isinstance(given, Mapping) or not given.get("sql"):
        return []
    lines = [fit("sql     " + clean(" ".join(str(given["sql"]).split())), width)]
    shown = _parameters(given.get("params"))
    if shown:
        lines.append(fit(f"params  {shown}", width))
    return lines


def _parameters(params: Any) -> str:
    if isinstance(params, Mapping):
        parts = [f"{clean(str(name))} = {show(value, 60)}" for name, value in params.items()]
    elif isinstance(params, Sequence) and not isinstance(params, str):
        parts = [show(value, 60) for value in params[:_MANY_PARAMETERS]]
        parts += ["…"] if len(params) > _MANY_PARAMETERS else []
    else:
        parts = [] if params is None else [show(params, 60)]
    return ", ".join(parts)


def detail_lines(error: Any, width: int) -> list[str]:
    """Return what Postgres said besides the message, a line each."""
    if not isinstance(error, Mapping):
        return []
    rows = [row for row in str(error.get("detail") or "").splitlines() if row.strip()]
    return [fit(f"detail  {clean(row)}", width) for row in rows[:3]]


def call_status(span: Row) -> str:
    """Return the HTTP status that an outbound call came back with, empty if none did."""
    output = span.get("output")
    if span.get("kind") != "http" or not isinstance(output, Mapping):
        return ""
    return clean(str(output.get("status") or ""))


def call_warning(span: Row) -> str:
    """Return what is wrong with when an outbound call was made, empty if nothing is."""
    attributes = span.get("attributes")
    if not isinstance(attributes, Mapping) or not attributes.get("transaction_open"):
        return ""
    return "in an open transaction: its row locks are held meanwhile"
