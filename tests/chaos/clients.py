"""Sixteen clients and what they know: each request that was sent, and what came back."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import trio

from .project import COUNTERS, WEIGHTS

CLIENTS = 16
PATIENCE_S = 90.0


class Lost(Exception):
    """The connection ended before the answer was complete."""


@dataclass
class Sent:
    """One request as its client saw it.

    `end` is `answered`, `lost` (the connection ended) or `left` (the client went away).
    """

    tag: str
    function: str
    sent_at: float
    end: Literal["answered", "lost", "left", "waiting"] = "waiting"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    answered_at: float = 0.0

    @property
    def request_id(self) -> UUID | None:
        text = self.headers.get("x-request-id")
        return UUID(text) if text else None

    @property
    def acknowledged(self) -> bool:
        """Whether the client was promised a record."""
        return self.end == "answered" and self.headers.get("x-flux-recorded") != "no"


class Load:
    """The clients of one run.

    Args:
        port: Where.
        seed: Decides what each client sends.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.log: list[Sent] = []
        self.acknowledged = 0
        self._port = port
        self._seed = seed
        self._stopping = False
        self._more = trio.Event()

    async def run(self) -> None:
        """Send until `stop`, then wait for what is under way."""
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(self._client, random.Random(f"{self._seed} {number}"))

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping = True

    async def reached(self, acknowledged: int) -> None:
        """Wait for the n-th acknowledged response."""
        with trio.fail_after(PATIENCE_S):
            while self.acknowledged < acknowledged:
                self._more = trio.Event()
                await self._more.wait()

    async def send_once(self, function: str, rng: random.Random) -> Sent:
        """One request outside the usual mix, on a connection of its own."""
        sent = self._note(function, rng)
        stream = await self._connect()
        if stream is None:
            sent.end = "lost"
            return sent
        async with stream:
            await self._exchange(stream, sent, {"counter": 1}, None)
        return sent

    async def _client(self, rng: random.Random) -> None:
        while not self._stopping:
            stream = await self._connect()
            if stream is None:
                continue
            async with stream:
                while not self._stopping:
                    if not await self._request(stream, rng):
                        break

    async def _request(self, stream: trio.SocketStream, rng: random.Random) -> bool:
        """Send one of the mix; whether the connection can be used again."""
        function = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        arguments: dict[str, Any] = {"counter": rng.randint(1, COUNTERS)}
        leave_after = None
        if function in ("lingering", "watched"):
            arguments["pause"] = rng.uniform(0.0, 0.3)
            leave_after = rng.uniform(0.0, 0.2) if rng.random() < 0.4 else None
        if function == "crossed":
            arguments["other"] = rng.randint(1, COUNTERS)
        if function == "create" and rng.random() < 0.05:
            arguments["extra"] = "x" * 20_000  # larger than a slot of the journal
        return await self._exchange(stream, self._note(function, rng), arguments, leave_after)

    def _note(self, function: str, rng: random.Random) -> Sent:
        sent = Sent(str(UUID(int=rng.getrandbits(128), version=4)), function, time.time())
        self.log.append(sent)
        return sent

    async def _connect(self) -> trio.SocketStream | None:
        try:
            return await trio.open_tcp_stream("127.0.0.1", self._port)
        except OSError:
            await trio.sleep(0.02)  # nobody listens: a client that tries again
            return None

    async def _exchange(
        self,
        stream: trio.SocketStream,
        sent: Sent,
        arguments: dict[str, Any],
        leave_after: float | None,
    ) -> bool:
        """Send and receive; whether the connection can be used again."""
        body = json.dumps({"tag": sent.tag, **arguments}).encode()
        head = (
            f"POST /{sent.function} HTTP/1.1\r\nhost: chaos\r\nx-request-id: {sent.tag}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            with trio.move_on_after(PATIENCE_S if leave_after is None else leave_after) as patience:
                await stream.send_all(head.encode() + body)
                sent.status, sent.headers, content = await receive(stream)
        except (Lost, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            sent.end = "lost"
            return False
        if patience.cancelled_caught:
            assert leave_after is not None, f"no answer to {sent} within {PATIENCE_S} s"
            sent.end = "left"
            return False
        sent.end, sent.answered_at, sent.body = "answered", time.time(), json.loads(content)
        if sent.acknowledged:
            self.acknowledged += 1
            self._more.set()
        return sent.headers.get("connection") != "close"


async def receive(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """One response: status, headers, body.

    Raises:
        Lost: The connection ended first.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _some(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        body += await _some(stream)
    return int(status_line.split()[1]), headers, body


async def _some(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some()
    if not data:
        raise Lost
    return bytes(data)
