"""`Serving`: the other mode, which gives back what a recording kept.

Laws:
- Serving never invents: what the record does not hold is a `Divergence` that names both sides.
- The first divergence is kept, also when user code swallowed the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ...errors import DivergenceError
from .document import read_document
from .encoding import decode_error
from .modes import CANCELLED, ERROR, OMITTED, PENDING, REDACTED, Entry

if TYPE_CHECKING:
    from .log import BoundaryLog

T = TypeVar("T")


class Divergence(DivergenceError):
    """A replay asked for something that the record does not hold.

    Attributes:
        path: Where, as `span path @ task path # call index`, or what `at` says.
        recorded: What the record holds there; None if nothing.
        now: What is asked for now; None if nothing.
        reason: `different`, `missing`, `redacted`, `omitted`, `unfinished` or `unused`.
    """

    def __init__(
        self,
        key: tuple[str, str, int],
        recorded: Any,
        now: Any,
        reason: str = "different",
        at: str = "",
    ) -> None:
        self.path = at or f"{key[0] or '.'} @ {key[1] or '.'} # {key[2]}"
        self.recorded = recorded
        self.now = now
        self.reason = reason
        super().__init__(
            f"diverged: {reason} at {self.path}\n  recorded: {recorded}\n  now:      {now}",
            "The first divergence is the one to look at; later ones often follow from it.",
        )


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
            raise self.diverge(Divergence(key, None, now, "missing"))
        recorded = entry.describe()
        if (entry.kind, entry.name) != (kind, name):
            raise self.diverge(Divergence(key, recorded, now))
        self._compare(entry, request)
        reason = {OMITTED: "omitted", REDACTED: "redacted", PENDING: "unfinished"}.get(entry.state)
        if reason is not None:
            raise self.diverge(Divergence(key, recorded, now, reason))
        self._unused.pop(key, None)
        return ServingObservation(self, entry)

    def lets_out(self, url: str) -> bool:
        """Whether an exchange is not served, but made: with no host, unless a replay names it."""
        return False

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
            raise self.diverge(Divergence(entry.key, entry.describe(), now))

    def diverge(self, divergence: Divergence) -> Divergence:
        """Note a divergence and give it back, to be raised."""
        if self.first_divergence is None:
            self.first_divergence = divergence
        return divergence

    def close(self) -> None:
        """End the replay; what the record holds and nobody asked for is a divergence too."""
        self.closed = True
        for key in self._unused:
            entry = self._entries[key]
            self.diverge(Divergence(key, entry.describe(), None, "unused"))
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
            raise self.mode.diverge(Divergence(self.entry.key, described, described, "unfinished"))
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
