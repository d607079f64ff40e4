"""The order in which the steps of a request's tasks ended, which a replay keeps.

Which of two tasks comes first is the scheduler's choice and the outside's, and code may depend on
it: the order of a list that tasks append to, the keys that their rows draw from a sequence. Laws:

- A step ends once all that ended before it then have ended now. The task that it belongs to goes
  on before the next step ends.
- Nothing waits for ever: where other code asks for other steps, the order is given up.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from flux_pg.records import SpanRecord
from flux_pg.replay.source import RecordedRun
from flux_pg.runtime.dispatcher import FAILED_COMMIT

PATIENCE_S = 0.5
"""So long a step waits for those before it; the clock of a replay without a database jumps."""

NO_STEPS = frozenset({"refused", FAILED_COMMIT})
"""Names of db spans of which no statement is asked."""

_KINDS = frozenset({"db", "http"})


class Order:
    """The steps of a recorded run and of all that it called, as they ended.

    Args:
        run: The request.
    """

    def __init__(self, run: RecordedRun) -> None:
        steps = sorted(_ends(run))
        self._places = {span_id: place for place, (_, span_id) in enumerate(steps)}
        self._ended = [False] * len(steps)
        self._next = 0
        self._waiting: dict[int, trio.Event] = {}
        self._given_up = False

    async def turn(self, step: SpanRecord | None) -> None:
        """Wait until every step that ended before this one then has ended now.

        Args:
            step: None waits for nothing.
        """
        place = self._places.get(step.span_id, -1) if step is not None else -1
        if place <= self._next or self._given_up:
            return
        event = self._waiting[place] = trio.Event()
        with trio.move_on_after(PATIENCE_S) as patience:
            await event.wait()
        if patience.cancelled_caught:
            self._give_up()

    def end(self, step: SpanRecord | None) -> None:
        """This one has ended. Whose turn it is goes on when this task waits for something."""
        place = self._places.get(step.span_id) if step is not None else None
        if place is None:
            return
        self._ended[place] = True
        while self._next < len(self._ended) and self._ended[self._next]:
            self._next += 1
        event = self._waiting.pop(self._next, None)
        if event is not None:
            event.set()

    def _give_up(self) -> None:
        self._given_up = True
        for event in self._waiting.values():
            event.set()
        self._waiting.clear()


def _ends(run: RecordedRun) -> Iterator[tuple[int, str]]:
    """When each step ended (microseconds since the epoch), and its id."""
    for span in run.spans:
        counts = span.kind in _KINDS and span.name not in NO_STEPS
        if counts and span.status != "cancelled":
            yield run.started_at_us + span.start_us + (span.duration_us or 0), span.span_id
    for called in run.calls:
        yield from _ends(called)
