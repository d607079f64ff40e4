"""The request target: its forms, its path and its query string. Pure.

Source: RFC 9112 section 3.2 (origin, absolute and asterisk form), RFC 3986 section 2.1.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


class TargetError(ValueError):
    """The request target cannot be read; the message says why."""


def split_target(url: bytes, method: str, headers: dict[str, str]) -> tuple[str, str, str]:
    """Split a target into itself, the path as sent (still encoded) and the query string.

    An absolute form gives its own host: as RFC 9112 3.2.2 demands, `headers["host"]` is replaced
    by it.
    """
    target = url.decode("latin-1")
    if "#" in target:
        raise TargetError("The request target holds a fragment (#).")
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return target, path, query
    if target == "*":
        if method != "OPTIONS":
            raise TargetError("The target * is for OPTIONS only.")
        return target, "*", ""
    match = _SCHEME.match(target)
    if match is None or not match.group(1) or "@" in match.group(1):
        raise TargetError("The request target is neither a path nor an http address.")
    if "host" in headers:
        headers["host"] = match.group(1)
    path, _, query = target[match.end() :].partition("?")
    return target, path or "/", query


def decode_segment(segment: str) -> str:
    """Decode one path segment strictly.

    Raises:
        TargetError: A broken escape, bytes that are not UTF-8, or a NUL.
    """
    if "%" not in segment and segment.isascii():
        return segment
    if _BAD_ESCAPE.search(segment):
        raise TargetError("The path holds a % that is not followed by two hex digits.")
    try:
        text = unquote_to_bytes(segment.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError("The path is not UTF-8 once its escapes are decoded.") from None
    if "\0" in text:
        raise TargetError("The path holds a NUL character.")
    return text


def parse_pairs(text: str, max_pairs: int) -> dict[str, list[str]]:
    """Read `a=1&b=2` (a query string or an urlencoded form) into every value of every name.

    Raises:
        TargetError: A broken escape, text that is not UTF-8, or more than `max_pairs` pairs.
    """
    found: dict[str, list[str]] = {}
    if not text:
        return found
    parts = text.split("&", max_pairs)
    if len(parts) > max_pairs:
        raise TargetError(f"There are more than {max_pairs} name=value pairs.")
    for part in parts:
        if part:
            name, _, value = part.partition("=")
            found.setdefault(_decode_pair(name), []).append(_decode_pair(value))
    return found


def _decode_pair(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    if "%" not in text and text.isascii():
        return text
    if _BAD_ESCAPE.search(text):
        raise TargetError("A name=value pair holds a % that is not followed by two hex digits.")
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError("A name=value pair is not UTF-8 once decoded.") from None
