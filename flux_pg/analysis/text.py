"""Recorded values as text for people: safe for a terminal, fitted to a width.

Law: whatever was recorded (a path, a header, a column), what comes out holds no control character,
because a terminal would obey it.
"""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def _whole(digits: str) -> int | Decimal:
    # A whole number of 64 bits is an int; a longer one only keeps its digits.
    return int(digits) if len(digits) < 19 else Decimal(digits)


read_json = partial(json.loads, parse_float=Decimal, parse_int=_whole)
"""Recorded JSON as Python values. A number keeps its digits: a Postgres numeric has more of them
than a float can hold, and 1.50 is not written 1.5."""


def to_json(value: Any, indent: int = 0) -> str:
    """Return what `read_json` gave as JSON again, digit for digit; on one line unless indented."""
    return msgspec.json.format(_ENCODER.encode(value), indent=indent).decode()


def clean(text: str) -> str:
    """Return `text` on one line, every character that is not printable written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in known:
        return known[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cells(text: str) -> int:
    """Return how many columns of a terminal `text` takes; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(_character_cells(c) for c in text)


def _character_cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, a cut marked by `…`."""
    if cells(text) <= width:
        return text
    taken, used = [], 0
    for character in text:
        used += _character_cells(character)
        if used > max(width - 1, 0):
            break
        taken.append(character)
    return "".join(taken) + "…" if width > 0 else ""


def pad(text: str, width: int) -> str:
    """Return `text` fitted and filled with blanks to exactly `width` columns."""
    text = fit(text, width)
    return text + " " * (width - cells(text))


def show(value: Any, limit: int = 60) -> str:
    """Return a recorded JSON value on one line, cut to `limit` columns."""
    if isinstance(value, str) and len(value) > limit * 4:
        value = value[: limit * 4]
    return fit(clean(to_json(value)), limit)


def duration(us: int | float | None) -> str:
    """Return microseconds as people say them: `512 µs`, `3.12 ms`, `1.20 s`, `2m03s`."""
    if us is None:
        return "-"
    if us < 0:
        return "-" + duration(-us)
    if us < 1000:
        return f"{us:.0f} µs"
    if us < 999_500:
        return f"{us / 1000:.3g} ms" if us >= 100_000 else f"{us / 1000:#.3g} ms"
    if us < 60_000_000:
        return f"{us / 1_000_000:.2f} s"
    minutes, seconds = divmod(round(us / 1_000_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def short_id(request_id: str) -> str:
    """Return the part of a request id that people read and type: its last eight digits.

    Ids made in the same minute share their first digits (time), never their last (chance).
    """
    return request_id[-8:]


def plural(count: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
