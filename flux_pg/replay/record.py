"""The record of one execution as the replay asks it: values, statements, jobs, called functions.

Laws:
- A recorded step is found by span path, task path and call index, as a boundary value is, and by
  nothing else; what is found there is compared with what is asked for.
- What the record does not hold is a divergence that names both sides. The first one of a replay,
  the called functions' included, is kept, also when user code swallowed the exception.
- Where the recorded run ended early (it failed), a run that gets further asks for a clock, chance
  or an id that nobody recorded. These are supplied from the record's own last clock and from its
  id, so that each replay gets the same; the result names every one.
"""

from __future__ import annotations

import datetime
import random
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from flux_pg.records import ErrorRecord, SpanRecord
from flux_pg.replay.draws import Drawing
from flux_pg.replay.order import NO_STEPS, Order
from flux_pg.replay.source import RecordedRun
from flux_pg.replay.withheld import Withheld, is_mark
from flux_pg.runtime.boundaries.log import BoundaryLog
from flux_pg.runtime.boundaries.modes import REDACTED
from flux_pg.runtime.boundaries.redacting import redact_entry
from flux_pg.runtime.boundaries.serving import Divergence, Serving, ServingObservation
from flux_pg.runtime.redaction import Redactor

if TYPE_CHECKING:
    from flux_pg.runtime.boundaries.modes import Entry

Key = tuple[str, str]
_SUPPLIED = frozenset({"clock", "random", "uuid"})


class Trail:
    """What a whole replay has run into, the called functions included.

    Attributes:
        first: The first divergence, or None.
        supplied: Values that no record holds and that were supplied, by path.
        records: The request's own, and those of the functions it called.
        withheld: Places whose values the record does not hold, and which the function was given.
        drawing: What it draws from sequences, where that is given to it; else None.
        ids: Of the replay, and of the runs that it called.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.first: Divergence | None = None
        self.supplied: list[str] = []
        self.records: list[Record] = []
        self.withheld: list[str] = []
        self.drawing: Drawing | None = None

    def note(self, divergence: Divergence, prefix: str) -> Divergence:
        """Keep the first divergence."""
        if prefix and not divergence.path.startswith(prefix):
            divergence.path = f"{prefix} {divergence.path}"
        if self.first is None:
            self.first = divergence
        return divergence


class Passing:
    """An exchange that goes to the outside because its host was allowed."""

    served = False

    def answer(self) -> Any:
        """Nothing is served."""
        raise AssertionError("an allowed host is asked, not served")

    async def answer_async(self) -> Any:
        """Nothing is served."""
        raise AssertionError("an allowed host is asked, not served")

    def finish(self, value: Any, size: int = 0) -> None:
        """Nothing to keep."""

    def fail(self, error: BaseException) -> None:
        """Nothing to keep."""

    def note(self, request: dict[str, Any], size: int = 0) -> None:
        """Nothing to compare."""


class Supplied:
    """A value that the record does not hold."""

    served = True

    def __init__(self, value: Any) -> None:
        self._value = value

    def answer(self) -> Any:
        """The value."""
        return self._value

    async def answer_async(self) -> Any:
        """The value."""
        return self._value

    def finish(self, value: Any, size: int = 0) -> None:
        """Nothing to keep."""

    def fail(self, error: BaseException) -> None:
        """Nothing to keep."""

    def note(self, request: dict[str, Any], size: int = 0) -> None:
        """Nothing to compare."""


class OrderedObservation(ServingObservation):
    """A recorded exchange that ends when it is its turn."""

    __slots__ = ("_order", "_span")

    def __init__(self, found: ServingObservation, order: Order, span: SpanRecord | None) -> None:
        super().__init__(found.mode, found.entry)
        self._order = order
        self._span = span

    def answer(self) -> Any:
        """As `ServingObservation.answer`; a thread waits for nobody."""
        try:
            return super().answer()
        finally:
            self._order.end(self._span)

    async def answer_async(self) -> Any:
        """As `ServingObservation.answer_async`."""
        await self._order.turn(self._span)
        try:
            return await super().answer_async()
        finally:
            self._order.end(self._span)


class ReplayServing(Serving):
    """`Serving` that keeps the trail, supplies what a failed run never came to ask, and lets
    exchanges with allowed hosts through."""

    def __init__(
        self,
        run: RecordedRun,
        redactor: Redactor,
        trail: Trail,
        prefix: str,
        allowed: Callable[[str], bool],
        order: Order,
    ) -> None:
        super().__init__(run.boundaries, lambda *entry: redact_entry(redactor, *entry))
        self.incomplete = []  # of the recording; it is no fault of this run's record
        self._mark = redactor.mark
        self._trail = trail
        self._prefix = prefix
        self._allowed = allowed
        self._may_supply = run.failed
        self._is_written = run.is_written
        self._random = random.Random(run.request_id)
        self._clocks = Clocks(run)
        self._order = order
        self._exchanges = Steps([span for span in run.spans if span.kind == "http"])

    def begin(self, place: BoundaryLog, kind: str, name: str, request: Any) -> Any:
        """As `Serving.begin`."""
        if kind == "http" and self.lets_out(request.get("url", "")):
            self._unused.pop((place.span_path, place.task_path, place.calls), None)
            place.calls += 1
            return Passing()
        if self._may_supply and kind in _SUPPLIED and not self._is_held(place, kind, name):
            place.calls += self.upcoming(place) is None
            self._trail.supplied.append(f"{self._prefix}{kind} {name}".strip())
            return Supplied(self._supply(kind, name, request))
        withheld = self._withheld(place, kind, name)
        if withheld is not None:
            place.calls += 1
            return Supplied(withheld)
        observation = super().begin(place, kind, name, request)
        if kind == "clock":
            self._clocks.note(name, observation.entry.value)
        if kind == "http":
            span = self._exchanges.take_at((place.span_path, place.task_path))[1]
            return OrderedObservation(observation, self._order, span)
        return observation

    def lets_out(self, url: str) -> bool:
        """Whether the host was allowed."""
        return self._allowed(url)

    def _withheld(self, place: BoundaryLog, kind: str, name: str) -> Withheld | None:
        """A secret variable of the environment: it may be passed on and compared."""
        entry = self.upcoming(place)
        if kind != "environment" or entry is None or (entry.kind, entry.name) != (kind, name):
            return None
        if entry.state != REDACTED or not is_mark(entry.value):
            return None
        where = f"{self._prefix}environment {name}"
        self._trail.withheld.append(where)
        return Withheld(entry.value, where, self._mark, self.diverge)

    def _is_held(self, place: BoundaryLog, kind: str, name: str) -> bool:
        """Whether there is an answer to be compared with what is asked."""
        entry = self.upcoming(place)
        if entry is None or not self._is_written:
            return entry is not None
        return (entry.kind, entry.name) == (kind, name)

    def _supply(self, kind: str, name: str, request: Any) -> Any:
        if kind == "clock":
            return self._clocks.supply(name)
        if kind == "uuid" or name.startswith("uuid"):
            return uuid.UUID(int=self._random.getrandbits(128), version=4)
        if name in ("ctx.random", "random.random"):
            return self._random.random()
        now = {"kind": kind, "name": name, "request": request}
        raise self.diverge(Divergence(("", "", 0), None, now, "missing"))

    def unused(self) -> Entry | None:
        """A recorded answer of the outside that nobody asked for."""
        entries = (self._entries[key] for key in self._unused)
        return next((entry for entry in entries if entry.kind == "http"), None)

    def close(self) -> None:
        """End the replay; `Record.check_unused` says what was left, once it has ended."""
        self.closed = True

    def diverge(self, divergence: Divergence) -> Divergence:
        """Keep it on the trail too."""
        super().diverge(divergence)
        return self._trail.note(divergence, self._prefix)


class Clocks:
    """Times for a run that gets further than the recorded one did: that one's last moment."""

    def __init__(self, run: RecordedRun) -> None:
        self._moment_ns = (run.started_at_us + (run.duration_us or 0)) * 1000
        self._last: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        """Remember a recorded value."""
        self._last[name] = value

    def supply(self, name: str) -> Any:
        """A value of the kind that this clock gives."""
        if name in self._last:
            return self._last[name]
        moment = datetime.datetime.fromtimestamp(self._moment_ns / 1e9, datetime.UTC)
        known: dict[str, Callable[[], Any]] = {
            "ctx.now": lambda: moment,
            "time.time": lambda: self._moment_ns / 1e9,
            "time.time_ns": lambda: self._moment_ns,
            "datetime.datetime.utcnow": lambda: moment.replace(tzinfo=None),
            "datetime.date.today": lambda: moment.astimezone().date(),
        }
        if name in known:
            return known[name]()
        if name.startswith("datetime"):
            return moment.astimezone().replace(tzinfo=None)
        genuine = getattr(time, name.rpartition(".")[2], None)
        if genuine is None:
            return self._moment_ns / 1e9
        return genuine()


class Steps:
    """Recorded spans of one kind, each found once by its place."""

    def __init__(self, spans: list[SpanRecord]) -> None:
        self._spans: dict[Key, list[SpanRecord]] = {}
        for span in spans:
            self._spans.setdefault(_place_of(span), []).append(span)
        self._next: dict[Key, int] = {}

    def take(self, asked: SpanRecord) -> tuple[tuple[str, str, int], SpanRecord | None]:
        """The recorded step at the place where `asked` is made; its key, and the step or None."""
        return self.take_at(_place_of(asked))

    def take_at(self, place: Key) -> tuple[tuple[str, str, int], SpanRecord | None]:
        """The next recorded step at a place; its key, and the step or None."""
        index = self._next.get(place, 0)
        self._next[place] = index + 1
        here = self._spans.get(place, [])
        return (*place, index), here[index] if index < len(here) else None

    def upcoming(self, place: Key) -> SpanRecord | None:
        """The recorded step that is asked for next at a place, without taking it."""
        index = self._next.get(place, 0)
        here = self._spans.get(place, [])
        return here[index] if index < len(here) else None

    def left(self) -> tuple[tuple[str, str, int], SpanRecord] | None:
        """The first recorded step that nobody asked for."""
        for place, spans in self._spans.items():
            index = self._next.get(place, 0)
            if index < len(spans):
                return (*place, index), spans[index]
        return None


def _place_of(span: SpanRecord) -> Key:
    attributes = span.attributes or {}
    return str(attributes.get("path", "")), str(attributes.get("task", ""))


class Record:
    """One recorded execution, being replayed. See the module."""

    def __init__(
        self,
        run: RecordedRun,
        redactor: Redactor,
        trail: Trail,
        allowed: Callable[[str], bool],
        prefix: str = "",
        order: Order | None = None,
    ) -> None:
        self.run = run
        self.trail = trail
        self.order = order or Order(run)
        trail.records.append(self)
        self.redactor = redactor
        self.prefix = prefix
        self._allowed = allowed
        self.serving = ReplayServing(run, redactor, trail, prefix, allowed, self.order)
        spans = run.spans
        self.statements = Steps([s for s in spans if s.kind == "db" and s.name != "refused"])
        # The same, for who asks a database for them and only wants to know when it was.
        self.asked = Steps([s for s in spans if s.kind == "db" and s.name not in NO_STEPS])
        self.pushes = Steps([s for s in spans if s.kind == "queue" and s.name != "queue.job"])
        self._calls = Steps([s for s in spans if s.kind == "call"])
        self._called = {called.parent_span_id: called for called in run.calls}

    def mark(self, value: Any) -> str:
        """What stands in the record for a secret value."""
        return self.redactor.mark(value)

    def note_withheld(self, place: str) -> None:
        """A value of this place was given as withheld."""
        self.trail.withheld.append(place)

    def diverge(self, divergence: Divergence) -> Divergence:
        """Note a divergence and give it back, to be raised."""
        return self.serving.diverge(divergence)

    def called(self, function: str, asked: SpanRecord) -> Record:
        """The record of the function that is called here.

        Raises:
            Divergence: Another function was called here.
        """
        key, span = self._calls.take(asked)
        if span is not None and span.name != function:
            recorded = {"kind": "call", "name": span.name}
            raise self.diverge(Divergence(key, recorded, {"kind": "call", "name": function}))
        found = self._called.get(span.span_id) if span is not None else None
        if found is None:
            # Nothing of it is recorded; what it needs of the outside is refused one by one.
            found = RecordedRun(
                request_id=self.run.request_id, trace_id=self.run.trace_id, kind="call",
                function=function, outcome=self.run.outcome,
                started_at_us=self.run.started_at_us, duration_us=self.run.duration_us,
            )  # fmt: skip
        prefix = f"{self.prefix}{function}[{key[2]}] > "
        return Record(found, self.redactor, self.trail, self._allowed, prefix, self.order)

    def attempt_errors(self) -> list[ErrorRecord | None]:
        """For each try of the function, the error of Postgres that no statement of it had: that
        of COMMIT."""
        found: list[ErrorRecord | None] = []
        stated: set[str] = set()
        for span in self.run.spans:
            if span.kind == "function":
                stated = set()  # of this try: the next one may fail with the same words
                found.append(span.error if span.error and span.error.sqlstate else None)
            elif span.kind == "db" and span.error is not None:
                stated.add(span.error.message)
            if found and found[-1] is not None and found[-1].message in stated:
                found[-1] = None
        return found

    def check_withheld(self, error: ErrorRecord | None) -> None:
        """A TypeError after a value was withheld: code below Python's own methods needed it."""
        withheld = self.trail.withheld
        if self.trail.first is not None or not withheld or error is None:
            return
        before = self.run.error.type if self.run.error is not None else ""
        if error.type == "TypeError" and before != "TypeError":
            now = {"kind": "value", "name": withheld[0], "error": error.message}
            self.diverge(Divergence(("", "", 0), None, now, "redacted", at=withheld[0]))

    def check_unused(self, *, statements: bool) -> None:
        """What is recorded and was not asked for is a divergence too, if nothing else was.

        Clock, chance and environment do not count: to ask less often changes nothing.

        Args:
            statements: Whether the record answered statements, so that none may be left over.
        """
        if self.trail.first is not None:
            return
        left = self.serving.unused()
        if left is not None:
            self.diverge(Divergence(left.key, left.describe(), None, "unused"))
        elif statements and (step := self.statements.left() or self.pushes.left()) is not None:
            self.diverge(Divergence(step[0], describe(step[1]), None, "unused"))


def describe(span: SpanRecord) -> dict[str, Any]:
    """A recorded statement or job for a person."""
    if span.kind == "db" and isinstance(span.input, dict):
        return {"kind": "db", "name": span.name, **span.input}
    return {"kind": span.kind, "name": span.name, "input": span.input}


def as_json(value: Any) -> Any:
    """A value as it comes back from the record."""
    from flux_pg.runtime.values import to_exact_json

    return msgspec.json.decode(to_exact_json(value))
