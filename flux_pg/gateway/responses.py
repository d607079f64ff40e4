"""A reply as bytes on the wire. Pure.

The gateway alone frames a response: what a function says about its length, its transfer coding or
the connection is not sent. A header that would break the framing is never written.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from flux_pg.records import Reply

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}
_FRAMING = frozenset(
    {"content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "upgrade"}
)
_TOKEN_CHARACTERS = frozenset(
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ResponseError(ValueError):
    """A reply that cannot be put on the wire; the message names the header or status."""


def serialize(
    reply: Reply,
    *,
    method: str,
    keep_alive: bool,
    http_10: bool,
    now_s: int,
    extra: list[tuple[str, str]],
) -> tuple[bytes, bool]:
    """Make the bytes of a response.

    Args:
        reply: What to send.
        method: Of the request; a HEAD gets the headers only.
        keep_alive: Whether the connection may stay open.
        http_10: Whether the client must be told that it stays open.
        now_s: Wall clock in seconds, for Date.
        extra: Headers sent unless the reply has them.

    Returns:
        The bytes, and whether the connection stays open afterwards.

    Raises:
        ResponseError: A header or status that cannot be sent.
    """
    status = reply.status_code
    lines: list[str] = []
    names: set[str] = set()
    for name, value in reply.headers:
        lower = name.lower()
        if lower in _FRAMING:
            if lower == "connection" and "close" in value.lower():
                keep_alive = False
            continue
        names.add(lower)
        lines.append(f"{name}: {value}\r\n")
    for name, value in extra:
        if name not in names:
            lines.append(f"{name}: {value}\r\n")
    if "date" not in names:
        lines.append(_date_line(now_s))
    if "server" not in names:
        lines.append("server: flux\r\n")
    has_body = status not in (204, 304)
    if has_body:
        lines.append(f"content-length: {len(reply.body)}\r\n")
    if not keep_alive:
        lines.append("connection: close\r\n")
    elif http_10:
        lines.append("connection: keep-alive\r\n")
    text = "".join(lines)
    _check(text, len(lines), names)
    head = f"{_status_line(status)}{text}\r\n"
    try:
        data = head.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ResponseError(
            f"A response header holds {head[error.start]!r}, which HTTP cannot carry."
        ) from None
    return data + reply.body if has_body and method != "HEAD" else data, keep_alive


def _check(text: str, count: int, names: set[str]) -> None:
    """Refuse header names and values that would end a line, or the head, of their own."""
    if text.count("\n") != count or text.count("\r") != count or "\0" in text:
        raise ResponseError("A response header holds a line break or a NUL.")
    for name in names:
        if not name or not _TOKEN_CHARACTERS.issuperset(name):
            raise ResponseError(f"{name[:100]!r} is not a name for a response header.")


def _status_line(status: int) -> str:
    line = _STATUS_LINES.get(status)
    if line is None or status < 200:
        if not 200 <= status <= 999:
            raise ResponseError(f"{status} is not a status that can end a request.")
        line = f"HTTP/1.1 {status} \r\n"
    return line


@lru_cache(maxsize=2)
def _date_line(now_s: int) -> str:
    return f"date: {formatdate(now_s, usegmt=True)}\r\n"
