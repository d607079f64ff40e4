"""A request's body as a value: JSON, a form, a multipart form, or bytes. Pure.

Strict where two readers could disagree: duplicate keys, NaN, byte order marks and text that is
not UTF-8 are refused with a message that says so.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from flux_pg.gateway.limits import Limits
from flux_pg.gateway.target import TargetError, parse_pairs

BodyKind = Literal["none", "json", "form", "raw"]


class BodyError(Exception):
    """A body that cannot be read as what it says it is."""

    def __init__(
        self, message: str, hint: str = "", *, status_code: int = 400, code: str, rule: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status_code = status_code
        self.code = code
        self.rule = rule


class UploadedFile(msgspec.Struct, frozen=True):
    """One file of a multipart form, as a parameter annotated `UploadedFile` receives it."""

    filename: str
    content_type: str
    content: bytes


class Body(msgspec.Struct):
    """A body, read.

    `value` is the JSON value (kind `json`); `fields` holds every value of every name of a form,
    in order (kind `form`). `raw` is always the bytes as sent.
    """

    kind: BodyKind
    raw: bytes
    value: Any = None
    fields: dict[str, list[Any]] = {}

    def fresh(self) -> Any:
        """The JSON value once more, sharing nothing with `value`: a function may change it."""
        return _DECODER.decode(self.raw)

    def exact(self) -> Any:
        """The JSON value with every fraction as a Decimal, digit for digit."""
        return _EXACT_DECODER.decode(self.raw)

    def recorded(self) -> Any:
        """What the record keeps of the body: JSON-ready, nothing left out."""
        if self.kind == "json":
            return self.value
        if self.kind == "form":
            return {
                name: _recorded_field(values[0])
                if len(values) == 1
                else [_recorded_field(v) for v in values]
                for name, values in self.fields.items()
            }
        return recorded_bytes(self.raw) if self.raw else None


NO_BODY = Body("none", b"")
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_EXACT_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SCALARS = (str, int, float, bool, type(None))


def recorded_bytes(raw: bytes) -> Any:
    """Bytes for the record: text if they are UTF-8 without NUL, else `{"base64": ...}`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return {"base64": b64encode(raw).decode("ascii")} if "\0" in text else text


def _recorded_field(value: Any) -> Any:
    if isinstance(value, UploadedFile):
        return {
            "filename": value.filename,
            "content_type": value.content_type,
            "size": len(value.content),
            "content": recorded_bytes(value.content),
        }
    return value


def read_body(raw: bytes, content_type: str | None, encoding: str | None, limits: Limits) -> Body:
    """Read a body by its content type.

    Without a content type it is JSON if it parses as JSON, else bytes. A form that starts with
    `{` or `[` is JSON too: `curl -d '{"a": 1}'` labels it as a form, and a real form would have
    escaped the brace.

    Raises:
        BodyError: 415 for an encoding or charset not understood, 400 for a body that is broken.
    """
    if not raw:
        return NO_BODY
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise _unsupported(
            f"The content encoding {encoding[:100]!r} is not understood.", "Send the body plain."
        )
    if content_type is None:
        try:
            return Body("json", raw, read_json(raw, limits))
        except BodyError:
            return Body("raw", raw)
    media_type, options = _media_type(content_type)
    if media_type == "application/json" or media_type.endswith("+json"):
        _check_charset(options)
        return Body("json", raw, read_json(raw, limits))
    if media_type == "application/x-www-form-urlencoded":
        _check_charset(options)
        if raw.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
            return Body("json", raw, read_json(raw, limits))
        return Body("form", raw, fields=_read_urlencoded(raw, limits))
    if media_type == "multipart/form-data":
        return Body("form", raw, fields=_read_multipart(raw, options.get("boundary", ""), limits))
    return Body("raw", raw)


@lru_cache(maxsize=256)
def _media_type(content_type: str) -> tuple[str, dict[str, str]]:
    media_type, options = parse_options_header(content_type)
    return media_type.strip().lower(), options


def _check_charset(options: dict[str, str]) -> None:
    charset = options.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise _unsupported(f"The charset {charset[:100]!r} is not understood.", "Send UTF-8.")


def _unsupported(message: str, hint: str) -> BodyError:
    return BodyError(
        message, hint, status_code=415, code="unsupported-media-type", rule="body.media_type"
    )


def _broken(message: str, hint: str = "") -> BodyError:
    return BodyError(message, hint, code="malformed-body", rule="body.malformed")


def read_json(raw: bytes, limits: Limits) -> Any:
    """Read one JSON text (RFC 8259, keys unique as in I-JSON).

    Raises:
        BodyError: With the place and the reason.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise _broken("The JSON starts with a byte order mark.", "Send UTF-8 without one.")
    _check_depth(raw, limits.max_json_depth)
    try:
        value = _DECODER.decode(raw)
    except msgspec.ValidationError as error:  # numbers beyond what can be held
        raise _broken(f"The JSON cannot be held: {error}.") from None
    except msgspec.DecodeError as error:
        if raw.isspace():
            raise _broken("The body is blank, not JSON.", "Send {} or no body.") from None
        if _has_half_surrogate(raw):
            raise _broken(
                "The JSON has half of a surrogate pair (\\ud800 to \\udfff): no character.",
                "Send both halves, or the character itself.",
            ) from None
        text = str(error)
        hint = "NaN and Infinity are not JSON." if _names_nan(raw, text) else "Send one JSON value."
        raise _broken(f"{text}.", hint) from None
    except UnicodeDecodeError:
        raise _broken(f"The JSON is not UTF-8 (byte {_first_foreign_byte(raw)}).") from None
    except RecursionError:
        raise _too_deep(limits.max_json_depth) from None
    _check_duplicates(raw, value)
    return value


def _has_half_surrogate(raw: bytes) -> bool:
    """Whether nothing else is wrong: Python's reader takes such halves, the decoder does not."""
    if _SURROGATE.search(raw) is None:
        return False
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _first_foreign_byte(raw: bytes) -> int:
    """Where the text stops being UTF-8; the decoder counts within one string."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _names_nan(raw: bytes, message: str) -> bool:
    match = re.search(r"\(byte (\d+)\)", message)
    at = int(match.group(1)) if match else 0
    return (
        re.match(rb"-?(NaN|Infinity|inf|nan)", raw[max(at - 1, 0) : at + 9].lstrip(b" :[,-"))
        is not None
    )


def _too_deep(limit: int) -> BodyError:
    return _broken(f"The JSON is nested deeper than {limit} levels.", "Flatten it.")


def _check_depth(raw: bytes, limit: int) -> None:
    """Refuse nesting beyond the limit before anything recurses over it."""
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _STRING.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            raise _too_deep(limit)


def _check_duplicates(raw: bytes, value: Any) -> None:
    """Refuse an object with the same key twice: which of them counts depends on the reader.

    Cheap for what is usual: a flat object with as many colons as keys has no room for a second.
    """
    if not isinstance(value, dict | list) or raw.count(b":") < 2:
        return
    if (
        isinstance(value, dict)
        and raw.count(b":") == len(value)
        and all(isinstance(v, _SCALARS) for v in value.values())
    ):
        return
    json.loads(raw, object_pairs_hook=_unique, parse_int=float)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({key for key, _ in pairs}):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _broken(f"The JSON has the key {twice[:100]!r} twice in one object.")


def _read_urlencoded(raw: bytes, limits: Limits) -> dict[str, list[Any]]:
    try:
        return parse_pairs(raw.decode("latin-1"), limits.max_form_parts)
    except TargetError as error:
        raise _broken(f"The form cannot be read: {error}") from None


def _read_multipart(raw: bytes, boundary: str, limits: Limits) -> dict[str, list[Any]]:
    if not boundary:
        raise _broken("The multipart form names no boundary in its Content-Type.")
    fields: dict[str, list[Any]] = {}
    segment: MultipartSegment | None = None
    chunks: list[bytes] = []
    try:
        with PushMultipartParser(
            boundary,
            content_length=len(raw),
            max_segment_count=limits.max_form_parts,
            strict=True,
        ) as parser:
            for event in parser.parse(raw):
                if isinstance(event, MultipartSegment):
                    if event.name is None:
                        raise _broken("A part of the multipart form has no name.")
                    segment, chunks = event, []
                elif event:
                    chunks.append(bytes(event))
                elif segment is not None:
                    fields.setdefault(str(segment.name), []).append(
                        _part(segment, b"".join(chunks))
                    )
    except ParserLimitReached as error:
        raise _broken(f"The multipart form is too large: {error}.") from None
    except (MultipartError, UnicodeDecodeError) as error:
        raise _broken(f"The multipart form is malformed: {error}.") from None
    return fields


def _part(segment: MultipartSegment, content: bytes) -> Any:
    if segment.filename is not None:
        kind = segment.content_type or "application/octet-stream"
        return UploadedFile(segment.filename, kind, content)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _broken(f"The form field {str(segment.name)[:100]!r} is not UTF-8.") from None
