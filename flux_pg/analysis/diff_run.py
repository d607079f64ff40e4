"""One recorded run, as it is compared: what of it counts, and what it says of chance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_pg.analysis.diff_rows import Row, RowPair
from flux_pg.analysis.diff_values import MISSING, Leaf, is_mark, texts_in
from flux_pg.analysis.tree import Node, Tree, build


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recorded execution.

    Attributes:
        started_us: Microseconds since the epoch.
        spans: As in `flux.trace/1`.
        mutations: Likewise; None if the run had no database of which they are known.
        row_counts: Where only numbers of row changes are known: by table, op and outcome.
        values: What entered from outside: for each place in the run the kind and the value as a
            text.
    """

    request_id: str
    trace_id: str = ""
    kind: str = "http"
    function: str | None = None
    method: str | None = None
    path: str | None = None
    input: Any = None
    outcome: str | None = "ok"
    status_code: int | None = None
    response: Any = None
    error: Any = None
    started_us: int = 0
    duration_us: int | None = None
    commit: str | None = None
    dirty: bool | None = None
    spans: Sequence[Row] = ()
    mutations: Sequence[Row] | None = ()
    row_counts: Any = None
    values: Mapping[Any, tuple[str, str]] = field(default_factory=dict)
    incomplete_reason: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it did not do what was asked of it."""
        return self.outcome != "ok" or (self.status_code or 0) >= 500


def span_trees(a: Run, b: Run) -> tuple[Tree, Tree]:
    """The span trees; without the steps of how it came (the gateway's, the job's) if one of the
    runs came another way."""
    spans = [list(a.spans), list(b.spans)]
    gates = [any(_is_gate(span) for span in side) for side in spans]
    if gates[0] != gates[1]:
        spans = [[span for span in side if not _is_gate(span)] for side in spans]
    first, second = (build(side) for side in spans)
    return first, second


def _is_gate(span: Row) -> bool:
    return is_gate(str(span.get("kind")), span.get("name"))


def is_gate(kind: str, name: object) -> bool:
    """Whether a step is of how a request came: a replay has none of these."""
    return kind.startswith("gateway") or name == "queue.job"


# What of a step is compared

# A refused statement's plan is of the database that refused it.
_PLACES = ("path", "task", "row_changes", "plan")
_FIRST_OWN_OID = 16384


def step_content(node: Node, run: Run) -> dict[str, Any]:
    span = node.span
    attributes = span.get("attributes")
    kept = {
        name: value
        for name, value in (attributes if isinstance(attributes, Mapping) else {}).items()
        if name not in _PLACES and not str(name).endswith(("_us", "_bytes"))
    }
    name = span.get("name")
    content = {
        "name": name if span.get("kind") not in ("gateway",) else None,
        "input": span.get("input"),
        "status": span.get("status") or "ok",
        "output": _rows_by_name(span.get("output")),
        "error": error_content(span.get("error")),
        "attributes": kept,
    }
    if span.get("kind") == "function" and span.get("input") == run.input:
        content["input"] = None  # the request's own, which is compared there
    return _without_lengths(content)


def _without_lengths(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out the lengths of what is compared itself."""
    for side in ("input", "output"):
        value = content[side]
        if isinstance(value, Mapping) and isinstance(value.get("headers"), Mapping):
            headers = {
                name: text
                for name, text in value["headers"].items()
                if str(name).lower() != "content-length"
            }
            content[side] = {**value, "headers": headers}
    return content


def _rows_by_name(output: Any) -> Any:
    """A result with its rows by column name; anything else as it is."""
    if not isinstance(output, Mapping) or "columns" not in output:
        return output
    names, rows = output["columns"], output.get("rows")
    if not isinstance(rows, list) or len(set(names)) != len(names):
        return output
    if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
        return output
    named = [dict(zip(names, row, strict=True)) for row in rows]
    others = {name: value for name, value in output.items() if name not in ("columns", "rows")}
    if isinstance(output.get("types"), list):
        # Types that the user made have other numbers in another database.
        others["types"] = [oid if oid < _FIRST_OWN_OID else "own" for oid in output["types"]]
    return {**others, "rows": named}


def error_content(error: Any) -> Any:
    """What of an error is compared: not its lines, which move with every edit."""
    if not isinstance(error, Mapping):
        return error
    return {
        name: error[name]
        for name in ("type", "message", "sqlstate", "detail")
        if error.get(name) not in (None, "")
    }


def response_content(run: Run) -> Any:
    """What of a response is compared: of a failure not the wording, which depends on the settings
    and is that of the error."""
    response = run.response
    if not isinstance(run.error, Mapping) or not isinstance(response, Mapping):
        return response
    told = response.get("error")
    if not isinstance(told, Mapping):
        return response
    wording = ("message", "hint", "request_id")
    return {**response, "error": {k: v for k, v in told.items() if k not in wording}}


def row_contents(pair: RowPair) -> tuple[Any, Any]:
    both = [
        None if row is None else {name: row[name] for name in ("pk", "op", "outcome", "old", "new")}
        for row in (pair.a, pair.b)
    ]
    return both[0], both[1]


def is_caller(where: str, leaf: Leaf) -> bool:
    """Whether a difference is that of who called, not of what was asked."""
    if "gateway" not in where or leaf.a is MISSING or leaf.b is MISSING:
        return False
    if leaf.place == "input.client":
        return str(leaf.a).rpartition(":")[0] == str(leaf.b).rpartition(":")[0]
    return leaf.place.lower() in (
        "input.headers.x-request-id", "input.headers.traceparent", "input.headers.tracestate",
    )  # fmt: skip


def is_set_cookie(leaf: Leaf, cookies: frozenset[str]) -> bool:
    """Whether a header is made of a cookie that an answer of the run had set: the record holds
    marks of both, and of those of a whole and of its part nobody can tell whether they fit."""
    if not leaf.place.startswith("input.headers"):
        return False
    both = (leaf.a, leaf.b)
    return all(is_mark(one) for one in both) and any(one in cookies for one in both)


def cookies_set(run: Run) -> Iterable[str]:
    """The marks of cookies that answers to the run's own calls had set."""
    for span in run.spans:
        output = span.get("output")
        headers = output.get("headers") if isinstance(output, Mapping) else None
        if span.get("kind") == "http" and isinstance(headers, (list, tuple)):
            yield from (item for name, item in headers if str(name).lower() == "set-cookie")


def row_counts(run: Run) -> Any:
    """Numbers of row changes by table, op and outcome; None if they are not known."""
    if run.mutations is None:
        if run.row_counts is None:
            return None
        return {
            f"{one['table']} {one['op']} {one['outcome']}": one["rows"] for one in run.row_counts
        }
    counts: dict[str, int] = {}
    for row in run.mutations:
        key = f"{row['table']} {row['op']} {row['outcome']}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def passed_texts(a: Run, b: Run) -> dict[Any, frozenset[str]]:
    """The texts among the parameters of each statement, by its span."""
    return {
        span.get("span_id"): frozenset(texts_in(span["input"].get("params")))
        for run in (a, b)
        for span in run.spans
        if span.get("kind") == "db" and isinstance(span.get("input"), Mapping)
    }


def known_pairs(a: Run, b: Run) -> dict[tuple[str, str], str]:
    known = {
        (x, y): _REASONS.get(kind, kind)
        for place, (kind, x) in a.values.items()
        for other, y in (b.values.get(place, ("", "")),)
        if kind == other and x != y and len(x) > 2 and len(y) > 2
    }
    known[a.request_id, b.request_id] = "request"
    known[a.trace_id, b.trace_id] = "request"
    return known


_REASONS = {"clock": "time"}
