"""A replay held against what was recorded, by the rules of `flux trace diff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flux_pg.analysis.diff import learn
from flux_pg.analysis.diff_document import Comparison, compare_runs
from flux_pg.analysis.diff_run import Run, is_gate
from flux_pg.analysis.diff_values import Clock, Volatility, leaves, texts_in
from flux_pg.analysis.text import read_json
from flux_pg.records import SpanRecord
from flux_pg.replay.called import whole_spans
from flux_pg.replay.engine import ReplayResult
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.values import to_json

Rows = Sequence[Mapping[str, Any]]
_OF_A_CHANGE = ("schema", "table", "op", "pk", "old", "new", "changed", "outcome", "complete")


def compare_replay(
    recorded: RecordedRun,
    result: ReplayResult,
    mutations: Rows | None = None,
    *,
    volatile: frozenset[str] = frozenset(),
    interleaved: bool = False,
) -> Comparison:
    """Judge a replay, with every difference behind the verdict.

    Args:
        recorded: The request.
        result: Its replay.
        mutations: The request's row changes as in `flux.trace/1`; None leaves rows out.
        volatile: Places known to differ (`flux_pg.analysis.diff.learn`).
        interleaved: Whether the request read what was committed while it ran.
    """
    diverged = result.first_divergence is not None or (
        result.problem is not None and result.outcome is None
    )
    compared = mutations is not None and result.mutations is not None
    return compare_runs(
        _run(recorded, mutations if compared else None),
        _run(result, result.mutations if compared else None, recorded),
        volatile,
        diverged=diverged,
        interleaved=interleaved,
    )


def learn_varying(
    recorded: RecordedRun, first: ReplayResult, second: ReplayResult
) -> frozenset[str]:
    """The places at which two replays of a request on one code and one state differ."""
    places, _ = learn([
        (_run(first, first.mutations, recorded), _run(second, second.mutations, recorded))
    ])  # fmt: skip
    return places


def is_repeated(recorded: RecordedRun, result: ReplayResult, mutations: Rows | None) -> bool:
    """Whether a replay did to the letter what was recorded, so that there is nothing to compare.

    Mostly it did, and to find no difference step by step took longer than the replay. Times that
    the database puts into rows may be those of either run. False says nothing: ids, other times
    and the order of keys may differ and mean nothing.

    Args:
        recorded: The request.
        result: Its replay.
        mutations: The request's row changes; None leaves rows out.
    """
    if result.first_divergence is not None or result.problem is not None:
        return False
    ends = [[one.outcome, one.status_code, one.response, one.error] for one in (recorded, result)]
    if to_json(ends[0]) != to_json(ends[1]):
        return False
    if mutations is not None and not _are_repeated(recorded, result, mutations):
        return False
    return to_json(_steps(whole_spans(recorded))) == to_json(_steps(whole_spans(result)))


def _steps(spans: Sequence[SpanRecord]) -> list[list[Any]]:
    """The steps from the function's own on, each with the place of the one around it."""
    steps = [one for one in spans if not is_gate(one.kind, one.name)]
    places = {one.span_id: place for place, one in enumerate(steps)}
    return [
        [
            places.get(one.parent_span_id or ""), one.kind, one.name, one.status, one.input,
            one.output, one.error, one.attributes,
        ]
        for one in steps
    ]  # fmt: skip


def _are_repeated(recorded: RecordedRun, result: ReplayResult, mutations: Rows) -> bool:
    """Whether row changes are the same, but for times of the runs themselves."""
    if result.mutations is None:
        return True
    then, now = (
        [[one.get(name) for name in _OF_A_CHANGE] for one in side]
        for side in (mutations, result.mutations)
    )
    if to_json(then) == to_json(now):
        return True
    clock = Clock(
        recorded.started_at_us, _moment_of(result.replay_id),
        max(recorded.duration_us or 0, result.duration_us or 0),
    )  # fmt: skip
    volatility = Volatility(clock, given=set(texts_in(_plain(recorded.input))))
    return all(
        is_same or volatility.explain("", leaf) == "time" for leaf, is_same in leaves(then, now)
    )


def _run(
    one: RecordedRun | ReplayResult, mutations: Rows | None, recorded: RecordedRun | None = None
) -> Run:
    """A run as it is compared; of a replay, what was asked is what was recorded."""
    asked = recorded or one
    assert isinstance(asked, RecordedRun)
    is_replay = isinstance(one, ReplayResult)
    return Run(
        request_id=(one.replay_id or "") if isinstance(one, ReplayResult) else one.request_id,
        trace_id="" if is_replay else asked.trace_id,
        kind="replay" if is_replay else asked.kind,
        function=asked.function,
        input=_plain(asked.input),
        outcome=one.outcome,
        status_code=one.status_code,
        response=_plain(one.response),
        error=_plain(one.error),
        # Values of the recorded clock are equal; what the database says of the time is of now.
        started_us=_moment_of(one.replay_id)
        if isinstance(one, ReplayResult)
        else one.started_at_us,
        duration_us=one.duration_us,
        spans=_plain(_with_all_fields(whole_spans(one))),
        mutations=None if mutations is None else list(mutations),
        incomplete_reason=None,
    )


def _moment_of(replay_id: str | None) -> int:
    """When an id was made (UUIDv7), in microseconds since the epoch."""
    return int(replay_id.replace("-", "")[:12], 16) * 1000 if replay_id else 0


_DEFAULTS = {"status": "ok", "input": None, "output": None, "error": None, "attributes": None}


def _with_all_fields(spans: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**_DEFAULTS, **msgspec.structs.asdict(span)} for span in spans]


def _plain(value: Any) -> Any:
    """A value as it comes back from the record, digit for digit."""
    return read_json(to_json(value))
