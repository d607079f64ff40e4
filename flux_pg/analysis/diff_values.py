"""How two recorded values differ, and which differences mean nothing.

Laws:
- A difference is *volatile* only if something explains it: a generated id that stands wherever its
  counterpart does, a time as far from its run's start as its counterpart, a key drawn from a
  sequence, a value that the clock or chance gave, a place that differed between two runs of the
  same code.
- What was given with the request is never volatile: other input is another request.
- One counterpart each: an id that stands for two, or stayed the same elsewhere, explains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

from flux_pg.analysis.text import to_json


class Missing:
    """Stands for a value that is not there (null is one)."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A place where two values differ; `a` or `b` is MISSING where one side has nothing."""

    place: str
    a: Any
    b: Any


def same_value(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same to the letter (1.50 is not 1.5, 1 is not true)."""
    return to_json(a) == to_json(b)


def leaves(a: Any, b: Any, place: str = "") -> Iterator[tuple[Leaf, bool]]:
    """Every innermost pair of two values, and whether the two are the same, in order."""
    work = [(place, a, b)]
    while work:
        here, x, y = work.pop()
        below: list[tuple[str, Any, Any]] = []
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            names = [*x, *(name for name in y if name not in x)]
            below = [
                (join(here, str(name)), x.get(name, MISSING), y.get(name, MISSING))
                for name in names
            ]
        elif _is_list(x) and _is_list(y):
            below = list(_items(here, x, y))
        else:
            missing = x is MISSING or y is MISSING
            yield Leaf(here, x, y), not missing and same_value(x, y)
        work.extend(reversed(below))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _items(place: str, a: Sequence[Any], b: Sequence[Any]) -> Iterator[tuple[str, Any, Any]]:
    """The items of two lists; what is alike at both ends stays together if their lengths differ."""
    head = tail = 0
    if len(a) != len(b):
        shorter = min(len(a), len(b))
        while head < shorter and same_value(a[head], b[head]):
            head += 1
        while tail < shorter - head and same_value(a[-1 - tail], b[-1 - tail]):
            tail += 1
    middle = max(len(a), len(b)) - tail
    for index in range(middle):
        yield (
            f"{place}[{index}]",
            a[index] if index < len(a) - tail else MISSING,
            b[index] if index < len(b) - tail else MISSING,
        )
    for back in range(tail, 0, -1):
        yield f"{place}[{max(len(a), len(b)) - back}]", a[-back], b[-back]


def join(place: str, name: str) -> str:
    """A place one name further down."""
    return f"{place}.{name}" if place else name


_TOKEN = re.compile(
    r"(?P<mark>redacted:[0-9a-f]{16})"
    r"|(?P<uuid>[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)"
    r"|(?P<http>[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)"
    r"|(?P<date>\b\d{4}-\d\d-\d\d\b)"
    r"|(?P<hex>\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{16,}\b)"
    r"|(?P<number>-?\d+(?:\.\d+)?)"
)
_GENERATED = ("uuid", "hex")
_NAMES_OF_KEYS = re.compile(r"(^|_)id$|[a-z]I[dD]$|^(location|url|path|href|key|pk)$")
_LAST_NAME = re.compile(r"([^.\[\]]+)(?:\[\d+\])*$")
_LONG_NUMBER = 1000
_TIME_UNITS = (1, 1_000, 1_000_000, 1_000_000_000)
_TEN_YEARS_S = 315_360_000
_SLACK_US = 100_000


def is_mark(value: Any) -> bool:
    """Whether a value is one that was redacted."""
    return isinstance(value, str) and re.fullmatch(r"redacted:[0-9a-f]{16}", value) is not None


def tokens(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The fixed parts of a text, and between them what may differ, each with its kind."""
    fixed, found, at = [], [], 0
    for match in _TOKEN.finditer(text):
        fixed.append(text[at : match.start()])
        found.append((str(match.lastgroup), match[0]))
        at = match.end()
    return [*fixed, text[at:]], found


@dataclass(frozen=True, slots=True)
class Clock:
    """When two runs began (microseconds since the epoch), and how long the longer one took."""

    a_us: int
    b_us: int
    longest_us: int = 0

    def explains(self, a_us: float, b_us: float, grain_us: int = 0) -> bool:
        """Whether two moments stand alike to the starts of their runs."""
        apart = (b_us - a_us) - (self.b_us - self.a_us)
        return abs(apart) <= self.longest_us + _SLACK_US + grain_us

    def is_near(self, a_us: float, b_us: float) -> bool:
        """Whether two numbers can be moments at all."""
        limit = _TEN_YEARS_S * 1_000_000
        return abs(a_us - self.a_us) < limit and abs(b_us - self.b_us) < limit


@dataclass
class Volatility:
    """What is known to differ from run to run, between two runs.

    Attributes:
        clock: Their times.
        known: Pairs of texts with the reason: the requests' own ids, values that clock or chance
            gave.
        keys: Pairs of keys drawn from sequences, as texts.
        key_names: What such keys are called: columns, and tables in the singular.
        given: Texts that came with either request.
        learned: Places that differed between two runs of the same code.
    """

    clock: Clock
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: set[tuple[str, str]] = field(default_factory=set)
    key_names: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    learned: frozenset[str] = frozenset()
    _forward: dict[str, set[str]] = field(default_factory=dict)
    _backward: dict[str, set[str]] = field(default_factory=dict)

    def observe(self, a: Any, b: Any) -> None:
        """Note which generated ids stand at one place, equal ones too."""
        if not (isinstance(a, str) and isinstance(b, str)):
            return
        ours, theirs = tokens(a), tokens(b)
        if ours[0] != theirs[0] or len(ours[1]) != len(theirs[1]):
            return
        for (kind, x), (other, y) in zip(ours[1], theirs[1], strict=True):
            if kind == other and kind in _GENERATED:
                self._forward.setdefault(x, set()).add(y)
                self._backward.setdefault(y, set()).add(x)

    def explain(self, where: str, leaf: Leaf) -> str:
        """Why a difference means nothing; empty if it means something.

        Args:
            where: The place with the step before it, as `learned` has it.
            leaf: The difference.
        """
        if where in self.learned:
            return "learned"
        a, b = leaf.a, leaf.b
        if a is MISSING or b is MISSING or isinstance(a, bool) or isinstance(b, bool):
            return ""
        if isinstance(a, str) and isinstance(b, str):
            return self._explain_text(leaf.place, a, b)
        if isinstance(a, (int, float, Decimal)) and isinstance(b, (int, float, Decimal)):
            return self._explain_pair(leaf.place, "number", str(a), str(b), whole=True)
        return ""

    def _explain_text(self, place: str, a: str, b: str) -> str:
        if (a, b) in self.known and not self._was_given(a, b):
            return self.known[a, b]
        (fixed_a, found_a), (fixed_b, found_b) = tokens(a), tokens(b)
        if fixed_a != fixed_b or [k for k, _ in found_a] != [k for k, _ in found_b]:
            return ""
        whole = fixed_a == ["", ""]
        reasons = []
        for (kind, x), (_, y) in zip(found_a, found_b, strict=True):
            if x != y:
                reason = self._explain_pair(place, kind, x, y, whole)
                if not reason:
                    return ""
                reasons.append(reason)
        return reasons[0] if reasons else ""

    def _explain_pair(self, place: str, kind: str, a: str, b: str, whole: bool) -> str:
        # A drawn key may happen to be a number that was given too.
        if kind == "number" and (a, b) in self.keys and self._is_key(place, a, b, whole):
            return "sequence"
        if self._was_given(a, b):
            return ""
        if (a, b) in self.known:
            return self.known[a, b]
        if kind in _GENERATED:
            one_each = self._forward.get(a) == {b} and self._backward.get(b) == {a}
            return ("uuid" if kind == "uuid" else "id") if one_each else ""
        if kind in ("time", "http", "date"):
            return "time" if self._same_moment(kind, a, b) else ""
        return "time" if kind == "number" and self._same_epoch(a, b) else ""

    def _is_key(self, place: str, a: str, b: str, whole: bool) -> bool:
        """Whether a number at this place may be a key: short ones are also counts and amounts."""
        if min(len(a), len(b)) >= len(str(_LONG_NUMBER)) or (whole and "params[" in place):
            return True
        match = _LAST_NAME.search(place)
        name = match[1] if match else ""
        return bool(_NAMES_OF_KEYS.search(name)) or name in self.key_names

    def _was_given(self, a: str, b: str) -> bool:
        return a in self.given or b in self.given

    def _same_moment(self, kind: str, a: str, b: str) -> bool:
        x, y = read_moment(kind, a), read_moment(kind, b)
        if x is None or y is None:
            return False
        if kind == "date":
            own = [
                datetime.fromtimestamp(us / 1e6, UTC) for us in (self.clock.a_us, self.clock.b_us)
            ]
            return (x.date() - own[0].date()) == (y.date() - own[1].date())
        fine = kind == "time" and ("." in a or "," in a)
        grain = 0 if fine else 1_000_000
        return self.clock.explains(x.timestamp() * 1e6, y.timestamp() * 1e6, grain)

    def _same_epoch(self, a: str, b: str) -> bool:
        x, y = Decimal(a), Decimal(b)
        for unit in _TIME_UNITS:
            first, second = (float(number * 1_000_000 / unit) for number in (x, y))
            if self.clock.is_near(first, second):
                grain = 0 if "." in a else 1_000_000 // unit
                return self.clock.explains(first, second, grain)
        return False


def read_moment(kind: str, text: str) -> datetime | None:
    """A time in a text; UTC where it does not say."""
    try:
        if kind == "http":
            return parsedate_to_datetime(text)
        if kind == "date":
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        moment = datetime.fromisoformat(text.replace(",", "."))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        return None


def texts_in(value: Any) -> Iterable[str]:
    """Every text and number in a JSON value, as texts, and what stands inside the texts."""
    work = [value]
    while work:
        one = work.pop()
        if isinstance(one, Mapping):
            work.extend(one.values())
        elif isinstance(one, str):
            yield one
            yield from (token for _, token in tokens(one)[1])
        elif _is_list(one):
            work.extend(one)
        elif isinstance(one, (int, float, Decimal)) and not isinstance(one, bool):
            yield str(one)
