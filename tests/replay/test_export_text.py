"""The source that an export writes: it evaluates to what was recorded, and reads well."""

from __future__ import annotations

import datetime
import decimal
import math
import time
import uuid
import zoneinfo
from typing import Any

from hypothesis import given as for_all
from hypothesis import strategies as st

import flux_pg.testing
from flux_pg.records import ErrorRecord, SpanRecord
from flux_pg.replay.export_literals import WIDTH, Writer
from flux_pg.replay.export_rows import Fixture
from flux_pg.replay.export_text import Expected, expect, masked, name_of, write_test
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.boundaries.document import read_document
from flux_pg.runtime.boundaries.encoding import encode
from flux_pg.testing import ANY, REDACTED, given, http
from flux_pg.testing.stubs import conceal, write_answers

MARK = "redacted:0123456789abcdef"
ZONES = st.sampled_from([None, datetime.UTC, zoneinfo.ZoneInfo("Europe/Berlin")])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.datetimes(timezones=ZONES, allow_imaginary=False),
    st.dates(),
    st.times(),
    st.timedeltas(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)
SPACE = {
    **vars(flux_pg.testing), "datetime": datetime, "decimal": decimal, "uuid": uuid,
    "zoneinfo": zoneinfo, "time": time,
}  # fmt: skip


def evaluate(source: str) -> Any:
    return eval(source, dict(SPACE))


@for_all(VALUES)
def test_a_literal_evaluates_to_its_value(value: Any) -> None:
    writer = Writer()
    again = evaluate(writer.write(value))
    assert again == value
    assert encode(again) == encode(value)
    assert writer.modules <= {"datetime", "decimal", "uuid", "zoneinfo"}


def test_rare_values_have_literals() -> None:
    moment = time.localtime(1_700_000_000)
    again = evaluate(Writer().write(moment))
    assert (again, again.tm_zone, again.tm_gmtoff) == (moment, moment.tm_zone, moment.tm_gmtoff)
    assert math.isnan(evaluate(Writer().write(float("nan"))))
    for value in ({1, 2}, set(), frozenset({"a"}), bytearray(b"x"), 1 + 2j, float("-inf"), (1,)):
        assert evaluate(Writer().write(value)) == value


def test_marks_of_secrets_are_named_and_never_written() -> None:
    writer = Writer()
    text = writer.write({"password": MARK, "url": f"https://x/?token={MARK}"})
    assert "0123456789abcdef" not in text
    assert writer.names == {"REDACTED"}
    assert evaluate(text)["password"] is REDACTED
    assert REDACTED == MARK and REDACTED != "redacted:no"
    assert conceal({"a": [REDACTED]}) == {"a": ["redacted:0000000000000000"]}


def test_long_values_are_broken_as_a_formatter_would() -> None:
    value = {"lines": [{"sku": f"sku-{n}", "quantity": n} for n in range(6)], "note": "short"}
    text = Writer().write(value)
    assert evaluate(text) == value
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.splitlines()[1] == '    "lines": ['
    assert text.splitlines()[2] == '        {"sku": "sku-0", "quantity": 0},'


def test_answers_become_the_document_that_was_recorded() -> None:
    moment = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
    answers = [
        given("clock", "time.time", 1.5, 2.5),
        given("clock", "ctx.now", moment, span="charge[0]", task="0/1"),
        given("environment", "KEY", REDACTED),
        http("POST", "https://x/", sent='{"a":1}', sent_type="application/json", json={"b": 2}),
        http("GET", "https://x/", raises=("httpx:ConnectTimeout", "too slow")),
    ]
    entries, _ = read_document(write_answers(answers))
    assert [(one.kind, one.state) for one in entries] == [
        ("clock", "value"), ("clock", "value"), ("clock", "value"), ("environment", "redacted"),
        ("http", "value"), ("http", "error"),
    ]  # fmt: skip
    assert [one.key for one in entries[:3]] == [
        ("", "", 0), ("", "", 1), ("charge[0]", "0/1", 0)
    ]  # fmt: skip
    assert entries[2].value == moment
    assert entries[4].value["body"] == b'{"b": 2}'
    # The same answers, written as a test and read back.
    run = RecordedRun(
        request_id="01a20473-94ae-70f7-b144-c9adbf0bcf0c", trace_id="", kind="invoke",
        function="f", outcome="ok", boundaries=write_answers(answers),
    )  # fmt: skip
    space: dict[str, Any] = {}
    exec(write_test(run, Fixture(), Expected()), space)
    assert write_answers(space["REQUEST"].outside) == write_answers(answers)


def test_a_hostile_record_stays_a_record() -> None:
    evil = '"""\nimport os\nos.abort()\n"""\\'
    run = RecordedRun(
        request_id="01a20473-94ae-70f7-b144-c9adbf0bcf0c", trace_id="", kind="http",
        function="do-it(", started_at_us=1_795_372_376_232_447, duration_us=3,
        method="GET", path=f"/{evil}", outcome="error", status_code=500,
        input={evil: evil}, commit="a" * 40, incomplete_reason=evil,
        error=ErrorRecord(evil, evil, detail=evil),
        spans=[SpanRecord("a", None, "queue", evil, 0, input={"payload": {evil: evil}})],
    )  # fmt: skip
    source = write_test(run, Fixture({evil: [{evil: evil}]}, {evil: 1}, [evil]), Expected())
    space: dict[str, Any] = {}
    exec(source, space)
    assert name_of(run).startswith("test_do_it_no_longer_fails_with_")
    assert callable(space[name_of(run)])
    recorded = space["REQUEST"].recorded()
    assert (recorded.started_at_us, recorded.duration_us) == (run.started_at_us, run.duration_us)
    assert (recorded.input, recorded.path) == (run.input, run.path)


def test_what_differs_between_two_runs_is_any() -> None:
    assert repr(masked({"a": 1, "b": [1, "x"]}, {"a": 1, "b": [2, "x"]})) == repr(
        {"a": 1, "b": [masked(0, 1), "x"]}
    )
    assert evaluate(Writer().write(masked(1, True))) is ANY
    run = RecordedRun(
        request_id="01a20473-94ae-70f7-b144-c9adbf0bcf0c", trace_id="", kind="invoke",
        function="f", outcome="ok", status_code=200, response={"id": 1, "at": "now"},
    )  # fmt: skip
    mutations = [
        {"schema": "public", "table": "t", "pk": {"id": 1}, "op": op, "old": {"n": 1},
         "new": {"n": 2}, "outcome": outcome}
        for op, outcome in (("INSERT", "committed"), ("UPDATE", "rolled_back"))
    ]  # fmt: skip
    mask = {"response": {"id": 1, "at": "then"}, "changes": [["t", {"n": 2}]]}
    source = write_test(run, Fixture(), expect(run, mutations, mask))
    assert 'assert run.response == {"id": 1, "at": ANY}' in source
    assert 'assert run.changes == [inserted("t", {"n": 2})]' in source
