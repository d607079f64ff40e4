"""What of a boundary entry may be written: names decide, as everywhere (law 6).

An entry of which something was taken out cannot be served exactly any more; the document marks
it and a replay that asks for it ends `diverged: redacted`. Headers are the exception: a response
whose only secrets are headers (`set-cookie` mostly) is served with marks in their place, since
few functions read them and all others could not be replayed at all.
"""

from __future__ import annotations

from typing import Any

from ..redaction import SHORTEST_QUOTED, Redactor
from .bodies import Unreadable, header, readable, redact_body
from .encoding import TAG, decode, encode_bytes


def redact_entry(
    redactor: Redactor, kind: str, name: str, value: Any, found: set[str] | None = None
) -> Any:
    """An entry's encoded value, or its request, without secrets.

    Returns `value` itself if there were none.
    """
    if kind == "environment":
        if redactor.is_secret(name):
            return redactor.mark(value)
        # DATABASE_URL and its like carry a password under an innocent name.
        return redactor.url(value, found) if isinstance(value, str) and "://" in value else value
    if kind == "http" and isinstance(value, dict):
        return _redact_http(redactor, value, found)
    return _redact_encoded(redactor, value, found)


def _redact_encoded(redactor: Redactor, value: Any, found: set[str] | None) -> Any:
    """Walk encoded data; objects whose keys are not all plain are lists of pairs there."""
    if isinstance(value, list):
        items = [_redact_encoded(redactor, item, found) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    if value.get(TAG) == "dict" and isinstance(value.get("v"), list):
        pairs = [_redact_pair(redactor, pair, found) for pair in value["v"]]
        changed = any(a is not b for a, b in zip(pairs, value["v"], strict=True))
        return {TAG: "dict", "v": pairs} if changed else value
    cleaned = redactor.value(value, found)
    fields = {
        key: item if isinstance(item, str) else _redact_encoded(redactor, item, found)
        for key, item in cleaned.items()
    }
    return fields if any(fields[key] is not value[key] for key in value) else value


def _redact_pair(redactor: Redactor, pair: list[Any], found: set[str] | None) -> list[Any]:
    key, item = pair
    if isinstance(decode(key), str) and redactor.is_secret(decode(key)) and item is not None:
        return [key, redactor.mark(item)]
    cleaned = _redact_encoded(redactor, item, found)
    return pair if cleaned is item else [key, cleaned]


def _redact_http(redactor: Redactor, value: dict[str, Any], found: set[str] | None) -> Any:
    cleaned = dict(value)
    if isinstance(value.get("url"), str):
        cleaned["url"] = redactor.scrub(redactor.url(value["url"], found), found or ())
    headers: list[tuple[str, str]] = []
    if isinstance(value.get("headers"), list):
        headers = [(name, item) for name, item in value["headers"]]
        named = redactor.headers(headers, found)
        pairs = [(name, redactor.scrub(item, found or ())) for name, item in named]
        if pairs != headers:
            cleaned["headers"] = [list(pair) for pair in pairs]
            cleaned["redacted_headers"] = True
    if isinstance(value.get("body"), dict) and TAG in value["body"]:
        headers = headers or [("content-type", str(value.get("content_type", "")))]
        cleaned["body"] = _redact_http_body(redactor, value, headers, found)
    return value if all(cleaned.get(key) == value.get(key) for key in cleaned) else cleaned


def _redact_http_body(
    redactor: Redactor,
    value: dict[str, Any],
    headers: list[tuple[str, str]],
    found: set[str] | None,
) -> Any:
    body = decode(value["body"])
    try:
        plain = readable(body, headers, bool(value.get("chunked")))
    except Unreadable:
        return {"redacted": redactor.mark(body)}
    shown, changed = redact_body(plain, header(headers, "content-type"), redactor, found)
    if found:
        # A service may quote what it was sent, under any name.
        scrubbed = _scrub_body(redactor, shown, found)
        shown, changed = scrubbed, changed or scrubbed != shown
    if not changed:
        return value["body"]
    return {"redacted": encode_bytes(shown) if isinstance(shown, bytes) else shown}


def _scrub_body(redactor: Redactor, shown: Any, found: set[str]) -> Any:
    if not isinstance(shown, bytes):
        return redactor.scrub_texts(shown, found)
    try:
        return redactor.scrub(shown.decode(), found).encode()
    except UnicodeDecodeError:
        long = [secret.encode() for secret in found if len(secret) >= SHORTEST_QUOTED]
        return redactor.mark(shown) if any(one in shown for one in long) else shown
