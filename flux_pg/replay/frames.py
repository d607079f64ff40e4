"""What a replay's child process and its parent say to each other: a length, then JSON."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

_LENGTH = struct.Struct("!I")


class Frames:
    """One end of the socket pair, in Trio. Several tasks may send."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(end))
        self._sending = trio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Cancellation: it may be half sent; the channel is of no use afterwards.

        Raises:
            trio.BrokenResourceError: The other side is gone.
        """
        data = msgspec.json.encode(message)
        async with self._sending:
            await self._stream.send_all(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages until the other side is gone."""
        received = bytearray()
        while True:
            while len(received) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(received)
                end = _LENGTH.size + length
                if len(received) < end:
                    break
                message: dict[str, Any] = msgspec.json.decode(received[_LENGTH.size : end])
                del received[:end]
                yield message
            try:
                data = await self._stream.receive_some(1 << 18)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            received += data

    def close(self) -> None:
        """Close this end; the other side sees the end at once."""
        self._stream.socket.close()
