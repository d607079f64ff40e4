"""A client that writes bytes as they are and reads answers with h11: an independent judge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import msgspec
import trio

from flux_pg.gateway import Limits, Server
from tests.gateway.stub import StubRunner


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[int]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Client:
    """One connection to the gateway."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, method: str = "GET") -> Answer:
        """Read exactly one answer; what follows it stays for the next call."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        interim: list[int] = []
        head: h11.Response | None = None
        body = b""
        if self._buffer:
            reader.receive_data(self._buffer)
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._buffer = reader.trailing_data[0]
                names = [n.decode() for n, _ in head.headers]
                assert len(names) == len(set(names)), f"a header came twice: {names}"
                headers = {n.decode(): v.decode("latin-1") for n, v in head.headers}
                return Answer(head.status_code, headers, body, interim)
            else:
                raise AssertionError(f"the connection ended before an answer: {event}")

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.send(data)
        return await self.answer(method)

    async def closed(self) -> bytes:
        """Wait until the server closes; return what came before."""
        rest = self._buffer
        while data := await self.stream.receive_some(65536):
            rest += data
        return rest


class Gateway:
    """A served gateway and the runner behind it."""

    def __init__(self, server: Server, runner: StubRunner, port: int) -> None:
        self.server = server
        self.runner = runner
        self.port = port

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        client = await self.connect()
        async with client.stream:
            return await client.ask(data, method)


@asynccontextmanager
async def gateway(runner: StubRunner, **limits: Any) -> AsyncIterator[Gateway]:
    server = Server(runner, Limits(**limits))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        yield Gateway(server, runner, port)
        nursery.cancel_scope.cancel()


def get(path: str = "/hello", *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode("latin-1")


def post(path: str, body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    kind = (
        []
        if any(h.lower().startswith("content-type") for h in headers)
        else ["Content-Type: application/json"]
    )
    return get(path, *headers, *kind, f"Content-Length: {len(body)}", method=method) + body
