"""Values as Python source, laid out as a formatter would. Pure.

Law: what is written evaluates to an equal value, or to `REDACTED` where the record holds a mark.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import time
import uuid
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_pg.replay.withheld import UNKNOWN, is_mark

WIDTH = 96
_STEP = "    "
_MARKS = re.compile(r"redacted(:|%3A)[0-9a-f]{16}")


class NoLiteral(TypeError):
    """A value that has no Python source here."""


@dataclass
class Made:
    """A call that makes a value. Arguments at their default are the caller's to leave out."""

    name: str
    args: Sequence[Any] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    """Comments above named arguments."""


@dataclass(frozen=True)
class Raw:
    """Source as it is: a name."""

    text: str


ANY = Raw("ANY")


class Writer:
    """Writes values; knows afterwards what has to be imported.

    Attributes:
        modules: Modules whose names were used.
        names: Names of `flux_pg.testing` that were used.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.names: set[str] = set()

    def write(self, value: Any, indent: int = 0, used: int = 0) -> str:
        """The source of a value.

        Args:
            value: See `_flat` for the types.
            indent: How many steps deep the line stands that it begins on.
            used: How many columns of that line are taken before and after it.
        """
        flat = self._flat(value)
        if len(_STEP) * indent + used + len(flat) <= WIDTH and not _has_notes(value):
            return flat
        inner, outer = _STEP * (indent + 1), _STEP * indent
        if isinstance(value, Made):
            parts = [self.write(one, indent + 1, 1) for one in value.args]
            parts += [self._named(value, name, indent + 1) for name in value.named]
            opening, closing = f"{value.name}(", ")"
        elif isinstance(value, Mapping):
            parts = [
                f"{key}: {self.write(item, indent + 1, len(key) + 3)}"
                for key, item in ((self._flat(key), item) for key, item in value.items())
            ]
            opening, closing = "{", "}"
        elif isinstance(value, list):
            parts = [self.write(one, indent + 1, 1) for one in value]
            opening, closing = "[", "]"
        else:
            return flat
        if not parts:
            return flat
        return opening + "".join(f"\n{inner}{part}," for part in parts) + f"\n{outer}{closing}"

    def _named(self, value: Made, name: str, indent: int) -> str:
        text = f"{name}={self.write(value.named[name], indent, len(name) + 2)}"
        note = value.notes.get(name)
        return f"# {note}\n{_STEP * indent}{text}" if note else text

    def _flat(self, value: Any) -> str:
        """The source on one line.

        Raises:
            NoLiteral: There is none.
        """
        if isinstance(value, Raw):
            if value == ANY:
                self.names.add("ANY")
            return value.text
        if isinstance(value, Made):
            self.names.add(value.name)
            named = [f"{name}={self._flat(item)}" for name, item in value.named.items()]
            return f"{value.name}({', '.join([*map(self._flat, value.args), *named])})"
        write = _WRITERS.get(type(value))
        if write is None:
            raise NoLiteral(f"a {type(value).__qualname__}")
        return write(self, value)

    def text(self, value: str) -> str:
        """A text, in double quotes where that is as well."""
        if is_mark(value):
            self.names.add("REDACTED")
            return "REDACTED"
        # A mark inside a text: of another key it would say nothing here.
        hidden = UNKNOWN.partition(":")[2]
        value = _MARKS.sub(lambda found: f"redacted{found[1]}{hidden}", value)
        return _quoted(repr(value), '"' in value)

    def known(self, value: Any) -> str:
        """A value of a module of the standard library, as its repr has it."""
        module = type(value).__module__
        self.modules.add(module)
        text = repr(value)
        text = text if '"' in text else text.replace("'", '"')
        return text if text.startswith(f"{module}.") else f"{module}.{text}"

    def zoned(self, value: datetime.datetime | datetime.time) -> str:
        """A time with its zone."""
        if isinstance(value.tzinfo, zoneinfo.ZoneInfo):
            self.modules.add("zoneinfo")
        return self.known(value)

    def several(self, opening: str, values: Sequence[Any], closing: str) -> str:
        """Values between brackets."""
        return opening + ", ".join(map(self._flat, values)) + closing

    def pairs(self, value: Mapping[Any, Any]) -> str:
        """A dictionary."""
        inner = [f"{self._flat(key)}: {self._flat(item)}" for key, item in value.items()]
        return "{" + ", ".join(inner) + "}"

    def moment(self, value: time.struct_time) -> str:
        """A struct_time; its repr lacks the zone."""
        self.modules.add("time")
        zone = {"tm_zone": value.tm_zone, "tm_gmtoff": value.tm_gmtoff}
        return f"time.struct_time(({', '.join(map(repr, value))}), {self.pairs(zone)})"


def _has_notes(value: Any) -> bool:
    return isinstance(value, Made) and bool(value.notes)


def _quoted(text: str, holds_quotes: bool) -> str:
    at = text.index(text[-1])
    if text[at] == "'" and not holds_quotes:
        return f'{text[:at]}"{text[at + 1 : -1]}"'
    return text


def _float(writer: Writer, value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _tuple(writer: Writer, value: tuple[Any, ...]) -> str:
    return writer.several("(", value, ",)" if len(value) == 1 else ")")


def _plain(writer: Writer, value: Any) -> str:
    return repr(value)


_WRITERS: dict[type, Callable[[Writer, Any], str]] = {
    type(None): _plain,
    bool: _plain,
    int: _plain,
    float: _float,
    complex: _plain,
    str: Writer.text,
    bytes: lambda writer, value: _quoted(repr(value), b'"' in value),
    bytearray: _plain,
    list: lambda writer, value: writer.several("[", value, "]"),
    tuple: _tuple,
    set: lambda writer, value: writer.several("set([", sorted(value, key=repr), "])"),
    frozenset: lambda writer, value: writer.several("frozenset([", sorted(value, key=repr), "])"),
    dict: Writer.pairs,
    decimal.Decimal: Writer.known,
    uuid.UUID: Writer.known,
    datetime.datetime: Writer.zoned,
    datetime.date: Writer.known,
    datetime.time: Writer.zoned,
    datetime.timedelta: Writer.known,
    time.struct_time: Writer.moment,
}
