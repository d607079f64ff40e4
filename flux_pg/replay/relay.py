"""Hosts that were allowed by name: the parent, which is not locked, asks them for the child.

httpx sends such an exchange over the child's channel instead of a socket; `http.client`, and with
it requests, urllib3 and urllib, writes to a `RelayedSocket`. The shims above see any other answer.
The channel is Trio's: a blocking client reaches it from a worker thread only, as in a plain `def`.
"""

from __future__ import annotations

import http.client
import importlib.util
import io
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx
import trio

from flux_pg.replay.clock import busy
from flux_pg.replay.frames import Frames

_FRAMING = ("content-length", "transfer-encoding", "connection")


class Relay:
    """The child's side."""

    def __init__(self, frames: Frames, hosts: Sequence[str]) -> None:
        self._frames = frames
        self._hosts = frozenset(host.lower() for host in hosts)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._number = 0

    def allows(self, url: str) -> bool:
        """Whether this exchange goes to the outside: its host (or host:port) was named."""
        parts = urlsplit(url)
        named = {(parts.hostname or "").lower(), parts.netloc.rpartition("@")[2].lower()}
        return not self._hosts.isdisjoint(named)

    def install(self) -> None:
        """Put the relay below the clients, before the shims are put above them."""
        if not self._hosts:
            return
        relay = self

        async def handle_async(self: Any, request: httpx.Request) -> httpx.Response:
            body = await request.aread()
            return _response(await relay.fetch(*_asked(request), body))

        def handle(self: Any, request: httpx.Request) -> httpx.Response:
            try:
                return _response(relay.fetch_blocking(*_asked(request), request.read()))
            except ConnectionError as error:
                raise httpx.ConnectError(str(error)) from error

        def connect(self: Any) -> None:
            self.sock = RelayedSocket(relay, self)
            self.is_verified = True  # asked by urllib3; the parent verifies

        httpx.AsyncHTTPTransport.handle_async_request = handle_async  # type: ignore[method-assign]
        httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]
        kinds: list[Any] = [http.client.HTTPConnection, http.client.HTTPSConnection]
        if importlib.util.find_spec("urllib3") is not None:
            from urllib3 import connection

            kinds += [connection.HTTPConnection, connection.HTTPSConnection]
        for kind in kinds:
            kind.connect = connect

    def fetch_blocking(
        self, method: str, url: str, headers: Sequence[Sequence[str]], body: bytes
    ) -> dict[str, Any]:
        """As `fetch`, in a worker thread.

        Raises:
            ConnectionError: This is no such thread.
        """
        try:
            return trio.from_thread.run(self.fetch, method, url, headers, body)
        except RuntimeError as error:
            raise ConnectionError(
                "a blocking client in an async function, or in a thread of its own, does not "
                "reach an allowed host in a replay: use httpx.AsyncClient, or a plain def"
            ) from error

    async def fetch(
        self, method: str, url: str, headers: Sequence[Sequence[str]], body: bytes
    ) -> dict[str, Any]:
        """Ask the parent: `error`, or `status`, `headers` and `body` (in base64)."""
        self._number += 1
        number = self._number
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        try:
            with busy():
                await self._frames.send(
                    {
                        "type": "fetch",
                        "number": number,
                        "method": method,
                        "url": url,
                        "headers": headers,
                        "body": b64encode(body).decode(),
                    }
                )
                return await receive.receive()
        finally:
            del self._waiting[number]

    def answer(self, message: dict[str, Any]) -> None:
        """The parent's answer has come."""
        waiting = self._waiting.get(message["number"])
        if waiting is not None:
            waiting.send_nowait(message)


def _asked(request: httpx.Request) -> tuple[str, str, list[list[str]]]:
    headers = [[a.decode("latin-1"), b.decode("latin-1")] for a, b in request.headers.raw]
    return request.method, str(request.url), headers


def _response(answer: dict[str, Any]) -> httpx.Response:
    """The answer as httpx has it.

    Raises:
        httpx.ConnectError: The parent could not reach the host, or does not allow it.
    """
    if "error" in answer:
        raise httpx.ConnectError(answer["error"])
    return httpx.Response(
        answer["status"],
        headers=[(name, value) for name, value in answer["headers"]],
        stream=_Whole(b64decode(answer["body"])),
    )


class _Whole(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is there."""

    def __init__(self, body: bytes) -> None:
        self._chunks = [body] if body else []

    def __iter__(self) -> Any:
        yield from self._chunks

    def __aiter__(self) -> Any:
        self._rest = iter(self._chunks)
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._rest:
            return chunk
        raise StopAsyncIteration


class RelayedSocket:
    """Stands where a socket would: keeps one request, and asks when its answer is read."""

    def __init__(self, relay: Relay, connection: Any) -> None:
        is_tls = isinstance(connection, http.client.HTTPSConnection)
        host = f"[{connection.host}]" if ":" in connection.host else connection.host
        self._relay = relay
        self._base = f"{'https' if is_tls else 'http'}://{host}:{connection.port}"
        self._sent = bytearray()

    def sendall(self, data: Any) -> None:
        """Keep it; iterables are refused as sockets do, and come back in pieces."""
        self._sent += memoryview(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """The answer.

        Raises:
            ConnectionError: There is none.
        """
        head, _, body = bytes(self._sent).partition(b"\r\n\r\n")
        self._sent.clear()
        line, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = [[name, value.strip()] for name, _, value in (f.partition(":") for f in fields)]
        framing = {name.lower(): value for name, value in headers if name.lower() in _FRAMING}
        if framing.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join(_chunks(body))
        url = target if "://" in target else self._base + target
        kept = [pair for pair in headers if pair[0].lower() not in _FRAMING]
        answer = self._relay.fetch_blocking(method, url, kept, body)
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return io.BufferedReader(io.BytesIO(_on_the_wire(method, answer)))

    def settimeout(self, timeout: float | None) -> None:
        """The parent has its own."""

    def setsockopt(self, *option: Any) -> None:
        """Nothing is sent here."""

    def shutdown(self, how: int) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""


def _chunks(body: bytes) -> Iterable[bytes]:
    """What was sent in chunks."""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        yield rest[:length]
        body = rest[length + 2 :] if length else b""


def _on_the_wire(method: str, answer: dict[str, Any]) -> bytes:
    """An answer as a server would have sent it that closes the connection behind it."""
    status, body = answer["status"], b64decode(answer["body"])
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    dropped = _FRAMING if method != "HEAD" else _FRAMING[1:]
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [
        f"{name}: {value}" for name, value in answer["headers"] if name.lower() not in dropped
    ]
    if method != "HEAD":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1") + body


async def ask_outside(message: dict[str, Any], hosts: Sequence[str]) -> dict[str, Any]:
    """The parent's side: one exchange with an allowed host."""
    answer: dict[str, Any] = {"type": "fetched", "number": message["number"]}
    allowed = {host.lower() for host in hosts}
    parts = urlsplit(message["url"])
    if allowed.isdisjoint({(parts.hostname or "").lower(), parts.netloc.lower()}):
        return {**answer, "error": f"{parts.netloc} is not among the hosts that were allowed"}
    try:
        async with (
            httpx.AsyncClient(timeout=30.0, trust_env=False) as client,
            client.stream(
                message["method"],
                message["url"],
                headers=[(name, value) for name, value in message["headers"]],
                content=b64decode(message["body"]),
            ) as response,
        ):
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
    except httpx.HTTPError as error:
        return {**answer, "error": f"{type(error).__name__}: {error}"}
    headers = [[a.decode("latin-1"), b.decode("latin-1")] for a, b in response.headers.raw]
    return {
        **answer, "status": response.status_code, "headers": headers,
        "body": b64encode(raw).decode(),
    }  # fmt: skip
