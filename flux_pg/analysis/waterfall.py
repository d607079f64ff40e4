"""The waterfall: a span tree laid out for a given width. Painting is the command line's part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flux_pg.analysis.changes import describe
from flux_pg.analysis.details import call_status, call_warning, detail_lines, statement_lines
from flux_pg.analysis.queue import job_lines
from flux_pg.analysis.text import cells, clean, duration, fit, short_id
from flux_pg.analysis.tree import Row, Step, Tree, duration_of, end_of, start_of, walk

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_DURATION_WIDTH = 8
_MANY_JOBS = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a waterfall.

    `tree` are the branches drawn before the text, `bar` is empty for lines that are no span.
    `role` is `span`, `mutation`, `job`, `note`, `warning` or `detail`.
    """

    tree: str
    text: str
    bar: str
    duration: str
    status: str
    role: str = "span"


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Lines and the widths of their columns."""

    lines: list[Line]
    label_width: int
    bar_width: int


def label(span: Row) -> str:
    """Return what a span did, on one line."""
    kind, name = clean(str(span.get("kind") or "span")), clean(str(span.get("name") or ""))
    if not name or name == kind or name.startswith((f"{kind} ", f"{kind}.")):
        return name or kind
    if kind.startswith("gateway"):
        return name if name.startswith("gateway") else f"{kind} {name}"
    return f"{kind} {name}"


def place(location: Any) -> str:
    """Return a location as `file:line`, or nothing."""
    if not isinstance(location, dict) or not location.get("file"):
        return ""
    line = location.get("line")
    return clean(str(location["file"])) + (f":{line}" if line else "")


def lay_out(tree: Tree, width: int, slow_us: int = 0, details: bool = True) -> Waterfall:
    """Lay a tree out in `width` columns.

    Args:
        tree: The request's spans.
        width: Columns of the whole; at least 40 are used.
        slow_us: Leave out spans shorter than this that hold no failure and no slower span.
        details: Show the statement of a span that failed.
    """
    width = max(width, 40)
    shown = _kept(tree, slow_us)
    longest = max((step.depth * 3 + cells(_text(step)) for step in shown), default=20)
    label_width = max(min(longest, int(width * 0.58)), 20)
    bar_width = width - label_width - _DURATION_WIDTH - 3
    begin = min((start_of(step.node.span) for step in shown), default=0)
    total = max((end_of(step.node.span) for step in shown), default=0) - begin
    lines: list[Line] = []
    for step in shown:
        span = step.node.span
        bar = _bar(start_of(span) - begin, duration_of(span), total, bar_width)
        lines.extend(_lines(step, label_width, bar, width, details))
    for row in tree.loose_mutations:
        lines.append(
            Line("", describe(row, width - 4), "", "", str(row.get("outcome")), "mutation")
        )
    for row in tree.loose_jobs:
        lines += _caused(row, "", width - 4)
    return Waterfall(lines, label_width, bar_width)


def _kept(tree: Tree, slow_us: int) -> list[Step]:
    """Return the steps to show: the slow and failed ones and what leads to them."""
    steps = list(walk(tree.roots))
    kept: set[int] = set()
    for step in reversed(steps):  # children come before their parents
        span = step.node.span
        if (
            duration_of(span) >= slow_us
            or span.get("status") not in ("ok", None)
            or any(id(child) in kept for child in step.node.children)
        ):
            kept.add(id(step.node))
    return [step for step in steps if id(step.node) in kept]


def _branches(step: Step, room: int) -> tuple[str, str]:
    """Return what is drawn before a span, and before the lines that belong to it."""
    if step.depth == 0:
        return "", "│  " if step.node.children else "   "
    above = "".join("   " if done else "│  " for done in step.last[-step.depth : -1])
    branch = above + ("└─ " if step.last[-1] else "├─ ")
    below = above + ("   " if step.last[-1] else "│  ")
    below += "│  " if step.node.children else "   "
    # A very deep tree would push its text off the screen: the branches give way.
    return branch[-room:], below[-room:]


def _text(step: Step) -> str:
    status = call_status(step.node.span)
    text = label(step.node.span) + (f" → {status}" if status else "")
    return text + (" (parent missing)" if step.node.orphan else "")


def _lines(step: Step, label_width: int, bar: str, width: int, details: bool) -> list[Line]:
    node, span = step.node, step.node.span
    branch, below = _branches(step, max(label_width - 12, 12))
    status = str(span.get("status") or "ok")
    text = fit(_text(step), label_width - len(branch))
    lines = [Line(branch, text, bar, duration(duration_of(span)), status)]
    room = width - len(below)
    if error := span.get("error"):
        lines.append(Line(below, fit(error_text(error), room), "", "", "error", "note"))
        told = [*statement_lines(span, room), *detail_lines(error, room)] if details else []
        # Only where it happened: an error passes through the spans around it.
        if told and span.get("kind") == "db":
            lines += [Line(below, text, "", "", "", "detail") for text in told]
    if warning := call_warning(span):
        lines.append(Line(below, fit(warning, room), "", "", "", "warning"))
    for row in node.mutations:
        outcome = str(row.get("outcome"))
        tail = "" if outcome == "committed" else f"  ({outcome.replace('_', ' ')})"
        text = describe(row, room - len(tail)) + tail
        lines.append(Line(below, text, "", "", outcome, "mutation"))
    for row in node.jobs[:_MANY_JOBS]:
        lines += _caused(row, below, room)
    if len(node.jobs) > _MANY_JOBS:
        left_out = len(node.jobs) - _MANY_JOBS
        lines.append(Line(below, fit(f"… {left_out} more", room), "", "", "", "detail"))
    return lines


def _caused(row: Row, tree: str, room: int) -> list[Line]:
    """Return the lines of a job that was enqueued, or of a request that was made."""
    texts = job_lines(row) if row.get("state") else [(call_text(row), "")]
    return [Line(tree, fit(text, room), "", "", status, "job") for text, status in texts]


def error_text(error: Any) -> str:
    """Return an error record as `Type: message`, on one line."""
    if not isinstance(error, dict):
        return clean(str(error))
    state = f" (SQLSTATE {error['sqlstate']})" if error.get("sqlstate") else ""
    message = clean(str(error.get("message") or ""))
    return f"{clean(str(error.get('type') or 'Error'))}: {message}{state}".rstrip(": ")


def call_text(row: Row) -> str:
    """Return a request that a span made (a call of another function), on one line."""
    name = row.get("function") or ""
    parts = [f"» {row.get('kind') or 'call'}", str(name), short_id(str(row["request_id"]))]
    parts += [
        str(row.get("outcome") or ""),
        duration(row["duration_us"]) if "duration_us" in row else "",
    ]
    return clean(" ".join(filter(None, parts)))


def _bar(start: int, length: int, total: int, width: int) -> str:
    """Return a bar of exactly `width` columns, at least a sliver where the span is."""
    total = max(total, 1)
    begin = min(max(start, 0) * width * 8 // total, width * 8 - 1)
    size = max(min(length * width * 8 // total, width * 8 - begin), 1)
    lead = begin // 8
    # A block can only be cut on its right, so a bar starts at a whole column.
    full, rest = divmod(size, 8)
    bar = "█" * full + (_EIGHTHS[rest] if rest else "")
    bar = bar[: width - lead] or "▏"
    return " " * lead + bar + " " * (width - lead - len(bar))
