"""The span tree and its waterfall hold for any set of spans, however broken."""

from __future__ import annotations

import json
import string
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from flux_pg.analysis import flame, otlp
from flux_pg.analysis.text import cells, clean, duration, fit, pad, show
from flux_pg.analysis.tree import build, duration_of, self_time, walk
from flux_pg.analysis.waterfall import lay_out

IDS = [f"{number:016x}" for number in range(1, 9)]
TIMES = st.integers(-(10**7), 10**12)
TEXTS = st.text(max_size=40)
ERRORS = st.none() | st.fixed_dictionaries({"type": TEXTS, "message": TEXTS})

SPANS = st.lists(
    st.fixed_dictionaries(
        {
            "span_id": st.sampled_from(IDS),
            "parent_span_id": st.none() | st.sampled_from([*IDS, "f" * 16]),
            "kind": st.sampled_from(["gateway", "function", "db", "http", "log"]) | TEXTS,
            "name": st.none() | TEXTS,
            "start_us": TIMES | st.none(),
            "duration_us": TIMES | st.none() | st.floats(),
            "status": st.sampled_from(["ok", "error", "cancelled", "rolled_back", None]),
            "input": st.none() | TEXTS,
            "output": st.none(),
            "error": ERRORS,
            "location": st.none() | st.just({"file": "a.py", "line": 3}),
        }
    ),
    max_size=12,
)
MUTATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "seq": st.integers(0, 99),
            "span_id": st.none() | st.sampled_from([*IDS, "e" * 16]),
            "schema": st.sampled_from(["public", "s"]),
            "table": TEXTS,
            "pk": st.none() | st.dictionaries(TEXTS, TEXTS | st.integers(), max_size=2),
            "op": st.sampled_from(["INSERT", "UPDATE", "DELETE", "TRUNCATE"]),
            "old": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3),
            "new": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3),
            "changed": st.none() | st.lists(TEXTS, max_size=3),
            "outcome": st.sampled_from(["committed", "rolled_back"]),
        }
    ),
    max_size=6,
)


def counted(rows: list[Any]) -> list[int]:
    return sorted(id(row) for row in rows)


@given(SPANS, MUTATIONS)
def test_every_span_and_row_change_is_in_the_tree_once(
    spans: list[dict[str, Any]], mutations: list[dict[str, Any]]
) -> None:
    tree = build(spans, mutations)
    steps = list(walk(tree.roots))
    assert counted([step.node.span for step in steps]) == counted(spans)
    hung = [row for step in steps for row in step.node.mutations]
    assert counted(hung + tree.loose_mutations) == counted(mutations)


@given(SPANS)
def test_children_are_under_the_span_they_name(spans: list[dict[str, Any]]) -> None:
    for step in walk(build(spans).roots):
        for child in step.node.children:
            assert child.span["parent_span_id"] == step.node.span["span_id"]
        assert self_time(step.node) <= duration_of(step.node.span)


@given(SPANS)
def test_only_spans_without_a_reachable_parent_are_roots(spans: list[dict[str, Any]]) -> None:
    for root in build(spans).roots:
        assert root.orphan or root.span["parent_span_id"] is None


@given(SPANS, MUTATIONS, st.integers(1, 220), st.sampled_from([0, 5000]))
def test_a_waterfall_shows_every_span_within_its_width(
    spans: list[dict[str, Any]], mutations: list[dict[str, Any]], width: int, slow_us: int
) -> None:
    waterfall = lay_out(build(spans, mutations), width, slow_us)
    drawn = [line for line in waterfall.lines if line.role == "span"]
    if not slow_us:
        assert len(drawn) == len(spans)
    for line in drawn:
        assert cells(line.tree) + cells(line.text) <= waterfall.label_width
        assert len(line.bar) == waterfall.bar_width
        assert line.bar.strip()
    for line in waterfall.lines:
        assert (line.tree + line.text).isprintable()
        assert cells(line.tree) + cells(line.text) <= max(width, 40)


@given(SPANS)
def test_slow_shows_failures_and_the_way_to_them(spans: list[dict[str, Any]]) -> None:
    lines = lay_out(build(spans), 80, 10**15).lines
    failed = sum(span["status"] not in ("ok", None) for span in spans)
    assert sum(line.role == "span" and line.status != "ok" for line in lines) == failed


@given(SPANS, TEXTS)
def test_a_flame_graph_is_well_formed(spans: list[dict[str, Any]], title: str) -> None:
    root = ElementTree.fromstring(flame.render(build(spans), title))
    assert len(root.findall("{http://www.w3.org/2000/svg}g")) == len(spans)


def test_otlp_keeps_the_ids_and_whole_microseconds() -> None:
    trace = {
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "function": "order",
        "started_at": "2026-05-01T10:00:00.123456Z",
        "spans": [
            {"span_id": IDS[0], "parent_span_id": None, "kind": "gateway", "name": "POST /order",
             "start_us": 0, "duration_us": 1500, "status": "ok", "input": None, "output": None},
            {"span_id": IDS[1], "parent_span_id": IDS[0], "kind": "db", "name": "insert",
             "start_us": 7, "duration_us": 3, "status": "error", "input": {"sql": "insert"},
             "output": None, "error": {"type": "E", "message": "no"},
             "location": {"file": "f.py", "line": 2}},
        ],
        "mutations": [{"span_id": IDS[1], "seq": 1, "schema": "public", "table": "t",
                       "pk": {"id": 1}, "op": "INSERT", "old": None, "new": {"id": 1},
                       "outcome": "rolled_back"}],
    }  # fmt: skip
    exported = otlp.export(trace, "0")["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["spanId"] for span in exported] == IDS[:2]
    assert {span["traceId"] for span in exported} == {trace["trace_id"]}
    assert exported[1]["parentSpanId"] == IDS[0] and "parentSpanId" not in exported[0]
    assert exported[0]["startTimeUnixNano"] == "1777629600123456000"
    assert exported[1]["endTimeUnixNano"] == "1777629600123466000"
    assert exported[1]["status"] == {"code": 2, "message": "no"}
    attributes = {a["key"]: a["value"] for a in exported[1]["attributes"]}
    assert attributes["db.query.text"] == {"stringValue": "insert"}
    assert attributes["code.line.number"] == {"intValue": "2"}
    assert exported[1]["events"][0]["name"] == "flux.mutation"


@given(SPANS)
def test_otlp_takes_any_spans(spans: list[dict[str, Any]]) -> None:
    trace = {"trace_id": "0" * 32, "started_at": "2026-05-01T10:00:00Z", "spans": spans}
    exported = otlp.export(trace, "0")["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert len(exported) == len(spans)
    json.dumps(exported)


@given(st.text(), st.integers(0, 60))
def test_recorded_text_cannot_command_a_terminal(text: str, width: int) -> None:
    assert clean(text).isprintable()
    assert show(text, width).isprintable()
    assert cells(fit(clean(text), width)) <= width
    assert cells(pad(clean(text), width)) == width


@given(st.text(alphabet=string.printable))
def test_clean_leaves_readable_text_alone(text: str) -> None:
    if text.isprintable():
        assert clean(text) == text


def test_durations_read_well() -> None:
    said = {
        0: "0 µs", 999: "999 µs", 1000: "1.00 ms", 12_345: "12.3 ms", 123_456: "123 ms",
        999_499: "999 ms", 999_500: "1.00 s", 59_000_000: "59.00 s", 123_000_000: "2m03s",
        3_720_000_000: "1h02m", -5: "-5 µs",
    }  # fmt: skip
    assert {us: duration(us) for us in said} == said
    assert duration(None) == "-"
