"""What the outside answered, as an exported test says it: clock, chance, environment, HTTP.

Answers are given in the order of `outside`, each at the place it was asked for: span path and task
path, as in the record. They are checked as a replay checks them: whoever asks for something else
than the next answer, or for more, diverges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flux_pg.replay.withheld import UNKNOWN
from flux_pg.runtime.boundaries.document import VERSION
from flux_pg.runtime.boundaries.encoding import encode, encode_bytes

_MARK = re.compile(r"redacted:[0-9a-f]{16}")
_NOT_COMPARED = {"omitted_bytes": 0}


class Anything:
    """Stands for a value that is never twice the same; `ANY` is the only one."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(Anything)

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = Anything()


class Redacted:
    """Stands for a value that was never written down; `REDACTED` is the only one.

    In what goes in, it can be passed on, but not read: put a value of your own in its place if the
    function needs one. In what comes out, it equals any value that was redacted.
    """

    def __eq__(self, other: object) -> bool:
        return other is self or (isinstance(other, str) and _MARK.fullmatch(other) is not None)

    def __hash__(self) -> int:
        return hash(Redacted)

    def __repr__(self) -> str:
        return "REDACTED"


REDACTED: Final = Redacted()


@dataclass(frozen=True)
class Answer:
    """One answer, or several in a row, to code at one place.

    Attributes:
        kind: What was asked: `clock`, `random`, `uuid`, `environment`, `http`.
        name: Which one, such as `time.time`.
        values: What it gave, one after the other.
        request: What was asked, where the name does not say it all.
        state: `value`, or why there is none: `error`, `cancelled`, `omitted`, `redacted`.
        value: With a request or a state: what was given, as the record writes it.
        span: Path of the spans around the code that asked.
        task: Path of its task.
    """

    kind: str
    name: str
    values: tuple[Any, ...] = ()
    request: Mapping[str, Any] | None = None
    state: str = "value"
    value: Any = None
    span: str = ""
    task: str = ""


def given(kind: str, name: str, *values: Any, span: str = "", task: str = "") -> Answer:
    """What clock, chance or environment gave: `given("clock", "time.time", 1763819671.25)`."""
    if any(value is REDACTED for value in values):
        return Answer(kind, name, state="redacted", value=UNKNOWN, span=span, task=task)
    return Answer(kind, name, values, span=span, task=task)


def http(
    method: str,
    url: str,
    *,
    status: int = 200,
    json: Any = None,
    body: str | bytes = b"",
    headers: Sequence[tuple[str, str]] | Mapping[str, str] = (),
    sent: str | bytes | None = None,
    sent_type: str | None = None,
    raises: tuple[Any, ...] | None = None,
    client: str = "httpx",
    span: str = "",
    task: str = "",
    **details: Any,
) -> Answer:
    """What one HTTP call was answered.

    Args:
        method: Of the request.
        url: Of the request, with its query.
        status: Of the response.
        json: The response's body, if it is JSON.
        body: The response's body, as it travelled, if it is not.
        headers: Of the response.
        sent: The request's body, which is compared; None: any will do.
        sent_type: The request's content type; None: it had none, or with `sent` None any will do.
        raises: In place of a response: the class of an error as `module:name`, then its arguments.
        client: The library that asked.
        span: Path of the spans around the code that asked.
        task: Path of its task.
        details: What else the record holds of the response: `reason`, `version`, `pieces`, `whole`,
            `chunked`.
    """
    request: dict[str, Any] = {"method": method, "url": url}
    request["body"] = _NOT_COMPARED if sent is None else encode(_bytes(sent))
    if sent_type is not None or sent is None:
        request["content_type"] = sent_type or _NOT_COMPARED
    if raises is not None:
        kind, *arguments = raises
        value: Any = {"type": kind, "message": str(arguments[0] if arguments else "")}
        value["args"] = encode(arguments)
        return Answer("http", client, (), request, "error", value, span, task)
    pairs = list(headers.items()) if isinstance(headers, Mapping) else [tuple(h) for h in headers]
    if json is not None:
        body = _json_text(json)
        if not any(name.lower() == "content-type" for name, _ in pairs):
            pairs.append(("content-type", "application/json"))
    value = {
        "status": status,
        "reason": details.pop("reason", ""),
        "version": details.pop("version", "HTTP/1.1"),
        "headers": [list(pair) for pair in pairs],
        "whole": details.pop("whole", True),
        "body": encode_bytes(_bytes(body)),
        **details,
    }
    return Answer("http", client, (), request, "value", value, span, task)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def conceal(value: Any) -> Any:
    """A value with the mark of a redacted one in the place of every `REDACTED`."""
    if value is REDACTED:
        return UNKNOWN
    if isinstance(value, Mapping):
        return {key: conceal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(conceal(item) for item in value)
    return value


def write_answers(answers: Iterable[Answer]) -> dict[str, Any] | None:
    """The document of boundary values that gives these answers."""
    places: dict[tuple[str, str], int] = {}
    entries: list[list[Any]] = []
    for one in answers:
        place = places.setdefault((one.span, one.task), len(places))
        if one.values:
            entries.append([place, one.kind, one.name, "=", [encode(v) for v in one.values]])
            continue
        long: dict[str, Any] = {"state": one.state}
        if one.request is not None:
            long["request"] = conceal(one.request)
        if one.value is not None:
            long["value"] = conceal(one.value)
        entries.append([place, one.kind, one.name, "*", [long]])
    if not entries:
        return None
    return {"version": VERSION, "places": [list(place) for place in places], "entries": entries}
