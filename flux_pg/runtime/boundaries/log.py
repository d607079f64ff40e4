"""The boundary log of one run: where a value entered, and the handle through which it enters.

Laws:
- A value's key is (span path, task path, call index). Span path and task path are those of the
  code that asked; the index counts its calls there. Code that runs in one task in one span is
  sequential, so the key is the same whenever the same code gets the same values.
- A `BoundaryLog` is a place in that tree. Entering a span or spawning a task makes a new place;
  all places of a run share one mode.
- What happens to a value is the mode's business (`modes.py`): recorded, or served from a record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .modes import Mode, Observation

T = TypeVar("T")

current_log: ContextVar[BoundaryLog | None] = ContextVar("flux_boundary_log", default=None)
"""The place of the code that runs now; None outside a run and inside the runtime's own work."""


class BoundaryLog:
    """One place in a run, and through `mode` the values of the whole run.

    Attributes:
        mode: Recording or serving; shared by every place of the run.
        span_path: Names of the enclosing spans, each with its occurrence: `charge[0]/bank[1]`.
        task_path: Which spawn of which task this is: `2/0` is the first child of the third
            child of the run's first task, which is the empty path.
        calls: In a replay, how many values were asked for here; the next one's index. A recording
            needs none: the order of its entries says it.
    """

    __slots__ = ("_spans", "_task", "calls", "mode", "span_path", "task_path")

    def __init__(self, mode: Mode | None = None) -> None:
        if mode is None:
            from .modes import Recording

            mode = Recording()
        self.mode: Mode = mode
        self.span_path = ""
        self.task_path = ""
        self.calls = 0
        self._spans: dict[str, int] | None = None
        # Spawns are counted per task, not per place: a child's path must not depend on the span
        # it was started in, or two tasks could share a key.
        self._task = [0]

    def observe(self, kind: str, name: str, produce: Callable[[], T], request: Any = None) -> T:
        """Let one value in: what `produce` gives, or in a replay what the record holds.

        Args:
            kind: What sort of boundary: `clock`, `random`, `uuid`, `environment`, `db`, ...
            name: Which one, such as `time.time`; a replay compares it.
            produce: Asks the outside world. What it raises is recorded and raised.
            request: What was asked, JSON-ready, where the name does not say it all.

        Raises:
            Divergence: In a replay, when the record holds something else here.
        """
        return self.mode.observe(self, kind, name, produce, request)

    async def observe_async(
        self, kind: str, name: str, produce: Callable[[], Awaitable[T]], request: Any = None
    ) -> T:
        """`observe` for a producer that awaits. A cancellation is recorded as such."""
        observation = self.mode.begin(self, kind, name, request)
        if observation.served:
            answer: T = await observation.answer_async()
            return answer
        try:
            value = await produce()
        except BaseException as error:
            observation.fail(error)
            raise
        observation.finish(value)
        return value

    def begin(self, kind: str, name: str, request: Any = None) -> Observation:
        """Reserve the next key here for a value that comes later (a streamed response)."""
        return self.mode.begin(self, kind, name, request)

    def child_span(self, name: str) -> BoundaryLog:
        """The place inside a span that begins here."""
        if self._spans is None:
            self._spans = {}
        occurrence = self._spans.get(name, 0)
        self._spans[name] = occurrence + 1
        step = f"{name}[{occurrence}]"
        place = self._new_place()
        place.span_path = f"{self.span_path}/{step}" if self.span_path else step
        place.task_path = self.task_path
        place._task = self._task
        return place

    def child_task(self) -> BoundaryLog:
        """The place of a task or thread that is started here."""
        number = self._task[0]
        self._task[0] = number + 1
        place = self._new_place()
        place.span_path = self.span_path
        place.task_path = f"{self.task_path}/{number}" if self.task_path else str(number)
        return place

    def place_attributes(self) -> dict[str, Any]:
        """The place as a span keeps it: empty at the top of a run. A replay finds it by that."""
        places = {"task": self.task_path, "path": self.span_path}
        return {name: place for name, place in places.items() if place}

    def _new_place(self) -> BoundaryLog:
        return BoundaryLog(self.mode)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Why the log cannot answer a whole replay; empty if it can."""
        return tuple(self.mode.incomplete)

    def close(self) -> None:
        """End the run: what still asks (an abandoned thread) is passed through, unrecorded."""
        self.mode.close()

    def to_json(self, redact: Callable[[str, str, Any], Any] | None = None) -> Any:
        """The run's values as a JSON-ready document (`document.py`); None if none entered.

        Args:
            redact: Gets kind, name and JSON-ready value of each entry, gives what may be
                written; an entry that it changes is marked as redacted.
        """
        return self.mode.to_json(redact)

    def __repr__(self) -> str:
        return f"<BoundaryLog {self.span_path!r} task {self.task_path!r} calls {self.calls}>"


class SpanPlace:
    """Within it, values belong to a span that user code runs in. See `span_place`."""

    __slots__ = ("_name", "_token")

    def __init__(self, name: str) -> None:
        self._name = name
        self._token: Token[BoundaryLog | None] | None = None

    def __enter__(self) -> None:
        log = current_log.get()
        if log is not None:
            self._token = current_log.set(log.child_span(self._name))

    def __exit__(self, *exception: object) -> None:
        if self._token is not None:
            current_log.reset(self._token)
            self._token = None


def span_place(name: str) -> SpanPlace:
    """`with span_place("charge"): ...`: values that enter belong to a span of that name."""
    return SpanPlace(name)


class Suspended:
    """Within it nothing is recorded: the runtime, or a library on its behalf, is at work."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = current_log.set(None)

    def __exit__(self, *exception: object) -> None:
        current_log.reset(self._token)


def suspended() -> Suspended:
    """Step out of the run for work of the runtime's own: `with suspended(): ...`.

    Async code may await within it. Tasks spawned within it do not belong to the run.
    """
    return Suspended()
