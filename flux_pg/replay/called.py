"""The steps of a run and of all functions that it called, as one tree: each called function stands
below the step that called it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from flux_pg.records import SpanRecord
from flux_pg.replay.live_record import CALLED_FROM, REQUEST_ID, SPANS, ReplayResult
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.nul import show_nul

_decode = msgspec.json.Decoder(list[SpanRecord], strict=False).decode
Run = tuple[str | None, list[SpanRecord]]
"""The step that called it, and its own steps."""


def whole_spans(one: RecordedRun | ReplayResult) -> list[SpanRecord]:
    """All steps; times are those since the whole began."""
    runs = list(_recorded(one) if isinstance(one, RecordedRun) else _replayed(one))
    if len(runs) == 1:
        return runs[0][1]
    home = {span.span_id: (number, span) for number, run in enumerate(runs) for span in run[1]}
    began = [0] * len(runs)
    for number in range(len(runs)):
        above = home.get(runs[number][0] or "")
        while above is not None:
            began[number] += above[1].start_us
            above = home.get(runs[above[0]][0] or "")
    found = []
    for number, (caller, spans) in enumerate(runs):
        own = {span.span_id for span in spans}
        for span in spans:
            parent = span.parent_span_id if span.parent_span_id in own else caller
            start_us = span.start_us + began[number]
            found.append(msgspec.structs.replace(span, parent_span_id=parent, start_us=start_us))
    return found


def _recorded(run: RecordedRun, caller: str | None = None) -> Iterator[Run]:
    yield caller, run.spans
    for called in run.calls:
        yield from _recorded(called, called.parent_span_id)


def _replayed(result: ReplayResult) -> Iterator[Run]:
    yield None, result.spans
    for record in result.records:
        caller, spans = record[CALLED_FROM], record[SPANS]
        if record[REQUEST_ID] != result.replay_id and caller is not None and spans is not None:
            yield f"{int(caller) & 0xFFFFFFFFFFFFFFFF:016x}", _decode(show_nul(spans))
