"""What happens to a value that enters: the interface, and `Recording`, which keeps it.

Laws:
- Recording never changes a result: the producer's value or error passes through untouched.
- Nothing is cut silently: over a limit the value is left out whole and the log says so.

The other mode is `serving.Serving`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from uuid import UUID

import msgspec
import trio

from .encoding import NotRestorable, encode, encode_error

if TYPE_CHECKING:
    from .log import BoundaryLog

T = TypeVar("T")

PENDING, VALUE, ERROR, CANCELLED, OMITTED, REDACTED = (
    "pending",
    "value",
    "error",
    "cancelled",
    "omitted",
    "redacted",
)


class Limits(msgspec.Struct, frozen=True):
    """How much of one run is kept. Sizes are bytes before encoding."""

    max_entries: int = 100_000
    max_value_bytes: int = 1 << 20
    max_total_bytes: int = 16 << 20


class Entry:
    """One value that entered (or an error, or a call that has no answer yet)."""

    __slots__ = ("index", "kind", "name", "request", "span_path", "state", "task_path", "value")

    def __init__(self, place: BoundaryLog, kind: str, name: str, request: Any = None) -> None:
        self.span_path = place.span_path
        self.task_path = place.task_path
        self.index = -1  # known when the whole log is read back; order says it until then
        self.kind = kind
        self.name = name
        self.request = request
        self.state = PENDING
        self.value: Any = None

    @classmethod
    def read(cls, kind: str, name: str, state: str, value: Any, request: Any) -> Entry:
        """An entry out of a document; the reader fills in its key."""
        entry = cls.__new__(cls)
        entry.kind, entry.name, entry.state = kind, name, state
        entry.value, entry.request = value, request
        return entry

    @property
    def key(self) -> tuple[str, str, int]:
        """Where it entered: span path, task path, call index."""
        return self.span_path, self.task_path, self.index

    def describe(self) -> dict[str, Any]:
        """The entry for a person: what was asked, and the answer's state."""
        described = {"kind": self.kind, "name": self.name}
        if self.request is not None:
            described["request"] = self.request
        if self.state != VALUE:
            described["state"] = self.state
        return described


Plain = tuple["BoundaryLog", str, str, Any]
"""A small value as it is kept: place, kind, name, value."""

_SMALL = frozenset({int, float, datetime, date, UUID, type(None)})
_SIZED = frozenset({str, bytes})
_SHORT = 64


class Observation(Protocol):
    """A value on its way in."""

    served: bool

    def answer(self) -> Any:
        """The recorded value, or raise the recorded error. Only if `served`."""
        ...

    async def answer_async(self) -> Any:
        """`answer` for async code: where the record says cancelled, wait to be cancelled."""
        ...

    def finish(self, value: Any, size: int = 0) -> None:
        """Record the value. `size` is its size in bytes where that may be large."""
        ...

    def fail(self, error: BaseException) -> None:
        """Record that the call raised."""
        ...

    def note(self, request: dict[str, Any], size: int = 0) -> None:
        """Say more of what was asked (a body that was known only once it was sent).

        Raises:
            Divergence: In a replay, when the record says something else.
        """
        ...


class Mode(Protocol):
    """One run's values: kept, or served."""

    @property
    def incomplete(self) -> list[str]:
        """Why the log is not whole."""
        ...

    def observe(
        self, place: BoundaryLog, kind: str, name: str, produce: Callable[[], T], request: Any
    ) -> T:
        """Let one value in, at once."""
        ...

    def begin(self, place: BoundaryLog, kind: str, name: str, request: Any) -> Observation:
        """Reserve a key for a value that comes later."""
        ...

    def close(self) -> None:
        """No value enters any more."""
        ...

    def to_json(self, redact: Callable[[str, str, Any], Any] | None) -> Any:
        """The values as a JSON-ready document."""
        ...


def measure(value: Any) -> int:
    """Bytes of a value that may be large; others count as 16."""
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return len(value)
    return 16


class Recording:
    """Keeps what enters, in the order in which it was asked for.

    Attributes:
        entries: One per value.
        incomplete: Reasons why the log is not whole.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.entries: list[Entry | Plain] = []
        self.incomplete: list[str] = []
        self.total_bytes = 0
        self.closed = False
        self._fast_entries = self.limits.max_entries

    def mark_incomplete(self, reason: str) -> None:
        """Law 4: say what the log lacks."""
        if reason not in self.incomplete:
            self.incomplete.append(reason)

    def observe(
        self, place: BoundaryLog, kind: str, name: str, produce: Callable[[], T], request: Any
    ) -> T:
        """Produce, keep, return. `produce` itself must let nothing in at this place."""
        try:
            value = produce()
        except BaseException as error:
            self._keep_error(self._add(place, kind, name, request), error)
            raise
        kind_of: type[Any] = type(value)
        if (
            request is None
            and (kind_of in _SMALL or (kind_of in _SIZED and len(cast(str, value)) <= _SHORT))
            and len(self.entries) < self._fast_entries
        ):
            # The path of every clock read: a tuple costs a fifth of an Entry.
            self.entries.append((place, kind, name, value))
            return value
        entry = self._add(place, kind, name, request)
        if entry is not None:
            self._keep(entry, value, 0)
        return value

    def begin(self, place: BoundaryLog, kind: str, name: str, request: Any) -> RecordingObservation:
        """Reserve the next key at `place`."""
        return RecordingObservation(self, self._add(place, kind, name, request))

    def close(self) -> None:
        """Drop what comes later."""
        self.closed = True
        self._fast_entries = 0
        for entry in self.entries:
            if isinstance(entry, Entry) and entry.state == PENDING:
                self.mark_incomplete(f"boundary {entry.kind} {entry.name} had not ended")

    def to_json(self, redact: Callable[[str, str, Any], Any] | None) -> Any:
        """See `document.write_document`."""
        from .document import write_document

        return write_document(self, redact)

    def _add(self, place: BoundaryLog, kind: str, name: str, request: Any) -> Entry | None:
        if self.closed:
            return None
        if len(self.entries) >= self.limits.max_entries:
            self.mark_incomplete(f"more than {self.limits.max_entries} boundary values")
            return None
        entry = Entry(place, kind, name, request)
        self.entries.append(entry)
        return entry

    def _keep(self, entry: Entry, value: Any, size: int) -> None:
        size = size or measure(value)
        self.total_bytes += size
        if size > self.limits.max_value_bytes or self.total_bytes > self.limits.max_total_bytes:
            self.total_bytes -= size
            self._omit(entry, value, size)
            return
        entry.state = VALUE
        # What user code may change afterwards is frozen now, as it entered.
        entry.value = encode_mutable(value) if isinstance(value, (list, dict, bytearray)) else value

    def _keep_request(self, entry: Entry, request: dict[str, Any], size: int) -> None:
        self.total_bytes += size
        if size > self.limits.max_value_bytes or self.total_bytes > self.limits.max_total_bytes:
            self.total_bytes -= size
            request = {key: {"omitted_bytes": size} for key in request}
            self.mark_incomplete(f"boundary {entry.kind} {entry.name}: request of {size} bytes")
        entry.request = {**(entry.request or {}), **request}

    def _omit(self, entry: Entry, value: Any, size: int) -> None:
        entry.state = OMITTED
        entry.value = {"bytes": size}
        if isinstance(value, (bytes, bytearray)):
            entry.value["sha256"] = hashlib.sha256(value).hexdigest()
        limit = self.limits.max_value_bytes
        which = f"over {limit} bytes" if size > limit else "over the limit of one request"
        self.mark_incomplete(f"boundary {entry.kind} {entry.name}: {size} bytes, {which}")

    def _keep_error(self, entry: Entry | None, error: BaseException) -> None:
        if entry is None:
            return
        if isinstance(error, trio.Cancelled | GeneratorExit | KeyboardInterrupt):
            entry.state = CANCELLED
            return
        entry.state = ERROR
        entry.value = encode_error(error)


class Frozen:
    """A value encoded at the moment it entered, because user code may change it later."""

    __slots__ = ("encoded",)

    def __init__(self, encoded: Any) -> None:
        self.encoded = encoded


def encode_mutable(value: Any) -> Any:
    """Encode now; a value that cannot be restored stays as it is and is reported when written."""
    try:
        return Frozen(encode(value))
    except NotRestorable:
        return value


class RecordingObservation:
    """A reserved key of a recording; `entry` is None past the limit."""

    __slots__ = ("entry", "mode")

    served = False

    def __init__(self, mode: Recording, entry: Entry | None) -> None:
        self.mode = mode
        self.entry = entry

    def answer(self) -> Any:
        """Nothing is served while recording."""
        raise AssertionError("a recording has no answers")

    async def answer_async(self) -> Any:
        """Nothing is served while recording."""
        raise AssertionError("a recording has no answers")

    def finish(self, value: Any, size: int = 0) -> None:
        """Keep the value; the first end counts."""
        if self.entry is not None and self.entry.state == PENDING and not self.mode.closed:
            self.mode._keep(self.entry, value, size)

    def fail(self, error: BaseException) -> None:
        """Keep the error; the first end counts."""
        if self.entry is not None and self.entry.state == PENDING and not self.mode.closed:
            self.mode._keep_error(self.entry, error)

    def note(self, request: dict[str, Any], size: int = 0) -> None:
        """Keep more of what was asked. Too much of it is left out and said to be."""
        if self.entry is not None and not self.mode.closed:
            self.mode._keep_request(self.entry, request, size)
