"""Bytes in, whole HTTP/1.x requests out. Pure: no I/O, no clock but the one it is given.

Laws:

1. What comes out does not depend on how the bytes were cut into pieces.
2. One parser (llhttp, through httptools) decides where a message begins and ends; nothing here
   looks at the bytes a second time, so there is no second opinion to smuggle a request past.
3. Framing that two servers could read differently is refused, never repaired: the connection
   ends with the fault, after the answers to the requests before it.
4. Nothing is buffered beyond the limits.

Source: RFC 9112 (HTTP/1.1), RFC 9110 sections 7 and 10.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import httptools
import msgspec

from flux_pg.gateway.framing import (
    Fault,
    Head,
    body_too_large,
    check_head,
    head_too_large,
    malformed,
)
from flux_pg.gateway.limits import Limits
from flux_pg.gateway.target import TargetError, split_target
from flux_pg.records import HttpRequest


class Parsed(msgspec.Struct):
    """One whole request and what its connection may do afterwards."""

    request: HttpRequest
    keep_alive: bool
    http_10: bool
    body_complete_ns: int


_EMPTY: dict[str, str] = {}
# Header names repeat from request to request: decode and lower-case each spelling once. Bounded,
# since the client chooses the spellings.
_NAMES: dict[bytes, str] = {}
_MAX_NAMES = 2048


def _name(raw: bytes) -> str:
    name = _NAMES.get(raw)
    if name is None:
        name = raw.decode("latin-1").lower()
        if len(_NAMES) < _MAX_NAMES and len(raw) <= 64:
            _NAMES[raw] = name
    return name


class RequestParser:
    """The parser of one connection.

    Args:
        limits: Bounds on head and body.
        client: Address of the peer, copied into each request.
        now_ns: The clock for `received_ns` (a performance counter in nanoseconds).
    """

    __slots__ = (
        "_began",
        "_body",
        "_body_size",
        "_client",
        "_continue",
        "_head_fed",
        "_head_size",
        "_header_list",
        "_headers",
        "_in_head",
        "_keep_alive",
        "_limits",
        "_method",
        "_now_ns",
        "_parser",
        "_received_ns",
        "_replaying",
        "_target",
        "_trailer_count",
        "_upgrading",
        "_url",
        "_version",
        "fault",
        "in_message",
        "requests",
    )

    def __init__(self, limits: Limits, client: str, now_ns: Callable[[], int]) -> None:
        self._limits = limits
        self._client = client
        self._now_ns = now_ns
        self.requests: deque[Parsed] = deque()
        self.fault: Fault | None = None
        self.in_message = False
        """Whether a request has begun and is not whole yet."""
        self._keep_alive = True
        self._began = False
        self._replaying = False
        self._reset()
        self._parser = httptools.HttpRequestParser(self)

    def _reset(self) -> None:
        self._url = b""
        self._target = ("", "", "")
        self._method = ""
        self._version = ""
        self._headers: dict[str, str] = {}
        self._header_list: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._head_size = 0
        self._head_fed = 0
        self._trailer_count = 0
        self._in_head = True
        self._continue = False
        self._upgrading = False
        self._received_ns = 0

    # -- what the connection asks -------------------------------------------------------------

    @property
    def _finished(self) -> bool:
        """Whether the last request of this connection is whole: later bytes mean nothing."""
        return not self._keep_alive and not self.in_message

    @property
    def in_body(self) -> bool:
        """Whether the head of the current request is whole and its body is not."""
        return self.in_message and not self._in_head

    @property
    def body_size(self) -> int:
        """How many bytes of the current body have arrived."""
        return self._body_size

    @property
    def received_ns(self) -> int:
        """When the current request began; 0 if there is none."""
        return self._received_ns if self.in_message else 0

    @property
    def method(self) -> str | None:
        """Method of the unfinished request, if known."""
        return self._method or None

    @property
    def partial_path(self) -> str | None:
        """Path of the unfinished request, as far as it was read, for the record of a refusal."""
        path = self._url.partition(b"?")[0]
        return path[:1024].decode("latin-1") if path and self.in_message else None

    @property
    def header_list(self) -> list[tuple[str, str]]:
        """Headers of the unfinished request read so far."""
        return self._header_list

    def wants_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body. True only once."""
        wants = self._continue and self.in_message and self._body_size == 0
        self._continue = False
        return wants

    def feed(self, data: bytes) -> None:
        """Take the next bytes; whole requests are appended to `requests`, in order.

        After a fault (`fault` is set) everything that follows is ignored.
        """
        if self.fault is not None or self._finished:
            return
        self._began = False
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                self._continue_without_upgrade()
                if self.fault is None and len(rest):
                    continue
            except httptools.HttpParserError as error:
                self._failed(error)
            break
        if self.in_message and self._in_head and not self._began and self.fault is None:
            # A header that never ends reaches no callback: count the raw bytes as well. The first
            # piece is not counted, since it may hold the end of the message before.
            self._head_fed += len(data)
            limits = self._limits
            if self._head_fed > limits.max_header_bytes + limits.max_target_bytes:
                self.fault = head_too_large(limits)

    def end(self) -> None:
        """Tell that the client will send no more; a request that is not whole becomes a fault."""
        if self.in_message and self.fault is None:
            self.fault = Fault(
                400,
                "http.incomplete",
                "incomplete-request",
                "The client closed the connection before its request was complete.",
            )

    def _failed(self, error: httptools.HttpParserError) -> None:
        if self.fault is not None or self._finished:
            return  # one of our own faults, or bytes after the last request, which nobody asked for
        if isinstance(error, httptools.HttpParserCallbackError):
            raise error  # a fault of this file, not of the client
        reason = str(error).rstrip(".")
        hint = "Send HTTP/1.1 as RFC 9112 describes it."
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            hint = (
                "This port speaks plain HTTP/1.1; check that the client does not speak TLS to it."
            )
        elif reason.startswith("Pause on PRI"):
            reason = "HTTP/2 is not spoken here"
            hint = "Use HTTP/1.1, or put a proxy in front that speaks HTTP/2."
        self.fault = Fault(400, "http.malformed", "malformed-request", f"{reason}.", hint)

    def _continue_without_upgrade(self) -> None:
        """Read the body of a request that offered an upgrade, which is not taken.

        llhttp stops at the end of such a head. A fresh parser is told the same framing and goes on
        with the bytes that follow; its head callbacks are ignored.
        """
        if not self._upgrading:  # CONNECT, refused in on_headers_complete
            return
        self._upgrading = False
        framing = [
            f"{name}: {value}\r\n"
            for name, value in self._header_list
            if name in ("content-length", "transfer-encoding")
        ]
        if not self._keep_alive:
            framing.append("connection: close\r\n")
        elif self._version == "1.0":
            framing.append("connection: keep-alive\r\n")
        head = f"{self._method} / HTTP/{self._version}\r\nhost: x\r\n{''.join(framing)}\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._replaying = True
        try:
            self._parser.feed_data(head.encode("latin-1"))
        except httptools.HttpParserError as error:
            self._failed(error)
        finally:
            self._replaying = False

    def _refuse(self, fault: Fault) -> Fault:
        self.fault = fault
        return fault

    # -- callbacks of the parser; an exception raised here stops it ------------------------------

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self._reset()
        self.in_message = self._began = True
        self._received_ns = self._now_ns()

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._url += url
        if len(self._url) > self._limits.max_target_bytes:
            raise self._refuse(
                Fault(
                    414,
                    "limit.target",
                    "target-too-long",
                    f"The request target is longer than {self._limits.max_target_bytes} bytes.",
                    "Send the data in the body.",
                )
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._head_size += len(name) + len(value) + 4
        if not self._in_head:
            self._count_trailer()
            return
        limits = self._limits
        if (
            self._head_size > limits.max_header_bytes
            or len(self._header_list) >= limits.max_header_count
        ):
            raise self._refuse(head_too_large(limits))
        key = _NAMES.get(name) or _name(name)
        text = value.decode("latin-1").rstrip(" \t")
        self._header_list.append((key, text))
        headers = self._headers
        if key in headers:
            # RFC 9110 5.3: a repeated field is one list; cookies have their own separator.
            headers[key] += ("; " if key == "cookie" else ", ") + text
        else:
            headers[key] = text

    def _count_trailer(self) -> None:
        """Trailers are read and dropped (RFC 9112 7.1.2), within the bounds of a head."""
        self._trailer_count += 1
        limits = self._limits
        if (
            self._head_size > limits.max_header_bytes
            or self._trailer_count > limits.max_header_count
        ):
            raise self._refuse(head_too_large(limits))

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        parser = self._parser
        self._in_head = False
        self._head_size = 0  # from here on it counts the trailers
        self._method = parser.get_method().decode("latin-1")
        self._version = parser.get_http_version()
        self._keep_alive = parser.should_keep_alive()
        head = Head(self._version, self._method, self._headers, self._header_list)
        fault = check_head(head, self._limits)
        if fault is not None:
            raise self._refuse(fault)
        try:
            self._target = split_target(self._url, self._method, self._headers)
        except TargetError as error:
            hint = "Send the path as a percent-encoded UTF-8 path."
            raise self._refuse(malformed(str(error), hint)) from None
        if parser.should_upgrade():
            self._upgrading = True
        if "expect" in self._headers and self._version == "1.1":
            self._continue = True

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._limits.max_body_bytes:
            raise self._refuse(body_too_large(self._limits))
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        target, path, query = self._target
        body = self._body
        request = HttpRequest(
            method=self._method,
            target=target,
            path=path,
            query_string=query,
            headers=self._headers,
            header_list=tuple(self._header_list),
            body=body[0] if len(body) == 1 else b"".join(body),
            client=self._client,
            received_ns=self._received_ns,
        )
        http_10 = self._version == "1.0"
        self.requests.append(Parsed(request, self._keep_alive, http_10, self._now_ns()))
        self.in_message = False
        self._reset()
