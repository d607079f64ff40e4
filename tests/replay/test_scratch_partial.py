"""A read outside the rows that are there is a divergence, never a verdict on the code."""

from __future__ import annotations

from typing import Any

from flux_pg.records import SpanRecord
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.targets import Target, read_outside


def span(sql: str, rows: list[list[Any]], *, types: int = 23) -> SpanRecord:
    output = {"columns": ["a"], "types": [types], "rows": rows, "rowcount": len(rows)}
    return SpanRecord(
        span_id="0" * 16, parent_span_id=None, kind="db", name="db.query", start_us=0,
        input={"sql": sql, "params": []}, output=output,
    )  # fmt: skip


def outside(*now: SpanRecord) -> dict[str, Any] | None:
    recorded = [span("select a from large where id = 1", [["x"]])]
    run = RecordedRun(request_id="r", trace_id="t", kind="http", function="f", spans=recorded)
    return read_outside(run, ReplayResult(request_id="r", spans=list(now)), ["public.large"])


def test_a_recorded_statement_with_its_answer_is_true() -> None:
    assert outside(span("select a from large where id = 1", [["x"]], types=99999)) is None


def test_a_recorded_statement_with_another_answer_may_lack_rows() -> None:
    found = outside(span("select a from large where id = 1", []))
    assert found is not None
    assert found["reason"] == "partial"
    assert found["recorded"]["rows"] == [["x"]]


def test_a_new_statement_may_lack_rows_only_of_a_partial_table() -> None:
    assert outside(span("select count(*) from LARGE", [["3"]])) is not None
    assert outside(span("select count(*) from small", [["3"]])) is None


def test_the_result_is_a_divergence_then() -> None:
    run = RecordedRun(request_id="r", trace_id="t", kind="http", function="f")
    result = ReplayResult(request_id="r", outcome="ok", spans=[span("select 1 from large", [])])
    Target("", partial_tables=["public.large"]).explain(result, run)
    assert result.first_divergence is not None
    whole = ReplayResult(request_id="r", outcome="ok", spans=result.spans)
    Target("").explain(whole, run)
    assert whole.first_divergence is None
