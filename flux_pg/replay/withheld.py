"""What a record does not hold, as the function meets it in a replay.

Laws:
- A withheld value may be passed on (into a result, a parameter, a response): there it is written as
  the mark that stands for it in the record.
- It can be compared: its mark is a keyed hash, so the answer is the true one.
- Whoever needs the value itself gets a divergence, never an invented value.
- Where the key of the hashes is not known (a test that was exported), every mark is `UNKNOWN`: such
  a value can be passed on, and to compare it is to need it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol, TypeVar

import msgspec

from flux_pg.runtime.boundaries.serving import Divergence
from flux_pg.runtime.context import Request
from flux_pg.runtime.redaction import Redactor

UNKNOWN = "redacted:0000000000000000"
"""The mark of every secret where the key of the hashes is not known; an empty one has none."""

_MARK = re.compile(r"redacted:[0-9a-f]{16}")
Diverge = Callable[[Divergence], Divergence]
Mark = Callable[[Any], str]
T = TypeVar("T")


class BlindRedactor(Redactor):
    """The rules without the key: all secrets look alike."""

    def mark(self, value: Any) -> str:
        """`UNKNOWN`, whatever the value."""
        return UNKNOWN


class Keeper(Protocol):
    """The record that values are withheld by."""

    def mark(self, value: Any) -> str:
        """The mark of a value."""
        ...

    def diverge(self, divergence: Divergence) -> Divergence:
        """Note a divergence."""
        ...

    def note_withheld(self, place: str) -> None:
        """A value of this place was withheld."""
        ...


class Withheld:  # noqa: PLW1641 - its hash is needed itself: a divergence
    """A value of which only the mark is known.

    Args:
        mark: What stands in for it in the record.
        place: Where it came from, such as `input.password`.
        hash: Makes the mark of a value, with the record's own key.
        diverge: Notes the divergence of whoever needs the value.
    """

    __slots__ = ("_diverge", "_hash", "_mark", "_place")

    def __init__(self, mark: str, place: str, hash: Mark, diverge: Diverge) -> None:
        self._mark = mark
        self._place = place
        self._hash = hash
        self._diverge = diverge

    def __flux_mark__(self) -> str:
        return self._mark

    def __eq__(self, other: object) -> bool:
        if self._mark == UNKNOWN:
            self._needed()
        return mark_of(other, self._hash) == self._mark

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return self._mark == UNKNOWN or self._mark != self._hash("")

    def __copy__(self) -> Withheld:
        return self

    def __deepcopy__(self, memo: Any) -> Withheld:
        return self

    def _needed(self, *_: Any, **__: Any) -> NoReturn:
        recorded = {"kind": "value", "name": self._place, "value": self._mark}
        now = {"kind": "value", "name": self._place, "value": "(needed itself)"}
        raise self._diverge(Divergence(("", "", 0), recorded, now, "redacted", at=self._place))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what looks for a protocol must learn that it has none
        self._needed()

    __hash__ = __str__ = __repr__ = __format__ = __len__ = __iter__ = _needed
    __getitem__ = __contains__ = __add__ = __radd__ = __mod__ = __rmod__ = _needed
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __bytes__ = _needed
    __sub__ = __rsub__ = __mul__ = __rmul__ = __call__ = __fspath__ = _needed


class UnreadRequest(Request, frozen=True):
    """A request of which the record keeps what its body said, but not its bytes."""

    @property  # type: ignore[misc]
    def body(self) -> bytes:
        """The bytes, which are not known: a divergence."""
        unknown: UnknownBody = Request.body.__get__(self)  # type: ignore[attr-defined]
        unknown.needed()

    def json(self) -> Any:
        """What the body said."""
        unknown: UnknownBody = Request.body.__get__(self)  # type: ignore[attr-defined]
        return unknown.parsed


class UnknownBody:
    """The body of such a request.

    Attributes:
        parsed: What it said, as JSON.
        needed: Raises the divergence of whoever needs its bytes.
    """

    __slots__ = ("_size", "needed", "parsed")
    request_type = UnreadRequest

    def __init__(self, parsed: Any, size: int, needed: Callable[[], NoReturn]) -> None:
        self.parsed = parsed
        self.needed = needed
        self._size = size

    def __len__(self) -> int:
        return self._size


def mark_of(value: object, hash: Mark) -> str:
    """The mark of a value, which may be withheld itself."""
    if isinstance(value, Withheld):
        return value.__flux_mark__()
    try:
        return hash(value)
    except TypeError:
        return ""


def is_mark(value: object) -> bool:
    """Whether a recorded value is one that was redacted."""
    return type(value) is str and _MARK.fullmatch(value) is not None


def blind(value: T, kind: type[T]) -> T:
    """A JSON-ready value with every mark in it made `UNKNOWN`, so that two keys compare."""
    text = _MARK.sub(UNKNOWN, msgspec.json.encode(value, enc_hook=str).decode())
    return msgspec.json.decode(text, type=kind, strict=False)


def withhold(value: Any, place: str, keeper: Keeper) -> Any:
    """A value with `Withheld` in the place of every mark in it; itself if there is none."""
    if is_mark(value):
        keeper.note_withheld(place)
        return Withheld(value, place, keeper.mark, keeper.diverge)
    if isinstance(value, Mapping):
        return _changed(value, dict(value), value.items(), place, keeper)
    if isinstance(value, list):
        return _changed(value, list(value), enumerate(value), place, keeper)
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            item = getattr(value, name)
            new = withhold(item, f"{place}.{name}", keeper)
            if new is not item:
                msgspec.structs.force_setattr(value, name, new)
    return value


def _changed(value: Any, copy: Any, items: Any, place: str, keeper: Keeper) -> Any:
    changed = False
    for key, item in items:
        new = withhold(item, f"{place}.{key}", keeper)
        if new is not item:
            copy[key], changed = new, True
    return copy if changed else value


def contains_withheld(value: Any) -> Withheld | None:
    """The first withheld value inside parameters, or None."""
    if isinstance(value, Withheld):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            found = contains_withheld(item)
            if found is not None:
                return found
    return None
