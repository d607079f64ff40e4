"""Hosts that were allowed by name: the parent, which is not locked, asks them for the child.

The child's httpx sends such an exchange over its channel instead of a socket; the shims above it
see an ordinary answer. Other clients (urllib3, http.client) are refused as ever.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import trio

from flux_pg.replay.clock import busy
from flux_pg.replay.frames import Frames


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
        """Put the relay below httpx's transports, before the shims are put above them."""
        if not self._hosts:
            return
        relay = self

        async def handle_async(self: Any, request: httpx.Request) -> httpx.Response:
            return await relay.fetch(request, await request.aread())

        def handle(self: Any, request: httpx.Request) -> httpx.Response:
            return trio.from_thread.run(relay.fetch, request, request.read())

        httpx.AsyncHTTPTransport.handle_async_request = handle_async  # type: ignore[method-assign]
        httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]

    async def fetch(self, request: httpx.Request, body: bytes) -> httpx.Response:
        """Ask the parent.

        Raises:
            httpx.ConnectError: The parent could not reach the host, or does not allow it.
        """
        with busy():
            return await self._fetch(request, body)

    async def _fetch(self, request: httpx.Request, body: bytes) -> httpx.Response:
        self._number += 1
        number = self._number
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = send
        try:
            await self._frames.send(
                {
                    "type": "fetch",
                    "number": number,
                    "method": request.method,
                    "url": str(request.url),
                    "headers": [[a.decode("latin-1"), b.decode("latin-1")] for a, b in
                                request.headers.raw],
                    "body": b64encode(body).decode(),
                }
            )  # fmt: skip
            answer = await receive.receive()
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise httpx.ConnectError(answer["error"])
        return httpx.Response(
            answer["status"],
            headers=[(name, value) for name, value in answer["headers"]],
            stream=_Whole(b64decode(answer["body"])),
        )

    def answer(self, message: dict[str, Any]) -> None:
        """The parent's answer has come."""
        waiting = self._waiting.get(message["number"])
        if waiting is not None:
            waiting.send_nowait(message)


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
