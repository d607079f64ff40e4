"""What one run of a commit says: the failure shows (bad), it does not (good), or it cannot be told.

Laws:
- A failure is known by its outcome, its type and the function it happened in, never by a line:
  lines move from commit to commit. A condition of the user's takes its place where one is given.
- Another failure than the recorded one is not "good": it may hide the one that is searched for. An
  answer that the code chose to give (`HttpError` below 500), or a bad input, is no failure.
- A run that asked for what is not recorded says nothing, with one exception: the recorded run ended
  where it failed. A run that did all that one did and goes on to ask for more got past the failure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flux_pg.analysis.conditions import Condition, Unknown
from flux_pg.records import ErrorRecord, SpanRecord
from flux_pg.replay.bisect import Seen
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.source import RecordedRun

_MAX_REASON = 160


def see(
    recorded: RecordedRun, result: ReplayResult, condition: Condition | None, *, from_record: bool
) -> Seen:
    """Judge a run.

    Args:
        recorded: The request.
        result: What came of it now.
        condition: What counts as the failure, in place of the recorded one.
        from_record: Whether statements were answered from the record.
    """
    if result.outcome is None:
        told = result.problem["message"] if result.problem else "it did not run"
        return Seen("skip", _short(told))
    divergence = result.first_divergence
    # What was recorded and is not asked for any more changes nothing in what this run got.
    if divergence is not None and divergence["reason"] != "unused":
        if condition is None and _got_past(recorded, result, from_record):
            reason = f"gets past the failure: {_asks(divergence)}"
            return Seen("good", _short(reason), result.replay_id)
        return Seen("skip", _short(_diverged(divergence)), result.replay_id, diverged=True)
    if condition is not None:
        return _by_condition(recorded, result, condition, from_record)
    if is_same_failure(recorded, result):
        return Seen("bad", _short(describe_ending(result)), result.replay_id)
    if result.outcome == "ok" or _is_chosen(result):
        return Seen("good", _short(describe_ending(result)), result.replay_id)
    return Seen("skip", _short(f"fails otherwise: {describe_ending(result)}"), result.replay_id)


def _by_condition(
    recorded: RecordedRun, result: ReplayResult, condition: Condition, from_record: bool
) -> Seen:
    if result.replay_id is None:
        return Seen("skip", _short(describe_ending(result)))
    try:
        holds = condition.holds(describe_run(recorded, result, from_record=from_record))
    except Unknown as unknown:
        reason = f"cannot be told: {unknown} ({describe_ending(result)})"
        return Seen("skip", _short(reason), result.replay_id)
    ending = describe_ending(result)
    return Seen("bad" if holds else "good", _short(ending), result.replay_id)


def is_same_failure(recorded: RecordedRun, result: ReplayResult) -> bool:
    """Whether a run failed as the recorded one did."""
    if not recorded.failed or result.outcome != recorded.outcome:
        return False
    then, now = recorded.error, result.error
    if result.outcome in ("timeout", "crashed") or then is None or now is None:
        return result.outcome in ("timeout", "crashed") or then is now
    if (then.type, then.sqlstate, _constraint(then)) != (now.type, now.sqlstate, _constraint(now)):
        return False
    if then.type == "HttpError" and recorded.status_code != result.status_code:
        return False
    if then.fingerprint == now.fingerprint:
        return True
    return bool(then.stack and now.stack) and then.stack[-1].function == now.stack[-1].function


def _constraint(error: ErrorRecord) -> str:
    return error.diagnostics.get("constraint", "")


def _is_chosen(result: ReplayResult) -> bool:
    error = result.error
    chosen = error is not None and error.type in ("HttpError", "InputError")
    return chosen and (result.status_code or 500) < 500


def describe_ending(run: ReplayResult | RecordedRun) -> str:
    """How a run ended, in a line."""
    if run.outcome == "ok":
        return f"answers {run.status_code}" if run.status_code else "ok"
    error = run.error
    if error is None:
        return str(run.outcome)
    place = ""
    if error.stack:
        last = error.stack[-1]
        place = f" in {last.function} ({last.file}:{last.line})"
    return f"{error.type}{place}: {error.message}"


def _got_past(recorded: RecordedRun, result: ReplayResult, from_record: bool) -> bool:
    """Whether a run did all that the recorded one came to do, and then asked for more."""
    divergence = result.first_divergence or {}
    if not recorded.failed or divergence.get("reason") != "missing" or divergence.get("recorded"):
        return False
    kinds = {"http", "call"} | ({"db"} if from_record else set())
    before = Counter(_place(span) for span in recorded.spans if span.kind in kinds)
    after = Counter(_place(span) for span in result.spans if span.kind in kinds)
    # The step that was asked for beyond the record is not one of the recorded.
    return before <= after and before != after


def _place(span: SpanRecord) -> tuple[str, str, str, str]:
    attributes = span.attributes or {}
    return span.kind, span.name, str(attributes.get("path", "")), str(attributes.get("task", ""))


def describe_run(
    recorded: RecordedRun, result: ReplayResult, *, from_record: bool
) -> dict[str, Any]:
    """A run as a condition sees it. What the record answered took as long as it did then."""
    error = result.error
    return {
        "outcome": result.outcome,
        "status": result.status_code,
        "duration_ms": result.duration_us / 1000,
        "response": result.response,
        "error": None if error is None else _describe_error(error),
        "row_changes": list(result.mutations or ()),
        "spans": _describe_spans(recorded.spans, result.spans, from_record),
    }


def _describe_error(error: ErrorRecord) -> dict[str, Any]:
    last = error.stack[-1] if error.stack else None
    return {
        "type": error.type,
        "message": error.message,
        "sqlstate": error.sqlstate,
        "constraint": _constraint(error),
        "fingerprint": error.fingerprint,
        "file": last.file if last else None,
        "line": last.line if last else None,
        "function": last.function if last else None,
    }


def _describe_spans(
    then: Sequence[SpanRecord], now: Sequence[SpanRecord], from_record: bool
) -> list[dict[str, Any]]:
    answered = {"http"} | ({"db"} if from_record else set())
    times: dict[tuple[str, str, str, str], list[int]] = {}
    for span in then:
        times.setdefault(_place(span), []).append(span.duration_us)
    found = []
    for span in sorted(now, key=lambda one: one.start_us):
        known = times.get(_place(span)) if span.kind in answered else None
        took_us = known.pop(0) if known else span.duration_us
        found.append(
            {
                "kind": span.kind,
                "name": span.name,
                "status": span.status,
                "duration_ms": took_us / 1000,
                "input": span.input,
                "output": span.output,
                "error": None if span.error is None else _describe_error(span.error),
                "attributes": span.attributes,
            }
        )
    return found


def _diverged(divergence: dict[str, Any]) -> str:
    if divergence["reason"] == "not-there":
        return str(divergence["now"])
    recorded = _named(divergence["recorded"])
    return f"diverged ({divergence['reason']}): {_asks(divergence)}, recorded is {recorded}"


def _asks(divergence: dict[str, Any]) -> str:
    return f"asks for {_named(divergence['now'])}"


def _named(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        for name in ("sql", "name"):
            if isinstance(value.get(name), str):
                return f"{value.get('kind', '')} {value[name]}".strip()
    return json.dumps(value, ensure_ascii=False, default=str)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_REASON else line[: _MAX_REASON - 1] + "…"
