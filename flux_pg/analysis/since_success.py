"""What is different from the last time the function succeeded: code, input, data, timings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flux_pg.analysis.changes import key_text, table_name
from flux_pg.analysis.text import clean, duration, plural, show
from flux_pg.analysis.values_read import before_text, changed_values

Row = Mapping[str, Any]

_SLOWER = 2.0
_SLOWER_US = 5000
_MANY_STEPS = 3
_MANY_FILES = 6


def slower_steps(now: Iterable[Row], before: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the steps that took at least twice as long as at the last success, and 5 ms more.

    Steps of one name are taken together; those that others enclose (function, gateway) are not
    told of, because a slow step makes them slow too.
    """
    took_now, took_before = _by_name(now), _by_name(before)
    steps: list[dict[str, Any]] = [
        {"kind": kind, "name": name, "before_us": took_before[kind, name], "now_us": took}
        for (kind, name), took in took_now.items()
        if (kind, name) in took_before
        and took >= took_before[kind, name] * _SLOWER
        and took - took_before[kind, name] >= _SLOWER_US
    ]
    return sorted(steps, key=lambda step: step["before_us"] - step["now_us"])[:_MANY_STEPS]


def _by_name(spans: Iterable[Row]) -> dict[tuple[str, str], int]:
    took: dict[tuple[str, str], int] = {}
    for span in spans:
        kind = str(span.get("kind"))
        if kind in ("db", "http", "call"):
            step = (kind, str(span.get("name")))
            took[step] = took.get(step, 0) + int(span.get("duration_us") or 0)
    return took


def commit_count(document: Row) -> str:
    """Return how many commits lie between, as the end of a line; empty if git does not know."""
    commits = (document.get("changes") or {}).get("commits")
    return f", {plural(commits, 'commit')} on" if commits else ""


def file_lines(document: Row) -> list[str]:
    """Return the files changed between the two commits, those the error passed through first."""
    changes = document.get("changes") or {}
    files: Sequence[Row] = changes.get("files") or []
    if not files:
        return []
    shown = [
        f"{clean(one['file'])}{' (in the stack)' if one['in_stack'] else ''}"
        f"{' (new)' if one['status'] == 'A' else ' (gone)' if one['status'] == 'D' else ''}"
        for one in files[:_MANY_FILES]
    ]
    if len(files) > _MANY_FILES:
        shown.append(f"and {len(files) - _MANY_FILES} more")
    return [f"files       {', '.join(shown)}"]


def data_lines(document: Row) -> list[str]:
    """Return the values that were others when the function read them at the last success."""
    return [
        f"data        {table_name(value)} {key_text(value['pk'])} {clean(value['column'])}: "
        f"{before_text(value)} → {show(value['value'], 30)}"
        for value in changed_values(document)
    ]


def timing_lines(document: Row) -> list[str]:
    """Return the steps that have become slow."""
    changes = document.get("changes") or {}
    return [
        f"slower      {clean(step['kind'])} {clean(step['name'])}: "
        f"{duration(step['before_us'])} → {duration(step['now_us'])}"
        for step in changes.get("slower") or []
    ]
