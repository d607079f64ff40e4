"""What happens to a value that enters: `Recording` keeps it, `Serving` gives back the kept one.

Laws:
- Recording never changes a result: the producer's value or error passes through untouched.
- Nothing is cut silently: over a limit the value is left out whole and the log says so.
- Serving never invents: what the record does not hold is a `Divergence` naming both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from uuid import UUID

import msgspec
import trio

from ...errors import DivergenceError
from .encoding import NotRestorable, decode_error, encode, encode_error

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


class Divergence(DivergenceError):
    """A replay asked for something that the record does not hold.

    Attributes:
        path: Where, as `span path @ task path # call index`.
        recorded: What the record holds there; None if nothing.
        now: What is asked for now; None if nothing.
        reason: `different`, `missing`, `redacted`, `omitted`, `unfinished` or `unused`.
    """

    def __init__(
        self, key: tuple[str, str, int], recorded: Any, now: Any, reason: str = "different"
    ) -> None:
        self.path = f"{key[0] or '.'} @ {key[1] or '.'} # {key[2]}"
        self.recorded = recorded
        self.now = now
        self.reason = reason
        super().__init__(
            f"diverged: {reason} at {self.path}\n  recorded: {recorded}\n  now:      {now}",
            "The first divergence is the one to look at; later ones often follow from it.",
        )


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


class Serving:
    """Gives back what a document of `Recording.to_json` holds.

    Attributes:
        first_divergence: The first thing asked for that the record does not hold, or None. It
            stays even if user code swallowed the exception.
        redact: What the recording's requests went through when they were written; the hashes in
            them are keyed, so the same must be done to compare.
        incomplete: Reasons the recording gave.
    """

    def __init__(self, document: Any, redact: Callable[[str, str, Any], Any] | None = None) -> None:
        from .document import read_document

        self._redact = redact

        entries, self.incomplete = read_document(document)
        self._entries = {entry.key: entry for entry in entries}
        self._unused = dict.fromkeys(self._entries)
        self.first_divergence: Divergence | None = None
        self.closed = False

    def observe(
        self, place: BoundaryLog, kind: str, name: str, produce: Callable[[], T], request: Any
    ) -> T:
        """The recorded value; `produce` is never called."""
        answer: T = self.begin(place, kind, name, request).answer()
        return answer

    def begin(self, place: BoundaryLog, kind: str, name: str, request: Any) -> ServingObservation:
        """Find the entry of the next key at `place`.

        Raises:
            Divergence: None is there, or another was asked for, or its value was not kept.
        """
        index = place.calls
        place.calls = index + 1
        key = (place.span_path, place.task_path, index)
        entry = self._entries.get(key)
        now = Entry(place, kind, name, request).describe()
        now.pop("state", None)
        if entry is None:
            raise self._diverge(Divergence(key, None, now, "missing"))
        recorded = entry.describe()
        if (entry.kind, entry.name) != (kind, name):
            raise self._diverge(Divergence(key, recorded, now))
        self._compare(entry, request)
        reason = {OMITTED: "omitted", REDACTED: "redacted", PENDING: "unfinished"}.get(entry.state)
        if reason is not None:
            raise self._diverge(Divergence(key, recorded, now, reason))
        self._unused.pop(key, None)
        return ServingObservation(self, entry)

    def upcoming(self, place: BoundaryLog) -> Entry | None:
        """The entry that the next key at `place` would find, without asking for it."""
        return self._entries.get((place.span_path, place.task_path, place.calls))

    def _compare(self, entry: Entry, request: Any) -> None:
        if request is None:
            return
        if self._redact is not None:
            request = self._redact(entry.kind, entry.name, request)
        recorded = entry.request
        if isinstance(request, dict) and isinstance(recorded, dict):
            # What was left out for its size cannot be compared.
            recorded = {
                key: request.get(key) if _was_omitted(recorded.get(key)) else recorded.get(key)
                for key in request
            }
        if recorded != request:
            now = {"kind": entry.kind, "name": entry.name, "request": request}
            raise self._diverge(Divergence(entry.key, entry.describe(), now))

    def _diverge(self, divergence: Divergence) -> Divergence:
        if self.first_divergence is None:
            self.first_divergence = divergence
        return divergence

    def close(self) -> None:
        """End the replay; what the record holds and nobody asked for is a divergence too."""
        self.closed = True
        for key in self._unused:
            entry = self._entries[key]
            self._diverge(Divergence(key, entry.describe(), None, "unused"))
            return

    def to_json(self, redact: Callable[[str, str, Any], Any] | None) -> Any:
        """A replay's own values are those it was given: nothing to write."""
        return None


def _was_omitted(value: Any) -> bool:
    return isinstance(value, dict) and "omitted_bytes" in value


class ServingObservation:
    """An entry found in the record."""

    __slots__ = ("entry", "mode")

    served = True

    def __init__(self, mode: Serving, entry: Entry) -> None:
        self.mode = mode
        self.entry = entry

    def answer(self) -> Any:
        """The recorded value, or raise the recorded error."""
        if self.entry.state == ERROR:
            raise decode_error(self.entry.value)
        if self.entry.state == CANCELLED:
            described = self.entry.describe()
            raise self.mode._diverge(Divergence(self.entry.key, described, described, "unfinished"))
        return self.entry.value

    async def answer_async(self) -> Any:
        """The recorded value; where the call was cancelled then, wait to be cancelled now."""
        if self.entry.state == CANCELLED:
            await trio.sleep_forever()
        return self.answer()

    def finish(self, value: Any, size: int = 0) -> None:
        """Nothing to keep."""

    def fail(self, error: BaseException) -> None:
        """Nothing to keep."""

    def note(self, request: dict[str, Any], size: int = 0) -> None:
        """Compare more of what is asked with what was asked."""
        self.mode._compare(self.entry, request)
