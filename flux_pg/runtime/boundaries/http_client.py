"""The standard library's `http.client`, and with it urllib.request, urllib3 and requests.

The response is recorded as it stood on the wire behind its head (chunk framing included), because
callers such as urllib3 read the socket's file directly; a replay parses those bytes again with the
same code. A connection that serves a record has a `ServedSocket` instead of a real one.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .encoding import decode_error, encode_error
from .exchange import Answer, Exchange
from .log import current_log, suspended
from .patching import Patches, disguise

_STATE = "_flux_exchange"


class _Sending:
    """An exchange on a connection, and how far its request has got."""

    __slots__ = ("exchange", "phase")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.phase = "head"  # then "connecting" while the head goes out, then "body"


class ConnectFailure(Exception):
    """Why urllib3 could not connect: class and arguments of the cause. Its own error holds the
    connection, which no record can; it is made again from the cause."""

    @classmethod
    def of(cls, error: BaseException) -> BaseException:
        """The error to record for `error`."""
        cause = error.__cause__
        if type(error).__module__.startswith("urllib3.") and isinstance(cause, OSError):
            data = encode_error(cause)
            return cls(data["type"], data["message"], data["args"])
        return error

    def again(self, connection: Any) -> BaseException:
        """urllib3's error for this cause, as its `_new_conn` makes it."""
        from urllib3 import exceptions

        kind, message, args = self.args
        cause = decode_error({"type": kind, "message": message, "args": args})
        made: BaseException
        if isinstance(cause, socket.gaierror):
            made = exceptions.NameResolutionError(connection.host, connection, cause)
        elif isinstance(cause, TimeoutError):
            text = f"Connection to {connection.host} timed out."
            limit = f"(connect timeout={connection.timeout})"
            made = exceptions.ConnectTimeoutError(connection, f"{text} {limit}")
        else:
            text = f"Failed to establish a new connection: {cause}"
            made = exceptions.NewConnectionError(connection, text)
        made.__cause__ = cause
        return made


class ServedSocket:
    """Stands where a socket would: swallows what is sent, answers from a record."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer

    def sendall(self, data: Any) -> None:
        """Swallow it; iterables are refused as sockets do, and come back in pieces."""
        memoryview(data)

    def makefile(self, mode: str) -> Any:
        assert self._answer is not None
        return ServedFile(self._answer)

    def settimeout(self, timeout: float | None) -> None:
        """Nothing waits here."""

    def setsockopt(self, *option: Any) -> None:
        """Nothing is sent."""

    def shutdown(self, how: int) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""


class ServedFile(io.BytesIO):
    """The recorded wire bytes; reading past what was read then raises what was raised then."""

    def __init__(self, answer: Answer) -> None:
        version = answer.version if answer.version.startswith("HTTP/") else "HTTP/1.1"
        lines = [f"{version} {answer.status} {answer.reason}".rstrip()]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        super().__init__(head + answer.body)
        self._answer = answer
        self._size = len(head) + len(answer.body)

    def _check(self, got: int, wanted: int) -> None:
        if (wanted < 0 or got < wanted) and self.tell() >= self._size:
            self._answer.end()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._check(len(data), -1 if size is None else size)
        return data

    def read1(self, size: int | None = -1, /) -> bytes:
        data = super().read1(-1 if size is None else size)
        if not data:
            self._check(0, 1)
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        self._check(count, len(memoryview(buffer)))
        return count

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        if not line.endswith(b"\n") and (size is None or size < 0 or len(line) < size):
            self._check(0, 1)
        return line

    def peek(self, size: int = 0, /) -> bytes:
        """What comes next, not taken."""
        position = self.tell()
        data = super().read(size or -1)
        self.seek(position)
        return data


class RecordedFile:
    """The file under a response; notes what is read from it."""

    def __init__(self, inner: Any, response: http.client.HTTPResponse, exchange: Exchange) -> None:
        self._inner = inner
        self._response = response
        self._exchange = exchange
        self._ended = False
        self._tail = b""

    def _note(self, data: bytes, wanted: int) -> bytes:
        if data:
            self._exchange.receive(data)
            self._tail = (self._tail + data)[-5:]
        elif wanted:
            self._ended = True
        return data

    def _call(self, name: str, *args: Any) -> Any:
        try:
            with suspended():
                return getattr(self._inner, name)(*args)
        except BaseException as error:
            self._exchange.end(whole=False, error=error)
            raise

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = -1 if size is None else size
        data = self._note(self._call("read", wanted), wanted)
        if wanted < 0 or len(data) < wanted:
            self._ended = True
        return data

    def read1(self, size: int = -1, /) -> bytes:
        return self._note(self._call("read1", size), size)

    def readline(self, size: int = -1, /) -> bytes:
        return self._note(self._call("readline", size), size)

    def readinto(self, buffer: Any, /) -> int:
        count: int = self._call("readinto", buffer)
        self._note(bytes(memoryview(buffer)[:count]), len(memoryview(buffer)))
        return count

    def peek(self, size: int = 0, /) -> bytes:
        data: bytes = self._call("peek", size)
        return data

    def close(self) -> None:
        """The response is done with: all of it was read, or no more will be."""
        with suspended():
            self._inner.close()
        self._exchange.end(whole=self._is_whole())

    def _is_whole(self) -> bool:
        if self._ended or self._response.length == 0:
            return True
        # The last chunk is empty, and trailers may stand behind it.
        return bool(self._response.chunked) and self._tail.endswith(b"\r\n\r\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def _begin(connection: Any) -> Exchange | None:
    log = current_log.get()
    if log is None:
        return None
    lines = [bytes(line) for line in connection._buffer]
    method, target, *_ = lines[0].decode("latin-1").split(" ")
    headers = []
    for line in lines[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name, value.strip()))
    client = "urllib3" if type(connection).__module__.startswith("urllib3") else "http.client"
    return Exchange(log, client, method, full_url(connection, target), headers)


def full_url(connection: Any, target: str) -> str:
    """What a connection asks for by a request line's target."""
    if "://" in target:  # through a proxy the whole URL stands in the request line
        return target
    host = connection._tunnel_host or connection.host
    port = connection._tunnel_port if connection._tunnel_host else connection.port
    scheme = "https" if isinstance(connection, http.client.HTTPSConnection) else "http"
    if ":" in host:
        host = f"[{host}]"
    standard = {"https": 443, "http": 80}[scheme]
    return f"{scheme}://{host}{'' if port in (standard, None) else f':{port}'}{target}"


def _endheaders(original: Callable[..., None]) -> Callable[..., None]:
    def endheaders(self: Any, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        exchange = _begin(self)
        vars(self)[_STATE] = None if exchange is None else _Sending(exchange)
        if exchange is None:
            original(self, message_body, encode_chunked=encode_chunked)
            return
        added = exchange.traceparent()
        if added is not None and not exchange.served:
            self.putheader(*added)
        if exchange.served:
            self.sock = ServedSocket()
            original(self, message_body, encode_chunked=encode_chunked)
            if exchange.failed_sending:
                vars(self)[_STATE] = None
                exchange.request_sent()
                try:
                    exchange.answer()
                except ConnectFailure as failure:
                    raise failure.again(self) from None
            return
        try:
            with suspended():
                original(self, message_body, encode_chunked=encode_chunked)
        except BaseException as error:
            vars(self)[_STATE] = None
            exchange.request_sent()
            exchange.fail(ConnectFailure.of(error), sending=True)
            raise

    return disguise(endheaders, original)


def _send(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def send(self: Any, data: Any) -> None:
        sending: _Sending | None = vars(self).get(_STATE)
        if sending is None or sending.phase == "connecting":
            original(self, data)
            return
        if sending.phase == "head":
            # The first piece is the head. Sending it connects, which may send (a proxy's CONNECT).
            sending.phase = "connecting"
            with suspended():
                original(self, data)
            sending.phase = "body"
            return
        with suspended():
            original(self, _noted(data, sending.exchange, self.blocksize))

    return disguise(send, original)


def _noted(data: Any, exchange: Exchange, block_size: int) -> Any:
    """`data` in the form in which its original would be sent, noting each piece."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        exchange.sending(bytes(data))
        return data
    if hasattr(data, "read"):
        return _noted_pieces(_blocks(data, block_size), exchange)
    try:
        view = memoryview(data)
    except TypeError:
        return _noted_pieces(data, exchange) if isinstance(data, Iterable) else data
    exchange.sending(view.tobytes())
    return data


def _blocks(file: Any, block_size: int) -> Iterator[bytes]:
    while block := file.read(block_size):
        yield block.encode("iso-8859-1") if isinstance(block, str) else block


def _noted_pieces(pieces: Iterable[Any], exchange: Exchange) -> Iterator[Any]:
    for piece in pieces:
        exchange.sending(bytes(piece))
        yield piece


def _getresponse(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def getresponse(self: Any) -> Any:
        sending: _Sending | None = vars(self).pop(_STATE, None)
        if sending is None:
            return original(self)
        exchange = sending.exchange
        if exchange.served:
            exchange.request_sent()
            self.sock = ServedSocket(exchange.answer())
            try:
                return original(self)
            finally:
                self.sock = None
        exchange.request_sent()
        try:
            with suspended():
                response = original(self)
        except BaseException as error:
            exchange.fail(error)
            raise
        _record(response, exchange)
        return response

    return disguise(getresponse, original)


def _record(response: Any, exchange: Exchange) -> None:
    # urllib3 wraps the response that the base class made; the shim only ever sees the latter.
    version = {9: "HTTP/0.9", 10: "HTTP/1.0"}.get(response.version, "HTTP/1.1")
    headers = [(name, str(value)) for name, value in response.headers.items()]
    exchange.respond(
        response.status, response.reason, version, headers, chunked=bool(response.chunked)
    )
    if response.fp is None:
        exchange.end()
    else:
        response.fp = RecordedFile(response.fp, response, exchange)


def install_http_client(patches: Patches) -> None:
    """Record what leaves through `http.client`."""
    base = http.client.HTTPConnection
    patches.set(base, "endheaders", _endheaders(base.endheaders))
    patches.set(base, "send", _send(base.send))
    patches.set(base, "getresponse", _getresponse(base.getresponse))
