"""`flux trace ID`: what a request did, step by step."""

from __future__ import annotations

import importlib
from typing import Any

import click

from flux_pg.analysis import flame as flame_graph
from flux_pg.analysis import otlp as otlp_export
from flux_pg.analysis.queue import attempt_line
from flux_pg.analysis.text import clean, duration, fit, pad, plural, short_id, show
from flux_pg.analysis.tree import Tree, build, walk
from flux_pg.analysis.waterfall import Line, Waterfall, lay_out
from flux_pg.cli.scope import Scope, examples, scoped
from flux_pg.cli.selectors import read_duration, request_argument, show_time
from flux_pg.cli.session import Database, open_database
from flux_pg.cli.style import Style, terminal_width
from flux_pg.errors import UsageError

_MANY_ATTEMPTS = 6


class TraceCommand(click.Command):
    """`flux trace ID`, and the commands that stand behind its name."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Make the context of the command that is meant: no id is spelt like one."""
        target = _SUBCOMMANDS.get(args[0]) if args else None
        if target is None:
            return super().make_context(info_name, args, parent, **extra)
        module, _, attribute = target.partition(":")
        command: Any = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)


_SUBCOMMANDS = {"diff": "flux_pg.cli.diff:diff"}


@click.command(
    cls=TraceCommand,
    epilog=examples(
        "flux trace @last",
        "flux trace 8f3a2c1d                 the end of an id is enough",
        "flux trace @last --slow 10ms",
        "flux trace @last --flame > trace.svg",
        "flux trace @last --otlp | curl -d @- -H 'content-type: application/json' $OTLP/v1/traces",
        "flux trace diff 8f3a2c1d @last      how two requests differ",
    ),
)
@request_argument
@click.option("--slow", metavar="TIME", help="Only spans that took this long or failed, e.g. 5ms.")
@click.option("--flame", is_flag=True, help="A flame graph as SVG.")
@click.option("--otlp", is_flag=True, help="OTLP/JSON, with the same ids.")
@scoped()
def trace(scope: Scope, request: str, slow: str | None, flame: bool, otlp: bool) -> None:
    """Show what a request did, step by step.

    The waterfall has one line per span, with the row changes and jobs that it caused under it. ID
    is a request id, at least four digits of its beginning or end, a trace id, a job's id (its last
    attempt), @last, @last-error or @last-dead (the job that died last).
    """
    if flame + otlp + scope.as_json > 1:
        raise UsageError("--json, --flame and --otlp exclude each other", "Give one of them.")
    slow_us = _slow(slow)
    with open_database(scope.settings) as database:
        document, children = fetch(database, request)
    if scope.as_json:
        scope.emit_json(document)
    elif otlp:
        from flux_pg import __version__

        scope.emit_json(otlp_export.export(document, __version__))
    elif flame:
        scope.emit(flame_graph.render(tree_of(document), headline(document, Style(False))))
    else:
        scope.page(render(document, children, scope.style, terminal_width(), slow_us))
        if document["outcome"] not in ("ok", None):
            scope.hint(f"flux why {document['request_id'][-8:]}")


def _slow(text: str | None) -> int:
    if text is None:
        return 0
    length = read_duration(text)
    if length is None:
        raise UsageError(f"--slow: not a length of time: {text}", "Write it like 5ms or 1.5s.")
    return int(length.total_seconds() * 1_000_000)


_CHILDREN = """
select e.request_id::text, e.parent_span_id as span_id, e.kind, e.function, e.outcome, e.duration_us
from flux.executions as e
where e.trace_id = %s::uuid and e.parent_request_id = %s::uuid and e.job_id is null
order by e.request_id
"""


def fetch(database: Database, request: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the `flux.trace/1` document of a request, and the functions it called."""
    row = database.execute("select flux.trace(%s::text) as document", (request,)).fetchone()
    assert row is not None
    document: dict[str, Any] = row["document"]
    identity = (document["trace_id"], document["request_id"])
    return document, database.execute(_CHILDREN, identity).fetchall()


def tree_of(document: dict[str, Any], children: list[dict[str, Any]] | None = None) -> Tree:
    """Return the span tree of a trace document, the requests it caused among its jobs."""
    outer = (document.get("parent") or {}).get("span_id")
    caused = [*document["jobs"], *(children or [])]
    return build(document["spans"], document["mutations"], caused, outer)


def headline(document: dict[str, Any], style: Style) -> str:
    """Return the first line about a request: what was asked, and how it ended."""
    asked = " ".join(filter(None, (document["method"], document["path"])))
    asked = asked or f"{document['kind']} {document['function'] or ''}".strip()
    attempt = own_attempt(document)
    asked += f" attempt {attempt['attempt']}/{document['job']['max_attempts']}" if attempt else ""
    status = document["status_code"]
    outcome = document["outcome"]
    ended = " ".join(filter(None, (str(status) if status else "", outcome or "running")))
    took = duration(document["duration_us"]) if document["duration_us"] is not None else ""
    return "  ".join(
        filter(None, (style.strong(clean(asked)), style.outcome(outcome, ended), took))
    )


def subline(document: dict[str, Any], style: Style) -> str:
    """Return the second line about a request: its id, function and time."""
    parts = [document["request_id"], show_time(document["started_at"])]
    if document["function"] and document["path"]:
        parts.insert(1, clean(document["function"]))
    return style.dim("  ".join(parts))


def own_attempt(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the job of a request says of this attempt; None if the request is no job's."""
    attempts = (document.get("job") or {}).get("attempts") or []
    return next((a for a in attempts if a["request_id"] == document["request_id"]), None)


def origin_lines(document: dict[str, Any], style: Style, width: int) -> list[str]:
    """Return where a request came from: its caller, its job with the other attempts, and who
    enqueued it."""
    job, parent = document.get("job"), document.get("parent")
    lines = _caller_line(document)
    if job:
        own = own_attempt(document)
        told = [f"job {short_id(job['job_id'])}", job_state(job, style)]
        if own and own["wait_us"] is not None:
            told.append(f"waited {duration(own['wait_us'])} before it began")
        lines.append("  ".join(filter(None, told)))
    if parent:
        verb = "enqueued by" if job else "called by"
        lines.append(f"{verb} {_asked(parent)}  {style.dim('→ ' + short_id(parent['request_id']))}")
    elif job and job.get("schedule"):
        lines.append(f"enqueued by schedule {clean(job['schedule'])}")
    others = [a for a in (job or {}).get("attempts") or [] if a is not own_attempt(document)]
    for other in others[-_MANY_ATTEMPTS:]:
        lines.append(style.dim(fit(attempt_line(other), width)))
    return lines


def _caller_line(document: dict[str, Any]) -> list[str]:
    """With which role, and for whom, in projects that tell callers apart."""
    for span in document.get("spans") or []:
        attributes = span.get("attributes") or {}
        if span["kind"] == "function" and "role" in attributes:
            subject = (attributes.get("identity") or {}).get("claims", {}).get("sub")
            told = f"role {attributes['role']}" + (f"  for {show(subject)}" if subject else "")
            return [clean(told)]
    return []


def _asked(request: dict[str, Any]) -> str:
    what = " ".join(filter(None, (request["method"], request["path"])))
    return clean(what or f"{request['kind'] or 'a request'} {request['function'] or ''}".strip())


def job_state(job: dict[str, Any], style: Style) -> str:
    """Return the state of a job, painted; empty for one that was pruned."""
    state = job.get("state") or ""
    return style.outcome(_OUTCOME_OF_STATE.get(state, state), state) if state else ""


_OUTCOME_OF_STATE = {"succeeded": "ok", "dead": "error", "running": None}


def render(
    document: dict[str, Any],
    children: list[dict[str, Any]],
    style: Style,
    width: int,
    slow_us: int = 0,
) -> str:
    """Return the whole page for a terminal of `width` columns."""
    tree = tree_of(document, children)
    waterfall = lay_out(tree, width - 2, slow_us)
    lines = [headline(document, style), subline(document, style)]
    lines += [*origin_lines(document, style, width), ""]
    lines += paint(waterfall, style)
    if not document["spans"]:
        lines.append(style.dim("  no spans were recorded"))
    hidden = sum(1 for _ in walk(tree.roots)) - sum(x.role == "span" for x in waterfall.lines)
    notes = []
    if hidden:
        notes.append(style.dim(f"{plural(hidden, 'faster span')} not shown"))
    if not document["complete"]:
        notes.append(style.warn(f"incomplete: {clean(document['incomplete_reason'] or '')}"))
    rolled_back = sum(m["outcome"] == "rolled_back" for m in document["mutations"])
    if document["mutations"]:
        text = plural(len(document["mutations"]), "row change")
        if rolled_back:
            text += ", rolled back" if rolled_back == len(document["mutations"]) else (
                f", {rolled_back} of them rolled back"
            )  # fmt: skip
        notes.append(text)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def paint(waterfall: Waterfall, style: Style) -> list[str]:
    """Return the waterfall's lines in colour."""
    return [_paint(line, waterfall, style).rstrip() for line in waterfall.lines]


_BAD = ("dead", "error", "crashed", "timeout")
_DOUBTFUL = ("retrying", "cancelled")
_PAINTS = {"note": Style.bad, "warning": Style.warn, "detail": Style.dim}


def _paint(line: Line, waterfall: Waterfall, style: Style) -> str:
    tree = "  " + style.dim(line.tree)
    if line.role == "span":
        text = pad(line.text, waterfall.label_width - len(line.tree))
        failed = line.status != "ok"
        label = style.bad(text) if line.status == "error" else style.warn(text) if failed else text
        bar = style.bad(line.bar) if line.status == "error" else style.accent(line.bar)
        return f"{tree}{label} {bar} {line.duration:>8}"
    if line.role == "mutation":
        painted = style.good(line.text) if line.status == "committed" else style.warn(line.text)
        return tree + painted
    if line.role in _PAINTS:
        return tree + _PAINTS[line.role](style, line.text)
    if line.status in _BAD:
        return tree + style.bad(line.text)
    return tree + (style.warn if line.status in _DOUBTFUL else style.accent)(line.text)
