"""A run's values as one compact JSON document, and back.

Shape (`version` 1): `{"version": 1, "places": [[span path, task path], ...], "entries": [...],
"incomplete": [...]}`. Entries stand in the order of asking. Consecutive values of one place, kind
and name are one run: `[place, kind, name, coding, [values...]]`. Codings:

- `=`  values encoded one by one
- `+`  integers of a clock, the first and then differences (`time.time_ns`)
- `~`  floats of a clock as differences of their bit patterns: exact and small
- `*`  one value with more to say: `{"state", "request", "value"}`

Call indices are not written: they count up per place in entry order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .encoding import NotRestorable, decode, encode
from .modes import OMITTED, PENDING, REDACTED, VALUE, Entry, Frozen, Plain

if TYPE_CHECKING:
    from .modes import Recording

VERSION = 1
Redact = Callable[[str, str, Any], Any]

_NUMBER_CODINGS: dict[type, str] = {int: "+", float: "~"}
# Clocks and randomness carry no name by which a value could be called secret.
_NOT_SECRET = frozenset({"clock", "random", "uuid"})


def write_document(recording: Recording, redact: Redact | None) -> dict[str, Any] | None:
    """The document of a recording; None if nothing entered and nothing is missing."""
    if not recording.entries and not recording.incomplete:
        return None
    places: dict[tuple[str, str], int] = {}
    runs: list[list[Any]] = []
    for item in recording.entries:
        entry = item if isinstance(item, Entry) else _expand(item)
        place = places.setdefault((entry.span_path, entry.task_path), len(places))
        _append(runs, place, entry, recording, None if entry.kind in _NOT_SECRET else redact)
    document: dict[str, Any] = {
        "version": VERSION,
        "places": [list(place) for place in places],
        "entries": [_pack(run) for run in runs],
    }
    if recording.incomplete:
        document["incomplete"] = list(recording.incomplete)
    return document


def _expand(plain: Plain) -> Entry:
    place, kind, name, value = plain
    entry = Entry(place, kind, name)
    entry.state, entry.value = VALUE, value
    return entry


def _append(
    runs: list[list[Any]], place: int, entry: Entry, recording: Recording, redact: Redact | None
) -> None:
    plain = entry.state == VALUE and entry.request is None
    number = _NUMBER_CODINGS.get(type(entry.value)) if plain and entry.kind == "clock" else None
    if number is not None:
        coding, value = number, entry.value
    else:
        coding, value = _encode_entry(entry, recording, redact)
    last = runs[-1] if runs else None
    if coding != "*" and last and last[:4] == [place, entry.kind, entry.name, coding]:
        last[4].append(value)
    else:
        runs.append([place, entry.kind, entry.name, coding, [value]])


def _encode_entry(entry: Entry, recording: Recording, redact: Redact | None) -> tuple[str, Any]:
    value, state = entry.value, entry.state
    if state == VALUE:
        try:
            value = value.encoded if isinstance(value, Frozen) else encode(value)
        except NotRestorable as error:
            state, value = OMITTED, {"reason": f"cannot be restored: {error}"}
            recording.mark_incomplete(
                f"boundary {entry.kind} {entry.name} cannot be restored: {error}"
            )
    if state == PENDING:
        recording.mark_incomplete(f"boundary {entry.kind} {entry.name} had not ended")
    request = entry.request
    if redact is not None and value is not None:
        cleaned = redact(entry.kind, entry.name, value)
        if cleaned != value:
            # Marks in headers leave a response that can be served (see redacting.py).
            serves = entry.kind == "http" and cleaned.get("body") == value.get("body")
            value, state = cleaned, REDACTED if state == VALUE and not serves else state
    if state == VALUE and request is None:
        return "=", value
    long: dict[str, Any] = {"state": state}
    if request is not None:
        long["request"] = redact(entry.kind, entry.name, request) if redact else request
    if value is not None:
        long["value"] = value
    return "*", long


def _bits(value: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


def _pack(run: list[Any]) -> list[Any]:
    """Difference-code a run of clock reads."""
    place, kind, name, coding, values = run
    if coding == "~":
        return [place, kind, name, coding, _differences([_bits(value) for value in values])]
    if coding == "+":
        return [place, kind, name, coding, _differences(values)]
    return run


def _differences(values: list[int]) -> list[int]:
    return [values[0], *(b - a for a, b in pairwise(values))]


def _sums(differences: list[int]) -> Iterator[int]:
    total = 0
    for difference in differences:
        total += difference
        yield total


def read_document(document: Any) -> tuple[list[Entry], list[str]]:
    """Entries in the order of asking, and why the recording was incomplete.

    Raises:
        ValueError: The document is of a version that this program does not know.
    """
    if document is None:
        return [], []
    if document.get("version") != VERSION:
        raise ValueError(f"boundary document of unknown version {document.get('version')!r}")
    places = [tuple(place) for place in document["places"]]
    counts = [0] * len(places)
    entries: list[Entry] = []
    for place, kind, name, coding, values in document["entries"]:
        for entry in _read_run(kind, name, coding, values):
            entry.span_path, entry.task_path = places[place]
            entry.index = counts[place]
            counts[place] += 1
            entries.append(entry)
    return entries, list(document.get("incomplete", ()))


def _read_run(kind: str, name: str, coding: str, values: list[Any]) -> Iterator[Entry]:
    if coding == "*":
        (long,) = values
        entry = Entry.read(kind, name, long["state"], long.get("value"), long.get("request"))
        if entry.state == VALUE:
            entry.value = decode(entry.value)
        yield entry
        return
    if coding == "+":
        values = list(_sums(values))
    elif coding == "~":
        values = [struct.unpack("<d", struct.pack("<q", bits))[0] for bits in _sums(values)]
    for value in values:
        yield Entry.read(kind, name, VALUE, decode(value) if coding == "=" else value, None)
