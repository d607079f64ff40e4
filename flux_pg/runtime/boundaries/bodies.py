"""HTTP bodies without their secrets, and fit to be shown. Pure.

A body is searched for secrets by its content type: JSON by its keys, forms by their names. What
travels compressed or in chunks is unpacked to look inside. A body that cannot be looked into
(an unknown coding, a broken archive) is treated as a secret as a whole: law 6 knows no "probably".
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from ..redaction import Redactor
from .encoding import encode_bytes

SHOWN_BYTES = 16 * 1024
"""Bodies above this size stand in spans as their size and hash; the boundary value has them."""

Headers = Iterable[tuple[str, str]]


class Unreadable(ValueError):
    """A body whose coding cannot be undone."""


def header(headers: Headers, name: str) -> str:
    """The first header of that name, lower case, or ''."""
    for key, value in headers:
        if key.lower() == name:
            return value.strip().lower()
    return ""


def dechunk(raw: bytes) -> bytes:
    """A body out of HTTP/1.1 chunks (RFC 9112, 7.1); a cut one as far as it goes."""
    body = bytearray()
    position = 0
    while True:
        end = raw.find(b"\r\n", position)
        if end < 0:
            return bytes(body)
        try:
            size = int(raw[position:end].split(b";")[0], 16)
        except ValueError as error:
            raise Unreadable("broken chunk") from error
        if size == 0:
            return bytes(body)
        body += raw[end + 2 : end + 2 + size]
        position = end + 2 + size + 2


def decompress(data: bytes, coding: str) -> bytes:
    """Undo the Content-Encoding, as far as the data goes.

    Raises:
        Unreadable: The coding is unknown or the data broken.
    """
    for step in reversed([part.strip() for part in coding.split(",") if part.strip()]):
        try:
            if step in ("gzip", "x-gzip"):
                data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data)
            elif step == "deflate":
                data = _inflate(data)
            elif step != "identity":
                data = _decode_extra(data, step)
        except (zlib.error, RuntimeError) as error:
            raise Unreadable(f"broken {step}") from error
    return data


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)


def _decode_extra(data: bytes, coding: str) -> bytes:
    # brotli and zstandard where their packages are there: only then were they asked for.
    from httpx import DecodingError
    from httpx._decoders import SUPPORTED_DECODERS

    if coding not in SUPPORTED_DECODERS:
        raise Unreadable(f"unknown coding {coding}")
    try:
        decoder = SUPPORTED_DECODERS[coding]()
        return decoder.decode(data) + decoder.flush()
    except (ImportError, DecodingError) as error:
        raise Unreadable(f"cannot undo {coding}") from error


def readable(body: bytes, headers: Headers, chunked: bool = False) -> bytes:
    """The body as its sender meant it: unchunked, uncompressed.

    Raises:
        Unreadable: It cannot be had.
    """
    headers = list(headers)
    if chunked:
        body = dechunk(body)
    coding = header(headers, "content-encoding")
    return decompress(body, coding) if coding and body else body


def redact_body(
    body: bytes, content_type: str, redactor: Redactor, found: set[str] | None = None
) -> Any:
    """A readable body without its secrets: JSON as JSON, other text as text, else bytes.

    Returns:
        A pair: what may be shown, and whether anything was taken out.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        text = body.decode("latin-1")
        cleaned = redactor.query(text, found)
        return cleaned, cleaned != text
    if body[:1] in b"{[" or kind.endswith("json"):
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        else:
            cleaned = redactor.value(value, found)
            return cleaned, cleaned is not value
    if kind == "multipart/form-data":
        return _redact_multipart(body, redactor, found)
    return body, False


def _redact_multipart(body: bytes, redactor: Redactor, found: set[str] | None) -> Any:
    changed = False
    parts = body.split(b"\r\n\r\n")
    # Each part's head ends the piece before its value; the value ends at the next boundary line.
    for index in range(1, len(parts)):
        name = _part_name(parts[index - 1])
        if name is not None and redactor.is_secret(name):
            value, boundary, rest = parts[index].partition(b"\r\n--")
            if found is not None:
                found.add(value.decode("utf-8", "replace"))
            parts[index] = redactor.mark(value).encode() + boundary + rest
            changed = True
    return b"\r\n\r\n".join(parts), changed


def _part_name(head: bytes) -> str | None:
    lines = head.rsplit(b"\r\n--", 1)[-1].lower()
    at = lines.rfind(b'name="')
    while at > 0 and lines[at - 1 : at] not in (b" ", b";"):
        at = lines.rfind(b'name="', 0, at)  # skip filename="
    if at < 0:
        return None
    return lines[at + 6 :].partition(b'"')[0].decode("utf-8", "replace")


def show_body(
    body: bytes,
    headers: Headers,
    redactor: Redactor,
    found: set[str] | None = None,
    chunked: bool = False,
) -> Any:
    """A body for a span: redacted, as JSON or text where it is, its size and hash where large."""
    if not body:
        return None
    headers = list(headers)
    try:
        plain = readable(body, headers, chunked)
    except Unreadable as error:
        return {"bytes": len(body), "unreadable": str(error)}
    if len(plain) > SHOWN_BYTES:
        return {"bytes": len(plain), "hash": redactor.mark(plain)}
    cleaned, _ = redact_body(plain, header(headers, "content-type"), redactor, found)
    if isinstance(cleaned, bytes):
        shown = encode_bytes(cleaned)
        if shown["$"] != "bytes":
            return {"bytes": len(plain), "base64": shown["v"]}
        cleaned = shown["v"]
    # An answer may repeat, under no name, what the request called secret.
    return redactor.scrub(cleaned, found) if found and isinstance(cleaned, str) else cleaned


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()
