"""What a run says of a commit, and which part of a commit touched the function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flux_pg.analysis.conditions import read_condition
from flux_pg.analysis.patches import find_function, read_patch, to_patch, touching
from flux_pg.records import ErrorRecord, Location, SpanRecord
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.oracle import see
from flux_pg.replay.source import RecordedRun
from tests.replay.histories import git


def error(
    kind: str = "KeyError", function: str = "charge", line: int = 3, **more: Any
) -> ErrorRecord:
    stack = (Location("functions/pay.py", line, function),)
    return ErrorRecord(kind, more.pop("message", "'x'"), stack, more.pop("fingerprint", ""), **more)


def recorded(**values: Any) -> RecordedRun:
    base: dict[str, Any] = {
        "request_id": "r", "trace_id": "t", "kind": "http", "function": "charge",
        "outcome": "error", "status_code": 500, "error": error(fingerprint="then"),
    }  # fmt: skip
    return RecordedRun(**{**base, **values})


def result(**values: Any) -> ReplayResult:
    base: dict[str, Any] = {
        "request_id": "r", "replay_id": "p", "outcome": "error", "status_code": 500,
    }  # fmt: skip
    return ReplayResult(**{**base, **values})


def verdict(run: RecordedRun, now: ReplayResult, **options: Any) -> str:
    condition = options.get("condition")
    return see(
        run, now, condition and read_condition(condition), from_record=options.get("record", False)
    ).verdict


def test_a_failure_is_known_by_type_and_function_not_by_line() -> None:
    now = result(error=error(line=99, fingerprint="now"))
    assert verdict(recorded(), now) == "bad"
    assert verdict(recorded(), result(outcome="ok", status_code=200)) == "good"


def test_another_failure_is_not_good() -> None:
    for other in (
        result(error=error(kind="ValueError")),
        result(error=error(function="elsewhere")),
        result(error=error(diagnostics={"constraint": "c"})),
        result(outcome="timeout"),
        result(outcome="crashed", replay_id=None, problem={"message": "its process ended"}),
    ):
        assert verdict(recorded(), other) == "skip"


def test_an_answer_that_the_code_chose_is_no_failure() -> None:
    refused = result(error=error(kind="HttpError"), status_code=409)
    assert verdict(recorded(), refused) == "good"
    assert verdict(recorded(error=error(kind="HttpError"), status_code=409), refused) == "bad"
    other = result(error=error(kind="HttpError"), status_code=404)
    assert verdict(recorded(error=error(kind="HttpError"), status_code=409), other) == "good"


def test_timeouts_and_crashes_have_no_place() -> None:
    assert verdict(recorded(outcome="timeout"), result(outcome="timeout")) == "bad"
    assert verdict(recorded(outcome="crashed", error=None), result(outcome="crashed")) == "bad"


def test_what_could_not_run_says_nothing() -> None:
    now = result(outcome=None, problem={"code": "x", "message": "no function charge", "hint": ""})
    seen = see(recorded(), now, None, from_record=False)
    assert (seen.verdict, seen.reason) == ("skip", "no function charge")


def http(name: str) -> SpanRecord:
    return SpanRecord("0" * 16, None, "http", name, 0, duration_us=6_000_000)


def test_past_the_end_of_the_record_is_past_the_failure() -> None:
    run = recorded(spans=[http("GET a")])
    beyond = {"path": "p", "recorded": None, "now": {"name": "GET b"}, "reason": "missing"}
    past = result(first_divergence=beyond, spans=[http("GET a"), http("GET b")])
    assert verdict(run, past) == "good"
    # It never did what the recorded run did: nothing is known of it.
    astray = result(first_divergence=beyond, spans=[http("GET b")])
    assert verdict(run, astray) == "skip"
    assert see(run, astray, None, from_record=False).diverged
    other = {**beyond, "recorded": {"name": "GET a"}, "reason": "different"}
    assert verdict(run, result(first_divergence=other, spans=[http("GET a")])) == "skip"
    assert verdict(run, past, condition='outcome == "error"') == "skip"


def test_a_condition_takes_the_place_of_the_failure() -> None:
    run = recorded(outcome="ok", error=None, status_code=200, spans=[http("GET a")])
    # Answered from the record in no time; it counts as what it took then.
    served = SpanRecord("0" * 16, None, "http", "GET a", 0, duration_us=10)
    now = result(outcome="ok", status_code=200, spans=[served], response={"n": 1})
    slow = 'span("http").duration_ms > 5000'
    assert verdict(run, now, condition=slow) == "bad"
    assert verdict(run, now, condition="response.n > 1") == "good"
    assert verdict(run, result(outcome="ok"), condition=slow) == "skip"
    unused = {"path": "p", "recorded": {"name": "GET a"}, "now": None, "reason": "unused"}
    now = result(outcome="ok", status_code=200, first_divergence=unused)
    assert verdict(run, now, condition='count(spans("http")) > 0') == "good"


BEFORE = "import x\n\n\ndef one():\n    return 1\n\n\n@x.y\nasync def two():\n    return 2\n"
AFTER = BEFORE.replace("return 1", "return 10").replace("return 2", "a = 1\n    return a")


def test_the_part_of_a_patch_that_touches_a_function(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text(BEFORE)
    (tmp_path / "gone.py").write_text("x = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "before")
    (tmp_path / "a.py").write_text(AFTER)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "new.py").write_text("def two():\n    return -- 2\n")
    git(tmp_path, "add", "-A")
    hunks = read_patch(git(tmp_path, "diff", "-U0", "HEAD"))
    assert [hunk.path for hunk in hunks] == ["a.py", "a.py", "gone.py", "new.py"]
    old, new = {"a.py": BEFORE}, {"a.py": AFTER, "new.py": "def two():\n    return -- 2\n"}
    found = touching(hunks, [("a.py", "two")], old.get, new.get)
    assert to_patch(found).splitlines() == [
        "--- a/a.py", "+++ b/a.py", found[0].text.splitlines()[0],
        "-    return 2", "+    a = 1", "+    return a",
    ]  # fmt: skip
    assert touching(hunks, [("new.py", "two")], old.get, new.get) == [hunks[3]]
    assert not touching(hunks, [("a.py", "three"), ("b.py", "one")], old.get, new.get)
    assert find_function("def broken(:", "broken") == []
